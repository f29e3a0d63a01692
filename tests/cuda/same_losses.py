#!/usr/bin/env python3
"""Trains the tiny configurations for a few steps with two builds, on the CPU, and compares every logged number exactly.

What it shows: a program built with the CUDA plugin starts without a GPU and trains to the same numbers as one built without.
Exit 0 equal, 1 different, 77 where the other build is not there. Standard library only.

    tests/cuda/same_losses.py BIN OTHER_BIN [--steps N]        BIN: a folder with ctxc-train
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

CONFIGS = ("comprexit_tiny", "diffusion_tiny")
NUMBERS = ("loss", "terms", "grad_norm")
ROOT = pathlib.Path(__file__).resolve().parents[2]


def losses(program, config, steps, folder):
    command = [str(program), f"configs/{config}.yaml", f"run.dir={folder}", f"train.steps={steps}", "run.threads=1",
               "run.device=auto", "train.valid_every=0", "train.save_every=0", "--quiet"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        sys.exit(f"error: {' '.join(command)} exited {done.returncode}: {done.stderr.strip()}")
    lines = [json.loads(line) for line in (pathlib.Path(folder) / "log.jsonl").read_text().splitlines()]
    return [{key: line.get(key) for key in NUMBERS} for line in lines if "loss" in line]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bin", type=pathlib.Path)
    parser.add_argument("other", type=pathlib.Path)
    parser.add_argument("--steps", type=int, default=4)
    arguments = parser.parse_args()
    programs = [(folder / "ctxc-train").absolute() for folder in (arguments.bin, arguments.other)]
    for program in programs:
        if not program.exists():
            print(f"CTXC_SKIP_WHOLE_TEST: {program} is not built")
            return 77
    different = 0
    for config in CONFIGS:
        with tempfile.TemporaryDirectory() as folder:
            first, second = (losses(program, config, arguments.steps, f"{folder}/{i}") for i, program in enumerate(programs))
        if len(first) < arguments.steps:
            sys.exit(f"error: {config}: {len(first)} steps were logged (expected {arguments.steps})")
        same = first == second
        different += not same
        print(f"{config}: {'equal' if same else 'different'}:", *(f"{a['loss']} {b['loss']}" for a, b in zip(first, second)), sep="\n  ")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
