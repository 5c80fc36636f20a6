//! Visual Prompt Tuning on Swin transformers (Jia et al., ECCV 2022, and their code).
//!
//! Prompts stand in front of the patches, there being no class token: shallow ones enter one block and evolve, deep ones
//! take the slots at the entrance of each prompted block. A stage has its own width, thus its own tensor. Every tensor
//! starts from the same U(−v, v), v = √(6 / (3p² + D₀)), with the patch side p and the width D₀ of the first stage.
//!
//! Dropout follows the code: the first prompts draw a mask per sample, those of later blocks one for all samples.

use std::ops::Range;

use tch::Tensor;

use super::{Entry, Init, Noise, Param, Step, Tuning, per_sample};
use crate::swin::{Arch, Order};

#[derive(Debug)]
pub(super) struct SwinVpt {
    /// `prompt.stageS` `[K, n, P, C]` for every stage with prompted blocks.
    prompts: Vec<Param>,
    /// For each prompted block, from `first` on: which of `prompts`, and the index in it.
    blocks: Vec<(usize, i64)>,
    first: usize,
    dropout: f64,
    order: Order,
}

impl SwinVpt {
    /// `length` prompts for each block of `blocks`, shallow being one block.
    pub(super) fn new(
        arch: &Arch,
        length: u32,
        blocks: Range<usize>,
        dropout: f64,
        order: Order,
        init: &Init<'_>,
    ) -> SwinVpt {
        let first = blocks.start;
        let stages: Vec<usize> = blocks.map(|layer| arch.locate(layer).0).collect();
        let v = (6.0 / f64::from(3 * arch.patch_size * arch.patch_size + arch.dim)).sqrt();
        let (mut prompts, mut places) = (Vec::new(), Vec::new());
        for stage in 0..arch.stages.len() {
            let count = stages.iter().filter(|s| **s == stage).count() as i64;
            if count == 0 {
                continue;
            }
            let shape = [count, i64::from(length), i64::from(arch.width(stage))];
            let name = format!("prompt.stage{stage}");
            places.extend((0..count).map(|i| (prompts.len(), i)));
            let value = init.uniform(&name, (-v, v), &shape);
            prompts.push(Param::new(name, value));
        }
        SwinVpt { prompts, blocks: places, first, dropout, order }
    }

    fn dropped(&self, p: &Tensor, layer: usize, noise: Option<Noise<'_>>) -> Tensor {
        match noise {
            Some(noise) if self.dropout > 0.0 => noise.dropout(p, self.dropout, &format!("dropout {layer}")),
            _ => p.shallow_clone(),
        }
    }
}

impl Tuning for SwinVpt {
    fn params(&self) -> Vec<Param> {
        self.prompts.iter().map(Param::share).collect()
    }

    fn entry(&self) -> Entry {
        Entry::Block(self.first)
    }

    fn slots(&self, layer: usize, samples: i64, step: Step<'_>) -> Option<Tensor> {
        let &(tensor, i) = self.blocks.get(layer.checked_sub(self.first)?)?;
        let p = self.prompts[tensor].value.select(1, i); // [K, P, C]
        let batch = samples / step.members;
        Some(if layer == self.first {
            self.dropped(&per_sample(&p, batch), layer, step.noise)
        } else {
            per_sample(&self.dropped(&p, layer, step.noise), batch)
        })
    }

    fn window_order(&self) -> Order {
        self.order
    }
}
