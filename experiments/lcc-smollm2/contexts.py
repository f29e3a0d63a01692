"""Contexts of a file, one a line: COUNT of LOW-HIGH words, drawn by the SHA-256 of their text; where that range has too few,
the rest from the next one.
- Of an MRQA file, with their questions, at least QUESTIONS each (4).
- Of a text file (`text` a row), HIGH words from the second paragraph of a row on, and the 120 words that follow them
  as `continuation`.
A memory of one of them is asked what belongs to the next, so no two should be of one article or book: one that shares
three capitalised words with one before it is passed over.

usage: contexts.py FILE.jsonl.gz COUNT LOW-HIGH[,LOW-HIGH…] [QUESTIONS]
"""
import gzip
import hashlib
import json
import re
import sys

FOLLOWING = 120


def asked(row, low, high, questions):
    """The context of an MRQA row with its questions, or nothing."""
    if "context" in row and low <= len(row["context"].split()) <= high and len(row["qas"]) >= questions:
        qas = [{"qid": qa.get("qid", ""), "question": qa["question"], "answers": qa["answers"]} for qa in row["qas"]]
        return {"context": row["context"], "qas": qas}
    return None


def followed(row, high):
    """A context of a text row with what follows it, or nothing where the row is too short."""
    text = row["text"].split("\n\n", 1)[-1]
    ends = [match.end() for match in re.finditer(r"\S+", text)]
    if len(ends) < high + FOLLOWING:
        return None
    return {"context": text[:ends[high - 1]], "continuation": text[ends[high - 1]:ends[high + FOLLOWING - 1]]}


def main(path, count, ranges, questions="4"):
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    drawn, names = [], []
    for words in ranges.split(","):
        low, high = map(int, words.split("-"))
        found = [followed(row, high) if "text" in row else asked(row, low, high, int(questions)) for row in rows]
        keyed = [(hashlib.sha256(context["context"].encode()).hexdigest(), context) for context in found if context]
        for key, context in sorted(keyed, key=lambda pair: pair[0]):
            mine = set(re.findall(r"(?<=[a-z,] )[A-Z][a-z]{3,}", context["context"]))
            if len(drawn) == int(count) or key in drawn or any(len(mine & other) >= 3 for other in names):
                continue
            drawn.append(key)
            names.append(mine)
            print(json.dumps({"id": key[:12], **context}))


main(*sys.argv[1:])
