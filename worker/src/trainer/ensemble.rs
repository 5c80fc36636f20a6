//! K members on one frozen backbone: the update step and the forward pass, nothing else.

use sweeps::recipe::{HeadInit, Method};
use tch::{Device, Kind, Reduction, Tensor};

use super::optim::{Optimizer, Rule};
use crate::backbone::{Arch, Backbone};
use crate::tuning::{self, Entry, Head, Noise, Param, Step, Tuning};

/// What may differ between members.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Member {
    pub seed: i64,
    /// Weight decay.
    pub wd: f64,
    /// Read by SGD alone.
    pub momentum: f64,
}

/// K members trained together. Their tensors, losses and updates never mix.
#[derive(Debug)]
pub struct Ensemble {
    tuning: Box<dyn Tuning>,
    head: Head,
    optimizer: Optimizer,
    seeds: Vec<i64>,
    depth: usize,
}

impl Ensemble {
    /// New members of one method, each initialised from its own seed.
    #[allow(
        clippy::too_many_arguments,
        reason = "each is a different kind of thing, and there are two callers"
    )]
    pub fn new(
        arch: &Arch,
        method: &Method,
        head: HeadInit,
        classes: i64,
        rule: Rule,
        members: &[Member],
        kind: Kind,
        device: Device,
    ) -> Ensemble {
        let seeds: Vec<i64> = members.iter().map(|m| m.seed).collect();
        let tuning = tuning::build(method, arch, &seeds, kind, device);
        let head = Head::new(head, classes, i64::from(arch.dim()), &seeds, kind, device);
        let params = tuning.params().into_iter().chain(head.params()).collect();
        let decay = members.iter().map(|m| m.wd).collect();
        let momentum = members.iter().map(|m| m.momentum).collect();
        let optimizer = Optimizer::new(rule, params, decay, momentum);
        Ensemble { tuning, head, optimizer, seeds, depth: arch.depth() as usize }
    }

    /// Everything that is optimised, counted and saved.
    pub fn params(&self) -> &[Param] {
        self.optimizer.params()
    }

    /// Tuned numbers of one member, the head's included.
    pub fn trainable(&self) -> i64 {
        self.params().iter().map(|p| p.value.numel() as i64 / self.seeds.len() as i64).sum()
    }

    /// Where the method touches the forward pass first: what comes before needs no gradient.
    pub fn entry(&self) -> Entry {
        self.tuning.entry()
    }

    pub fn optimizer(&self) -> &Optimizer {
        &self.optimizer
    }

    pub fn optimizer_mut(&mut self) -> &mut Optimizer {
        &mut self.optimizer
    }

    /// What enters at [`Ensemble::entry`] (for tokens `[K·B, T, D]`, for images `[K·B, 3, S, S]`) to features `[K·B, D]`
    /// and logits `[K, B, C]`.
    pub fn forward(&self, backbone: &Backbone, x: Tensor, noise: Option<Noise<'_>>) -> (Tensor, Tensor) {
        let tuning = self.tuning.as_ref();
        tuning.constrain();
        let promoted = tuning.promoted();
        let tuned = (!promoted.is_empty()).then(|| backbone.with(promoted));
        let backbone = tuned.as_ref().unwrap_or(backbone);
        let step = Step { members: self.seeds.len() as i64, noise };
        let (x, first) = match self.entry() {
            Entry::Images => (backbone.embed(&tuning.images(x, step)), 0),
            Entry::Block(first) => (x, first),
        };
        let x = backbone.blocks(x, first..self.depth, tuning, step);
        let z = tuning.feature(backbone.pool(&x));
        let logits = self.head.forward(&z);
        (z, logits)
    }

    /// One training step. `labels`: `[K, B]`; `lr`: one learning rate per member. Returns the mean cross entropy of
    /// each member, `[K]`, before the step. A loss that is not finite stays within its member.
    pub fn train_step(&mut self, backbone: &Backbone, x: Tensor, labels: &Tensor, lr: &[f64]) -> Tensor {
        let seeds = self.seeds.clone();
        let noise = Noise { seeds: &seeds, position: self.optimizer.steps() };
        let (_, logits) = self.forward(backbone, x, Some(noise));
        let losses = cross_entropy(&logits, labels);
        self.optimizer.zero_grad();
        losses.sum(losses.kind()).backward();
        self.optimizer.step(lr);
        losses.detach()
    }

    /// Logits `[K, B, C]` of `B` samples shared by all members. `x`: what enters for one of them, `[B, …]`.
    pub fn evaluate(&self, backbone: &Backbone, x: &Tensor) -> Tensor {
        tch::no_grad(|| self.forward(backbone, repeated(x, self.seeds.len() as i64), None).1)
    }
}

/// The same samples for each of `members` members: `[B, …]` → `[K·B, …]`.
fn repeated(x: &Tensor, members: i64) -> Tensor {
    let mut repeats = vec![1; x.dim()];
    repeats[0] = members;
    x.repeat(repeats)
}

/// Mean cross entropy per member: logits `[K, B, C]`, labels `[K, B]` → `[K]`.
pub fn cross_entropy(logits: &Tensor, labels: &Tensor) -> Tensor {
    let (members, batch, classes) = logits.size3().expect("logits have three axes");
    logits
        .reshape([-1, classes])
        .cross_entropy_loss(&labels.reshape([-1]), None::<&Tensor>, Reduction::None, -100, 0.0)
        .reshape([members, batch])
        .mean_dim(1, false, None)
}

#[cfg(test)]
#[path = "ensemble_tests.rs"]
mod tests;
