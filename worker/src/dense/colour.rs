//! Random changes of colour, as mmsegmentation's `PhotoMetricDistortion` makes them, without its rounding to whole bytes in
//! between.

use tch::Tensor;

/// What one crop is changed by; `None`: not at all. Each change has a chance of one half.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Colours {
    /// Added to every channel, −32 to 32.
    pub brightness: Option<f64>,
    /// Factor of every channel, 0.5 to 1.5, before saturation and hue, or behind them.
    pub contrast: Option<f64>,
    pub is_contrast_first: bool,
    /// Factor of the saturation, 0.5 to 1.5.
    pub saturation: Option<f64>,
    /// Added to the hue, −36 to 34 degrees in steps of 2.
    pub hue: Option<f64>,
}

impl Colours {
    /// Numbers that [`Colours::drawn`] needs.
    pub const DRAWS: usize = 9;

    /// From numbers ~ U(0, 1).
    pub fn drawn(draws: &[f64]) -> Colours {
        let maybe = |at: usize, value: f64| (draws[at] < 0.5).then_some(value);
        Colours {
            brightness: maybe(0, 64.0 * draws[1] - 32.0),
            contrast: maybe(2, 0.5 + draws[3]),
            is_contrast_first: draws[4] < 0.5,
            saturation: maybe(5, 0.5 + draws[6]),
            // OpenCV's hues of bytes are half degrees' number; randint leaves the upper end out.
            hue: maybe(7, 2.0 * ((36.0 * draws[8]).floor() - 18.0)),
        }
    }

    /// Changes an image `[3, H, W]` of 0 to 255.
    pub fn apply(&self, image: &Tensor) -> Tensor {
        let contrast = |image: Tensor, is_now: bool| match self.contrast {
            Some(factor) if is_now => (image * factor).clamp(0.0, 255.0),
            _ => image,
        };
        let image = match self.brightness {
            Some(delta) => (image + delta).clamp(0.0, 255.0),
            None => image.shallow_clone(),
        };
        let mut image = contrast(image, self.is_contrast_first);
        if self.saturation.is_some() || self.hue.is_some() {
            let [hue, saturation, value] = to_hsv(&image);
            let saturation = (saturation * self.saturation.unwrap_or(1.0)).clamp(0.0, 1.0);
            image = to_rgb(&(hue + self.hue.unwrap_or(0.0)), &saturation, &value);
        }
        contrast(image, !self.is_contrast_first)
    }
}

/// Hue in degrees, saturation 0 to 1, and value in the unit of the image, each `[H, W]`.
fn to_hsv(image: &Tensor) -> [Tensor; 3] {
    let [r, g, b] = [0, 1, 2].map(|channel| image.get(channel));
    let (value, low) = (image.amax([0i64].as_slice(), false), image.amin([0i64].as_slice(), false));
    let chroma = &value - low;
    let some = chroma.clamp_min(1e-12);
    let sector = |a: &Tensor, b: &Tensor, at: f64| ((a - b) / &some + at) * 60.0;
    let hue = sector(&r, &g, 4.0);
    let hue = sector(&b, &r, 2.0).where_self(&value.eq_tensor(&g), &hue);
    let hue = sector(&g, &b, 0.0).where_self(&value.eq_tensor(&r), &hue);
    let saturation = &chroma / value.clamp_min(1e-12);
    [hue, saturation, value]
}

