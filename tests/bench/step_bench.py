#!/usr/bin/env python3
"""Times a ComprExIT training step of ctxc-train against a faithful Python one (comprexit_step.py), paired in one run.

Same shapes on both sides (SmolLM2-135M: frozen 30 x 576 Llama as encoder and decoder, contexts of 256 tokens, continuations
of 64, ratio 4, window 128, 30 Sinkhorn iterations), the frozen base in the same type, the same number of threads. The two programs run in turns, so
that a busy machine disturbs both; the figure is the ratio. Needs scripts/setup.sh and scripts/interop.sh.

    .deps/interop/bin/python tests/bench/step_bench.py [--rounds 3] [--steps 4] [--batch 2] [--threads 1] [--dtype float32]
"""
import argparse
import glob
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile


def run_ctxc(args, folder, text):
    run = os.path.join(folder, "run")
    model = sorted(glob.glob(".deps/models/*.gguf"))
    if not model:
        sys.exit("error: no GGUF model in .deps/models\nhint: scripts/setup.sh")
    command = [os.path.join(args.bin, "ctxc-train"), "configs/comprexit_smollm2_text.yaml", "--quiet", "--overwrite",
               f"run.dir={run}", f"backbone.path={model[0]}", f"run.threads={args.threads}",
               f"data.train=[{{path: {text}, format: text}}]", "data.valid=[]", "train.valid_every=0", f"train.batch={args.batch}",
               f"train.steps={args.steps + args.warmup}", "compressor.window=128", "compressor.init=paper",
               f"run.dtype={args.dtype}", "train.save_every=0", "train.lr=1e-4", "train.schedule=linear"]
    subprocess.run(command, check=True, env=dict(os.environ, OMP_NUM_THREADS=str(args.threads)))
    with open(os.path.join(run, "log.jsonl")) as log:
        records = [json.loads(line) for line in log][args.warmup:]
    seconds = statistics.median(r["seconds"] for r in records)
    return {"seconds_per_step": seconds, "peak_rss_bytes": max(r["resident_bytes"] for r in records)}


def run_python(args):
    command = [sys.executable, os.path.join(os.path.dirname(__file__), "comprexit_step.py"), "--steps", str(args.steps),
               "--warmup", str(args.warmup), "--batch", str(args.batch), "--threads", str(args.threads),
               "--dtype", args.dtype]
    output = subprocess.run(command, check=True, capture_output=True, text=True,
                            env=dict(os.environ, OMP_NUM_THREADS=str(args.threads))).stdout
    return json.loads(output.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default="build/release/bin")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the frozen base")
    args = parser.parse_args()
    pairs = []
    with tempfile.TemporaryDirectory(prefix="ctxc-bench-") as folder:
        text = os.path.join(folder, "text.txt")
        words = ["time", "river", "house", "green", "seven", "walks", "under", "light", "stone", "garden", "letter", "morning"]
        rng = random.Random(0)
        with open(text, "w") as out:
            for _ in range(4000):
                out.write(" ".join(rng.choice(words) for _ in range(12)) + ".\n")
        for number in range(args.rounds):
            ours, theirs = run_ctxc(args, folder, text), run_python(args)
            tokens = args.batch * (256 + 64)
            pairs.append((ours, theirs))
            print(f"round {number + 1}: ctxc {tokens / ours['seconds_per_step']:.1f} tokens/s, "
                  f"{ours['peak_rss_bytes'] / 2**30:.2f} GiB; Python {tokens / theirs['seconds_per_step']:.1f} tokens/s, "
                  f"{theirs['peak_rss_bytes'] / 2**30:.2f} GiB", flush=True)
    speed = statistics.median(t["seconds_per_step"] / o["seconds_per_step"] for o, t in pairs)
    memory = statistics.median(o["peak_rss_bytes"] / t["peak_rss_bytes"] for o, t in pairs)
    print(json.dumps({"tokens_per_second_ratio": round(speed, 3), "peak_memory_ratio": round(memory, 3),
                      "rounds": args.rounds, "batch": args.batch, "threads": args.threads, "dtype": args.dtype}))


if __name__ == "__main__":
    main()
