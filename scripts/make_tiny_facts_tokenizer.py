#!/usr/bin/env python3
"""Makes models/tiny-facts/{tokenizer.json, tokenizer_config.json}: byte-level BPE of about 1,000 entries.

usage: make_tiny_facts_tokenizer.py [--out models/tiny-facts]        (needs the Python package `tokenizers`)

Every word of the generator (src/data/synthetic.cpp: names, values and the words of its sentences and questions) and of
the default prompt becomes one token with its leading space, and those that begin a text without it as well; numbers are
read digit by digit. The merges are learned from those words alone; the 256 bytes stand for everything else.
"""
import argparse
import json
import pathlib
import re

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROMPT = ["Question:", "Answer the question directly with a short span only, no explanation. Answer:"]
SPECIAL = ["<|endoftext|>", "<pad>"]  # ids 0 and 1


def generator_text():
    """The string literals of the generator that passages and questions are put together from."""
    source = (ROOT / "src/data/synthetic.cpp").read_text(encoding="utf-8")
    begin, end = source.index("const Words& names()"), source.index("constexpr uint64_t kValidShare")
    literals = re.findall(r'"((?:[^"\\]|\\.)*)"', source[begin:end])
    return [re.sub(r"\{[nv]\}", " ", text) for text in literals]


def words_of(texts):
    """All words with a leading space, then the first words of the texts as they are. Single names and values never
    begin a text."""
    inner = {" " + word for text in texts for word in re.findall(r"[A-Za-z]+", text)}
    first = {match[0] for text in texts if " " in text or ":" in text if (match := re.match(r"[A-Z][a-z]+", text))}
    return sorted(inner) + sorted(first)


def train(words, size):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=SPECIAL, min_frequency=1, show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.train_from_iterator(words, trainer)
    return tokenizer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default=ROOT / "models/tiny-facts", type=pathlib.Path)
    out = parser.parse_args().out
    words = words_of(generator_text() + PROMPT)
    tokenizer = train(words, 1 << 14)  # more than can be learned: every word ends as one token
    broken = [word for word in words if len(tokenizer.encode(word).ids) != 1]
    if broken:
        raise SystemExit(f"not single tokens: {broken}")
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(out / "tokenizer.json"))
    config = {"bos_token": SPECIAL[0], "eos_token": SPECIAL[0], "pad_token": SPECIAL[1],
              "clean_up_tokenization_spaces": False, "model_max_length": 1024,
              "tokenizer_class": "PreTrainedTokenizerFast"}
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    print(f"{out}: {len(words)} words, {tokenizer.get_vocab_size()} tokens")


if __name__ == "__main__":
    main()
