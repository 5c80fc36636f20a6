//! The three ways in which the code bases bring an image to S×S.
//!
//! All are separable: an output pixel is a weighted sum of a run of input columns, then of input rows. Pillow's bicubic
//! is reproduced bit by bit (fixed-point weights, columns before rows, 8-bit rounding between the two), in the form that
//! it had when the papers' code was written; later releases may take rows first.

use image::RgbImage;
use sweeps::recipe::Preprocessing;

/// Resizes `image` into `out`, which is `[3, size, size]` in planes (R, G, B).
///
/// * `vpt_tf`: bilinear on half-pixel centres without antialiasing, straight to S×S. TensorFlow hands on floats here; ours
///   are rounded to the nearest 1/255, so that they differ by at most 0.5/255.
/// * `noah`: Pillow's antialiased bicubic, straight to S×S.
/// * `spt`: the same with the aspect kept, the short side at S, then the central S×S.
pub(super) fn resize(image: &RgbImage, preprocessing: Preprocessing, size: u32, out: &mut [u8]) {
    let (width, height) = image.dimensions();
    match preprocessing {
        Preprocessing::VptTf => bilinear(image, size, out),
        Preprocessing::Noah => bicubic(image, Window::all(width, size), Window::all(height, size), out),
        Preprocessing::Spt => {
            let (wide, high) = short_side(width, height, size);
            bicubic(image, Window::centre(width, wide, size), Window::centre(height, high, size), out);
        }
    }
}

/// torchvision's `Resize(size)`: the long side is truncated, and at least `size`.
fn short_side(width: u32, height: u32, size: u32) -> (u32, u32) {
    let long = |long: u32, short: u32| (f64::from(size) * f64::from(long) / f64::from(short)) as u32;
    if width <= height { (size, long(height, width)) } else { (long(width, height), size) }
}

/// The part of a resized axis that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Window {
    /// Length of the input axis, and of the axis it is resized to.
    from: u32,
    to: u32,
    /// First kept pixel of the resized axis, and how many are kept.
    start: u32,
    len: u32,
}

impl Window {
    fn all(from: u32, to: u32) -> Self {
        Self { from, to, start: 0, len: to }
    }

    /// torchvision's `CenterCrop`: half the difference, halves rounded to even.
    fn centre(from: u32, to: u32, len: u32) -> Self {
        let twice = to - len;
        let start = if twice % 4 == 3 { twice / 2 + 1 } else { twice / 2 };
        Self { from, to, start, len }
    }
}

/// The weights of an output pixel on input pixels `first..first + weights.len()`.
#[derive(Debug)]
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

/// Bits behind the point of a weight: 8-bit values times weights that sum to 1 and may be negative fit 32 bits.
const PRECISION: u32 = 22;

/// Keys' cubic with a = −1/2.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A
    } else {
        0.0
    }
}

/// Antialiased: when shrinking, the filter is stretched over all pixels that fall into an output pixel.
fn bicubic_taps(window: Window) -> Vec<Taps> {
    let scale = f64::from(window.from) / f64::from(window.to);
    let stretch = scale.max(1.0);
    let support = 2.0 * stretch;
    let taps = |out: u32| {
        let centre = (f64::from(out) + 0.5) * scale;
        let first = (centre - support + 0.5).max(0.0) as u32;
        let end = ((centre + support + 0.5) as u32).min(window.from);
        let raw: Vec<f64> = (first..end).map(|i| cubic((f64::from(i) - centre + 0.5) / stretch)).collect();
        let sum: f64 = raw.iter().sum();
        let fixed = |w: f64| (w / sum * f64::from(1 << PRECISION)).round() as i32;
        Taps { first: first as usize, weights: raw.into_iter().map(fixed).collect() }
    };
    (window.start..window.start + window.len).map(taps).collect()
}

/// `Σ weight · value` over every `stride`-th value from `at`, rounded and clipped to 8 bits.
fn weigh(values: &[u8], at: usize, stride: usize, weights: &[i32]) -> u8 {
    // The inner loop, kept plain because development builds do not optimise iterators away.
    let mut sum = 1 << (PRECISION - 1);
    let mut i = 0;
    while i < weights.len() {
        sum += values[at + i * stride] as i32 * weights[i];
        i += 1;
    }
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// Columns first, then rows, as Pillow does; only what the windows keep is computed.
fn bicubic(image: &RgbImage, columns: Window, rows: Window, out: &mut [u8]) {
    let (width, len) = (columns.from as usize, columns.len as usize);
    let (column_taps, row_taps) = (bicubic_taps(columns), bicubic_taps(rows));
    let pixels = image.as_raw();
    let mut narrow = vec![0_u8; rows.from as usize * len * 3];
    for (y, line) in narrow.chunks_exact_mut(len * 3).enumerate() {
        for (pixel, taps) in line.chunks_exact_mut(3).zip(&column_taps) {
            for (channel, value) in pixel.iter_mut().enumerate() {
                *value = weigh(pixels, (y * width + taps.first) * 3 + channel, 3, &taps.weights);
            }
        }
    }
    for (channel, plane) in out.chunks_exact_mut(len * row_taps.len()).enumerate() {
        for (line, taps) in plane.chunks_exact_mut(len).zip(&row_taps) {
            for (x, value) in line.iter_mut().enumerate() {
                *value = weigh(&narrow, (taps.first * len + x) * 3 + channel, len * 3, &taps.weights);
            }
        }
    }
}

/// `(lower, upper, share of upper)` for each output pixel.
fn bilinear_taps(from: u32, to: u32) -> Vec<(usize, usize, f32)> {
    let scale = from as f32 / to as f32;
    let last = from as usize - 1;
    let taps = |out: u32| {
        let at = (out as f32 + 0.5) * scale - 0.5;
        let floor = at.floor();
        let clamp = |i: f32| (i.max(0.0) as usize).min(last);
        (clamp(floor), clamp(floor + 1.0), at - floor)
    };
    (0..to).map(taps).collect()
}

fn bilinear(image: &RgbImage, size: u32, out: &mut [u8]) {
    let (width, height) = image.dimensions();
    let (columns, rows) = (bilinear_taps(width, size), bilinear_taps(height, size));
    let pixels = image.as_raw();
    let side = size as usize;
    for (channel, plane) in out.chunks_exact_mut(side * side).enumerate() {
        for (line, (top, bottom, down)) in plane.chunks_exact_mut(side).zip(&rows) {
            for (value, (left, right, across)) in line.iter_mut().zip(&columns) {
                let at = |y: &usize, x: &usize| f32::from(pixels[(y * width as usize + x) * 3 + channel]);
                let upper = at(top, left) + (at(top, right) - at(top, left)) * across;
                let lower = at(bottom, left) + (at(bottom, right) - at(bottom, left)) * across;
                *value = (upper + (lower - upper) * down).round() as u8;
            }
        }
    }
}

#[cfg(test)]
#[path = "resize_tests.rs"]
mod tests;
