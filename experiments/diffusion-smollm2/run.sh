#!/usr/bin/env bash
# Everything behind README.md's tables. Goes on where it was interrupted; a finished run is not done again.
#   CTXC_DATA=DATA experiments/diffusion-smollm2/run.sh [--out DIR] [STAGE…]      (no stage: all, in order)
#   start       where slots start: validation before the first step; for two of them also what is read behind their own and another
#               passage's memory (after the stage references)
#   plans       what a step of each costs in arithmetic, without training (--dry-run)
#   methods     every compressor, seed 42, learning rate 1e-3
#   rates       the same at 3e-4 and 3e-3
#   seeds       the same at 1e-3, seeds 43 and 44
#   references  trained virtual tokens before nothing, a part or all of the text
#   curriculum  8x, then 16x, 100 steps each from checkpoint to checkpoint, seed 42 (variants with a residual after the stage form);
#               truncation to as many tokens, trained
#   squad       likelihood of the answers on 500 questions of SQuAD, all runs that are there; those of the main seed also behind the
#               memory of another passage
#   eight       the same at 8x
#   sixteen     the same at 16x
#   longer      three methods over 600 steps, seed 42; likelihood behind their own and another passage's memory (references: stage squad)
#   form        what may keep slots from saying the text, seed 42: compressors behind 16 virtual tokens, with the first embedding as a
#               residual, distilled, at a higher rate; likelihood behind their own and another passage's memory (references: stage squad)
#   wider       contexts of 256 tokens, 50 steps from the checkpoints of 128; likelihood on SQuAD and HotpotQA, of these checkpoints too
#   text        likelihood of what follows a block of text: held-out Wikipedia, and PEPs, which no run has seen
#   sets        likelihood and answers on the six sets, 500 questions of each where it has so many
#   bare        the base without virtual tokens on the 500 questions of SQuAD
#   spread      likelihood on the six sets, 100 questions of each, seeds 43 and 44
#   seeded      every run of diffusion with the noise of its channel, drawn five times, on what it was asked above: the likelihood, answers
#               of the six sets, and on SQuAD what is read behind the memory of another passage
set -euo pipefail
cd "$(dirname "$0")/../.."

