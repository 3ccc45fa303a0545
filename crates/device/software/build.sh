#!/usr/bin/env bash
# Builds a CUDA device out of software: libraries in the place of the driver's, cuBLAS, cuRAND, NVRTC and
# NCCL, which run the very kernels of candle and of crates/device on the CPU. Slow and strict; for checks of
# the code around the kernels where there is no GPU. Usage: build.sh DIR, then LD_LIBRARY_PATH=DIR, and
# PATH=DIR:$PATH with SOFTWARE_GPUS=N for a program that asks how many there are.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:?usage: build.sh DIR}
mkdir -p "$out"
rm -f "$out"/*.o
version=$(sed -n '/^name = "candle-kernels"$/{n;s/version = "\(.*\)"/\1/p}' "$here/../../../Cargo.lock")
sources=("${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/"candle-kernels-$version/src")
candle=${sources[0]}
[ -d "$candle" ] || { echo "the sources of candle-kernels $version are not there: run \`cargo fetch\`" >&2; exit 1; }
own=$here/../kernels
flags=(-std=c++20 -O3 -flto=auto -fno-strict-aliasing -march=native -fopenmp-simd -fPIC -w -I"$here/include" -I"$here" -I"$candle")

compilers=()

# A source with a function behind it that adds all of its kernels.
unit() {
  local file=$out/$1.cpp names
  printf '#include "language.h"\n#include "driver.h"\n%s\n' "$2" >"$file"
  names=$("${CXX:-c++}" "${flags[@]}" -E -P "$file" | tr -s '\n' ' ' |
    grep -oE 'extern "C" +void +[a-z0-9_]+ *\(' | grep -oE '[a-z0-9_]+ *\($' | tr -d ' (')
  {
    echo "__attribute__((constructor)) static void add_all_of_$1() {"
    # shellcheck disable=SC2086
    printf '  ADD_KERNEL(%s)\n' $names
    echo "}"
  } >>"$file"
  "${CXX:-c++}" "${flags[@]}" -c -o "$out/$1.o" "$file" &
  compilers+=($!)
}

for name in affine binary cast fill indexing reduce ternary unary; do
  unit "$name" "#include \"$candle/$name.cu\""
done
unit tandem "$(
  echo '#include "own.h"'
  for name in numbers layers attention sampler optimizer; do echo "#include \"$own/$name.cu\""; done
)"
for name in blocks memory driver blas others nccl; do
  "${CXX:-c++}" "${flags[@]}" -c -o "$out/$name.o" "$here/$name.cpp" &
  compilers+=($!)
done
for compiler in "${compilers[@]}"; do wait "$compiler"; done
# candle's helpers are in each of its sources, the same in all.
"${CXX:-c++}" -shared -O3 -flto=auto -fno-strict-aliasing -Wl,--allow-multiple-definition -o "$out/libcuda.so.1" "$out"/*.o -lrt
cp "$here/nvidia-smi" "$out"
for name in libcublas.so.13 libcublasLt.so.13 libcurand.so.10 libnvrtc.so.13 libnccl.so.2; do
  ln -sf libcuda.so.1 "$out/$name"
done
