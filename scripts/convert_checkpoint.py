"""Make a safetensors file of a PyTorch checkpoint (.pth, .pt, .bin, .pth.tar), for `worker import backbone`.

    pip install torch safetensors
    python scripts/convert_checkpoint.py mae_pretrain_vit_base.pth mae_vit_b16.safetensors

The checkpoint is read with weights_only=True, which runs no code of the file; one that needs more is refused. Names are
left as they are: the import knows those of timm, torchvision, transformers, MAE, MoCo, Swin and ConvNeXt.
"""

import sys

# Where training scripts put the weights.
INNER = ("state_dict", "model", "model_state", "teacher", "module")


def weights(checkpoint):
    """The mapping of names to tensors within a checkpoint."""
    while isinstance(checkpoint, dict):
        inner = next((key for key in INNER if isinstance(checkpoint.get(key), dict)), None)
        if inner is None:
            break
        checkpoint = checkpoint[inner]
    return checkpoint


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        import torch
        from safetensors.torch import save_file
    except ImportError as missing:
        sys.exit(f"{missing}; pip install torch safetensors")
    source, target = sys.argv[1:]
    try:
        checkpoint = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as problem:  # a pickle that needs code, a damaged file, none at all
        sys.exit(f"cannot read {source} as plain weights: {str(problem).splitlines()[0]}")
    found = weights(checkpoint)
    tensors = {}
    if isinstance(found, dict):
        # Tensors that share memory are stored one by one.
        tensors = {name: t.detach().clone().contiguous() for name, t in found.items() if torch.is_tensor(t)}
    if not tensors:
        sys.exit(f"{source} holds no tensors by name")
    save_file(tensors, target)
    print(f"{target}: {len(tensors)} tensors")


if __name__ == "__main__":
    main()
