#!/usr/bin/env bash
# Memories of SQuAD contexts on SmolLM2-135M by six methods at equal slots, and their primary endpoints: see README.md.
# Goes on where it was stopped; more METHODS or CONTEXTS can follow fewer. DATA: folder with mrqa/SQuAD.dev.jsonl.gz; OUT: where runs and tables go.
set -euo pipefail
cd "$(dirname "$0")/../.."
bin="${BIN:-build/release/bin}"
data="${DATA:?DATA=folder that holds mrqa/SQuAD.dev.jsonl.gz}"
out="${OUT:-runs/lcc-smollm2}"
methods="${METHODS:-truncate snapkv kv buffers lora}" contexts="${CONTEXTS:-4}" ratio="${RATIO:-8}" steps="${STEPS:-30}" words="${WORDS:-170-200}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" OMP_WAIT_POLICY=passive

mkdir -p "$out"
python3 experiments/lcc-smollm2/contexts.py "$data/mrqa/SQuAD.dev.jsonl.gz" "$contexts" "$words" > "$out/contexts.jsonl"
common=(configs/lcc_smollm2.yaml "data.contexts=[$out/contexts.jsonl]" "compressor.ratio=$ratio" compressor.storage=float32
        compressor.recon.chunk=64 train.batch=2 "train.steps=$steps" train.valid_every=15
        queries.count=8 queries.held_out=4 queries.max_new=16)
runs=()
compile() {  # NAME key=value…
  local run="$out/$1" again=()
  runs+=("$run")
  if [ -d "$run" ]; then again=(--resume); fi
  "$bin/ctxc-train" "${common[@]}" "run.dir=$run" "${@:2}" "${again[@]}"
}
compile exact compressor.optimise=truncate compressor.ratio=1    # the context itself: a gate
for method in $methods; do compile "$method" "compressor.optimise=$method"; done
"$bin/ctxc-run" measure --contexts "$out/contexts.jsonl" --out "$out/measured.jsonl" "${runs[@]}"
python3 experiments/lcc-smollm2/collect.py "$out" | tee "$out/tables.md"
