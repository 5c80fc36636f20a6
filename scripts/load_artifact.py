#!/usr/bin/env python3
"""Classifies images with an artifact of promptsweep, by PyTorch and timm alone.

    python load_artifact.py ARTIFACT BACKBONE.safetensors IMAGE...

For every method whose tensors act on a ViT's tokens or weights; the backbone's sidecar BACKBONE.json lies beside it.
Prints one JSON object an image: the file and the probability of each class.
"""
import hashlib
import json
import pathlib
import sys
from functools import partial

import numpy as np
import timm
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

METHODS = {"linear", "full", "partial_k", "bias", "cls", "ssf", "lora", "adapter", "vpt_shallow", "vpt_deep", "condense",
           "e2vpt", "gated", "spt_shallow", "spt_deep", "cvpt"}
# Keys of a recipe that this script does not follow, unless they are at their defaults.
DEFAULTS = {"location": "prepend", "prompt_project": None, "pooling": "original", "shared": False, "noexpand": False,
            "cross_insertion": "after_attention", "head": "linear"}


def load(artifact, backbone):
    """The recipe, the tuned tensors, and the timm model that they were tuned on, with the backbone's own among them."""
    with safe_open(artifact, "pt") as file:
        recipe = json.loads(file.metadata()["recipe"])
        wanted = file.metadata()["backbone_sha256"]
        tuned = {name: file.get_tensor(name) for name in file.keys()}
    check(recipe)
    if hashlib.sha256(pathlib.Path(backbone).read_bytes()).hexdigest() != wanted:
        raise SystemExit(f"{artifact} was tuned on other weights than {backbone}: their sha256 is {wanted}")
    weights = load_file(backbone)
    arch = json.loads(pathlib.Path(backbone).with_suffix(".json").read_text())["arch"]
    weights = fold(recipe, tuned, weights)
    weights = {name.replace("fc_norm.", "norm."): tensor for name, tensor in weights.items()}
    model = timm.models.vision_transformer.VisionTransformer(
        img_size=arch["image_size"], patch_size=arch["patch_size"], embed_dim=arch["dim"], depth=arch["depth"],
        num_heads=arch["heads"], mlp_ratio=arch["mlp_dim"] / arch["dim"], num_classes=0,
        init_values=1.0 if arch["layer_scale"] else None, global_pool="token",
        norm_layer=partial(torch.nn.LayerNorm, eps=arch["layer_norm_eps"]))
    model.load_state_dict(weights)
    model.arch = arch
    return recipe, tuned, model.eval()


def check(recipe):
    """Refuses what this script would compute wrongly."""
    changed = [key for key, default in DEFAULTS.items() if recipe.get(key, default) != default]
    if recipe.get("insertion_depth", 0) > 0 and recipe.get("fidelity") == "code":
        changed.append("fidelity")
    if recipe["method"] not in METHODS or changed:
        raise SystemExit(f"this script does not know `{recipe['method']}`" + "".join(f", with `{key}`" for key in changed))


def fold(recipe, tuned, weights):
    """The backbone's weights with what was tuned of them or can be added to them: its own tensors, SSF, LoRA."""
    weights = {name: tuned.get(name, tensor).clone() for name, tensor in weights.items()}
    for name, scale in tuned.items():
        if name.startswith("ssf.") and name.endswith(".scale"):
            op = name.removeprefix("ssf.").removesuffix(".scale")
            weight = weights[f"{op}.weight"]
            weights[f"{op}.weight"] = weight * scale.reshape(-1, *[1] * (weight.dim() - 1))
            weights[f"{op}.bias"] = weights[f"{op}.bias"] * scale + tuned[f"ssf.{op}.shift"]
        if name.startswith("lora.") and name.endswith(".down.weight"):
            _, block, part, *_ = name.split(".")
            update = tuned[f"lora.{block}.{part}.up.weight"] @ scale * recipe["lora_alpha"] / recipe["rank"]
            rows = weights[f"blocks.{block}.attn.qkv.weight"].unflatten(0, (3, -1))
            rows["qkv".index(part)] += update
    return weights


