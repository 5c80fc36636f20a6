//! At its neutral setting a method is a simpler one.

use sweeps::recipe::{
    AlsoTrain, CrossInsertion, Cvpt, Deep, E2vpt, Fidelity, KvBlocks, KvPosition, Location, Method,
    PromptInit, Vpt,
};
use tch::{Kind, Tensor};

use super::tests::{assert_close, assert_differ, deep, features, set, shallow};
use super::*;
use crate::backbone::Arch;

fn plain() -> Tensor {
    features(&Method::Linear, |_| ())
}

fn copy(params: &[Param], name: &str, value: &Tensor) {
    let param = params.iter().find(|p| p.name == name).unwrap_or_else(|| panic!("no {name}"));
    tch::no_grad(|| param.value.shallow_clone().copy_(&value.expand_as(&param.value)));
}

/// What `method` starts `name` from.
fn start(method: &Method, name: &str) -> Tensor {
    let value = std::cell::RefCell::new(None);
    let _ = features(method, |params| {
        *value.borrow_mut() = params.iter().find(|p| p.name == name).map(|p| p.value.detach().copy());
    });
    value.into_inner().unwrap_or_else(|| panic!("no {name}"))
}

fn e2vpt(kv_prompt_length: u32) -> E2vpt {
    E2vpt {
        prompt_length: 3,
        prompt_dropout: 0.0,
        kv_prompt_length,
        kv_share: true,
        kv_position: KvPosition::Before,
        kv_blocks: KvBlocks::All,
        segments: 4,
        fidelity: Fidelity::Paper,
    }
}

fn cvpt(prompt_length: u32, insertion: CrossInsertion) -> Method {
    Method::Cvpt(Cvpt {
        prompt_length,
        prompt_dropout: 0.0,
        insertion,
        drop_path: 0.0,
        fidelity: Fidelity::Paper,
    })
}

fn at(location: Location, length: u32) -> Method {
    let init = if location == Location::Pad { PromptInit::Imagenet } else { PromptInit::Uniform };
    Method::Vpt(Vpt { location, init, ..Vpt::shallow(length) })
}

#[test]
fn tensors_of_the_backbone_start_from_the_checkpoint() {
    let plain = plain();
    for method in [
        Method::Full { dropout: 0.1, drop_path: 0.1 },
        Method::PartialK { blocks: 2, norm: true },
        Method::Bias { lr_factor: 1.0 },
        Method::Cls { reinit: false },
        Method::MlpK { layers: 3, dropout: 0.1 },
    ] {
        assert_close(&features(&method, |_| ()), &plain);
    }
    assert_differ(&features(&Method::Cls { reinit: true }, |_| ()), &plain);
    let also = |also_train| Method::Vpt(Vpt { also_train, ..Vpt::shallow(3) });
    assert_close(&features(&also(AlsoTrain::Bias), |_| ()), &features(&shallow(3, 0), |_| ()));
}

#[test]
fn updates_that_start_at_zero_are_the_plain_vit() {
    let plain = plain();
    let lora = Method::Lora { rank: 2, alpha: 2.0 };
    assert_close(&features(&lora, |_| ()), &plain);
    assert_differ(&features(&lora, |p| set(p, "lora.3.v.up.weight", 1.0)), &plain);
    assert_differ(&features(&lora, |p| set(p, "lora.0.q.up.weight", 1.0)), &plain);
    for fidelity in [Fidelity::Paper, Fidelity::Code] {
        let adapter = Method::Adapter { reduction: 3, fidelity };
        assert_close(&features(&adapter, |_| ()), &plain);
        assert_differ(&features(&adapter, |p| set(p, "adapter.3.up.bias", 1.0)), &plain);
        let down = start(&adapter, "adapter.0.down.weight").abs().max().double_value(&[]);
        assert_eq!(down > 0.0, fidelity == Fidelity::Paper);
    }
}

