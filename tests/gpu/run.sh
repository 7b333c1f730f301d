#!/usr/bin/env bash
# The GPU tests on this machine or, as one file, on another.
#   tests/gpu/run.sh                  builds (preset release) and runs here
#   tests/gpu/run.sh --bundle FILE    builds and packs FILE, a .tar.gz below 60 MiB: programs, their
#                                     libraries but for the system's own and CUDA's, and this script
#   ./run.sh                          inside the unpacked bundle: runs it (needs a driver, no packages)
#   ... --bench                       the benchmark too, after the tests, where a device answers: its table
#                                     on stderr, its JSON in gpu_bench.json here (TAILOR_BENCH_SECONDS
#                                     more, 420, beyond which the least important cases are dropped)
#   ... --sanitize                    then every test again under compute-sanitizer's memcheck, racecheck and
#                                     synccheck, each program for TAILOR_SANITIZE_SECONDS (300) at most
# --arch "80;90" sets the GPU generations of a build. TAILOR_TEST_MODEL adds the default model's test.
# Ends with one table; exit code 1 when a test failed, 77 when all were skipped.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tests=(linear_gpu_test attention_gpu_test select_gpu_test fetcher_gpu_test model_gpu_test
  decode_products_gpu_test doorbell_gpu_test step_gpu_test blas_gpu_test sample_gpu_test
  copy_gpu_test)
bundle="" arch="" bench=no sanitize=no
while [ $# -gt 0 ]; do
  case "$1" in
    --bundle) bundle=${2:?--bundle FILE}; shift ;;
    --arch) arch=${2:?--arch LIST}; shift ;;
    --bench) bench=yes ;;
    --sanitize) sanitize=yes ;;
    -h | --help) sed -n '2,15s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "run.sh: unknown option $1 (see --help)" >&2; exit 2 ;;
  esac
  shift
done

build() {
  root=$(cd "$here/../.." && pwd)
  cmake -S "$root" --preset release -DTAILOR_CUDA=ON ${arch:+"-DCMAKE_CUDA_ARCHITECTURES=$arch"} \
    >/dev/null
  cmake --build "$root/build/release" -j "$(nproc)" --target backend_cuda \
    "${tests[@]/#/gpu_}" gpu_bench >&2
  bin=$root/build/release/bin
  revision=$(git -C "$root" rev-parse --short HEAD 2>/dev/null || echo unknown)
}

# Everything a program needs but what every Linux of our time has.
copy_libraries() {
  ldd "$1" | awk '$2 == "=>" && $3 ~ /^\// {print $3}' |
    grep -vE '/(libc|libm|libdl|librt|libpthread|libresolv|ld-linux[^/]*)\.so' |
    while read -r library; do cp -Lu "$library" "$2/lib/"; done
}

pack() {
  local stage
  stage=$(mktemp -d)
  mkdir -p "$stage/tailor-gpu/bin" "$stage/tailor-gpu/lib"
  local file
  for file in "${tests[@]/#/gpu_}" gpu_bench backend_cuda.so; do
    # Without line tables; they are ten times the code.
    strip --strip-debug -o "$stage/tailor-gpu/bin/$file" "$bin/$file"
    copy_libraries "$bin/$file" "$stage/tailor-gpu"
  done
  cp "$0" "$stage/tailor-gpu/run.sh"
  echo "$revision" >"$stage/tailor-gpu/REVISION"
  tar -C "$stage" -czf "$bundle" tailor-gpu
  rm -rf "$stage"
  local mib=$(($(stat -c %s "$bundle") / 1048576))
  echo "$bundle: $mib MiB"
  [ "$mib" -lt 60 ] || { echo "run.sh: the bundle is $mib MiB, limit 60" >&2; exit 1; }
}

failed=0 passed=0 rows=()

# run_test NAME COMMAND...: adds a row of that name, from what the tests print.
run_test() {
  local name=$1 output=$log/$1 status=0 start=$SECONDS
  shift
  "$@" >"$output" 2>&1 || status=$?
  cat "$output"
  local ok skipped bad
  ok=$(grep -c '^\[       OK \]' "$output" || true)
  skipped=$(grep -cE '^\[  SKIPPED \] .* \([0-9]+ ms\)' "$output" || true)
  bad=$(grep -cE '^\[  FAILED  \] .* \([0-9]+ ms\)' "$output" || true)
  [ "$status" -eq 0 ] || failed=1
  passed=$((passed + ok))
  rows+=("$(printf '%-36s %6s %8s %7s %6s %5s' "$name" "$ok" "$skipped" "$bad" "$status" \
    "$((SECONDS - start))")")
}

# The default model's test would take hours. Exit code 99: the tool found something, 124: out of time.
run_sanitized() {
  local sanitizer tool test
  sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
  if [ ! -x "$sanitizer" ]; then
    rows+=("no compute-sanitizer here") failed=1
    return
  fi
  for tool in memcheck racecheck synccheck; do
    for test in "${tests[@]}"; do
      run_test "$tool $test" env GTEST_FILTER='-*DefaultModel*' \
        timeout "${TAILOR_SANITIZE_SECONDS:-300}" \
        "$sanitizer" --tool "$tool" --error-exitcode 99 "$bin/gpu_$test"
    done
  done
}

run_all() {
  local test log
  log=$(mktemp -d)
  for test in "${tests[@]}"; do run_test "$test" "$bin/gpu_$test"; done
  if [ "$sanitize" = yes ] && [ "$passed" -gt 0 ]; then run_sanitized; fi
  echo
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null ||
    echo "no nvidia-smi here"
  grep -hm1 'CUDA backend:' "$log"/* || true
  printf '%-36s %6s %8s %7s %6s %5s\n' program passed skipped failed exit s
  printf '%s\n' "${rows[@]}"
  rm -rf "$log"
  # Also beside a failed test: what a device says is worth having.
  if [ "$bench" = yes ] && [ "$passed" -gt 0 ]; then
    "$bin/gpu_bench" --revision "$revision" --seconds "${TAILOR_BENCH_SECONDS:-420}" \
      >gpu_bench.json || failed=1
    echo "gpu_bench.json: $(wc -c <gpu_bench.json) bytes"
  fi
  [ "$failed" -eq 0 ] || exit 1
  [ "$passed" -gt 0 ] || exit 77
}

if [ -d "$here/bin" ]; then
  bin=$here/bin revision=$(cat "$here/REVISION")
  # Beside the programs' own run path, for libraries that need others.
  export LD_LIBRARY_PATH=$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  run_all
  exit 0
fi
build
if [ -n "$bundle" ]; then pack; else run_all; fi
