#!/usr/bin/env bash
# From nothing to a trained, evaluated and exported compressor, on two CPU cores. A second run does no work twice. See --help.
set -euo pipefail
cd "$(dirname "$0")/.."

config=configs/comprexit_tiny.yaml
run=runs/quickstart
real=0
for arg in "$@"; do
  case "$arg" in
    --real) real=1; config=configs/comprexit_smollm2_quick.yaml; run=runs/quickstart-real ;;
    -h|--help)
      cat <<'TXT'
usage: scripts/quickstart.sh [--real]
  Installs what is missing, builds, then trains ComprExIT on the embedded base models/tiny-facts, compares full context, no
  context, truncation and compression on passages never trained on, exports the result and asks it a question.
  Everything it makes is in runs/quickstart/ (report.html is the page to open).
  --real   the same on SmolLM2-135M with generated passages in runs/quickstart-real/: 95 MB more to fetch and about an hour
           of training on two cores
TXT
      exit 0 ;;
    *) echo "error: unknown argument '$arg' (expected --real or --help)" >&2; exit 2 ;;
  esac
done

say() { printf '\n== %s\n' "$*"; }

say "building"
if ((real)); then ./scripts/setup.sh; fi
./scripts/build.sh ctxc-train ctxc-eval ctxc-export ctxc-run ctxc-inspect
bin=build/release/bin
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"

say "training: $config"
if [ -e "$run/trained" ]; then
  echo "already trained: $run"
elif [ -e "$run/config.yaml" ]; then
  "$bin/ctxc-train" "$config" "run.dir=$run" --resume
  touch "$run/trained"
else
  "$bin/ctxc-train" "$config" "run.dir=$run"
  touch "$run/trained"
fi

say "evaluating on passages never trained on"
[ -e "$run/eval/results.json" ] || "$bin/ctxc-eval" --checkpoint "$run" --out "$run/eval"

say "exporting and asking"
[ -e "$run/export/method" ] || "$bin/ctxc-export" --in "$run" --to safetensors --out "$run/export/method"
if [ ! -e "$run/export/memory.safetensors" ]; then
  mkdir -p "$run/export"
  printf '%s' "Notes: Boris lives in Oslo. The market sells soup. Boris works as a pilot. Boris likes honey. Boris owns a boat. The road to Lima is long." > "$run/export/text.txt"
  "$bin/ctxc-run" compress --checkpoint "$run" --text "$run/export/text.txt" --out "$run/export/memory.safetensors"
fi
[ -e "$run/export/peft" ] || "$bin/ctxc-export" --in "$run/export/memory.safetensors" --to peft-prompt --out "$run/export/peft"
model=$(sed -n 's/^  path: \(.*\)$/\1/p' "$run/config.yaml" | head -n 1 | tr -d '"')
cat "$run/export/text.txt"; echo
for question in "Where does Boris live? Boris lives in" "What is the job of Boris? Boris works as a" \
                "What does Boris like? Boris likes" "What does Boris own? Boris owns a"; do
  printf '%s ' "$question"
  "$bin/ctxc-run" ask --quiet --memory "$run/export/memory.safetensors" --model "$model" "$question"
done
"$bin/ctxc-eval" report "$run" --out "$run/report.html"

say "result"
cat "$run/eval/results.md"
cat <<TXT

Open $run/report.html for the curves. Next:
  $bin/ctxc-run ask --memory $run/export/memory.safetensors --model $model --chat
  $bin/ctxc-inspect plan --checkpoint $run --text $run/export/text.txt --out plan.svg
  $bin/ctxc-train $config run.dir=runs/ratio8 compressor.ratio=8
  $bin/ctxc-train --help train.lr
TXT