out=runs/diffusion-smollm2
stages=(references start plans methods rates seeds curriculum squad eight sixteen longer form wider text sets bare spread seeded)
if [ "${1:-}" = --out ]; then out=$2; shift 2; fi
if (($#)); then stages=("$@"); fi
: "${CTXC_DATA:?error: CTXC_DATA is not set (expected the folder that holds text/ and mrqa/; see README.md)}"
bin=${CTXC_BIN:-build/release/bin}
diffusion=configs/diffusion_smollm2_cpu.yaml progressive=configs/progressive_smollm2_cpu.yaml
compressors=(diffusion no-channel progressive progressive-window comprexit mean_pool icae 500x sac)
references=(none head tail full)
forms=({behind-diffusion,behind-mean_pool,behind-progressive,diffusion-576,diffusion-residual,progressive-residual,behind-diffusion-residual,diffusion-kd}-42-1e-3 {comprexit,mean_pool,500x}-42-3e-3 diffusion-residual-43-1e-3)
mkdir -p "$out"

# Cross-entropy alone, for methods without terms of their own; none distils (kd doubles a step).
ce='objective={ce: 1}'
# The start of all that are not called residual; the presets start with it.
copied=(compressor.init=pca_first)
# NAME: the configuration `method` with its compressor behind 16 virtual tokens, as the references have them.
behind_tokens() {
  "$bin/ctxc-train" "${method[@]}" --print-config |
    sed -e '/^compressor:/,/^data:/{ s/^  /    /; s/^compressor:/&\n  name: prompted\n  tokens: 16\n  method:/ }' > "$out/$1.yaml"
  method=("$out/$1.yaml")
}
# METHOD [RATIO [TOKENS]]: its configuration, in `method`, for contexts of as many tokens (128).
choose() {
  local ratio=${2:-4} tokens=${3:-128}
  case $1 in
    diffusion) method=($diffusion "${copied[@]}" compressor.latent_width=256 compressor.ratio=$ratio 'objective={ce: 1, kl: 0, agg: 0.01, denoise: 0.1, recon: 0.1}') ;;
    diffusion-576) # as wide as the base, so that the start holds all of an embedding
      choose diffusion "$ratio" "$tokens"
      method+=(compressor.width=576 compressor.heads=9 compressor.latent_width=576) ;;
    diffusion-residual) # the first embedding of a window stays in its latent, which is as wide as the base
      choose diffusion "$ratio" "$tokens"
      method+=(compressor.init=residual compressor.latent_width=576) ;;
    no-channel) method=($diffusion "${copied[@]}" compressor.latent_width=256 compressor.ratio=$ratio compressor.channel=none 'objective={ce: 1, agg: 0.01, recon: 0.1}') ;;
    progressive) # one slice, so that no vector of the buffer is read
      method=($progressive "${copied[@]}" compressor.ratio=$ratio compressor.chunk=$tokens compressor.random_slices=1 compressor.random_keep=0
        'objective={ce: 1, recon: 0.1, nce: 0.05}') ;;
    progressive-residual)
      choose progressive "$ratio" "$tokens"
      method+=(compressor.init=residual) ;;
    progressive-window) # its control: fixed pairs in place of the most similar neighbours
      choose progressive "$ratio" "$tokens"
      method+=(compressor.reduce=window) ;;
    comprexit) method=($diffusion "compressor={name: comprexit, ratio: $ratio, init: residual, residual_source: last}" "$ce") ;;
    mean_pool) method=($diffusion "compressor={name: mean_pool, ratio: $ratio}" "$ce") ;;
    icae | 500x) # the encoder is the base with LoRA; 128 tokens at 4x read 32 of its memory tokens, 256 all
      method=($diffusion "compressor={name: $1, ratio: $ratio, memory_tokens: 64, lora: {rank: 32, alpha: 32, dropout: 0}}" "$ce") ;;
    sac) method=($diffusion "compressor={name: sac, ratio: $ratio, chunk: $tokens, lora: {rank: 32, alpha: 32, dropout: 0}}" "$ce") ;;
    behind-*)
      choose "${1#behind-}" "$ratio" "$tokens"
      behind_tokens "$1" ;;
    *-kd) # distilled from the base that reads all of the context
      choose "${1%-kd}" "$ratio" "$tokens"
      method+=(objective.kd=1) ;;
    prompt-*) method=($diffusion "compressor={name: prompt_tuning, tokens: 16, ratio: $ratio, context: ${1#prompt-}}" "$ce") ;;
  esac
}
# NAME KEY=VALUE… with `method`: trains it into OUT/NAME, from the last checkpoint where there is one.
train() {
  local run=$out/$1 how=--overwrite; shift
  [ -e "$run/trained" ] && return
  [ -e "$run/latest" ] && how=--resume
  echo "== $run"
  "$bin/ctxc-train" "${method[@]}" "run.dir=$run" run.threads=1 "train.hidden_cache=$out/hidden" train.valid_every=0 \
    train.valid_batches=13 train.samples=0 train.warmup=25 "$@" "$how"
  touch "$run/trained"
}
# METHOD SEED RATE STEPS
fit() { choose "$1"; train "$1-$2-$3" "run.seed=$2" "train.lr=$3" "train.steps=$4" "train.valid_every=$4"; }

# The runs of these names that are there, as methods of ctxc-eval; the first is its checkpoint.
measured() {
  local list=checkpoint
  for name in "$@"; do if [ -e "$out/$name/trained" ]; then list+=",checkpoint=$out/$name"; fi; done
  echo "$list"
}
# The same behind the memory of another passage.
foreign() {
  local list=foreign
  for name in "$@"; do if [ -e "$out/$name/trained" ]; then list+=",foreign=$out/$name"; fi; done
  echo "$list"
}
reader=$out/prompt-full-42-1e-3   # what reads the tokens that a cut leaves
seeds=({diffusion,no-channel,progressive,comprexit,mean_pool,icae,500x,sac}-4{3,4}-1e-3)
wider=(no-channel progressive comprexit mean_pool 500x {diffusion,progressive}-residual)   # and diffusion: in contexts of 256
trained=({no-channel,progressive,progressive-window,comprexit,mean_pool,icae,500x,sac}-42-1e-3
  "${seeds[@]}" prompt-{none,head,tail,full}-42-1e-3)
shorter=(progressive comprexit mean_pool 500x {diffusion,progressive}-residual)   # and diffusion: at 8x and 16x
asked=(run.threads=1 eval.nll=true eval.query_tokens=64 "eval.hidden_cache=$out/hidden-asked")   # the base reads a context once for all
texts=(--benchmarks wikitext2,peps
  "data.eval=[{path: text/wikitext2.jsonl.gz, name: wikitext2, max_samples: 64}, {path: text/peps.jsonl.gz, name: peps, max_samples: 128}]")
