#!/usr/bin/env bash
# Fetches the official MRQA 2019 release (v2) and checks every file against its published MD5. Files that are there and
# right are not fetched again; a file appears under its name only when it is whole and right. See --help.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

usage() {
  cat <<'TXT'
usage: scripts/get_mrqa.sh [DIR] [--splits train,dev,ood] [--verify] [--table FILE]
  Writes DIR/mrqa/<Set>.<train|dev>.jsonl.gz (DIR defaults to data): about 1.8 GB for all splits. Set data.root (or
  the environment variable CTXC_DATA) to DIR afterwards.
  --splits   which parts: train (6 sets), dev (the same 6), ood (6 out-of-domain sets, named .dev)
  --verify   fetch nothing, only check what is there
  --table    another list of files (tab-separated: split, set, url, md5, questions)
exit codes: 0 all there and right · 2 usage · 3 a file could not be fetched or is wrong · 7 disk not writable
TXT
}

fail() { local code=$1; shift; echo "error: $1" >&2; [ $# -lt 2 ] || echo "hint: $2" >&2; exit "$code"; }

dir="" splits=train,dev,ood verify=0 table=$here/mrqa_release.tsv
while [ $# -gt 0 ]; do
  case "$1" in
    -h|--help) usage; exit 0 ;;
    --verify) verify=1 ;;
    --splits|--table)
      [ $# -ge 2 ] || fail 2 "$1 needs a value" "see --help"
      [ "$1" = --splits ] && splits=$2 || table=$2
      shift ;;
    -*) fail 2 "unknown argument '$1'" "see --help" ;;
    *) [ -z "$dir" ] || fail 2 "more than one folder given (found '$dir' and '$1')" "see --help"; dir=$1 ;;
  esac
  shift
done
for split in ${splits//,/ }; do
  case "$split" in train|dev|ood) ;; *) fail 2 "unknown split '$split' (expected train, dev or ood)" ;; esac
done
[ -f "$table" ] || fail 3 "$table: no such file"
target=${dir:-data}/mrqa
[ "$verify" = 1 ] || mkdir -p "$target" || fail 7 "$target: cannot be made"

part=""
trap '[ -z "$part" ] || rm -f "$part"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

md5_of() { md5sum "$1" | cut -d' ' -f1; }

# Fetches $1 into $2; an interrupted transfer goes on where it stopped.
fetch() {
  if command -v curl >/dev/null; then
    curl --fail --silent --show-error --location --connect-timeout 20 --retry 3 --continue-at - --output "$2" "$1"
  elif command -v wget >/dev/null; then
    wget --quiet --tries=3 --timeout=20 --continue --output-document="$2" "$1"
  else
    fail 3 "neither curl nor wget is installed" "install one of them: apt-get install curl"
  fi
}

bad=0 good=0
while IFS=$'\t' read -r split set url md5 questions; do
  case "$split" in ''|'#'*|split) continue ;; esac
  [[ ",$splits," == *",$split,"* ]] || continue
  [ "$split" = train ] && name=$set.train.jsonl.gz || name=$set.dev.jsonl.gz
  file=$target/$name
  if [ -f "$file" ] && [ "$(md5_of "$file")" = "$md5" ]; then
    echo "$name: there and right ($questions questions)"
    good=$((good + 1))
    continue
  fi
  if [ "$verify" = 1 ]; then
    [ -f "$file" ] && echo "$name: WRONG (MD5 is not $md5)" >&2 || echo "$name: missing" >&2
    bad=$((bad + 1))
    continue
  fi
  case "$url" in
    *.gz) ;;
    *) echo "$name: has to be fetched by hand from $url (registration); put it at $file"; continue ;;
  esac
  part=$file.part
  rm -f "$part"
  echo "$name: fetching"
  fetch "$url" "$part" || fail 3 "$name: $url could not be fetched" \
    "check the network connection and run this again: files already there are kept"
  found=$(md5_of "$part")
  [ "$found" = "$md5" ] || fail 3 "$name: the fetched file is wrong (found MD5 $found, expected $md5)" "run this again"
  mv "$part" "$file"
  part=""
  good=$((good + 1))
  echo "$name: done ($questions questions)"
done < "$table"

[ "$bad" = 0 ] || fail 3 "$bad files are missing or wrong" "run scripts/get_mrqa.sh ${dir:-} to fetch them"
echo "$good files in $target are right"