#[test]
fn unit_scales_and_zero_shifts_are_the_plain_vit() {
    let neutral = |params: &[Param]| {
        for param in params {
            let value = if param.name.ends_with("scale") { 1.0 } else { 0.0 };
            let _ = tch::no_grad(|| param.value.shallow_clone().fill_(value));
        }
    };
    assert_close(&features(&Method::Ssf, neutral), &plain());
    let shifted = |params: &[Param]| {
        neutral(params);
        set(params, "ssf.blocks.3.mlp.fc2.shift", 1.0);
    };
    assert_differ(&features(&Method::Ssf, shifted), &plain());
}

#[test]
fn added_zeros_are_the_plain_vit_and_equal_rows_are_one_vector() {
    for (location, deep) in [(Location::Add, None), (Location::Add1, Some(Deep::default()))] {
        let method = Method::Vpt(Vpt { location, deep, ..Vpt::shallow(0) });
        assert_close(&features(&method, |p| set(p, "prompt", 0.0)), &plain());
        assert_differ(&features(&method, |_| ()), &plain());
    }
    let vector = start(&at(Location::Add1, 0), "prompt");
    let rows = features(&at(Location::Add, 0), |p| copy(p, "prompt", &vector));
    assert_close(&rows, &features(&at(Location::Add1, 0), |_| ()));
}

#[test]
fn pixels_are_the_tokens_that_they_are_embedded_as() {
    let vit = crate::backbone::tiny::backbone(crate::backbone::tiny::arch(), Kind::Double);
    let strip = start(&at(Location::PrependPixel, 3), "prompt"); // [1, 1, 3, 4, 12]
    let (weight, bias) = (vit.tensor("patch_embed.proj.weight"), vit.tensor("patch_embed.proj.bias"));
    let tokens = strip.get(0).conv2d(weight, Some(bias), [4, 4], [0, 0], [1, 1], 1); // [1, D, 1, 3]
    let tokens = tokens.flatten(2, -1).transpose(1, 2);
    let as_tokens = features(&shallow(3, 0), |p| copy(p, "prompt", &tokens));
    assert_close(&features(&at(Location::PrependPixel, 3), |_| ()), &as_tokens);
}

#[test]
fn black_channels_below_are_the_plain_vit() {
    assert_close(&features(&at(Location::Below, 2), |p| set(p, "prompt", 0.0)), &plain());
    assert_differ(&features(&at(Location::Below, 2), |_| ()), &plain());
}

#[test]
fn black_channels_below_are_the_plain_resnet() {
    for (arch, side) in crate::backbone::tiny::families() {
        let Arch::Resnet(resnet) = &arch else { continue };
        let stem = i64::from(resnet.stem);
        let backbone = crate::backbone::tiny::backbone(arch.clone(), Kind::Double);
        let (images, _) = crate::backbone::tiny::batch(side, 3, 2, Kind::Double);
        let through = |backbone: &Backbone, images: &Tensor, tuning: &dyn Tuning| {
            let depth = backbone.arch().depth() as usize;
            backbone.pool(&backbone.blocks(backbone.embed(images), 0..depth, tuning, Step::evaluation(1)))
        };
        let plain = through(&backbone, &images, &Linear::new(&arch));
        for init in [PromptInit::Imagenet, PromptInit::Gaussian] {
            let method = Method::Vpt(Vpt { location: Location::Below, init, ..Vpt::shallow(2) });
            let built = build(&method, &backbone, side, &[1], None);
            let params = built.tuning.params();
            let count: i64 = params.iter().map(|param| param.value.numel() as i64).sum();
            // Channels; the first convolution of 7 × 7; its norm.
            assert_eq!(count, 2 * side * side + stem * (3 + 2) * 49 + 2 * stem);
            let run = || {
                let changed = backbone.with(built.tuning.weights(&backbone));
                let seen = built.tuning.images(images.shallow_clone(), Step::evaluation(1));
                assert_eq!(seen.size(), [3, 5, side, side]);
                through(&changed, &seen, built.tuning.as_ref())
            };
            assert_differ(&run(), &plain);
            // The grey that stands for nothing, as pixels or as it is.
            let grey = (0.485 + 0.456 + 0.406) / 3.0;
            set(&params, "prompt", if init == PromptInit::Imagenet { grey } else { 0.0 });
            let off = (run() - &plain).abs().max().double_value(&[]);
            assert!(off < 1e-6, "off by {off}"); // the means are float32
        }
    }
}

