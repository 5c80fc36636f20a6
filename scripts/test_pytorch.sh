#!/usr/bin/env bash
# Compares what PyTorch and timm make of an artifact (scripts/load_artifact.py) with what `worker predict` says.
#
# PyTorch comes from PyPI with its CUDA libraries, about 5 GB in third_party/pytorch, once: no part of `make test`.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTORCH_PYTHON:-third_party/pytorch/bin/python}
if [ ! -x "$python" ]; then
    echo "pytorch: installing scripts/test_pytorch.requirements from PyPI (5 GB, once)"
    python3 -m venv third_party/pytorch
    third_party/pytorch/bin/python -m pip install --quiet --disable-pip-version-check --requirement scripts/test_pytorch.requirements
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
home=third_party/home
worker=${WORKER:-target/release/worker}
images=$work/images
mkdir "$images"
mapfile -t files < <(find "$home/datasets/digits" -name '*.png' | sort)
cp "${files[@]:0:12}" "$images/"

for settings in 'method: linear' 'method: vpt_shallow
prompt_length: 5' 'method: vpt_deep
prompt_length: 4' 'method: vpt_deep
prompt_length: 4
insertion_depth: 3
prompted_blocks: 6'; do
    cat > "$work/trial.yaml" <<YAML
backbone: dinov2_vits14_imgfocus
task: digits
recipe: noah
image_size: 56
epochs: 2
lr: 0.002
split: {train: demo_train, eval: demo_val, test: null}
seed: 7
$settings
YAML
    "$worker" train "$work/trial.yaml" --home "$home" --device cpu --artifact "$work/tuned.safetensors" > /dev/null
    "$worker" predict --artifact "$work/tuned.safetensors" --images "$images" --home "$home" --device cpu > "$work/ours.csv"
    "$python" scripts/load_artifact.py "$work/tuned.safetensors" "$home/backbones/dinov2_vits14_imgfocus.safetensors" \
        "$images"/* > "$work/theirs.jsonl"
    echo "${settings//$'\n'/, }: $("$python" - "$work" <<'PY'
import csv, json, pathlib, sys

work = pathlib.Path(sys.argv[1])
ours = {row["file"]: [float(v) for k, v in row.items() if k.startswith("p")] for row in csv.DictReader((work / "ours.csv").open())}
theirs = {pathlib.Path(t["file"]).name: t["probabilities"] for t in map(json.loads, (work / "theirs.jsonl").open())}
assert ours.keys() == theirs.keys() and len(ours) == 12, (ours.keys(), theirs.keys())
worst = max(abs(a - b) for file in ours for a, b in zip(ours[file], theirs[file], strict=True))
assert worst < 1e-3, worst
print(f"12 images, probabilities within {worst:.1e}")
PY
)"
done
