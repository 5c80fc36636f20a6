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

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    /// CLS = −1, and a grid whose value is its column.
    fn ramp(side: i64) -> Tensor {
        let columns = Tensor::arange(side, (Kind::Double, Device::Cpu)).expand([side, side], true);
        Tensor::cat(&[Tensor::from_slice(&[-1.0]), columns.reshape([-1])], 0).reshape([1, -1, 1])
    }

    fn row(table: &Tensor, side: i64) -> Vec<f64> {
        Vec::try_from(table.reshape([-1]).narrow(0, 1, side)).unwrap()
    }

    #[test]
    fn bilinear_maps_corners_to_corners() {
        let resized = resize_positions(&ramp(5), 3, PositionResize::Bilinear);
        assert_eq!(row(&resized, 3), [0.0, 2.0, 4.0]);
        assert_eq!(resized.double_value(&[0, 0, 0]), -1.0);
    }

    #[test]
    fn bicubic_has_half_pixel_centres() {
        let resized = resize_positions(&ramp(8), 4, PositionResize::Bicubic);
        // Inside, a cubic filter reproduces a ramp at the centres 2i + ½.
        let inner = &row(&resized, 4)[1..3];
        assert!(inner.iter().zip([2.5, 4.5]).all(|(a, b)| (a - b).abs() < 1e-12), "{inner:?}");
    }

    #[test]
    fn the_same_grid_is_left_alone() {
        let table = ramp(4);
        assert!(resize_positions(&table, 4, PositionResize::Bicubic).equal(&table));
    }
}
