#!/usr/bin/env bash
# Makes .deps/interop: a Python environment with the real packages that the tests labelled `interop` compare with
# (tests/interop/requirements.txt). scripts/test.sh --interop calls it; a second run does nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

case "${1:-}" in
  "") ;;
  -h|--help) echo "usage: scripts/interop.sh   makes .deps/interop (about 2 GB) from the LibTorch wheel in .deps/wheels and PyPI"; exit 0 ;;
  *) echo "error: unknown argument '$1' (expected --help or nothing)" >&2; exit 2 ;;
esac

lock=tests/interop/requirements.txt
current=tests/interop/requirements-current.txt
target=.deps/interop
torch_version=2.11.0
stamp="$torch_version $(cksum < "$lock") $(cksum < "$current") $(cksum < scripts/interop_libraries.py)"
say() { printf '[interop] %s\n' "$*"; }

if [ "$(cat $target/.version 2>/dev/null)" = "$stamp" ]; then say "in place"; exit 0; fi
free_kib=$(df -Pk .deps/ 2>/dev/null | awk 'NR==2 {print $4}')
if [ "${free_kib:-0}" -lt 4000000 ]; then
  printf 'error: too little disk space for the interop environment (found %s KiB, expected 4000000)\nhint: free some, or run the tests without --interop\n' "${free_kib:-0}" >&2
  exit 7
fi

# pip lists what it needs of a wheel it is given, so everything is installed without dependencies from a full list.
pip_install() { "$target.part/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: "$@"; }
rm -rf "$target" "$target.part"
say "making $target"
python3 -m venv "$target.part" || {
  printf 'error: python3 cannot make virtual environments\nhint: apt-get install python3-venv\n' >&2
  exit 2
}
python_tag=$("$target.part/bin/python" -c 'import sys; print("cp%d%d" % sys.version_info[:2])')
torch_wheel=$(ls .deps/wheels/torch-"$torch_version"-"$python_tag"-*.whl 2>/dev/null | head -n 1 || true)
say "installing torch $torch_version (${torch_wheel:-fetched})"
pip_install "${torch_wheel:-torch==$torch_version}"
say "installing $(grep -c == "$lock") further packages"
pip_install -r "$lock"
say "installing $(grep -c == "$current") newer versions beside them"
pip_install --target "$target.part/current" -r "$current"
# `import torch` loads its CUDA half, which links against 3 GB of libraries that a CPU never calls.
"$target.part/bin/python" scripts/interop_libraries.py
"$target.part/bin/python" -c 'import torch; assert torch.ones(2).sum() == 2'
echo "$stamp" > "$target.part/.version"
mv "$target.part" "$target"
# Scripts of the environment name the folder they were made in; tests call its python only.
say "done"