#[test]
fn prompts_that_are_not_trained_are_the_same_prompts() {
    let frozen = Method::Vpt(Vpt { is_trained: false, project: Some(5), ..Vpt::shallow(3) });
    let trained = Method::Vpt(Vpt { project: Some(5), ..Vpt::shallow(3) });
    assert_close(&features(&frozen, |_| ()), &features(&trained, |_| ()));
    let vit = crate::backbone::tiny::backbone(crate::backbone::tiny::arch(), Kind::Double);
    let built = build(&frozen, &vit, 12, &[1], None);
    assert!(built.tuning.params().is_empty());
    let saved: Vec<String> = built.tuning.buffers().into_iter().map(|param| param.name).collect();
    assert_eq!(saved, ["prompt", "prompt_proj.weight", "prompt_proj.bias"]);
    assert!(built.tuning.buffers().iter().all(|param| !param.value.requires_grad()));
}

#[test]
fn prompts_of_classes_are_their_mean_class_tokens() {
    let vit = crate::backbone::tiny::backbone(crate::backbone::tiny::arch(), Kind::Double);
    let (images, _) = crate::backbone::tiny::batch(12, 20, 2, Kind::Double);
    let labels = Tensor::from_slice(&[0i64, 1, 1, 0, 1].repeat(4));
    let plain = Linear::new(vit.arch());
    // The class tokens behind `blocks` blocks, of the images of a class.
    let mean = |blocks: usize, class: i64| {
        let x = vit.blocks(vit.embed(&images), 0..blocks, &plain, Step::evaluation(1));
        let mine = labels.eq(class).nonzero().squeeze_dim(1);
        x.select(1, 0).index_select(0, &mine).mean_dim(0, false, None)
    };
    for (init, behind) in [
        (PromptInit::ClassFinal, [4, 4, 4]),
        (PromptInit::ClassEntering, [1, 2, 3]),
        (PromptInit::ClassLeaving, [2, 3, 4]),
    ] {
        let method = Vpt { init, insertion_depth: 1, ..Vpt::deep(2) };
        let of = |index: &[i64]| images.index_select(0, &Tensor::from_slice(index));
        let prompts = classes::prompts(&method, &vit, &labels, of);
        assert_eq!(prompts.size(), [3, 2, 12]);
        for (block, behind) in behind.into_iter().enumerate() {
            for class in 0..2 {
                assert_close(&prompts.get(block as i64).get(class), &mean(behind, class));
            }
        }
    }
}

#[test]
fn dropout_inside_the_backbone_is_for_training() {
    let with = |dropout, noise: Option<Noise<'_>>| {
        super::tests::features_for(&Method::Full { dropout, drop_path: 0.0 }, &[1], noise, |_| ())
    };
    let noise = |position| Some(Noise { seeds: &[1], position });
    assert_close(&with(0.5, None), &plain());
    assert_close(&with(0.0, noise(0)), &plain());
    assert_differ(&with(0.5, noise(0)), &plain());
    assert_differ(&with(0.5, noise(0)), &with(0.5, noise(1)));
    assert_close(&with(0.5, noise(1)), &with(0.5, noise(1)));
}

/// Keeps what the MLP of a block hands on.
#[derive(Debug, Default)]
struct Recorder(std::cell::RefCell<Option<Tensor>>);

impl Tuning for Recorder {
    fn params(&self) -> Vec<Param> {
        Vec::new()
    }

    fn entry(&self) -> Entry {
        Entry::Block(0)
    }

