"""Contexts of an MRQA file with their questions, one a line: COUNT of those with LOW-HIGH words and at least 4 questions, drawn
by the SHA-256 of their text. A memory of one of them is asked the questions of the next, so no two may be of one article:
one that shares three capitalised words with one before it is passed over.

usage: contexts.py FILE.jsonl.gz COUNT LOW-HIGH
"""
import gzip
import hashlib
import json
import re
import sys


def main(path, count, words):
    low, high = map(int, words.split("-"))
    found = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if "context" in row and low <= len(row["context"].split()) <= high and len(row["qas"]) >= 4:
                found.append((hashlib.sha256(row["context"].encode()).hexdigest(), row))
    drawn, names = 0, []
    for key, row in sorted(found, key=lambda pair: pair[0]):
        mine = set(re.findall(r"(?<=[a-z,] )[A-Z][a-z]{3,}", row["context"]))
        if drawn == int(count) or any(len(mine & other) >= 3 for other in names):
            continue
        drawn += 1
        names.append(mine)
        qas = [{"qid": qa.get("qid", ""), "question": qa["question"], "answers": qa["answers"]} for qa in row["qas"]]
        print(json.dumps({"id": key[:12], "context": row["context"], "qas": qas}))


main(*sys.argv[1:])
