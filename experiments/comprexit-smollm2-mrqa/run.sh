#!/usr/bin/env bash
# Everything behind README.md's tables. Goes on where it was interrupted; a finished stage is not done again.
#   CTXC_DATA=DATA experiments/comprexit-smollm2-mrqa/run.sh [--out DIR] [STAGE…]      (no stage: all, in order)
set -euo pipefail
cd "$(dirname "$0")/../.."

out=runs/comprexit-smollm2-mrqa
stages=(text a references b init c prompt gap)
if [ "${1:-}" = --out ]; then out=$2; shift 2; fi
if (($#)); then stages=("$@"); fi
: "${CTXC_DATA:?error: CTXC_DATA is not set (expected the folder that holds text/ and mrqa/; see README.md)}"
bin=${CTXC_BIN:-build/release/bin}
text=configs/comprexit_smollm2_text.yaml
mrqa=configs/comprexit_smollm2_mrqa.yaml
prompts=configs/prompt_tuning_smollm2_mrqa.yaml
mean=compressor.residual_source=mean last=compressor.residual_source=last
limit=150 # questions of each dev set

# train NAME CONFIG KEY=VALUE…
train() {
  local name=$1 run=$out/$1; shift
  [ -e "$run/trained" ] && return
  echo "== training $name"
  if [ -e "$run/latest" ]; then
    "$bin/ctxc-train" "$@" "run.dir=$run" run.threads=1 --resume
  else
    "$bin/ctxc-train" "$@" "run.dir=$run" run.threads=1 --overwrite
  fi
  touch "$run/trained"
}

# measure NAME ARGUMENT… : ctxc-eval into $out/NAME
measure() {
  local name=$1; shift
  [ -e "$out/$name/results.json" ] && return
  echo "== measuring $name"
  "$bin/ctxc-eval" "$@" --limit "$limit" --out "$out/$name" run.threads=1
}

for stage in "${stages[@]}"; do
  case $stage in
    text) train text-a $text train.steps=600 train.save_every=100 $mean ;;
    a)
      train mrqa-a $mrqa train.steps=800 train.save_every=100 $mean "train.init_from=$out/text-a"
      measure eval-a --checkpoint "$out/mrqa-a" --methods checkpoint,truncate_head,truncate_tail ;;
    references) # untrained; truncation to as many tokens as the slots of run a
      measure eval-two-shot $mrqa --methods full,none prompt.shots=2
      measure eval-two-shot-cut --checkpoint "$out/mrqa-a" --methods truncate_head,truncate_tail prompt.shots=2 ;;
    prompt)
      for context in full none; do
        train "prompt-$context" $prompts "compressor.context=$context" train.steps=150 train.save_every=100
        measure "eval-prompt-$context" --checkpoint "$out/prompt-$context" --methods checkpoint
      done ;;
    b) # the learning rate
      train mrqa-b $mrqa train.steps=300 train.save_every=100 train.lr=2e-3 $mean "train.init_from=$out/text-a"
      measure eval-b --checkpoint "$out/mrqa-b" --methods checkpoint ;;
    init) # does starting the slots from input embeddings speed learning, and from which?
      train init-paper $text train.steps=100 train.valid_every=50 train.save_every=0 compressor.init=paper
      train init-mean $text train.steps=100 train.valid_every=50 train.save_every=0 $mean
      train init-last $text train.steps=100 train.valid_every=50 train.save_every=0 $last ;;
    c) # the start of the slots, after a sixth of the text phase
      train mrqa-c $mrqa train.steps=300 train.save_every=100 train.lr=2e-3 $last "train.init_from=$out/init-last"
      measure eval-c --checkpoint "$out/mrqa-c" --methods checkpoint ;;
    gap) # held-out text read in full, not at all, and by run a: one step that changes nothing, for its validation
      still=(train.steps=1 train.lr=1e-9 train.warmup=0 train.save_every=0)
      for context in full none; do
        train "gap-$context" $text "compressor={name: prompt_tuning, tokens: 1, context: $context}" "${still[@]}"
      done
      train gap-a $text "${still[@]}" $mean "train.init_from=$out/text-a" ;;
    *) echo "error: unknown stage '$stage' (expected ${stages[*]})" >&2; exit 2 ;;
  esac
done
