#!/usr/bin/env bash
# Installs the Debian packages the build, the tests and the quick start need.
# Idempotent: prints nothing and touches nothing when every package is there.
set -euo pipefail

packages=(
  # compiler and build tools
  g++ cmake ninja-build ccache mold pkg-config ca-certificates
  # gRPC and protobuf
  libgrpc++-dev libgrpc-dev protobuf-compiler-grpc grpc-proto libprotobuf-dev protobuf-compiler
  # libraries
  libabsl-dev libspdlog-dev libcli11-dev nlohmann-json3-dev
  libpcre2-dev libsqlite3-dev libssl-dev libxxhash-dev
  # tests and benchmarks
  libgtest-dev libgmock-dev libbenchmark-dev
  # scripts: the layering test, the model download
  python3 python3-pip unzip
)

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  cat >&2 <<TEXT
setup.sh: this is not a Debian system (no dpkg-query or apt-get).
Install the equivalents of these Debian 12 packages by hand, then run the build without set-up:
  ${packages[*]}
TEXT
  exit 1
fi

installed=$(dpkg-query -W -f '${db:Status-Abbrev}${Package}\n' "${packages[@]}" 2>/dev/null |
  sed -n 's/^ii //p' || true)
missing=()
for package in "${packages[@]}"; do
  grep -qxF "$package" <<<"$installed" || missing+=("$package")
done
[ "${#missing[@]}" -eq 0 ] && exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "setup.sh: needs root to install: ${missing[*]}" >&2
    echo "setup.sh: run it as root, or install sudo." >&2
    exit 1
  fi
  as_root=(sudo)
fi

echo "setup.sh: installing ${#missing[@]} Debian packages: ${missing[*]}"
# A stale or partly unreachable package list is no reason to stop: the install below decides.
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q update ||
  echo "setup.sh: apt-get update failed; trying with the package lists that are here" >&2
if ! "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get -q install -y --no-install-recommends "${missing[@]}"; then
  echo "setup.sh: apt-get could not install: ${missing[*]}" >&2
  echo "setup.sh: the build is made for Debian 12 (bookworm); see docs/TOOLCHAIN.md" >&2
  exit 1
fi
