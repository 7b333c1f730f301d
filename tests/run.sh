#!/usr/bin/env bash
# Set-up, build, all tests. From a clean clone: tests/run.sh
#   --asan   with address and undefined-behaviour sanitizers
#   --tsan   with the thread sanitizer (the gRPC-free libraries)
#   --debug  unoptimised, all checks on
#   --fast   no set-up, no model download (a model that is already there is used)
# Model tests need the default model (TAILOR_TEST_MODEL; fetched here); without it they are skipped
# with that reason. Anything after -- goes to ctest, e.g. tests/run.sh --fast -- -R policy
set -euo pipefail
cd "$(dirname "$0")/.."

preset=release
fast=no
while [ $# -gt 0 ]; do
  case "$1" in
    --asan) preset=asan ;;
    --tsan) preset=tsan ;;
    --debug) preset=debug ;;
    --fast) fast=yes ;;
    --) shift; break ;;
    -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "tests/run.sh: unknown option $1 (see --help)" >&2; exit 2 ;;
  esac
  shift
done

started_s=$SECONDS
step() { printf '== %s (at %d s)\n' "$1" "$((SECONDS - started_s))"; }

if [ "$fast" = no ]; then
  step "set-up"
  deploy/setup.sh </dev/null
fi

model=${TAILOR_TEST_MODEL:-}
if [ -z "$model" ] && [ "$fast" = yes ]; then
  model=$(ls models/SmolLM2-135M-Instruct.Q4_1.gguf 2>/dev/null || true)
  model=${model:+$PWD/$model}
elif [ -z "$model" ]; then
  step "default model"
  model=$(deploy/fetch_model.sh </dev/null || true)
fi
if [ -n "$model" ]; then
  export TAILOR_TEST_MODEL=$model
  echo "model tests use ${model##*/}"
else
  unset TAILOR_TEST_MODEL
  echo "no model: the tests that need one are skipped"
fi

# Too large to fetch for a test run: used where it is (deploy/fetch_model.sh qwen2.5-coder-1.5b).
qwen=$PWD/models/qwen2.5-coder-1.5b-instruct-q4_k_m.gguf
if [ -z "${TAILOR_TEST_QWEN_MODEL:-}" ] && [ -f "$qwen" ]; then export TAILOR_TEST_QWEN_MODEL=$qwen; fi

# A compiler process takes up to 0.6 GB here (gRPC headers); twice that under a sanitizer.
memory_mib=$(awk '/^MemAvailable:/ {print int($2 / 1024)}' /proc/meminfo)
jobs=$(nproc)
[ "$((memory_mib / 1200))" -ge "$jobs" ] || jobs=$((memory_mib / 1200))
[ "$jobs" -ge 1 ] || jobs=1

step "configure, preset $preset"
mkdir -p "build/$preset"
cmake --preset "$preset" >"build/$preset/configure.log" 2>&1 </dev/null || {
  cat "build/$preset/configure.log" >&2
  echo "tests/run.sh: configure failed (preset $preset)" >&2
  exit 1
}

step "build, $jobs jobs"
cmake --build "build/$preset" -j "$jobs" </dev/null

step "tests"
# Two programs at once at most: several use every core themselves (those that time run alone).
status=0
ctest --preset "$preset" -j "$((jobs < 2 ? jobs : 2))" --no-tests=error "$@" </dev/null |
  tee "build/$preset/ctest.log" || status=$?

step "done"
grep -E 'tests passed' "build/$preset/ctest.log" || true
[ "$status" -eq 0 ] || echo "tests/run.sh: FAILED (preset $preset, log build/$preset/ctest.log)"
exit "$status"