def positions(table, size, how):
    """[1, 1 + g*g, D] on another grid: bicubic with half-pixel centres, or bilinear with corners on corners."""
    cls, grid = table[:, :1], table[:, 1:]
    side = round(grid.shape[1] ** 0.5)
    if side == size:
        return table
    grid = grid.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, (size, size), mode=how, align_corners=how == "bilinear")
    return torch.cat([cls, grid.flatten(2).transpose(1, 2)], 1)


def prompts_of(tuned):
    """The prompts [P, D] of each prompted block."""
    prompt = tuned.get("prompt", torch.empty(0, 0, 0))
    if prompt.dim() == 2:  # blocks keep different numbers
        return prompt.split(tuned["pruned.counts"].tolist())
    if "token_mask" in tuned:
        pieces = tuned["piece_mask"]
        prompt = prompt * pieces.repeat(1, prompt.shape[2] // pieces.shape[1]) * tuned["token_mask"][:, None]
    return list(prompt)


def attention(attn, x, context, keys=None, values=None, temperature=1.0):
    """Tokens [B, T, D] attend to `context`, and to further keys and values [H, V, d] in each head."""
    heads = lambda y: y.unflatten(2, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
    q, (_, k, v) = heads(attn.qkv(x))[0], heads(attn.qkv(context))
    if keys is not None:
        k = torch.cat([keys.expand(len(x), -1, -1, -1), k], 2)
        v = torch.cat([values.expand(len(x), -1, -1, -1), v], 2)
    shares = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5 / temperature).softmax(-1)
    return attn.proj((shares @ v).transpose(1, 2).flatten(2))


def run_block(i, block, x, recipe, tuned, prompts):
    """Tokens [B, T, D] through block i, with what the method does to it."""
    first = recipe.get("insertion_depth", 0)
    at = i - first
    keys = tuned.get("kv_prompt.k", tuned.get("kv_prompt"))
    values = tuned.get("kv_prompt.v", tuned.get("kv_prompt"))
    further = (keys[i], values[i]) if keys is not None and i < len(keys) else (None, None)
    temperature = tuned["temperature"][at] if "temperature" in tuned and at >= 0 else 1.0
    y = block.norm1(x)
    out = x + block.ls1(attention(block.attn, y, y, *further, temperature))
    if recipe["method"] == "cvpt":
        out = out + attention(block.attn, out, prompts[i].expand(len(x), -1, -1))
    h = block.mlp(block.norm2(out))
    if recipe["method"] == "adapter":
        down, b, up, c = (tuned[f"adapter.{i}.{name}"] for name in ("down.weight", "down.bias", "up.weight", "up.bias"))
        h = h + torch.nn.functional.gelu(h @ down.T + b) @ up.T + c
    out = out + block.ls2(h)
    if "gate_logit" in tuned and 0 <= at < len(tuned["gate_logit"]):
        g, slots = tuned["gate_logit"][at].sigmoid(), slice(1, 1 + prompts[0].shape[0])
        out[:, slots] = g * out[:, slots] + (1 - g) * x[:, slots]
    return out


@torch.no_grad()
def logits(recipe, tuned, model, images):
    """images [B, 3, S, S], normalised -> [B, C]."""
    x = model.patch_embed.proj(images).flatten(2).transpose(1, 2)
    table = positions(model.pos_embed, round(x.shape[1] ** 0.5), model.arch["position_resize"])
    x = torch.cat([model.cls_token.expand(len(x), -1, -1), x], 1) + table
    prompts, standing = prompts_of(tuned), 0
    for i, block in enumerate(model.blocks):
        at = i - recipe.get("insertion_depth", 0)
        if recipe["method"] != "cvpt" and 0 <= at < len(prompts):
            p = prompts[at].expand(len(x), -1, -1)
            x = torch.cat([x[:, :1], p, x[:, 1 + standing:]], 1)  # deep prompts replace those before them
            standing = p.shape[1]
        x = run_block(i, block, x, recipe, tuned, prompts)
    z = model.norm(x)[:, 0] if model.arch["pool"] == "cls" else model.norm(x[:, 1:].mean(1))
    return z @ tuned["head.weight"].T + tuned["head.bias"]


def read(path, recipe):
    """One image as the recipe `noah` prepares it: [3, S, S]."""
    if recipe["recipe"] != "noah":
        raise SystemExit("this script knows the preprocessing `noah` alone")
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
