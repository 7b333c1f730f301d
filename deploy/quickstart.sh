#!/usr/bin/env bash
# From a fresh Debian 12 to two answers about a long document: set-up, build, the default model,
# the three processes, a question, a follow-up, a clean stop. Reuses whatever is already there.
#   TAILOR_MODEL=PATH  another model (a GGUF or a Hugging Face directory); nothing is downloaded
# Exit code 0: the model read both facts off the document.
set -euo pipefail
cd "$(dirname "$0")/.."

document=deploy/quickstart/engineers-thumb.txt
question='What is the profession of Victor Hatherley?'
answer_has='hydraulic'
follow_up='Which town did the train go to?'
follow_up_has='Reading'
tailor=build/release/bin/tailor

[ $# -eq 0 ] || { sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2; }
step() { printf '\n== %s (at %d s)\n' "$1" "$SECONDS"; }

run_dir=
stop() {
  local status=$?
  trap - EXIT INT TERM
  if [ -n "$run_dir" ]; then
    "$tailor" down --run-dir "$run_dir" >/dev/null 2>&1 || true
    if [ "$status" -eq 0 ]; then
      rm -rf "$run_dir"
    else
      echo "quickstart.sh: stopped; the logs are in $run_dir" >&2
    fi
  fi
  exit "$status"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

step "set-up"
deploy/setup.sh

step "build (the first time takes minutes)"
cmake --preset release >/dev/null
cmake --build build/release --target tailor tailor-gateway tailor-worker tailor-kvstore

step "model"
model=${TAILOR_MODEL:-$(deploy/fetch_model.sh)}
echo "$model"

step "start: tailor up --model $(basename "$model") --detach"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
run_dir=$(mktemp -d "${TMPDIR:-/tmp}/tailor.XXXXXX")
"$tailor" up --model "$model" --detach --port "$port" --run-dir "$run_dir"

wrong=0
ask() {  # TEXT_THE_ANSWER_MUST_HAVE QUESTION [chat options...]
  local has=$1 text=$2
  shift 2
  printf '\n> %s\n' "$text"
  "$tailor" chat quickstart --run-dir "$run_dir" --temperature 0 --max-tokens 48 -v \
    --ask "$text" "$@" </dev/null | tee "$run_dir/answer.txt"
  if grep -qiF -- "$has" "$run_dir/answer.txt"; then
    echo "checked: the answer has \"$has\", as the document says"
  else
    echo "WRONG: the document says \"$has\"; the answer does not"
    wrong=$((wrong + 1))
  fi
}

step "a question about $document"
ask "$answer_has" "$question" --document "$document"
step "a follow-up: the document is not read again"
ask "$follow_up_has" "$follow_up"

step "stop: tailor down"
"$tailor" down --run-dir "$run_dir"
echo "quickstart.sh: done in $SECONDS s, $((2 - wrong)) of 2 answers right"
[ "$wrong" -eq 0 ]
