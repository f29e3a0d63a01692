#!/usr/bin/env bash
# Variants of the progressive compressor on the embedded base, several seeds each; finished runs are skipped.
# usage: experiments/progressive-tiny/run.sh [OUT]      (default runs/progressive-tiny-study)
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:-runs/progressive-tiny-study}
bin=${CTXC_BIN:-build/release/bin}
seeds=${SEEDS:-1 2 3}

variant() {  # NAME KEY=VALUE...
  local name=$1 seed dir
  shift
  for seed in $seeds; do
    dir=$out/$name/$seed
    [ -e "$dir/eval/results.json" ] && continue
    rm -rf "$dir"
    "$bin/ctxc-train" configs/progressive_tiny.yaml run.dir="$dir" run.seed="$seed" train.valid_every=0 train.samples=0 "$@"
    "$bin/ctxc-eval" --checkpoint "$dir" --methods checkpoint --out "$dir/eval"
  done
}

variant cluster
variant window compressor.reduce=window
variant global compressor.reduce=global
variant no-buffer compressor.buffer=none
variant buffer-alone compressor.keep=0
variant log compressor.slots=log compressor.chunk=16
variant all-16 compressor.chunk=16
variant no-nce-recon compressor.nce=false compressor.recon=false 'objective={ce: 1}'
python3 experiments/progressive-tiny/collect.py "$out"