    fn mlp(&self, h: Tensor, _at: Site<'_>) -> Tensor {
        *self.0.borrow_mut() = Some(h.shallow_clone());
        h
    }
}

#[test]
fn both_layers_of_an_mlp_and_the_embedding_are_dropped() {
    let vit = crate::backbone::tiny::backbone(crate::backbone::tiny::arch(), Kind::Double);
    let (images, _) = crate::backbone::tiny::batch(12, 40, 2, Kind::Double);
    let noise = Some(Noise { seeds: &[1], position: 0 });
    let h = |dropout| {
        let recorder = Recorder::default();
        let step = Step { noise, dropout, ..Step::evaluation(1) };
        let _ = vit.blocks(vit.embed(&images), 0..1, &recorder, step);
        recorder.0.into_inner().expect("one block ran")
    };
    let (whole, half) = (h(0.0), h(0.5));
    let stays = half.ne(0.0);
    let share = stays.to_kind(Kind::Double).mean(Kind::Double).double_value(&[]);
    assert!((share - 0.5).abs() < 0.05, "the second layer keeps {share}");
    // If the second layer's mask were all, what stays would be twice what it was.
    assert_differ(&half.masked_select(&stays), &(whole * 2.0).masked_select(&stays));

    // All of the embedding is gone, so that one image is as another.
    let method = Method::Full { dropout: 0.999_999_999, drop_path: 0.0 };
    let member = [crate::trainer::Member { seed: 1, wd: 0.0, wd_head: 0.0, momentum: 0.0 }];
    let setup = crate::trainer::Setup {
        method: &method,
        head: sweeps::recipe::HeadInit::Vpt,
        setr: None,
        classes: 2,
        image_size: 12,
        rule: crate::trainer::Rule::Sgd,
        members: &member,
        kept: None,
    };
    let ensemble = crate::trainer::Ensemble::new(&vit, &setup);
    let features = ensemble.forward(&vit, images.shallow_clone(), noise).0;
    assert_close(&features, &features.get(0).unsqueeze(0).expand_as(&features));
    assert_differ(&ensemble.forward(&vit, images, None).0, &features);
}

#[test]
fn a_frame_of_the_images_own_border_is_a_larger_image() {
    // One patch of padding on each side, of one colour, against the image that was framed by hand.
    let vit = crate::backbone::tiny::backbone(crate::backbone::tiny::arch(), Kind::Double);
    let (images, _) = crate::backbone::tiny::batch(12, 3, 2, Kind::Double);
    let framed = features(&at(Location::Pad, 4), |params| {
        set(params, "prompt.tb", 0.485);
        set(params, "prompt.lr", 0.485);
    });
    let mean = Tensor::from_slice(&[0.485f32, 0.456, 0.406]).reshape([1, 3, 1, 1]);
    let std = Tensor::from_slice(&[0.229f32, 0.224, 0.225]).reshape([1, 3, 1, 1]);
    let colour = ((Tensor::from(0.485) - mean) / std).to_kind(Kind::Double);
    let large = colour.expand([3, 3, 20, 20], false).contiguous();
    large.narrow(2, 4, 12).narrow(3, 4, 12).copy_(&images);
    let x = vit.blocks(vit.embed(&large), 0..4, &Linear::new(vit.arch()), Step::evaluation(1));
    let off = (vit.pool(&x) - framed).abs().max().double_value(&[]);
    assert!(off < 1e-5, "off by {off}"); // the colour is a float32
}

#[test]
fn an_identity_projects_prompts_onto_themselves() {
    let project = Method::Vpt(Vpt { project: Some(12), ..Vpt::shallow(3) });
    let projected = features(&project, |params| {
        copy(params, "prompt_proj.weight", &Tensor::eye(12, (Kind::Double, tch::Device::Cpu)));
        set(params, "prompt_proj.bias", 0.0);
    });
    assert_close(&projected, &features(&shallow(3, 0), |_| ()));
    assert_differ(&features(&project, |_| ()), &projected);
}

