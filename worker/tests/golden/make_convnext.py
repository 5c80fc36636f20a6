"""Make the golden case convnext_pad with torchvision's ConvNeXt: a tiny one, framed by prompts as VPT's code frames a ResNet.

    pip install torch torchvision safetensors
    python worker/tests/golden/make_convnext.py worker/tests/golden/cases/convnext_pad
"""

import json
import pathlib
import sys

import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import save_file
from torchvision.models.convnext import CNBlockConfig, ConvNeXt

DIMS, DEPTHS, CLASSES, SIDE, WIDTH, BATCH = [4, 6, 8, 10], [1, 2, 1, 1], 5, 32, 3, 2
LR, DECAY, MOMENTUM, STEPS = 0.1, 0.01, 0.9, 3
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


def ours(name):
    """The official name of a tensor of torchvision's."""
    parts = name.split(".")
    if parts[0] == "classifier":
        return ("norm." if parts[1] == "0" else "head.") + parts[-1]
    feature = int(parts[1])
    if feature % 2 == 0:
        return f"downsample_layers.{feature // 2}." + ".".join(parts[2:])
    inner = {"block.0": "dwconv", "block.2": "norm", "block.3": "pwconv1", "block.5": "pwconv2"}
    block = f"stages.{feature // 2}.{parts[2]}."
    if parts[3] == "layer_scale":
        return block + "gamma"
    return block + inner[".".join(parts[3:5])] + "." + parts[5]


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(20)
    torch.set_num_threads(1)
    settings = [CNBlockConfig(d, DIMS[i + 1] if i < 3 else None, n) for i, (d, n) in enumerate(zip(DIMS, DEPTHS))]
    net = ConvNeXt(settings, stochastic_depth_prob=0.0, num_classes=CLASSES).eval()
    for name, tensor in net.named_parameters():
        draw = torch.randn_like(tensor) * 0.3
        is_scale = "layer_scale" in name or tensor.ndim == 1 and name.endswith("weight")
        tensor.data = 1.0 + draw if is_scale else draw
        tensor.requires_grad_(name.startswith("classifier.2"))
    tb = torch.rand(1, 3, 2 * WIDTH, SIDE + 2 * WIDTH).requires_grad_()
    lr = torch.rand(1, 3, SIDE, 2 * WIDTH).requires_grad_()
    images, labels = torch.randn(BATCH, 3, SIDE, SIDE), torch.randint(CLASSES, (BATCH,))
    head = net.classifier[2]
    trained = {"prompt.tb": tb, "prompt.lr": lr, "head.weight": head.weight, "head.bias": head.bias}
    seen = {}
    net.classifier[1].register_forward_hook(lambda _module, _inputs, output: seen.update(features=output))

    def forward():
        sides, caps = [((p - MEAN) / STD).expand(BATCH, -1, -1, -1) for p in (lr, tb)]
        x = torch.cat([sides[..., :WIDTH], images, sides[..., WIDTH:]], 3)
        return net(torch.cat([caps[:, :, :WIDTH], x, caps[:, :, WIDTH:]], 2))

    copy = lambda tensors: {name: t.detach().clone().contiguous() for name, t in tensors.items()}
    backbone = {ours(n): t.reshape(-1) if "layer_scale" in n else t for n, t in net.state_dict().items()}
    save_file(copy({n: t for n, t in backbone.items() if not n.startswith("head.")}), folder / "backbone.safetensors")
    save_file({"images": images, "labels": labels}, folder / "inputs.safetensors")
    save_file(copy(trained), folder / "params.safetensors")

    logits = forward()
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    expected = {"logits": logits, "features": seen["features"], "loss": loss}
    expected.update({f"grad.{name}": t.grad for name, t in trained.items()})
    expected = copy(expected)
    groups = [
        {"params": [n for n in trained if n != "head.bias"], "lr": LR, "weight_decay": DECAY},
        {"params": ["head.bias"], "lr": LR, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD([{**g, "params": [trained[n] for n in g["params"]]} for g in groups], lr=LR, momentum=MOMENTUM)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = F.cross_entropy(forward(), labels)
        losses.append(loss.detach())
        loss.backward()
        optimizer.step()
    expected.update(copy({f"step3.{name}": t for name, t in trained.items()}))
    expected["step3.losses"], expected["step3.logits"] = torch.stack(losses), forward().detach().clone()
    save_file(expected, folder / "expected.safetensors")

    case = {
        "method": "vpt_convnext_pad",
        "fidelity": "code",
        "vit": None,
        "convnext": {"dims": DIMS, "depths": DEPTHS, "num_classes": CLASSES, "image_size": SIDE, "layer_norm_eps": 1e-6},
        "method_config": {"location": "pad", "pad_width": WIDTH},
        "batch": BATCH,
        "source": f"torchvision {torchvision.__version__}, torchvision.models.convnext.ConvNeXt",
        "notes": ["names are those of the official ConvNeXt code; frames as in VPT's src/models/resnet.py"],
        "optimizer": {"name": "sgd", "momentum": MOMENTUM, "groups": groups, "steps": STEPS, "lr": LR},
    }
    (folder / "case.json").write_text(json.dumps(case, indent=1) + "\n")


if __name__ == "__main__":
    main()
