#!/usr/bin/env python3
"""Tokenizer speed, ctxc against the Python package `tokenizers`: one thread each, the same texts, rounds taken in turn.

usage: tokenizer_bench.py --model FOLDER_WITH_TOKENIZER_JSON [--texts FILE.jsonl.gz ...] [--megabytes 3] [--rounds 3]
       (needs the target tokenizer_bench: cmake --build --preset release --target tokenizer_bench)
"""
import argparse
import gzip
import json
import os
import pathlib
import subprocess
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"

from tokenizers import Tokenizer  # noqa: E402  (reads the environment when it is loaded)

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHARED = pathlib.Path(os.environ.get("CTXC_SHARED", ROOT / "../shared"))


def read_texts(paths, megabytes):
    texts = []
    for path in paths:
        left = megabytes * 1e6 / len(paths)
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                entry = json.loads(line)
                text = entry.get("text") or entry.get("context") or ""
                texts.append(text)
                left -= len(text.encode())
                if left < 0:
                    break
    return texts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=pathlib.Path)
    parser.add_argument("--bench", default=ROOT / "build/release/bin/tokenizer_bench", type=pathlib.Path)
    parser.add_argument("--texts", nargs="+", default=sorted(SHARED.glob("data/text/*.jsonl.gz")))
    parser.add_argument("--megabytes", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    texts = read_texts(options.texts, options.megabytes)
    size = sum(len(text.encode()) for text in texts) / 1e6
    reference = Tokenizer.from_file(str(options.model / "tokenizer.json"))
    python, ours = [], []
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        json.dump(texts, file)
        file.flush()
        for _ in range(options.rounds):
            start = time.perf_counter()
            tokens = sum(len(reference.encode(text, add_special_tokens=False).ids) for text in texts)
            python.append(size / (time.perf_counter() - start))
            command = [options.bench, "--model", options.model, "--in", file.name, "--rounds", "1"]
            result = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
            assert result["tokens"] == tokens, (result["tokens"], tokens)
            ours.append(result["mb_per_s"])
    print(f"{len(texts)} texts, {size:.2f} MB, {tokens} tokens, best of {options.rounds} rounds: "
          f"ctxc {max(ours):.2f} MB/s, Python tokenizers {max(python):.2f} MB/s, ratio {max(ours) / max(python):.1f}")


if __name__ == "__main__":
    main()
