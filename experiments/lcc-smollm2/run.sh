#!/usr/bin/env bash
# Memories of single contexts on SmolLM2-135M by several methods at equal slots, and their endpoints: see README.md.
# Goes on where it was stopped; more CONTEXTS, METHODS or STAGES can follow fewer.
#   DATA       folder with mrqa/SQuAD.dev.jsonl.gz and text/books.jsonl.gz
#   OUT        where runs and tables go
#   STAGES     sweep (learning rates, contexts of the training split), main (8x), ablations (8x, contexts of main),
#              ratios (4x, 16x), books (8x, the text that follows), long (8x, the preset's steps),
#              nq (8x, NaturalQuestions: one question a context), wide (8x, 5 contexts of 300 to 700 words),
#              deep (8x, DEEP pages of TriviaQA of 700 to 750 words: one question each), deep-books (8x, passages of 720 words)
#              warm (8x, the first contexts of main: direct keys and values from those of FIVEHUNDREDX)
#   FIVEHUNDREDX  run of 500x at 8x on this base
#   COMPREXIT  run of comprexit at 4x on this base: a method of its own at 4x, and the warm start of a compile there
#   COMPREXIT8X  run of comprexit at 8x: its memories of main's contexts
set -euo pipefail
cd "$(dirname "$0")/../.."
bin="${BIN:-build/release/bin}"
data="${DATA:?DATA=folder that holds mrqa/SQuAD.dev.jsonl.gz and text/books.jsonl.gz}"
out="${OUT:-runs/lcc-smollm2}"
stages="${STAGES:-sweep main ablations ratios books long nq wide deep deep-books warm}" methods="${METHODS:-truncate snapkv lora kv buffers lora-continued}"
contexts="${CONTEXTS:-10}" few="${FEW:-3}"   # few: contexts of every stage but main
steps="${STEPS:-150}" words="${WORDS:-170-200}"
continuations=0                              # but for the runs whose name says so
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" OMP_WAIT_POLICY=passive
here=experiments/lcc-smollm2
mkdir -p "$out"

# STAGE FILE COUNT [WORDS [QUESTIONS]]: draws the contexts of a stage.
draw() {
  stage="$out/$1"
  mkdir -p "$stage"
  python3 "$here/contexts.py" "$data/$2" "$3" "${4:-$words}" "${5:-4}" > "$stage/contexts.jsonl"
}
# RUN RATIO key=value…: compiles the contexts of the stage into OUT/RUN.
compile() {
  local run="$out/$1" again=()
  if [ -d "$run" ]; then again=(--resume); fi
  "$bin/ctxc-train" configs/lcc_smollm2.yaml "data.contexts=[$stage/contexts.jsonl]" "compressor.ratio=$2" \
    compressor.storage=float32 compressor.recon.chunk=64 train.batch=2 "train.steps=$steps" train.valid_every=25 \
    queries.count=24 queries.held_out=8 queries.max_new=16 "queries.continuations=$continuations" run.dtype=bfloat16 "run.dir=$run" "${@:3}" \
    ${again[@]+"${again[@]}"}
}
# NAME RUN…: measures those of them that are there on the contexts of the stage, into NAME.jsonl.
measure() {
  local runs=()
  for run in "${@:2}"; do if [ -d "$out/$run/memories" ]; then runs+=("$out/$run"); fi; done
  "$bin/ctxc-run" measure --general "${GENERAL:-16}" --contexts "$stage/contexts.jsonl" --out "$stage/$1.jsonl" "${runs[@]}"
}
# STAGE FILE: the first contexts themselves as memories.
gate() {
  draw "$1" "$2" "$few"
  compile "$1/exact" 1 compressor.optimise=truncate run.dtype=float32
  measure exact "$1/exact"
}
under() { local folder="$1"; shift; for name in "$@"; do echo "$folder/$name"; done; }

