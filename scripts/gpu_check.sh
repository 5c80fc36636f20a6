#!/usr/bin/env bash
# What `worker doctor` says on a machine with an NVIDIA GPU. Without one nothing can be checked, and that is a failure.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v nvidia-smi > /dev/null || ! nvidia-smi --list-gpus 2> /dev/null | grep -q '^GPU'; then
    echo "gpu-check: nvidia-smi finds no NVIDIA GPU on this machine; nothing was checked" >&2
    exit 1
fi
nvidia-smi --list-gpus
scripts/tools.sh
scripts/libtorch.sh
scripts/demo_data.sh
cargo build --release --locked -p worker
"${CARGO_TARGET_DIR:-target}/release/worker" doctor --home third_party/home
