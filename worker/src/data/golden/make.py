"""Writes the images of this folder and what Pillow, torchvision and torch make of them.

Run once, with pillow 10.4.0, torch 2.11.0, torchvision 0.26.0 and numpy: python make.py
TensorFlow's bilinear resize is torch's interpolate(bilinear, align_corners=False, antialias=False) on floats.
"""

import pathlib

import numpy as np
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

HERE = pathlib.Path(__file__).parent


def scene(width, height, seed):
    """A gradient with edges and noise, so that overshoot, clipping and rounding all occur."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    channels = [x * 255 / max(width - 1, 1), y * 255 / max(height - 1, 1), ((x // 3 + y // 5) % 2) * 255]
    image = np.stack(channels, axis=-1) + rng.integers(-40, 40, (height, width, 3))
    return np.clip(image, 0, 255).astype(np.uint8)


def write(name, array):
    (HERE / name).write_bytes(np.ascontiguousarray(array).tobytes())


def main():
    images = {
        "rgb_37x23.png": Image.fromarray(scene(37, 23, 0)),
        "tall_9x31.png": Image.fromarray(scene(9, 31, 1)),
        "grey_8x8.png": Image.fromarray(scene(8, 8, 2)[..., 2]),
        "alpha_20x21.png": Image.fromarray(np.dstack([scene(20, 21, 3), scene(20, 21, 4)[..., :1]])),
        "jpeg_40x30.jpg": Image.fromarray(scene(40, 30, 5)),  # PIL's default: quality 75, chroma at half the size
    }
    for name, image in images.items():
        image.save(HERE / name)
        image = Image.open(HERE / name).convert("RGB")
        stem = name.split(".")[0]
        if name.endswith("jpg"):
            write(f"{stem}.decoded.u8", np.asarray(image).transpose(2, 0, 1))
            continue
        bicubic = InterpolationMode.BICUBIC
        noah = transforms.Resize((16, 16), interpolation=bicubic)
        spt = transforms.Compose([transforms.Resize(16, interpolation=bicubic), transforms.CenterCrop(16)])
        write(f"{stem}.noah.u8", np.asarray(noah(image)).transpose(2, 0, 1))
        write(f"{stem}.spt.u8", np.asarray(spt(image)).transpose(2, 0, 1))
        pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float()
        vpt = torch.nn.functional.interpolate(pixels, (16, 16), mode="bilinear", align_corners=False, antialias=False)
        write(f"{stem}.vpt_tf.f32", vpt[0].numpy())


main()
