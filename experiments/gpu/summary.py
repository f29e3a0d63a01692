#!/usr/bin/env python3
"""Sets what experiments/gpu/run.sh measured beside what was planned: seconds and MFU of a step, memory against the planner.

MFU counts 2P FLOP a token through frozen weights forward and 4P where gradients pass through them (the planner's
flop_per_step), over the peak of the GPU in dense bfloat16. Standard library only.

    experiments/gpu/summary.py OUT
"""
import json
import pathlib
import sys

PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12}


def main():
    out = pathlib.Path(sys.argv[1])
    plan = json.loads((out / "plan.json").read_text())["plan"]
    lines = [json.loads(line) for line in (out / "train" / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "seconds" in line][1:]  # the first one loads and tunes
    if not steps:
        sys.exit("error: no step was logged\nhint: --steps 2 or more")
    gpu = (out / "gpu.csv").read_text().splitlines()[1]
    peak = next((value for name, value in PEAK.items() if name in gpu), None)
    seconds = sorted(line["seconds"] for line in steps)[len(steps) // 2]
    tokens = sorted(line["tokens_per_second"] for line in steps)[len(steps) // 2]
    print(f"GPU: {gpu}; {len(steps)} steps, medians\n")
    print("| | planned | measured |\n|---|---|---|")
    print(f"| seconds a step | {plan['seconds_per_step']:.3f} | {seconds:.3f} |")
    print(f"| tokens a second | {plan['tokens_per_step'] / plan['seconds_per_step']:.0f} | {tokens:.0f} |")
    if peak:
        print(f"| MFU | 0.40 of 312 TFLOP/s (assumed) | {plan['flop_per_step'] / seconds / peak:.3f} of {peak / 1e12:.0f} TFLOP/s |")
    used = max(line.get("device_peak_bytes", 0) for line in steps)
    print(f"| peak of tensors, GB | {plan['bytes']['all'] / 1e9:.1f} | {used / 1e9:.1f} |")


if __name__ == "__main__":
    main()
