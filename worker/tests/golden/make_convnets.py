"""Make golden cases with torchvision's networks, tiny and framed by prompts as VPT's code frames a ResNet: convnext_pad, and
resnet_bottleneck_pad, since the authors' case has basic blocks.

    pip install torch torchvision safetensors
    python worker/tests/golden/make_convnets.py worker/tests/golden/cases
"""

import json
import pathlib
import sys

import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from safetensors.torch import save_file
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.resnet import Bottleneck, ResNet

CLASSES, SIDE, WIDTH, BATCH = 5, 32, 3, 2
LR, DECAY, MOMENTUM, STEPS = 0.1, 0.01, 0.9, 3
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


def official(name):
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


def convnext():
    """The network, its head, what feeds it, the names of its tensors, and the shape as a case states it."""
    dims, depths = [4, 6, 8, 10], [1, 2, 1, 1]
    settings = [CNBlockConfig(d, dims[i + 1] if i < 3 else None, n) for i, (d, n) in enumerate(zip(dims, depths))]
    net = ConvNeXt(settings, stochastic_depth_prob=0.0, num_classes=CLASSES)
    shape = {"dims": dims, "depths": depths, "num_classes": CLASSES, "image_size": SIDE, "layer_norm_eps": 1e-6}
    return net, net.classifier[2], net.classifier[1], official, shape


def resnet():
    widths, depths, stem = [2, 3, 4, 5], [1, 2, 1, 1], 6
    net = ResNet(Bottleneck, [1, 1, 1, 1], num_classes=CLASSES)
    net.inplanes, net.conv1, net.bn1 = stem, nn.Conv2d(3, stem, 7, 2, 3, bias=False), nn.BatchNorm2d(stem)
    for n, (width, depth) in enumerate(zip(widths, depths)):
        setattr(net, f"layer{n + 1}", net._make_layer(Bottleneck, width, depth, stride=1 if n == 0 else 2))
    net.fc = nn.Linear(4 * widths[-1], CLASSES)
    shape = {"image_size": SIDE, "widths": widths, "blocks": depths, "stem_width": stem, "bn_eps": 1e-5}
    shape |= {"block": "torchvision Bottleneck", "num_classes": CLASSES}
    names = lambda name: name.replace("fc.", "head.") if name.startswith("fc.") else name
    return net, net.fc, nn.Flatten(), names, shape


def make(folder, family, network):
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(20)
    torch.set_num_threads(1)
    net, head, flatten, ours, shape = network()
    if family == "resnet":  # what feeds its head is flattened by a function, which has no hook
        net.avgpool = nn.Sequential(net.avgpool, flatten)
    net.eval()
    for name, tensor in net.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        draw = torch.randn_like(tensor) * 0.3
        if name.endswith("running_var"):
            tensor.copy_(draw.abs() + 0.5)
        elif "layer_scale" in name or tensor.ndim == 1 and name.endswith("weight"):
            tensor.copy_(1.0 + draw)
        else:
            tensor.copy_(draw)
    net.requires_grad_(False)
    head.requires_grad_(True)
    tb = torch.rand(1, 3, 2 * WIDTH, SIDE + 2 * WIDTH).requires_grad_()
    lr = torch.rand(1, 3, SIDE, 2 * WIDTH).requires_grad_()
    images, labels = torch.randn(BATCH, 3, SIDE, SIDE), torch.randint(CLASSES, (BATCH,))
    trained = {"prompt.tb": tb, "prompt.lr": lr, "head.weight": head.weight, "head.bias": head.bias}
    seen = {}
    flatten.register_forward_hook(lambda _module, _inputs, output: seen.update(features=output))

    def forward():
        sides, caps = [((p - MEAN) / STD).expand(BATCH, -1, -1, -1) for p in (lr, tb)]
        x = torch.cat([sides[..., :WIDTH], images, sides[..., WIDTH:]], 3)
        return net(torch.cat([caps[:, :, :WIDTH], x, caps[:, :, WIDTH:]], 2))

    copy = lambda tensors: {name: t.detach().clone().contiguous() for name, t in tensors.items()}
    backbone = {ours(n): t.reshape(-1) if "layer_scale" in n else t for n, t in net.state_dict().items()}
    is_frozen = lambda name: not name.startswith("head.") and not name.endswith("num_batches_tracked")
    save_file(copy({n: t for n, t in backbone.items() if is_frozen(n)}), folder / "backbone.safetensors")
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
        "method": f"vpt_{family}_pad",
        "fidelity": "code",
        "vit": None,
        family: shape,
        "method_config": {"location": "pad", "pad_width": WIDTH},
        "batch": BATCH,
        "source": f"torchvision {torchvision.__version__}, torchvision.models.{family}",
        "notes": ["names: torchvision's for ResNet, the official code's for ConvNeXt; frames as in VPT's src/models/resnet.py"],
        "optimizer": {"name": "sgd", "momentum": MOMENTUM, "groups": groups, "steps": STEPS, "lr": LR},
    }
    (folder / "case.json").write_text(json.dumps(case, indent=1) + "\n")


if __name__ == "__main__":
    cases = pathlib.Path(sys.argv[1])
    make(cases / "convnext_pad", "convnext", convnext)
    make(cases / "resnet_bottleneck_pad", "resnet", resnet)
