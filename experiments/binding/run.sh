#!/usr/bin/env bash
# Everything behind README.md's tables. Goes on where it was interrupted; a finished run is not done again.
#   experiments/binding/run.sh [--out DIR] [STAGE…]      (no stage: all, in order; then collect.py)
set -euo pipefail
cd "$(dirname "$0")/../.."

out=runs/binding
stages=(denoising binding levels passes rest base strings converged settled longer longest four)
if [ "${1:-}" = --out ]; then out=$2; shift 2; fi
if (($#)); then stages=("$@"); fi
bin=${CTXC_BIN:-build/release/bin}
config=configs/diffusion_binding.yaml
long=(train.steps=1000 train.valid_every=250)   # of converged, longer and four
longest=(train.steps=3000 train.valid_every=500) # of settled and longest
mkdir -p "$out"

# The base made again: two pairs first, since rows of eight alone are not bound in the same time; then the whole mixture.
base() {
  [ -e "$out/base-eval/results.json" ] && return
  local pretrain=configs/key_values_pretrain.yaml
  local two='data.train=[{path: key-values, key_values: {count: 30000, pairs: 2, queries: 8}}]'
  "$bin/ctxc-train" $pretrain run.dir="$out/base-two" --overwrite "$two" train.steps=500 train.schedule=constant \
    train.valid_every=0
  "$bin/ctxc-train" $pretrain run.dir="$out/base-all" --overwrite train.init_from="$out/base-two"
  "$bin/ctxc-export" --in "$out/base-all" --to hf --out "$out/base"
  "$bin/ctxc-eval" $pretrain backbone.init=pretrained backbone.train=false backbone.path="$out/base" --out "$out/base-eval"
}

# measure RUN NAME KEY=VALUE… : exact match and its interval into RUN/NAME/results.json
measure() {
  local run=$1 name=$2; shift 2
  [ -e "$run/$name/results.json" ] && return
  "$bin/ctxc-eval" --checkpoint "$run" --out "$run/$name" --quiet "$@" > "$run/$name.md"
}

# cell STAGE NAME KEY=VALUE… : trains with seed $seed and measures, with zero noise and five seeds of the channel's
# noise, at the checkpoint's own levels and at those steps of the schedule that `levels` names.
levels=()
cell() {
  local stage=$1 name=$2 run=$out/$1/$2/$seed level t; shift 2
  [ -e "$run/done" ] && return
  echo "== $stage $name, seed $seed"
  "$bin/ctxc-train" $config run.dir="$run" run.seed="$seed" --overwrite --quiet "$@"
  for t in own "${levels[@]}"; do
    level=()
    [ "$t" = own ] || level=(compressor.infer_level="$t")
    measure "$run" "$t-zero" "${level[@]}"
    [[ " $* " == *" compressor.channel=none "* ]] && continue # has no noise
    for noise in 1 2 3 4 5; do
      measure "$run" "$t-seeded-$noise" "${level[@]}" compressor.infer_noise=seeded compressor.noise_seed=$noise
    done
  done
  rm -rf "$run/checkpoints"
  touch "$run/done"
}

# RUN: whether it has bound, which is 95 % and more of the answers with zero noise.
bound() {
  python3 -c 'import json, sys; sys.exit(json.load(open(sys.argv[1]))["entries"][0]["exact_match"]["value"] < 95)' "$1/own-zero/results.json"
}

# STAGE KEY=VALUE… : what binds, one seed; windows of two that cut between key and value. Not what has bound in the stage `$unless`.
unless=
binds() {
  local stage=$1 layers pool pos; shift
  for layers in embedding all; do
    for pool in concat mean_linear attn; do
      for pos in none rope offset; do
        if [ -n "$unless" ] && bound "$out/$unless/$layers-$pool-$pos/$seed"; then continue; fi
        cell "$stage" "$layers-$pool-$pos" compressor.ratio=2 compressor.layers=$layers compressor.pool=$pool \
          compressor.pos=$pos compressor.noise.rope=off $(data lead=1) "$@"
      done
    done
  done
}

# An override of all three data entries.
data() { printf 'data.%s.0.key_values.'"$1"'\n' train valid eval; }

for stage in "${stages[@]}"; do
  case $stage in
    base) base ;;
    denoising) # 2 x 2 x 2 at equal parameters, J and steps, 5 seeds, and J = 0; the pair of the claim first
      for seed in 1 2 3 4 5; do
        cell denoising vp-0.1-lsnr compressor.channel=vp
        cell denoising none-0-lsnr compressor.channel=none objective.denoise=0
      done
      for seed in 1 2 3 4 5; do
        cell denoising vp-0.1-lsnr-J0 compressor.steps=0
        cell denoising none-0-lsnr-J0 compressor.channel=none objective.denoise=0 compressor.steps=0
        cell denoising vp-0-lsnr objective.denoise=0
        cell denoising none-0.1-lsnr compressor.channel=none
        cell denoising vp-0.1-constant compressor.cond=constant
        cell denoising vp-0-constant objective.denoise=0 compressor.cond=constant
        cell denoising none-0.1-constant compressor.channel=none compressor.cond=constant
        cell denoising none-0-constant compressor.channel=none objective.denoise=0 compressor.cond=constant
      done ;;
    binding) for seed in 1 2 3; do binds binding train.steps=200; done ;;
    converged) for seed in 1 2 3; do binds converged "${long[@]}"; done ;;
    settled) # what has not bound there, again over 3,000 steps
      unless=converged
      for seed in 1 2 3; do binds settled "${longest[@]}"; done
      unless= ;;
    longer) # the pair of the claim, then its J = 0, trained as long as `converged`
      for steps in 2 0; do
        name=
        [ $steps = 0 ] && name=-J0
        for seed in 1 2 3 4 5; do
          cell longer "vp-0.1-lsnr$name" compressor.steps=$steps "${long[@]}"
          cell longer "none-0-lsnr$name" compressor.channel=none objective.denoise=0 compressor.steps=$steps "${long[@]}"
        done
      done ;;
    longest) # the pair alone
      for seed in 1 2 3 4 5; do
        cell longest vp-0.1-lsnr "${longest[@]}"
        cell longest none-0-lsnr compressor.channel=none objective.denoise=0 "${longest[@]}"
      done ;;
    four) # two pairs a window: a plain sum of its embeddings does not say which value is whose
      for seed in 1 2 3; do
        for layers in embedding all; do
          for pool in concat mean_linear attn; do
            cell four "$layers-$pool-rope" compressor.layers=$layers compressor.pool=$pool compressor.noise.rope=off "${long[@]}"
          done
        done
      done ;;
    levels) # merge levels S; S = 2 is denoising/vp-0.1-lsnr
      for seed in 1 2 3; do
        for ratio in 2 8 16; do cell levels "ratio-$ratio" compressor.ratio=$ratio; done
      done ;;
    strings) # one pair a slot of four tokens, values of three words: few different ones, or all there can be (needs base)
      for seed in 1 2 3; do
        for values in 32 32768; do cell strings "values-$values" backbone.path="$out/base" $(data value_tokens=3) $(data values=$values); done
      done ;;
    passes)
      for seed in 1 2 3; do
        for passes in 2 4; do cell passes "P-$passes" compressor.passes=$passes; done
      done ;;
    rest)
      for seed in 1 2 3; do
        levels=(0 50 100 200 300 400 600 1000)
        cell rest level-train compressor.level_train=true
        levels=()
        for state in 4 0; do # four chunks of eight tokens; a key may be written again in a later one
          cell rest "chunks-state-$state" compressor.chunk=8 compressor.state=$state $(data pairs=16) $(data keys=16)
        done
        for rate in 4 8 32; do cell rest "rho-$rate" compressor.rho_target=$rate; done
        cell rest agg-0 objective.agg=0
        cell rest rope-off compressor.noise.rope=off
        cell rest rope-position compressor.position=true objective.position=0.05
        cell rest gaussian compressor.start=gaussian compressor.steps=8
      done ;;
    *) echo "error: unknown stage '$stage' (expected ${stages[*]})" >&2; exit 2 ;;
  esac
done
experiments/binding/collect.py "$out"
