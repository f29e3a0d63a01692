#!/usr/bin/env bash
# Builds ctxc and runs its tests. Everything a test needs is made by the project; extra parity data in ../shared is used
# when it is there. See --help.
set -euo pipefail
cd "$(dirname "$0")/.."

interop=0
preset=release
ctest_args=()
while (($#)); do
  case "$1" in
    --interop) interop=1 ;;
    --preset) preset="${2:?--preset needs a name}"; shift ;;
    -h|--help)
      cat <<'TXT'
usage: scripts/test.sh [--interop] [--preset NAME] [ctest arguments…]
  Installs what is missing (scripts/setup.sh), builds the preset (default release) and runs ctest.
  --interop   also the tests against the real Python packages (tokenizers, transformers, peft, llama.cpp, tensorboard):
              makes a private environment in .deps/interop first, once (about 2 GB on disk)
  -L fast     any ctest argument: here only the tests of that label (fast, slow, shared, interop, reliability)
TXT
      exit 0 ;;
    *) ctest_args+=("$1") ;;
  esac
  shift
done

./scripts/setup.sh
if ((interop)); then ./scripts/interop.sh; fi

jobs="$(nproc)"
log="$(mktemp)"
trap 'rm -f "$log"' EXIT
cmake --preset "$preset" >"$log" 2>&1 || { cat "$log"; exit 1; }
cmake --build --preset "$preset" --parallel "$jobs"
# One thread a test and as many tests as cores: faster than the other way round, and timings do not disturb each other.
ctest --preset "$preset" --parallel "$jobs" "${ctest_args[@]}"