/// With k = (n + hue/60) mod 6, n of red, green and blue 5, 3 and 1: value · (1 − saturation · max(0, min(k, 4 − k, 1))).
fn to_rgb(hue: &Tensor, saturation: &Tensor, value: &Tensor) -> Tensor {
    let channel = |n: f64| {
        let k = (hue / 60.0 + n).remainder(6.0);
        let rest: Tensor = 4.0 - &k;
        value * (1.0 - saturation * k.minimum(&rest).clamp(0.0, 1.0))
    };
    Tensor::stack(&[channel(5.0), channel(3.0), channel(1.0)], 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    fn image(pixels: &[[f64; 3]]) -> Tensor {
        let rows: Vec<f64> = (0..3).flat_map(|c| pixels.iter().map(move |pixel| pixel[c])).collect();
        Tensor::from_slice(&rows).reshape([3, 1, -1])
    }

    fn off(a: &Tensor, b: &Tensor) -> f64 {
        (a - b).abs().max().double_value(&[])
    }

    #[test]
    fn hue_saturation_and_value_of_known_colours() {
        let colours =
            image(&[[255.0, 0.0, 0.0], [0.0, 128.0, 0.0], [50.0, 50.0, 200.0], [90.0, 90.0, 90.0], [0.0; 3]]);
        let [hue, saturation, value] = to_hsv(&colours);
        let expected =
            [[0.0, 120.0, 240.0, 0.0, 0.0], [1.0, 1.0, 0.75, 0.0, 0.0], [255.0, 128.0, 200.0, 90.0, 0.0]];
        for (found, expected) in [hue, saturation, value].iter().zip(expected) {
            assert!(off(&found.get(0), &Tensor::from_slice(&expected)) < 1e-9, "{found}");
        }
    }

    #[test]
    fn every_colour_comes_back_and_a_hue_turns_round() {
        tch::manual_seed(3);
        let noise = Tensor::rand([3, 20, 20], (Kind::Double, Device::Cpu)) * 255.0;
        let same = Colours { hue: Some(0.0), ..Colours::default() };
        assert!(off(&same.apply(&noise), &noise) < 1e-9);
        let third = Colours { hue: Some(120.0), ..Colours::default() };
        // A third of a turn makes red green, green blue, and blue red.
        let turned = Tensor::stack(&[noise.get(2), noise.get(0), noise.get(1)], 0);
        assert!(off(&third.apply(&noise), &turned) < 1e-9);
        assert!(Colours::default().apply(&noise).equal(&noise));
    }

    #[test]
    fn changes_are_those_of_mmsegmentation() {
        let start = image(&[[100.0, 50.0, 250.0]]);
        let apply = |colours: Colours| apply_to(&start, colours);
        let none = Colours::default();
        assert_eq!(apply(Colours { brightness: Some(20.0), ..none }), [120.0, 70.0, 255.0]);
        assert_eq!(apply(Colours { contrast: Some(0.5), ..none }), [50.0, 25.0, 125.0]);
        // Half the saturation: half the distance to the largest channel.
        assert_eq!(apply(Colours { saturation: Some(0.5), ..none }), [175.0, 150.0, 250.0]);
        // Contrast before the saturation cuts the blue off, behind it not.
        let both = Colours { contrast: Some(1.2), saturation: Some(0.5), ..none };
        assert_eq!(apply(Colours { is_contrast_first: true, ..both }), [187.5, 157.5, 255.0]);
        assert_eq!(apply(both), [210.0, 180.0, 255.0]);
    }

    fn apply_to(image: &Tensor, colours: Colours) -> [f64; 3] {
        let found = colours.apply(image);
        [0, 1, 2].map(|channel| (found.double_value(&[channel, 0, 0]) * 1e6).round() / 1e6)
    }

    #[test]
    fn draws_cover_what_they_may_and_no_more() {
        let at = |x: f64| Colours::drawn(&[0.4, x, 0.4, x, 0.4, 0.4, x, 0.4, x]);
        let (low, high) = (at(0.0), at(1.0 - 1e-12));
        assert_eq!(
            (low.brightness, low.contrast, low.saturation, low.hue),
            (Some(-32.0), Some(0.5), Some(0.5), Some(-36.0))
        );
        assert!(high.brightness.is_some_and(|b| (b - 32.0).abs() < 1e-9) && high.hue == Some(34.0));
        assert_eq!(Colours::drawn(&[0.6; 9]), Colours::default());
    }
}
