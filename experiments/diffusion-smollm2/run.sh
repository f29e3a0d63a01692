#!/usr/bin/env bash
# Everything behind README.md's tables. Goes on where it was interrupted; a finished run is not done again.
#   CTXC_DATA=DATA experiments/diffusion-smollm2/run.sh [--out DIR] [STAGE…]      (no stage: all, in order)
set -euo pipefail
cd "$(dirname "$0")/../.."

out=runs/diffusion-smollm2
stages=(start methods references measure seeded)
if [ "${1:-}" = --out ]; then out=$2; shift 2; fi
if (($#)); then stages=("$@"); fi
: "${CTXC_DATA:?error: CTXC_DATA is not set (expected the folder that holds text/ and mrqa/; see README.md)}"
bin=${CTXC_BIN:-build/release/bin}
diffusion=configs/diffusion_smollm2_cpu.yaml progressive=configs/progressive_smollm2_cpu.yaml
mkdir -p "$out"

# train NAME CONFIG KEY=VALUE… : contexts of 128 tokens at 4x; goes on from the last checkpoint
common=(run.threads=1 train.hidden_cache="$out/hidden" train.valid_every=125 train.valid_batches=13 train.samples=0
  train.warmup=25 data.mix=examples) # the weights as these runs had them: see README.md on what was mixed
train() {
  local name=$1 run=$out/$1; shift
  [ -e "$run/trained" ] && return
  echo "== training $name"
  if [ -e "$run/latest" ]; then
    "$bin/ctxc-train" "$@" "run.dir=$run" "${common[@]}" --resume
  else
    "$bin/ctxc-train" "$@" "run.dir=$run" "${common[@]}" --overwrite
  fi
  touch "$run/trained"
}

asked=(run.threads=1 eval.nll=true eval.query_tokens=64 eval.max_new_tokens=12)

# Cross-entropy alone, for methods without terms of their own.
ce='objective={ce: 1}'
still=(train.steps=1 train.lr=1e-12 train.warmup=0 train.save_every=0)

for stage in "${stages[@]}"; do
  case $stage in
    start) # where the slots start: one step that changes nothing, for its validation
      for init in random pca pca_first; do
        train "start-$init" $diffusion compressor.ratio=4 compressor.init=$init "${still[@]}" objective.kd=0
      done
      train start-pca_first-576 $diffusion compressor.ratio=4 compressor.init=pca_first compressor.width=576 \
        compressor.heads=9 compressor.latent_width=576 "${still[@]}" objective.kd=0
      for start in none mean first; do
        train "start-mean_pool-$start" $diffusion "compressor={name: mean_pool, ratio: 4, start: $start}" "$ce" "${still[@]}"
      done ;;
    methods) # equal steps, data and learning rate
      steps=train.steps=250
      train diffusion $diffusion compressor.ratio=4 compressor.init=pca_first objective.kd=0 $steps
      train comprexit $diffusion "compressor={name: comprexit, ratio: 4, init: residual, residual_source: last}" "$ce" $steps
      train mean_pool $diffusion 'compressor={name: mean_pool, ratio: 4}' "$ce" $steps
      # one slice, so that no vector of the buffer is read
      train progressive $progressive compressor.ratio=4 compressor.init=pca_first compressor.chunk=128 \
        compressor.random_slices=1 compressor.random_keep=0 objective.kd=0 $steps
      train no-channel $diffusion compressor.ratio=4 compressor.init=pca_first compressor.channel=none \
        objective.kd=0 objective.denoise=0 $steps ;;
    references) # trained virtual tokens before nothing, everything, or as many tokens as there are slots
      for context in none strided head tail full; do
        train "prompt-$context" $diffusion "compressor={name: prompt_tuning, tokens: 16, context: $context}" "$ce" \
          train.steps=100
      done ;;
    measure) # everything behind one set of questions; 4x of a context of at most 128 tokens
      methods=checkpoint
      for name in no-channel progressive comprexit mean_pool prompt-none prompt-strided prompt-head prompt-tail prompt-full; do
        methods+=",checkpoint=$out/$name"
      done
      "$bin/ctxc-eval" --checkpoint "$out/diffusion" --out "$out/eval" --limit "${LIMIT:-100}" "${asked[@]}" \
        --methods "$methods,bm25=$out/prompt-full,full,truncate_head,truncate_tail,bm25" > "$out/eval.md" ;;
    seeded) # the likelihood alone, with the channel's noise: one token is decoded
      for noise in zero 1 2 3 4 5; do
        seed=(compressor.infer_noise=seeded "compressor.noise_seed=$noise")
        [ "$noise" = zero ] && seed=()
        "$bin/ctxc-eval" --checkpoint "$out/diffusion" --methods checkpoint --benchmarks squad --out "$out/noise-$noise" --limit "${LIMIT:-100}" \
          "${asked[@]}" eval.max_new_tokens=1 "${seed[@]}" > "$out/noise-$noise.md"
      done ;;
    *) echo "error: unknown stage '$stage' (expected ${stages[*]})" >&2; exit 2 ;;
  esac
done
experiments/diffusion-smollm2/collect.py "$out"