#[test]
fn shared_prompts_are_equal_deep_prompts() {
    let shared = Some(Deep { shared: true, ..Deep::default() });
    let shared = Method::Vpt(Vpt { deep: shared, ..Vpt::shallow(3) });
    let prompts = start(&shared, "prompt"); // [1, 1, P, D]
    let equal = features(&deep(3, 0, None), |p| copy(p, "prompt", &prompts));
    assert_close(&features(&shared, |_| ()), &equal);
}

#[test]
fn slots_that_are_taken_out_behind_the_last_block_change_nothing() {
    let noexpand = |prompted_blocks| {
        let deep = Some(Deep { prompted_blocks, noexpand: true, ..Deep::default() });
        Method::Vpt(Vpt { deep, ..Vpt::shallow(3) })
    };
    assert_close(&features(&noexpand(None), |_| ()), &features(&deep(3, 0, None), |_| ()));
    assert_differ(&features(&noexpand(Some(2)), |_| ()), &features(&deep(3, 0, Some(2)), |_| ()));
}

#[test]
fn no_key_value_prompts_and_full_masks_are_deep_prompts() {
    let prompts = features(&deep(3, 0, None), |_| ());
    for fidelity in [Fidelity::Paper, Fidelity::Code] {
        let none = Method::E2vpt(E2vpt { fidelity, ..e2vpt(0) });
        assert_close(&features(&none, |_| ()), &prompts);
    }
    let some = features(&Method::E2vpt(e2vpt(2)), |_| ());
    assert_differ(&some, &prompts);
    let after = Method::E2vpt(E2vpt { kv_position: KvPosition::After, ..e2vpt(2) });
    assert_close(&features(&after, |_| ()), &some);
    let key = start(&Method::E2vpt(e2vpt(2)), "kv_prompt");
    let apart = features(&Method::E2vpt(E2vpt { kv_share: false, ..e2vpt(2) }), |params| {
        copy(params, "kv_prompt.k", &key);
        copy(params, "kv_prompt.v", &key);
    });
    assert_close(&apart, &some);
}

#[test]
fn one_prompt_is_attended_to_wherever_the_query_stands() {
    // With one key the softmax is 1, so the cross-attention does not depend on x.
    let one = |insertion| features(&cvpt(1, insertion), |_| ());
    assert_close(&one(CrossInsertion::Parallel), &one(CrossInsertion::AfterAttention));
    assert_differ(&one(CrossInsertion::IntoMlp), &one(CrossInsertion::AfterMlp));
    let two = |insertion| features(&cvpt(2, insertion), |_| ());
    assert_differ(&two(CrossInsertion::Parallel), &two(CrossInsertion::AfterAttention));
}

#[test]
fn pruned_tokens_are_gone_or_are_zeros() {
    let vit = crate::backbone::tiny::backbone(crate::backbone::tiny::arch(), Kind::Double);
    let kept = Kept { tokens: vec![vec![0, 2]], segments: None };
    let prompt = start(&deep(3, 0, None), "prompt"); // [1, L, 3, D]
    let stay = prompt.index_select(2, &Tensor::from_slice(&[0i64, 2]));
    let pruned = |fidelity, prompts: &Tensor| {
        let method = Method::E2vpt(E2vpt { fidelity, ..e2vpt(0) });
        let built = build(&method, &vit, 12, &[1], Some(&kept));
        copy(&built.tuning.params(), "prompt", prompts);
        assert!(built.tuning.params().iter().all(|p| !p.name.ends_with("mask")), "masks are final");
        super::tests::run(&vit, &built, 1, None)
    };
    let gone = features(&deep(2, 0, None), |p| copy(p, "prompt", &stay));
    assert_close(&pruned(Fidelity::Paper, &stay), &gone);
    let mask = Tensor::from_slice(&[1.0, 0.0, 1.0]).reshape([1, 1, 3, 1]);
    let zeros = features(&deep(3, 0, None), |p| copy(p, "prompt", &(&prompt * &mask)));
    assert_close(&pruned(Fidelity::Code, &prompt), &zeros);
    assert_differ(&gone, &zeros);
}

