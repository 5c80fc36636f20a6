#!/usr/bin/env bash
# Makes sure that the tools which building needs are there: Rust, a C and C++ compiler, Python with pip.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/apt.sh

has() { command -v "$1" > /dev/null; }

missing=()
has cc || missing+=(gcc)
has c++ || missing+=(g++)
has make || missing+=(make)
has python3 || missing+=(python3)
python3 -m pip --version > /dev/null 2>&1 || missing+=(python3-pip)
if [ ${#missing[@]} -gt 0 ]; then apt_install "${missing[@]}" libc6-dev; fi

if ! has cargo; then
    echo "tools.sh: cargo is missing; install Rust as https://rustup.rs says" >&2
    exit 1
fi
want=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
have=$(rustc --version | cut -d' ' -f2)
if [ "$(printf '%s\n' "$want" "$have" | sort -V | head -n 1)" != "$want" ]; then
    echo "tools.sh: Rust $have is too old, $want or later is needed; run: rustup update" >&2
    exit 1
fi
