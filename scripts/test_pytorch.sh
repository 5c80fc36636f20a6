#!/usr/bin/env bash
# Compares what PyTorch and timm make of artifacts (scripts/load_artifact.py) with what `worker predict` says, method by
# method. Ends with an error where they differ.
#
# PyTorch comes from PyPI with its CUDA libraries, about 5 GB in third_party/pytorch, once. It is a test's alone: nothing
# that users run needs Python.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=third_party/pytorch
want=$(sha256sum scripts/test_pytorch.requirements | cut -d' ' -f1)
if [ -n "${PYTORCH_PYTHON:-}" ]; then
    python=$PYTORCH_PYTHON
else
    python=$venv/bin/python
    if [ "$(cat "$venv/.complete" 2>/dev/null || true)" != "$want" ]; then
        echo "pytorch: installing scripts/test_pytorch.requirements from PyPI (5 GB, once)"
        rm -rf "$venv"
        python3 -m venv "$venv"
        "$python" -m pip install --quiet --disable-pip-version-check --no-cache-dir --no-compile --only-binary=:all: \
            --requirement scripts/test_pytorch.requirements
        echo "$want" > "$venv/.complete"
    fi
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
home=third_party/home
worker=${WORKER:-target/debug/worker}
images=$work/images
mkdir "$images"
mapfile -t files < <(find "$home/datasets/digits" -name '*.png' | sort)
cp "${files[@]:0:12}" "$images/"

# The keys of each method, in one line of JSON; the epochs of those that prune are the first training's.
settings=(
    '"method": "linear", "lr": 1e-2'
    '"method": "partial_k", "trained_blocks": 1, "lr": 1e-4'
    '"method": "bias", "lr": 1e-4'
    '"method": "ssf", "lr": 1e-4'
    '"method": "lora", "rank": 4, "lora_alpha": 8, "lr": 1e-4'
    '"method": "adapter", "reduction": 32, "lr": 1e-3'
    '"method": "vpt_shallow", "prompt_length": 5, "insertion_depth": 2, "lr": 1e-2'
    '"method": "vpt_deep", "prompt_length": 4, "insertion_depth": 3, "prompted_blocks": 6, "lr": 1e-2'
    '"method": "condense", "prompt_length": 4, "pruning_ratio": 0.4, "lr": 1e-2'
    '"method": "e2vpt", "prompt_length": 4, "kv_prompt_length": 3, "kv_share": false, "pruning_ratio": 0.5, "segment_ratio": 0.25, "lr": 1e-2'
    '"method": "gated", "prompt_length": 5, "gate_init": 1, "insertion_depth": 1, "lr": 1e-2'
    '"method": "spt_deep", "prompt_length": 4, "init_images": 8, "lr": 1e-3'
    '"method": "cvpt", "prompt_length": 4, "lr": 1e-2'
)
for i in "${!settings[@]}"; do
    case=$work/$i
    mkdir "$case"
    cat > "$case/trial.yaml" <<YAML
{backbone: dinov2_vits14_imgfocus, task: digits, recipe: noah, image_size: 42, epochs: 2, schedule: constant, batch_size: 16,
 split: {train: demo_val, eval: demo_val, test: null}, seed: 7, ${settings[$i]}}
YAML
    echo "${settings[$i]}" > "$case/settings"
    "$worker" train "$case/trial.yaml" --home "$home" --device cpu --artifact "$case/tuned.safetensors" > /dev/null
    "$worker" predict --artifact "$case/tuned.safetensors" --images "$images" --home "$home" --device cpu > "$case/ours.csv"
done

"$python" - "$work" "$home/backbones/dinov2_vits14_imgfocus.safetensors" <<'PY'
import csv, pathlib, sys

sys.path.insert(0, "scripts")
import torch
from load_artifact import load, logits, read

work, backbone = pathlib.Path(sys.argv[1]), sys.argv[2]
cases = sorted((path.parent for path in work.glob("*/ours.csv")), key=lambda case: int(case.name))
for case in cases:
    rows = list(csv.DictReader((case / "ours.csv").open()))
    assert len(rows) == 12, rows
    ours = torch.tensor([[float(value) for name, value in row.items() if name.startswith("p")] for row in rows])
    recipe, tuned, model = load(case / "tuned.safetensors", backbone)
    images = torch.stack([read(work / "images" / row["file"], recipe) for row in rows])
    theirs = logits(recipe, tuned, model, images).softmax(-1)
    off = (ours - theirs).abs().max().item()
    settings = (case / "settings").read_text().strip()
    if not off < 1e-4:
        sys.exit(f"{settings}: PyTorch disagrees: probabilities differ by up to {off:.1e}")
    print(f"{settings}: 12 images, probabilities within {off:.1e}, the largest {theirs.max().item():.3f}")
print(f"{len(cases)} passed, 0 failed")
PY
