//! Self-prompt tuning draws what it says, and holds no more than it wants.

use std::cell::RefCell;

use sweeps::recipe::{Spt, SptInit};
use tch::{Kind, Tensor};

use super::spt::{Draw, Reduction, patch_tokens, prompts};
use crate::backbone::tiny;

fn method(init: SptInit, prompt_length: u32) -> Spt {
    Spt { deep: true, prompt_length, init, init_images: None, drop_path: 0.0 }
}

#[test]
fn random_prompts_are_tokens_of_training_images_each_once() {
    let vit = tiny::backbone(tiny::arch(), Kind::Double);
    let (images, _) = tiny::batch(12, 40, 2, Kind::Double);
    let asked = RefCell::new(Vec::new());
    let fetch = |index: &[i64]| {
        asked.borrow_mut().push(index.to_vec());
        images.index_select(0, &Tensor::from_slice(index))
    };
    let drawn = prompts(&method(SptInit::Random, 3), &vit, 12, 40, 5, fetch);
    assert_eq!(drawn.size(), [4, 3, 12]);
    let asked = asked.into_inner();
    let count: usize = asked.iter().map(Vec::len).sum();
    assert!(count <= 12, "{count} images for 12 tokens");
    assert!(asked.iter().all(|chunk| chunk.len() <= 16));
    let all = patch_tokens(&vit, &images, 4);
    for block in 0..4 {
        let tokens = all[block as usize].reshape([-1, 12]);
        for p in 0..3 {
            let off = (&tokens - drawn.get(block).get(p)).abs().amax([1].as_slice(), false);
            assert!(off.min().double_value(&[]) < 1e-12, "prompt {p} of block {block} is no token");
        }
    }
    let draw = Draw::new(&method(SptInit::Random, 50), 4, 40, 9, 5);
    for rows in &draw.rows {
        let mut rows = rows.clone();
        rows.sort_unstable();
        rows.dedup();
        assert_eq!(rows.len(), 50, "a row is drawn twice");
    }
    assert!(draw.rows[0] != draw.rows[1], "blocks draw on their own");
    assert_eq!(draw.images.len(), 40);
    assert!(draw != Draw::new(&method(SptInit::Random, 50), 4, 40, 9, 6), "seeds draw differently");
}

#[test]
fn a_small_training_set_gives_its_tokens_more_than_once() {
    let vit = tiny::backbone(tiny::arch(), Kind::Float);
    let (images, _) = tiny::batch(12, 1, 2, Kind::Float);
    let fetch = |index: &[i64]| images.index_select(0, &Tensor::from_slice(index));
    for init in [SptInit::Random, SptInit::MeanPooling, SptInit::MaxPooling, SptInit::Kmeans] {
        let drawn = prompts(&method(init, 30), &vit, 12, 1, 5, fetch);
        assert_eq!(drawn.size(), [4, 30, 12], "{init:?}");
        assert!(drawn.isfinite().all().int64_value(&[]) == 1);
    }
}

#[test]
fn pools_are_windows_of_an_image() {
    let draw = |init| Draw::new(&method(init, 4), 2, 10, 9, 1);
    assert_eq!(draw(SptInit::MeanPooling).reduction, Reduction::Mean { windows: 4 });
    let parts = draw(SptInit::MaxPooling).rows.concat();
    assert!(parts.iter().all(|&(image, window)| image < 10 && window < 4));
    let shallow = Spt { deep: false, ..method(SptInit::MeanPooling, 4) };
    assert_eq!(Draw::new(&shallow, 1, 10, 9, 1).reduction, Reduction::Token);
}

#[test]
fn centres_lie_amid_their_tokens() {
    // Two images of one colour each: every token of block 0 is one of two points, which are the centres.
    let vit = tiny::backbone(tiny::arch(), Kind::Double);
    let colours = Tensor::from_slice(&[-1.0, 1.0]).reshape([2, 1, 1, 1]).expand([2, 3, 12, 12], false);
    let fetch = |index: &[i64]| colours.index_select(0, &Tensor::from_slice(index));
    let kmeans = Spt { deep: false, ..method(SptInit::Kmeans, 2) };
    let points = patch_tokens(&vit, &colours, 1)[0].select(1, 0); // [2, D]
    let is_point = |centre: &Tensor| {
        let off = (&points - centre).abs().amax([1].as_slice(), false);
        off.min().double_value(&[]) < 1e-9
    };
    let found = (0..20).map(|seed| prompts(&kmeans, &vit, 12, 2, seed, fetch).get(0));
    let mut both = 0;
    for centres in found {
        let (a, b) = (centres.get(0), centres.get(1));
        both += usize::from((&a - &b).abs().max().double_value(&[]) > 1e-6 && is_point(&a) && is_point(&b));
    }
    assert!(both > 0, "no start found both colours");
}
