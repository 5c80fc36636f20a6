#!/usr/bin/env python3
"""Classifies images with an artifact of promptsweep, by PyTorch and timm alone.

    python load_artifact.py ARTIFACT BACKBONE.safetensors IMAGE...

For `linear`, `vpt_shallow` and `vpt_deep` on a ViT under timm names whose head reads CLS. Prints one JSON object an
image: the file and the probability of each class.
"""
import json
import sys
from functools import partial

import numpy as np
import timm
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file


def load(artifact, backbone):
    """The recipe, the tuned tensors, and the timm model that they were tuned on."""
    with safe_open(artifact, "pt") as file:
        recipe = json.loads(file.metadata()["recipe"])
        tuned = {name: file.get_tensor(name) for name in file.keys()}
    weights = load_file(backbone)
    depth = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
    dim, _, patch, _ = weights["patch_embed.proj.weight"].shape
    grid = round((weights["pos_embed"].shape[1] - 1) ** 0.5)
    model = timm.models.vision_transformer.VisionTransformer(
        img_size=grid * patch, patch_size=patch, embed_dim=dim, depth=depth, num_heads=dim // 64, num_classes=0,
        init_values=1.0 if "blocks.0.ls1.gamma" in weights else None,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6), global_pool="token")
    model.load_state_dict(weights)
    return recipe, tuned, model.eval()


def positions(table, size):
    """[1, 1 + g*g, D] on another grid: bicubic, half-pixel centres, no antialiasing."""
    cls, grid = table[:, :1], table[:, 1:]
    side = round(grid.shape[1] ** 0.5)
    if side == size:
        return table
    grid = grid.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, (size, size), mode="bicubic", align_corners=False, antialias=False)
    return torch.cat([cls, grid.flatten(2).transpose(1, 2)], 1)


@torch.no_grad()
def logits(recipe, tuned, model, images):
    """images [B, 3, S, S], normalised -> [B, C]."""
    x = model.patch_embed.proj(images).flatten(2).transpose(1, 2)
    side = round(x.shape[1] ** 0.5)
    x = torch.cat([model.cls_token.expand(len(x), -1, -1), x], 1) + positions(model.pos_embed, side)
    first, prompts = recipe.get("insertion_depth", 0), tuned.get("prompt", torch.empty(0, 0, 0))
    for i, block in enumerate(model.blocks):
        if 0 <= i - first < len(prompts):
            p = prompts[i - first].expand(len(x), -1, -1)
            rest = x[:, 1:] if i == first else x[:, 1 + p.shape[1]:]  # deep prompts replace those before them
            x = torch.cat([x[:, :1], p, rest], 1)
        x = block(x)
    return model.norm(x)[:, 0] @ tuned["head.weight"].T + tuned["head.bias"]


def read(path, recipe):
    """One image as the recipe `noah` prepares it: [3, S, S]."""
    assert recipe["recipe"] == "noah", "this script knows the preprocessing `noah` alone"
    mean, std = {"imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), "inception": ((0.5,) * 3, (0.5,) * 3),
                 "none": ((0.0,) * 3, (1.0,) * 3)}[recipe["normalization"]]
    size = recipe["image_size"]
    image = Image.open(path).convert("RGB").resize((size, size), Image.BICUBIC)
    pixels = np.asarray(image, dtype=np.float32) / 255
    return torch.from_numpy((pixels - np.float32(mean)) / np.float32(std)).permute(2, 0, 1)


if __name__ == "__main__":
    recipe, tuned, model = load(sys.argv[1], sys.argv[2])
    for path in sys.argv[3:]:
        p = logits(recipe, tuned, model, read(path, recipe)[None])[0].softmax(-1)
        print(json.dumps({"file": path, "probabilities": p.tolist()}))
