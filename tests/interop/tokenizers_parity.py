#!/usr/bin/env python3
"""Compares `ctxc-inspect tokenize` with the Python package `tokenizers`, token for token.

Tokenizers: those of tests/fixtures/tokenizer/goldens.json, models/tiny-facts, the SmolLM2 GGUF in .deps/models (read
directly, and as a tokenizer.json derived from it), ../shared's Llama-3-style one, and with --llama-models WHEEL the real
Llama 3 vocabulary (PyPI llama-models). Texts: ../shared/data where it is there, every Unicode character, and random
adversarial strings; the random seed is new each time and printed (--seed repeats it).

Exit code 0 if all ids are equal, 1 with the first differences otherwise.
"""
import argparse
import base64
import glob
import gzip
import json
import os
import pathlib
import random
import struct
import subprocess
import sys
import tempfile
import unicodedata
import zipfile

from tokenizers import Tokenizer

ROOT = pathlib.Path(os.environ.get("CTXC_ROOT", pathlib.Path(__file__).resolve().parents[2]))
BIN = pathlib.Path(os.environ.get("CTXC_BIN", ROOT / "build/release/bin"))
SHARED = pathlib.Path(os.environ.get("CTXC_SHARED", ROOT / "../shared"))
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
WHITE_SPACE = [*range(0x09, 0x0E), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000]


def gguf_metadata(path):
    """Metadata of a GGUF v3 file."""
    with open(path, "rb") as file:
        def scalar(code):
            return struct.unpack("<" + code, file.read(struct.calcsize(code)))[0]

        def value(kind):
            if kind == 8:
                return file.read(scalar("Q")).decode("utf-8")
            if kind == 9:
                item, count = scalar("I"), scalar("Q")
                return [value(item) for _ in range(count)]
            return scalar("BbHhIif?__Qqd"[kind])

        magic, version, _, count = file.read(4), scalar("I"), scalar("Q"), scalar("Q")
        assert magic == b"GGUF" and version == 3
        return {file.read(scalar("Q")).decode("utf-8"): value(scalar("I")) for _ in range(count)}


def added(content, number, special=True):
    return {"id": number, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": special}


def tokenizer_json(vocabulary, merges, specials, steps, ignore_merges=False):
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": specials, "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps}, "post_processor": None, "decoder": BYTE_LEVEL,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                      "ignore_merges": ignore_merges, "vocab": vocabulary, "merges": merges}}


def smollm2(path):
    meta = gguf_metadata(path)
    tokens, types = meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.token_type"]
    specials = [added(token, i) for i, token in enumerate(tokens) if types[i] == 3]
    return tokenizer_json({token: i for i, token in enumerate(tokens)}, meta["tokenizer.ggml.merges"], specials,
                          [{"type": "Digits", "individual_digits": True}, BYTE_LEVEL])


def byte_alphabet():
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {**{byte: chr(byte) for byte in printable}, **{byte: chr(256 + i) for i, byte in enumerate(others)}}


def with_all_bytes(tokenizer):
    """The tokenizer with a token for each of the 256 bytes, as every real byte-level vocabulary has. What the Python
    package does around bytes it has no token for depends on its version; the committed cases cover our rule."""
    vocabulary, added = tokenizer["model"]["vocab"], tokenizer["added_tokens"]
    for character in byte_alphabet().values():
        vocabulary.setdefault(character, max(vocabulary.values()) + 1)
    moved, following = {}, max(vocabulary.values()) + 1
    for token in added:
        if token["content"] not in vocabulary:
            moved[token["id"]], token["id"], following = following, following, following + 1
    processor = tokenizer.get("post_processor") or {}
    for part in [processor, *processor.get("processors", [])]:
        for special in part.get("special_tokens", {}).values():
            special["ids"] = [moved.get(number, number) for number in special["ids"]]
    return tokenizer


