#!/usr/bin/env bash
# On a machine with a GPU: builds with the plugin, runs the parity tests, times the kernels, and trains ComprExIT for a few
# steps on random weights of Llama-3.1-8B's shape. Writes everything below OUT. See README.md.
set -euo pipefail
cd "$(dirname "$0")/../.."

out=runs/gpu
steps=5
while (($#)); do
  case "$1" in
    --out) out="${2:?--out needs a folder}"; shift ;;
    --steps) steps="${2:?--steps needs a number}"; shift ;;
    -h|--help)
      cat <<'TXT'
usage: experiments/gpu/run.sh [--out DIR] [--steps N]
  Needs an NVIDIA GPU (compute capability 8.0 or newer, 80 GB for the 8B step), driver 580 or newer, nvcc 13 and
  16 GB of disk for the random checkpoint. DIR is runs/gpu by default.
TXT
      exit 0 ;;
    *) echo "error: unknown argument '$1' (see --help)" >&2; exit 2 ;;
  esac
  shift
done
mkdir -p "$out"
work="$(mktemp -d "$out/work.XXXXXX")"
trap 'rm -rf "$work"' EXIT

./scripts/setup.sh --cuda
cmake --preset cuda
cmake --build --preset cuda --parallel "$(nproc)" --target all gpu_kernel_bench
nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv | tee "$out/gpu.csv"
git rev-parse HEAD > "$out/commit.txt"

echo "== parity"
ctest --preset cuda -L 'cuda_host|gpu' 2>&1 | tee "$out/parity.txt"

echo "== kernels"
build/cuda/tests/gpu_kernel_bench | tee "$out/kernels.csv"

echo "== a step of ComprExIT on random weights of Llama-3.1-8B"
tests/bench/llama_8b.py --bin build/cuda/bin --work "$work" --write-only
data="$work/text.jsonl"
python3 - "$data" <<'PY'
import json, random, sys
random.seed(0)
words = "the of and to in is that for it as was with on be by at from or are this".split()
with open(sys.argv[1], "w") as out:
    for _ in range(600):
        out.write(json.dumps({"text": " ".join(random.choice(words) for _ in range(900))}) + "\n")
PY
settings=(run.dir="$out/train" run.device=cuda run.dtype=bfloat16 backbone.path="$work" backbone.tokenizer=models/tiny-facts
          "data.train=[{path: $data, format: text}]" train.accumulate=1 train.steps="$steps" train.save_every=0)
build/cuda/bin/ctxc-train configs/comprexit_llama3.1-8b_text.yaml "${settings[@]}" --dry-run --json > "$out/plan.json"
build/cuda/bin/ctxc-train configs/comprexit_llama3.1-8b_text.yaml "${settings[@]}" --overwrite
python3 experiments/gpu/summary.py "$out" | tee "$out/summary.md"
