//! What several tests of the published numbers stand on.

use worker::backbone::Arch;
use worker::vit::{self, Pool, PositionResize};

/// ViT-B/16 at 224 pixels, as the npz of its authors.
pub(crate) fn vit_b16() -> Arch {
    Arch::Vit(vit::Arch {
        dim: 768,
        depth: 12,
        heads: 12,
        patch_size: 16,
        image_size: 224,
        mlp_dim: 3072,
        layer_norm_eps: 1e-6,
        layer_scale: false,
        pool: Pool::Cls,
        position_resize: PositionResize::Bilinear,
    })
}
