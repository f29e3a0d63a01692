#!/usr/bin/env bash
# Everything behind README.md's tables. Goes on where it was interrupted; a finished run is not done again.
#   experiments/claims/run.sh [--out DIR] [STAGE…]      (no stage: all, in order; then collect.py, which wants matplotlib)
set -euo pipefail
cd "$(dirname "$0")/../.."

out=runs/claims
stages=(references age recall tiny bits pairwise growth noise)
if [ "${1:-}" = --out ]; then out=$2; shift 2; fi
if (($#)); then stages=("$@"); fi
bin=${CTXC_BIN:-build/release/bin}
seeds=${SEEDS:-1 2 3} # a part of the study, e.g. SEEDS=1 RATIOS=4 run.sh recall
ratios=${RATIOS:-4 2 8 16}
mkdir -p "$out"

# An override of all three data entries.
data() { printf 'data.%s.0.key_values.'"$1"'\n' train valid eval; }
# Recall by age: 16 pairs in three chunks, so that `slots: log` ends with two blocks: the first two chunks merged (12 pairs
# in 6 vectors), the last one as it is (4 pairs in 4). Four chunks would be one block.
chunks=($(data pairs=16) $(data keys=16) data.eval.0.key_values.queries=8 compressor.ratio=2 compressor.chunk=12)

# cell STAGE NAME SEED CONFIG KEY=VALUE… : trains and measures.
cell() {
  local run=$out/$1/$2/$3 seed=$3 config=$4
  [ -e "$run/done" ] && return
  echo "== $1 $2, seed $seed"
  shift 4
  "$bin/ctxc-train" "configs/$config.yaml" run.dir="$run" run.seed="$seed" --overwrite --quiet "$@"
  "$bin/ctxc-eval" --checkpoint "$run" --methods checkpoint --out "$run/zero" --quiet eval.nll=true > /dev/null
  touch "$run/done"
}

# reference STAGE NAME METHOD CONFIG KEY=VALUE… : the base itself on a part of the text.
reference() {
  local to=$out/$1/$2/base/zero method=$3 config=$4
  [ -e "$to/results.json" ] && return
  shift 4
  "$bin/ctxc-eval" "configs/$config.yaml" --methods "$method" --out "$to" --quiet eval.nll=true "$@" > /dev/null
}
# bits STAGE CONFIG : the full context's keys and values in few bits. A step that moves nothing logs their bytes.
bits() {
  local stage=$1 config=$2 width run
  for width in 8 4 2 1; do
    run=$out/$stage/bits-$width
    [ -e "$run/base/zero/results.json" ] && continue
    "$bin/ctxc-train" "configs/$config.yaml" run.dir="$run/bytes" --overwrite --quiet objective='{ce: 1}' backbone.train=true \
      "compressor={name: quantized_kv, bits: $width}" train.steps=1 train.batch=64 train.lr=1e-12 train.warmup=0 \
      train.valid_every=0 train.samples=0
    "$bin/ctxc-eval" --checkpoint "$run/bytes" --methods checkpoint --out "$run/base/zero" --quiet eval.nll=true > /dev/null
  done
}

# windows STAGE CONFIG WIDTH… : a sliding window, the last WIDTH tokens.
windows() {
  local stage=$1 config=$2 width
  shift 2
  for width in "$@"; do reference "$stage" "tail-$width" full "$config" data.context_tokens="$width" data.truncate=tail; done
}

for stage in "${stages[@]}"; do
  case $stage in
    references)
      reference recall full full diffusion_binding
      reference recall none none diffusion_binding
      reference recall head-4 full diffusion_binding data.context_tokens=4 data.truncate=head
      windows recall diffusion_binding 1 2 3 4 6 8 10 12 14 15
      reference age full full diffusion_binding "${chunks[@]}"
      reference tiny full full diffusion_tiny
      reference tiny none none diffusion_tiny
      windows tiny diffusion_tiny 2 4 8 12 16 24 32 48 ;;
    recall) # accuracy by depth, and bytes against quality: one set of runs
      for seed in $seeds; do
        for ratio in $ratios; do
          cell recall "diffusion-$ratio" "$seed" diffusion_binding compressor.ratio=$ratio
          cell recall "progressive-$ratio" "$seed" progressive_binding compressor.ratio=$ratio
        done
      done ;;
    pairwise) # progressive with fixed pairs instead of clusters
      for seed in $seeds; do
        for ratio in $ratios; do
          cell recall "pairwise-$ratio" "$seed" progressive_binding compressor.ratio=$ratio compressor.reduce=window
        done
      done ;;
    age)
      for seed in $seeds; do
        for slots in log latents state_only; do cell age "$slots" "$seed" diffusion_binding "${chunks[@]}" compressor.slots=$slots; done
      done ;;
    tiny)
      for seed in $seeds; do
        for ratio in 4 8; do
          cell tiny "progressive-$ratio" "$seed" progressive_tiny compressor.ratio=$ratio
          cell tiny "diffusion-$ratio" "$seed" diffusion_tiny compressor.ratio=$ratio
        done
      done ;;
    bits) bits recall diffusion_binding; bits tiny diffusion_tiny ;;
    growth) # stored vectors against tokens, from the memories themselves
      # Longer than this base's window (256), which is refused. Vectors are counted here and nothing is answered from them: a
      # copy of the base that says it reads further will do.
      mkdir -p "$out/growth/base"
      cp models/key-values/* "$out/growth/base/"
      sed 's/"max_position_embeddings": 256/"max_position_embeddings": 1024/' models/key-values/config.json > "$out/growth/base/config.json"
      for slots in log latents state_only; do
        for tokens in 12 24 36 48 84 96 180 192 372 384 756 768; do # 2^k - 1 and 2^k chunks: most and fewest blocks
          memory=$out/growth/$slots-$tokens
          [ -e "$memory.json" ] && continue
          awk -v pairs=$((tokens / 2)) 'BEGIN { for (i = 0; i < pairs; ++i) printf i % 2 ? " Anna Rome" : " Boris Oslo" }' > "$memory.txt"
          "$bin/ctxc-run" compress --checkpoint "$out/age/$slots/1" --model "$out/growth/base" --text "$memory.txt" --max-tokens 0 --overwrite \
            --out "$memory.safetensors" --json > "$memory.part"
          mv "$memory.part" "$memory.json"
        done
      done ;;
    noise) # what the rate is about: the channel with noise, five seeds of it
      for run in "$out"/{recall,tiny}/diffusion-*/[0-9]* "$out"/age/*/[0-9]*; do
        [ -e "$run/done" ] || continue
        for noise in 1 2 3 4 5; do
          [ -e "$run/seeded-$noise/results.json" ] && continue
          "$bin/ctxc-eval" --checkpoint "$run" --methods checkpoint --out "$run/seeded-$noise" --quiet \
            compressor.infer_noise=seeded compressor.noise_seed=$noise > /dev/null
        done
      done ;;
    *) echo "error: unknown stage '$stage' (expected ${stages[*]})" >&2; exit 2 ;;
  esac
done
experiments/claims/collect.py "$out"
