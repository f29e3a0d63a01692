#!/usr/bin/env bash
# Builds the programs into build/release/bin (setup first, if needed). usage: scripts/build.sh [ninja targets…]
set -euo pipefail
cd "$(dirname "$0")/.."
./scripts/setup.sh --no-models
[ -e build/release/build.ninja ] || cmake --preset release >/dev/null
cmake --build --preset release --parallel "$(nproc)" ${1:+--target "$@"}
