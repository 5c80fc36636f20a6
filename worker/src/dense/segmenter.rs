//! One tuned ViT with its heads: the update step and the forward pass.

use sweeps::recipe::Method;
use tch::{Reduction, Tensor};

use super::IGNORED;
use super::head::{Head, HeadShape};
use crate::backbone::Backbone;
use crate::trainer::{Member, Optimizer, Rule};
use crate::tuning::{self, Built, Entry, Noise, Param, Step};
use crate::vit;

/// Of an auxiliary head's loss; the main head's counts 1.
pub const AUXILIARY_WEIGHT: f64 = 0.4;

/// What a segmenter is made from, the backbone aside.
#[derive(Debug, Clone, Copy)]
pub struct Making<'a> {
    pub method: &'a Method,
    pub classes: i64,
    /// Side of the crops in pixels.
    pub side: i64,
    /// Of the heads' convolutions.
    pub channels: i64,
    /// Factor of the heads' learning rate.
    pub head_rate: f64,
    pub rule: Rule,
    pub member: Member,
}

#[derive(Debug)]
pub struct Segmenter {
    built: Built,
    /// Behind which blocks the auxiliary heads stand, ascending.
    taps: Vec<usize>,
    /// Those of the taps, then the one on the last block.
    heads: Vec<Head>,
    optimizer: Optimizer,
    seed: i64,
    depth: usize,
    patch: i64,
}

impl Segmenter {
    pub fn new(backbone: &Backbone, arch: &vit::Arch, making: &Making<'_>) -> Segmenter {
        let (seed, depth) = (making.member.seed, arch.depth as usize);
        let built = tuning::build(making.method, backbone, making.side, &[seed], None);
        // Blocks 5 and 9 of twelve, as Gated Prompt Tuning has them.
        let taps = vec![depth * 5 / 12, depth * 9 / 12];
        let options = {
            let table = backbone.tensor("pos_embed");
            (table.kind(), table.device())
        };
        let head = |name: &str, shape| {
            let (dim, rate) = (i64::from(arch.dim), making.head_rate);
            Head::new(name, shape, dim, making.classes, rate, seed, options)
        };
        let auxiliary = HeadShape::auxiliary(making.channels);
        let mut heads: Vec<Head> =
            (0..taps.len()).map(|n| head(&format!("auxiliary.{n}"), auxiliary)).collect();
        heads.push(head("head", HeadShape::main(making.channels)));
        let promoted = built.promoted.iter().map(Param::share);
        let params = built.tuning.params().into_iter().chain(promoted);
        let params = params.chain(heads.iter().flat_map(Head::params)).collect();
        let optimizer = Optimizer::new(making.rule, params, &[making.member]);
        let patch = i64::from(arch.patch_size);
        Segmenter { built, taps, heads, optimizer, seed, depth, patch }
    }

    /// Everything that is optimised.
    pub fn params(&self) -> &[Param] {
        self.optimizer.params()
    }

    /// Numbers that are optimised.
    pub fn trainable(&self) -> i64 {
        self.params().iter().map(|param| param.value.numel() as i64).sum()
    }

    /// Images `[B, 3, S, S]`, normalised, to the patches `[B, N, D]` behind each tap and behind the last block.
    fn features(&self, backbone: &Backbone, images: &Tensor, noise: Option<Noise<'_>>) -> Vec<Tensor> {
        let tuning = self.built.tuning.as_ref();
        tuning.constrain();
        let mut replaced = tuning.weights(backbone);
        replaced.extend(self.built.promoted.iter().map(|p| (p.name.clone(), p.value.get(0))));
        let changed = (!replaced.is_empty()).then(|| backbone.with(replaced));
        let backbone = changed.as_ref().unwrap_or(backbone);
        let step = Step { members: 1, noise, drop_path: tuning.drop_path() };
        let mut x = match self.built.entry {
            Entry::Images => backbone.embed(&tuning.images(images.shallow_clone(), step)),
            Entry::Block(_) => backbone.embed(images),
        };
        let patches = (images.size()[2] / self.patch).pow(2);
        let (mut features, mut from) = (Vec::new(), 0);
        for until in self.taps.iter().map(|tap| tap + 1).chain([self.depth]) {
            x = backbone.blocks(x, from..until, tuning, step);
            // Patches come last, whatever prompts stand before them.
            features.push(x.narrow(1, x.size()[1] - patches, patches));
            from = until;
        }
        features
    }

    /// One step on images `[B, 3, S, S]` and labels `[B, S, S]`; the loss before it. As in mmsegmentation, it is the mean
    /// over all pixels, of which the ignored ones count 0, of the main head's cross entropy and [`AUXILIARY_WEIGHT`] of
    /// each auxiliary head's.
    pub fn train_step(&mut self, backbone: &Backbone, images: &Tensor, labels: &Tensor, lr: f64) -> Tensor {
        let seeds = [self.seed];
        let noise = Noise { seeds: &seeds, position: self.optimizer.steps() };
        let features = self.features(backbone, images, Some(noise));
        let last = self.heads.len() - 1;
        let losses = self.heads.iter().zip(&features).enumerate().map(|(n, (head, patches))| {
            let weight = if n == last { 1.0 } else { AUXILIARY_WEIGHT };
            loss(&head.forward(patches, true), labels) * weight
        });
        let total = losses.reduce(|a, b| a + b).expect("there is a head");
        self.optimizer.zero_grad();
        total.backward();
        self.optimizer.step(&[lr]);
        total.detach()
    }

    /// Logits `[B, C, S, S]` of the main head.
    pub fn logits(&self, backbone: &Backbone, images: &Tensor) -> Tensor {
        tch::no_grad(|| {
            let features = self.features(backbone, images, None);
            let logits = self.heads[self.heads.len() - 1].forward(&features[features.len() - 1], false);
            brought_to(&logits, [images.size()[2], images.size()[3]])
        })
    }
}

/// Cross entropy of logits `[B, C, h, w]` brought to the size of the labels `[B, H, W]`.
fn loss(logits: &Tensor, labels: &Tensor) -> Tensor {
    let logits = brought_to(logits, [labels.size()[1], labels.size()[2]]);
    logits.cross_entropy_loss(labels, None::<&Tensor>, Reduction::None, IGNORED, 0.0).mean(logits.kind())
}

fn brought_to(logits: &Tensor, size: [i64; 2]) -> Tensor {
    if logits.size()[2..] == size {
        return logits.shallow_clone();
    }
    logits.upsample_bilinear2d(size, false, None, None)
}