def llama3(wheel, pattern):
    """tokenizer.json from the ranks in llama3/tokenizer.model."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith("llama3/tokenizer.model"))
        lines = archive.read(name).splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines if line)}
    alphabet = byte_alphabet()
    spell = {token: "".join(alphabet[byte] for byte in token) for token in ranks}
    merges = []
    for token in sorted(ranks, key=ranks.get):
        splits = [(token[:i], token[i:]) for i in range(1, len(token)) if token[:i] in ranks and token[i:] in ranks]
        merges += [[spell[a], spell[b]] for a, b in sorted(splits, key=lambda ab: (ranks[ab[0]], ranks[ab[1]]))]
    names = ["<|begin_of_text|>", "<|end_of_text|>"] + [f"<|reserved_special_token_{i}|>" for i in range(254)]
    names[6], names[7], names[9] = "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"
    specials = [added(name, len(ranks) + i) for i, name in enumerate(names)]
    steps = [{"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
             {**BYTE_LEVEL, "use_regex": False}]
    return tokenizer_json({spell[token]: rank for token, rank in ranks.items()}, merges, specials, steps, True)


def is_assigned(character):
    """Not newer than Python's Unicode tables: there PCRE2 and the package's engine may be of different age."""
    return unicodedata.category(character) != "Cn"


def every_character():
    """Planes 0 to 3 (to the last ideograph) and the tags, each character beside a letter, a digit and a space."""
    documents = []
    for base in [*range(0, 0x32400, 1024), 0xE0000]:
        points = [chr(point) for point in range(base, base + 1024)
                  if not 0xD800 <= point < 0xE000 and is_assigned(chr(point))]
        if points:
            documents.append("".join(f" a{c}1 {c}" for c in points))
    return documents


def adversarial(rng, count, specials):
    """Random strings of what tokenizers stumble over."""
    assigned = [c for c in map(chr, [*range(0x20, 0xD800), *range(0xE000, 0x30000)]) if is_assigned(c)]
    pools = [
        lambda: "".join(rng.choice("aeiou tnshrdl'") for _ in range(rng.randint(1, 12))),
        lambda: " " * rng.randint(1, 40),
        lambda: "".join(chr(rng.choice(WHITE_SPACE)) for _ in range(rng.randint(1, 6))),
        lambda: str(rng.randint(0, 10 ** rng.randint(1, 30))),
        lambda: "".join(chr(rng.choice([0x660, 0x966, 0xFF10, 0x1D7CE, 0x2460, 0xB2, 0x2160])) for _ in range(5)),
        lambda: "".join(chr(rng.randint(0x1F300, 0x1FAFF)) + rng.choice(["", "\u200d", "\ufe0f"]) for _ in range(4)),
        lambda: "".join(rng.choice("aeo") + chr(rng.randint(0x300, 0x36F)) for _ in range(4)),
        lambda: "".join(chr(rng.randint(0x4E00, 0x9FFF)) for _ in range(rng.randint(1, 8))),
        lambda: "".join(chr(rng.randint(0xAC00, 0xD7A3)) for _ in range(4)),
        lambda: "".join(chr(rng.randint(0, 0x1F)) for _ in range(3)),
        lambda: rng.choice(["\u180e", "\u200b", "\ufeff", "\u00ad", "\u0130", "\u017f", "\u212a", "\ufffd", "\u2019"]),
        lambda: rng.choice(["'s", "'LL", "'\u017f", "'Ve", "n't", "''", "\u2019s", "\r\n", "\n\n  ", "\t\t "]),
        lambda: rng.choice(specials) if specials else "",
        lambda: (rng.choice(specials) if specials else "x")[: rng.randint(1, 8)],
        lambda: "".join(rng.choice("<|>[]{}()!?.,;:#$%&*+-=/\\@^_`~\"'") for _ in range(rng.randint(1, 10))),
        lambda: rng.choice(assigned),
    ]
    return ["".join(rng.choice(pools)() for _ in range(rng.randint(1, 25))) for _ in range(count)]


def shared_texts(megabytes):
    paths = sorted(glob.glob(str(SHARED / "data/text/*.gz"))) + sorted(glob.glob(str(SHARED / "data/mrqa/*.dev.jsonl.gz")))
    documents = []
    for path in paths:
        left = megabytes * 1e6 / len(paths)
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                entry = json.loads(line)
                texts = [entry.get("text") or entry.get("context") or ""]
                for qa in entry.get("qas", []):
                    texts += [qa["question"], *qa["answers"]]
                documents += texts
                left -= sum(len(text.encode()) for text in texts)
                if left < 0:
                    break
    return documents


def ctxc_ids(inspect, model, documents, special, folder):
    source, target = folder / "in.json", folder / "out.json"
    source.write_text(json.dumps([{"text": text} for text in documents]), encoding="utf-8")
    command = [inspect, "tokenize", "--quiet", "--model", model, "--in", source, "--out", target]
    subprocess.run([str(part) for part in command] + ["--special"] * special, check=True)
    return [entry["ids"] for entry in json.loads(target.read_text(encoding="utf-8"))]


def differences(name, reference, documents, found, special):
    count = tokens = 0
    for text, ids in zip(documents, found):
        expected = reference.encode(text, add_special_tokens=special).ids
        tokens += len(expected)
        if expected == ids:
            continue
        count += 1
        if count <= 3:
            at = next((i for i, (a, b) in enumerate(zip(expected, ids)) if a != b), min(len(expected), len(ids)))
            print(f"  {name}: token {at}: expected {expected[at:at + 5]}, found {ids[at:at + 5]}, behind "
                  f"{reference.decode(expected[:at], skip_special_tokens=False)[-30:]!r}")
    size = sum(len(text.encode()) for text in documents) / 1e6
    print(f"{name}: {len(documents)} texts, {size:.2f} MB, {tokens} tokens, special={special}: {count} differ", flush=True)
    return count


def collect(options, folder):
    """[(name, what ctxc reads, tokenizer.json text)]"""
    found = []

    def add(name, text, model=None):
        if model is None:
            model = folder / name
            model.mkdir()
            (model / "tokenizer.json").write_text(text, encoding="utf-8")
        found.append((name, model, text))

    for golden in json.loads((ROOT / "tests/fixtures/tokenizer/goldens.json").read_text(encoding="utf-8")):
        add("golden-" + golden["name"], json.dumps(with_all_bytes(golden["tokenizer"])))
    add("tiny-facts", (ROOT / "models/tiny-facts/tokenizer.json").read_text(encoding="utf-8"))
    for path in sorted(glob.glob(str(ROOT / ".deps/models/*.gguf"))):
        text = json.dumps(smollm2(path))
        add("smollm2-json", text)
        add("smollm2-gguf", text, path)
    base = SHARED / "fixtures/comprexit/base"
    if base.is_dir():
        add("llama3-style", (base / "tokenizer.json").read_text(encoding="utf-8"), base)
        if options.llama_models:
            pattern = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))
            pattern = pattern["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
            add("llama3-real", json.dumps(llama3(options.llama_models, pattern)))
    return [entry for entry in found if not options.only or options.only in entry[0]]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inspect", default=BIN / "ctxc-inspect")
    parser.add_argument("--llama-models", metavar="WHEEL", help="llama-models wheel with the Llama 3 vocabulary")
    parser.add_argument("--only", help="only tokenizers whose name holds this")
    parser.add_argument("--megabytes", type=float, default=5, help="of ../shared/data (default 5)")
    parser.add_argument("--random", type=int, default=1000, help="adversarial strings (default 1000)")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "little"))
    options = parser.parse_args()
    print(f"seed {options.seed}")
    documents = every_character() + shared_texts(options.megabytes)
    failures = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        for name, model, text in collect(options, folder):
            specials = [token["content"] for token in json.loads(text)["added_tokens"]]
            strings = adversarial(random.Random(options.seed), options.random, specials)
            reference = Tokenizer.from_str(text)
            for texts, special in ((documents + strings, False), (strings, True)):
                if special and str(model).endswith(".gguf"):
                    continue  # what is added there is the file's own rule, not the derived file's
                found = ctxc_ids(options.inspect, model, texts, special, folder)
                failures += differences(name, reference, texts, found, special)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
