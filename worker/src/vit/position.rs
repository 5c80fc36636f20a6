//! Position tables on another grid than the one that they were trained for.

use tch::Tensor;

use super::PositionResize;

/// Resizes a position table `[1, 1+G², D]` to `[1, 1+grid², D]`; the row of CLS is kept as it is.
///
/// `Bicubic` is torch's `interpolate(bicubic, align_corners=False)` without antialiasing, as DINOv2 does.
/// `Bilinear` is `scipy.ndimage.zoom(order=1)`, which maps corners to corners, as the npz loaders do.
pub fn resize_positions(table: &Tensor, grid: i64, how: PositionResize) -> Tensor {
    let (rows, dim) = (table.size()[1] - 1, table.size()[2]);
    let old = (rows as f64).sqrt().round() as i64;
    if old == grid {
        return table.shallow_clone();
    }
    let cls = table.narrow(1, 0, 1);
    let patches = table.narrow(1, 1, rows).reshape([1, old, old, dim]).permute([0, 3, 1, 2]); // [1, D, G, G]
    let scales = (None::<f64>, None::<f64>);
    let resized = match how {
        PositionResize::Bicubic => patches.upsample_bicubic2d([grid, grid], false, scales.0, scales.1),
        PositionResize::Bilinear => patches.upsample_bilinear2d([grid, grid], true, scales.0, scales.1),
    };
    let patches = resized.permute([0, 2, 3, 1]).reshape([1, grid * grid, dim]);
    Tensor::cat(&[cls, patches], 1)
}
