#!/usr/bin/env bash
# One text compiled on SmolLM2-135M and read by ctxc, transformers, PEFT and llama.cpp, as README.md shows it: the same greedy
# answers from all to two questions, and the same logits from those that multiply in float32, in batches of two. Needs
# scripts/interop.sh. STEPS: of the compile (default 200, some minutes). OUT: where files go.
set -euo pipefail
cd "$(dirname "$0")/../.."
bin="${CTXC_BIN:-build/release/bin}" python="${PYTHON:-.deps/interop/bin/python}"
model=.deps/models/SmolLM2-135M-Instruct.Q4_1.gguf
out="${OUT:-runs/interop}"
questions=("Who built the lighthouse?" "What did its lamp burn until 1903?")
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" OMP_WAIT_POLICY=passive HF_HUB_OFFLINE=1 CUDA_VISIBLE_DEVICES=

if [ ! -e "$model" ]; then echo "CTXC_SKIP_WHOLE_TEST: $model is not there (scripts/setup.sh fetches it)"; exit 0; fi
mkdir -p "$out/slots"
"$bin/ctxc-run" compile --model "$model" --text experiments/interop/text.txt --out "$out/memory.safetensors" --overwrite \
  --preset small compressor.ratio=8 "train.steps=${STEPS:-200}" ${KEYS:-}
for i in 0 1; do
  "$bin/ctxc-run" ask --memory "$out/memory.safetensors" --max-new-tokens 12 --json --logits "$out/ctxc-$i.safetensors" \
    "${questions[i]}" > "$out/ctxc-$i.json"
  cat "$out/ctxc-$i.json"
done
for target in hf-cache peft-prefix; do
  "$bin/ctxc-export" --in "$out/memory.safetensors" --to "$target" --dtype f32 --out "$out/$target" --overwrite
done
"$bin/ctxc-export" --in "$out/memory.safetensors" --to llamacpp-state --dtype f32 --out "$out/slots/memory.bin" --overwrite
"$python" experiments/interop/engines.py "$model" "$out" "${questions[@]}"
if [ -d .deps/interop/current ]; then # the newer versions of transformers and PEFT
  PYTHONPATH=.deps/interop/current "$python" experiments/interop/engines.py "$model" "$out" "${questions[@]}"
fi
