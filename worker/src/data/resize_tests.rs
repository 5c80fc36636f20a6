//! Against what Pillow, torchvision and torch made of the same images (`golden/make.py`).

use super::*;

const SIDE: u32 = 16;

struct Golden {
    name: &'static str,
    image: &'static [u8],
    noah: &'static [u8],
    spt: &'static [u8],
    vpt_tf: &'static [u8],
}

macro_rules! golden {
    ($name:literal) => {
        Golden {
            name: $name,
            image: include_bytes!(concat!("golden/", $name, ".png")),
            noah: include_bytes!(concat!("golden/", $name, ".noah.u8")),
            spt: include_bytes!(concat!("golden/", $name, ".spt.u8")),
            vpt_tf: include_bytes!(concat!("golden/", $name, ".vpt_tf.f32")),
        }
    };
}

const GOLDEN: [Golden; 4] =
    [golden!("rgb_37x23"), golden!("tall_9x31"), golden!("grey_8x8"), golden!("alpha_20x21")];

fn resized(golden: &Golden, preprocessing: Preprocessing) -> Vec<u8> {
    let image = image::load_from_memory(golden.image).expect("a committed image").into_rgb8();
    let mut out = vec![0; 3 * SIDE as usize * SIDE as usize];
    resize(&image, preprocessing, SIDE, &mut out);
    out
}

#[test]
fn noah_equals_torchvision_on_pillow_images() {
    for golden in &GOLDEN {
        assert_eq!(resized(golden, Preprocessing::Noah), golden.noah, "{}", golden.name);
    }
}

#[test]
fn spt_equals_torchvision_on_pillow_images() {
    for golden in &GOLDEN {
        assert_eq!(resized(golden, Preprocessing::Spt), golden.spt, "{}", golden.name);
    }
}

#[test]
fn vpt_tf_is_the_float_resize_rounded_to_a_byte() {
    for golden in &GOLDEN {
        let ours = resized(golden, Preprocessing::VptTf);
        let theirs: Vec<f32> =
            golden.vpt_tf.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        assert_eq!(ours.len(), theirs.len());
        for (ours, theirs) in ours.iter().zip(theirs) {
            assert!(
                (f32::from(*ours) - theirs).abs() <= 0.5 + 1e-3,
                "{}: {ours} against {theirs}",
                golden.name
            );
        }
    }
}

#[test]
fn the_recipes_differ() {
    let [vpt, noah, spt] =
        [Preprocessing::VptTf, Preprocessing::Noah, Preprocessing::Spt].map(|p| resized(&GOLDEN[0], p));
    assert!(vpt != noah && noah != spt && vpt != spt);
}

#[test]
fn an_image_of_the_right_size_is_left_alone() {
    let image = RgbImage::from_fn(5, 5, |x, y| image::Rgb([(x * 50) as u8, (y * 50) as u8, (x * y) as u8]));
    let planes: Vec<u8> = (0..3).flat_map(|c| image.pixels().map(move |p| p.0[c])).collect();
    for preprocessing in [Preprocessing::VptTf, Preprocessing::Noah, Preprocessing::Spt] {
        let mut out = vec![0; 75];
        resize(&image, preprocessing, 5, &mut out);
        assert_eq!(out, planes, "{preprocessing:?}");
    }
}

#[test]
fn sides_and_crops_round_as_torchvision_does() {
    assert_eq!(short_side(300, 200, 224), (336, 224));
    assert_eq!(short_side(37, 23, 16), (25, 16));
    assert_eq!(short_side(23, 37, 16), (16, 25));
    assert_eq!(short_side(50, 50, 224), (224, 224));
    // Python's round((to − len) / 2): halves to even.
    let starts: Vec<u32> = (0..8).map(|extra| Window::centre(99, 16 + extra, 16).start).collect();
    assert_eq!(starts, [0, 0, 1, 2, 2, 2, 3, 4]);
}

#[test]
fn a_thin_line_of_pixels_costs_no_more_than_its_crop() {
    let image = RgbImage::from_pixel(16_384, 1, image::Rgb([7, 8, 9]));
    let mut out = vec![0; 3 * 64 * 64];
    resize(&image, Preprocessing::Spt, 64, &mut out);
    assert!(out.chunks_exact(64 * 64).zip([7, 8, 9]).all(|(plane, value)| plane.iter().all(|v| *v == value)));
}