#[test]
fn blocks_may_keep_different_numbers_of_prompts() {
    let vit = crate::backbone::tiny::backbone(crate::backbone::tiny::arch(), Kind::Double);
    let prompt = start(&deep(3, 0, None), "prompt"); // [1, L, 3, D]
    let keep = |tokens: Vec<Vec<i64>>| {
        let kept = Kept { tokens: tokens.clone(), segments: None };
        let built = build(&deep(3, 0, None), &vit, 12, &[1], Some(&kept));
        let rows: Vec<Tensor> = (0..)
            .zip(&tokens)
            .map(|(i, t)| {
                prompt.select(1, i).index_select(1, &Tensor::from_slice(t)) // [1, P_i, D]
            })
            .collect();
        let rows = Tensor::cat(&rows, 1);
        let value = &built.tuning.params()[0].value;
        tch::no_grad(|| value.shallow_clone().copy_(&rows.reshape(value.size())));
        (value.size(), super::tests::run(&vit, &built, 1, None))
    };
    let (shape, all) = keep(vec![vec![0, 1, 2]; 4]);
    assert_eq!(shape, [1, 4, 3, 12]);
    assert_close(&all, &features(&deep(3, 0, None), |_| ()));
    // What stands in the slots of the last block but one is replaced whatever its number.
    let (shape, ragged) = keep(vec![vec![0], vec![], vec![0, 2], vec![0, 1, 2]]);
    assert_eq!(shape, [1, 6, 12]);
    assert_differ(&ragged, &all);
    let (_, by_hand) = (shape, by_hand(&vit, &prompt, &[&[0], &[], &[0, 2], &[0, 1, 2]]));
    assert_close(&ragged, &by_hand);
}

/// Deep prompts of different numbers, written out.
fn by_hand(vit: &crate::backbone::Backbone, prompt: &Tensor, kept: &[&[i64]]) -> Tensor {
    let (images, _) = crate::backbone::tiny::batch(12, 3, 2, Kind::Double);
    let plain = Linear::new(vit.arch());
    let mut x = vit.embed(&images);
    let mut standing = 0;
    for (i, tokens) in kept.iter().enumerate() {
        let rows = prompt.get(0).get(i as i64).index_select(0, &Tensor::from_slice(tokens));
        let rows = rows.unsqueeze(0).expand([3, tokens.len() as i64, 12], false);
        let rest = x.narrow(1, 1 + standing, x.size()[1] - 1 - standing);
        x = Tensor::cat(&[x.narrow(1, 0, 1), rows, rest], 1);
        standing = tokens.len() as i64;
        x = vit.blocks(x, i..i + 1, &plain, Step::evaluation(1));
    }
    vit.pool(&x)
}

#[test]
fn stochastic_depth_is_for_training_and_spares_the_first_block() {
    let with = |drop_path, noise: Option<Noise<'_>>| {
        let method = Method::Spt(sweeps::recipe::Spt {
            deep: true,
            prompt_length: 2,
            init: sweeps::recipe::SptInit::Random,
            init_images: None,
            drop_path,
        });
        super::tests::features_for(&method, &[1], noise, |_| ())
    };
    let noise = Some(Noise { seeds: &[1], position: 0 });
    assert_close(&with(0.9, None), &with(0.0, None));
    assert_differ(&with(0.9, noise), &with(0.0, noise));

    let ones = Tensor::ones([4000, 3, 2], (Kind::Double, tch::Device::Cpu));
    let kept = Noise { seeds: &[1], position: 0 }.drop_path(&ones, 0.25, "a test");
    assert!((kept.mean(Kind::Double).double_value(&[]) - 1.0).abs() < 0.05);
    let whole = kept.reshape([4000, 6]);
    assert!(
        whole.amax([1].as_slice(), false).equal(&whole.amin([1].as_slice(), false)),
        "a sample is dropped whole"
    );
}