sweep() {
  draw sweep mrqa/SQuAD.train.jsonl.gz 3
  for factor in 0.3 1 3; do
    compile "sweep/lora-$factor" 8 train.steps=60 "train.lr=$(scaled $factor 1e-3)" "compressor.buffers.lr=$(scaled $factor 1e-2)"
    compile "sweep/buffers-$factor" 8 train.steps=60 compressor.optimise=buffers "compressor.buffers.lr=$(scaled $factor 1e-2)"
    compile "sweep/kv-$factor" 8 train.steps=60 compressor.optimise=kv "compressor.kv_lr=$(scaled $factor 2e-2)"
  done
  measure measured $(under sweep lora-0.3 lora-1 lora-3 buffers-0.3 buffers-1 buffers-3 kv-0.3 kv-1 kv-3)
}
scaled() { python3 -c 'import sys; print(float(sys.argv[1]) * float(sys.argv[2]))' "$1" "$2"; }
main() {
  gate main mrqa/SQuAD.dev.jsonl.gz
  draw main mrqa/SQuAD.dev.jsonl.gz "$contexts" "$words,140-260"
  for method in $methods; do
    if [ "$method" = lora-continued ]; then
      continuations=8 compile main/lora-continued 8
    else
      compile "main/$method" 8 "compressor.optimise=$method"
    fi
  done
  measure measured $(under main $methods)
  if [ -n "${COMPREXIT8X:-}" ]; then comprexit "$COMPREXIT8X" main/comprexit-8x; fi
}
ablations() {
  local names="no-queries no-reconstruction lora-left-on ce mse mean_pool normal"
  draw ablations mrqa/SQuAD.dev.jsonl.gz "$few"
  compile main/lora 8
  compile ablations/no-queries 8 compressor.lambda=0
  compile ablations/no-reconstruction 8 compressor.recon.loss=none
  compile ablations/lora-left-on 8 compressor.coupled=true
  compile ablations/ce 8 compressor.align_loss=ce
  compile ablations/mse 8 compressor.align_loss=mse
  for init in mean_pool normal; do compile "ablations/$init" 8 "compressor.buffers.init=$init"; done
  measure measured main/lora $(under ablations $names)
}
ratios() {
  local names="truncate-4x lora-4x truncate-16x lora-16x"
  draw ratios mrqa/SQuAD.dev.jsonl.gz "$few"
  for ratio in 4 16; do
    compile "ratios/truncate-${ratio}x" "$ratio" compressor.optimise=truncate
    compile "ratios/lora-${ratio}x" "$ratio"
  done
  if [ -n "${COMPREXIT:-}" ]; then
    compile ratios/warm-4x 4 "compressor.warm_start=$COMPREXIT"
    names+=" warm-4x"
  else
    echo "no COMPREXIT=RUN: its memories and the warm start are left out" >&2
  fi
  measure measured main/truncate main/lora $(under ratios $names)
  if [ -n "${COMPREXIT:-}" ]; then comprexit "$COMPREXIT" ratios/comprexit-4x; fi
}
# CHECKPOINT RUN: its memories of the stage's contexts. A compressor of all contexts reads questions in the form it was trained
# with, so it has a table of its own.
comprexit() {
  python3 -c 'import json, sys
for line in sys.stdin:
    row = json.loads(line)
    open(f"{sys.argv[1]}/{row['"'id'"']}.txt", "w", encoding="utf-8").write(row["context"])' \
    "$stage" < "$stage/contexts.jsonl"
  for text in "$stage"/*.txt; do
    "$bin/ctxc-run" compress --checkpoint "$1" --text "$text" --max-tokens 0 --overwrite \
      --out "$out/$2/memories/$(basename "$text" .txt).safetensors"
  done
  measure comprexit "$2"
}
books() {
  gate books text/books.jsonl.gz
  for method in truncate lora; do compile "books/$method" 8 "compressor.optimise=$method"; done
  continuations=8 compile books/lora-continued 8
  measure measured $(under books truncate lora lora-continued)
}

long() {
  draw long mrqa/SQuAD.dev.jsonl.gz "$few"
  compile long/lora-long 8 train.steps=600
  measure measured main/truncate main/lora $(under long lora-long)
}
nq() {
  draw nq mrqa/NaturalQuestions.dev.jsonl.gz "$contexts" "$words" 1
  for method in truncate lora; do compile "nq/$method" 8 "compressor.optimise=$method"; done
  measure measured $(under nq truncate lora)
}
wide() {
  draw wide mrqa/SQuAD.dev.jsonl.gz 5 300-700
  for method in truncate lora; do compile "wide/$method" 8 "compressor.optimise=$method"; done
  measure measured $(under wide truncate lora)
}
deep() {
  draw deep mrqa/TriviaQA.dev.jsonl.gz "${DEEP:-6}" 700-750 1
  for method in truncate lora; do compile "deep/$method" 8 "compressor.optimise=$method"; done
  measure measured $(under deep truncate lora)
}
deep-books() {
  draw deep-books text/books.jsonl.gz "$few" 700-720
  compile deep-books/truncate 8 compressor.optimise=truncate
  continuations=8 compile deep-books/lora-continued 8
  measure measured $(under deep-books truncate lora-continued)
}
warm() {
  if [ -z "${FIVEHUNDREDX:-}" ]; then echo "no FIVEHUNDREDX=RUN: the warm start of keys and values is left out" >&2; return; fi
  draw warm mrqa/SQuAD.dev.jsonl.gz "$contexts"
  compile main/kv 8 compressor.optimise=kv
  compile main/kv-warm 8 compressor.optimise=kv "compressor.warm_start=$FIVEHUNDREDX"
}

for name in $stages; do
  case "$name" in
    sweep | main | ablations | ratios | books | long | nq | wide | deep | deep-books | warm) "$name" ;;
    *) echo "unknown stage: $name (sweep, main, ablations, ratios, books, long, nq, wide, deep, deep-books, warm)" >&2; exit 2 ;;
  esac
  python3 "$here/collect.py" "$out" > "$out/tables.md" || true   # its exit code says that a gate fails
done
cat "$out/tables.md"