# RUN STAGE ASKED…: what the stage asks, without the noise of the channel and with five draws of it.
noisy() {
  local run=$1 folder=$out/noise/$2/$1 key=compressor method=checkpoint scored=eval.answers=false draw seed
  [ -e "$out/$run/trained" ] || return 0
  [[ $run = behind-* ]] && key=compressor.method
  [ "$2" = foreign ] && method=foreign
  [ "$2" = sets ] && scored=eval.max_new_tokens=12
  shift 2
  for draw in none 1 2 3 4 5; do
    seed=("$key.infer_noise=seeded" "$key.noise_seed=$draw")
    [ "$draw" = none ] && seed=()
    mkdir -p "$folder"
    "$bin/ctxc-eval" --checkpoint "$out/$run" --methods $method --out "$folder/$draw" --limit "${LIMIT:-500}" "${asked[@]}" \
      "$scored" "$@" "${seed[@]}" > "$folder/$draw.md"
  done
}
still=(train.steps=1 train.lr=1e-12 train.warmup=0 train.save_every=0 train.valid_every=1)

for stage in "${stages[@]}"; do
  case $stage in
    start)
      choose diffusion
      for init in random pca pca_first; do train "start-$init" "compressor.init=$init" "${still[@]}"; done
      train start-pca_first-576 compressor.width=576 compressor.heads=9 compressor.latent_width=576 "${still[@]}"
      choose diffusion-residual
      train start-residual "${still[@]}"
      choose mean_pool
      for start in none mean first; do train "start-mean_pool-$start" "compressor.start=$start" "${still[@]}"; done
      "$bin/ctxc-eval" --checkpoint "$out/start-pca_first" --out "$out/starts" --benchmarks squad --limit "${LIMIT:-500}" "${asked[@]}" \
        eval.answers=false --methods "$(measured start-mean_pool-first prompt-none-42-1e-3),$(foreign start-mean_pool-first)" > "$out/starts.md" ;;
    plans)
      mkdir -p "$out/plans"
      for name in "${compressors[@]}" "${references[@]/#/prompt-}"; do
        for ratio in 4 8 16; do
          choose "$name" $ratio
          "$bin/ctxc-train" "${method[@]}" "run.dir=$out/plans/none" run.threads=1 --dry-run > "$out/plans/$name-${ratio}x.txt"
        done
      done ;;
    methods) for name in "${compressors[@]}"; do fit "$name" 42 1e-3 200; done ;;
    rates) for name in "${compressors[@]}"; do for rate in 3e-4 3e-3; do fit "$name" 42 "$rate" 200; done; done ;;
    seeds) for seed in 43 44; do for name in "${compressors[@]}"; do fit "$name" "$seed" 1e-3 200; done; done ;;
    references) for name in "${references[@]}"; do fit "prompt-$name" 42 1e-3 100; done ;;
    curriculum)
      for name in diffusion progressive comprexit mean_pool 500x {diffusion,progressive}-residual; do
        [ -e "$out/$name-42-1e-3/trained" ] || continue
        from=$out/$name-42-1e-3
        for ratio in 8 16; do
          choose "$name" $ratio
          train "$name-${ratio}x" run.seed=42 train.lr=1e-3 train.steps=100 train.valid_every=100 "train.init_from=$from" \
            train.init_partial=true
          from=$out/$name-${ratio}x
        done
      done
      for name in head tail; do
        for ratio in 8 16; do
          choose "prompt-$name" $ratio
          train "prompt-$name-${ratio}x" run.seed=42 train.lr=1e-3 train.steps=100 train.valid_every=100
        done
      done ;;
    squad)
      "$bin/ctxc-eval" --checkpoint "$out/diffusion-42-1e-3" --out "$out/squad" --benchmarks squad --limit "${LIMIT:-500}" \
        "${asked[@]}" eval.answers=false --methods "$(measured "${trained[@]}"),bm25=$reader,$(foreign \
        {no-channel,progressive,progressive-window,comprexit,mean_pool,icae,500x,sac}-42-1e-3)" > "$out/squad.md" ;;
    eight | sixteen)
      ratio=16x
      [ "$stage" = eight ] && ratio=8x
      "$bin/ctxc-eval" --checkpoint "$out/diffusion-$ratio" --out "$out/$stage" --benchmarks squad --limit "${LIMIT:-500}" \
        "${asked[@]}" eval.answers=false --methods "$(measured "${shorter[@]/%/-$ratio}" prompt-{head,tail}-$ratio prompt-{none,full}-42-1e-3),bm25=$reader,$(foreign \
        "${shorter[@]/%/-$ratio}")" \
        > "$out/$stage.md" ;;
    longer)
      for name in diffusion mean_pool progressive; do
        choose "$name"
        train "$name-600" run.seed=42 train.lr=1e-3 train.steps=600 train.valid_every=200
      done
      "$bin/ctxc-eval" --checkpoint "$out/diffusion-600" --out "$out/longer" --benchmarks squad --limit "${LIMIT:-500}" \
        "${asked[@]}" eval.answers=false --methods "$(measured {mean_pool,progressive}-600),$(foreign {mean_pool,progressive}-600)" \
        > "$out/longer.md" ;;
    form)
      for name in "${forms[@]}"; do
        [[ $name =~ ^(.*)-(4[0-9])-([0-9]e-[0-9])$ ]]
        fit "${BASH_REMATCH[@]:1}" 200
      done
      "$bin/ctxc-eval" --checkpoint "$out/${forms[0]}" --out "$out/form" --benchmarks squad --limit "${LIMIT:-500}" \
        "${asked[@]}" eval.answers=false --methods "$(measured "${forms[@]:1}"),$(foreign "${forms[@]:1}")" > "$out/form.md" ;;
    wider)
      for name in diffusion "${wider[@]}" "${references[@]/#/prompt-}"; do
        [ -e "$out/$name-42-1e-3/trained" ] || continue
        choose "$name" 4 256
        train "$name-256" data.context_tokens=256 run.seed=42 train.lr=1e-3 train.steps=50 train.valid_every=50 \
          "train.init_from=$out/$name-42-1e-3"
      done
      "$bin/ctxc-eval" --checkpoint "$out/diffusion-256" --out "$out/wider" --benchmarks squad,hotpotqa --limit "${LIMIT:-500}" "${asked[@]}" \
        eval.answers=false --methods "$(measured diffusion-42-1e-3 "${wider[@]/%/-42-1e-3}" "${wider[@]/%/-256}" prompt-{none,head,tail,full}-256),bm25=$out/prompt-full-256,$(foreign \
        "${wider[@]/%/-256}")" > "$out/wider.md" ;;
    text)
      "$bin/ctxc-eval" --checkpoint "$out/diffusion-42-1e-3" --out "$out/text" "${asked[@]}" "${texts[@]}" \
        --methods "$(measured "${trained[@]}"),full,none,truncate_head,truncate_tail" > "$out/text.md" ;;
    sets)
      "$bin/ctxc-eval" --checkpoint "$out/diffusion-42-1e-3" --out "$out/sets" --limit "${LIMIT:-500}" "${asked[@]}" \
        eval.max_new_tokens=12 --methods "$(measured {no-channel,progressive,comprexit,mean_pool,icae,500x,sac}-42-1e-3 \
        prompt-{none,head,tail,full}-42-1e-3 {diffusion,progressive}-residual-42-1e-3),bm25=$reader" > "$out/sets.md" ;;
    bare)
      "$bin/ctxc-eval" --checkpoint "$out/diffusion-42-1e-3" --out "$out/bare" --benchmarks squad --limit "${LIMIT:-500}" "${asked[@]}" \
        eval.answers=false --methods full,none,truncate_head,truncate_tail > "$out/bare.md" ;;
    spread)
      "$bin/ctxc-eval" --checkpoint "$out/diffusion-42-1e-3" --out "$out/spread" --limit "${LIMIT:-100}" "${asked[@]}" \
        eval.answers=false --methods "$(measured "${seeds[@]}")" > "$out/spread.md" ;;
    seeded)
      for name in diffusion diffusion-residual; do
        for run in "$name"-4{2,3,4}-1e-3; do noisy "$run" sets; done
        noisy "$name-42-1e-3" text "${texts[@]}"
        for run in "$name"-{8x,16x,600}; do noisy "$run" squad --benchmarks squad; done
        for run in "$name"-{4{2,3,4}-1e-3,8x,16x,600}; do noisy "$run" foreign --benchmarks squad; done
        noisy "$name-256" wider --benchmarks squad,hotpotqa
      done
      for run in diffusion-{576,kd}-42-1e-3 behind-diffusion{,-residual}-42-1e-3; do
        for what in squad foreign; do noisy "$run" $what --benchmarks squad; done
      done ;;
    *) echo "error: unknown stage '$stage' (expected ${stages[*]})" >&2; exit 2 ;;
  esac
done
experiments/diffusion-smollm2/collect.py "$out"
