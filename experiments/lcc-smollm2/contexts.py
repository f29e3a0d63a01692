"""Contexts of a file, one a line: COUNT of LOW-HIGH words, drawn by the SHA-256 of their text.
- Of an MRQA file, with their questions, at least 4 each.
- Of a text file (`text` a row), HIGH words from the second paragraph of a row on, and the 120 words that follow them
  as `continuation`.
A memory of one of them is asked what belongs to the next, so no two should be of one article or book: one that shares
three capitalised words with one before it is passed over.

usage: contexts.py FILE.jsonl.gz COUNT LOW-HIGH
"""
import gzip
import hashlib
import json
import re
import sys

FOLLOWING = 120


def asked(row, low, high):
    """The context of an MRQA row with its questions, or nothing."""
    if "context" in row and low <= len(row["context"].split()) <= high and len(row["qas"]) >= 4:
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


def main(path, count, words):
    low, high = map(int, words.split("-"))
    found = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            context = followed(row, high) if "text" in row else asked(row, low, high)
            if context:
                found.append((hashlib.sha256(context["context"].encode()).hexdigest(), context))
    drawn, names = 0, []
    for key, context in sorted(found, key=lambda pair: pair[0]):
        mine = set(re.findall(r"(?<=[a-z,] )[A-Z][a-z]{3,}", context["context"]))
        if drawn == int(count) or any(len(mine & other) >= 3 for other in names):
            continue
        drawn += 1
        names.append(mine)
        print(json.dumps({"id": key[:12], **context}))


main(*sys.argv[1:])
