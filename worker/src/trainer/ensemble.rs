//! K members on one frozen backbone: the update step and the forward pass, nothing else.

use sweeps::recipe::{HeadInit, Method, Setr};
use tch::{Reduction, Tensor};

use super::optim::{Member, Optimizer, Rule};
use crate::backbone::Backbone;
use crate::dense::Heads;
use crate::tuning::{self, Built, Entry, Head, Kept, Noise, Param, Step, Tuning};

/// What an ensemble is made from, the backbone aside.
#[derive(Debug, Clone, Copy)]
pub struct Setup<'a> {
    pub method: &'a Method,
    pub head: HeadInit,
    /// Heads that label every pixel, in the place of one that labels images.
    pub setr: Option<&'a Setr>,
    pub classes: i64,
    /// Side of the images in pixels.
    pub image_size: i64,
    pub rule: Rule,
    pub members: &'a [Member],
    /// What pruning has left of the prompts.
    pub kept: Option<&'a Kept>,
}

/// K members trained together. Their tensors, losses and updates never mix.
#[derive(Debug)]
pub struct Ensemble {
    tuning: Box<dyn Tuning>,
    /// Tensors of the backbone that are trained, `[1, …]`.
    promoted: Vec<Param>,
    entry: Entry,
    top: Top,
    optimizer: Optimizer,
    seeds: Vec<i64>,
}

/// What stands on the backbone.
#[derive(Debug)]
enum Top {
    /// A label for an image, from the pooled feature.
    Image(Head),
    /// A label for every pixel, from the tokens of blocks. There is one member.
    Pixels(Heads),
}

impl Top {
    fn new(setup: &Setup<'_>, backbone: &Backbone, seeds: &[i64]) -> Top {
        match (setup.setr, backbone.vit()) {
            (Some(setr), Some(vit)) => {
                assert!(seeds.len() == 1, "members of a segmentation share their heads");
                Top::Pixels(Heads::new(setr, vit.arch(), setup.classes, seeds[0], backbone.options()))
            }
            _ => Top::Image(Head::new(setup.head, setup.method, setup.classes, backbone, seeds)),
        }
    }

    fn params(&self) -> Vec<Param> {
        match self {
            Top::Image(head) => head.params(),
            Top::Pixels(heads) => heads.params(),
        }
    }

    fn buffers(&self) -> Vec<Param> {
        match self {
            Top::Image(head) => head.buffers(),
            Top::Pixels(heads) => heads.buffers(),
        }
    }
}

impl Ensemble {
    /// New members of one method, each initialised from its own seed.
    pub fn new(backbone: &Backbone, setup: &Setup<'_>) -> Ensemble {
        let seeds: Vec<i64> = setup.members.iter().map(|m| m.seed).collect();
        Ensemble::with(
            tuning::build(setup.method, backbone, setup.image_size, &seeds, setup.kept),
            backbone,
            setup,
        )
    }

    /// As [`Ensemble::new`], with a method that is built already.
    pub fn with(built: Built, backbone: &Backbone, setup: &Setup<'_>) -> Ensemble {
        let seeds: Vec<i64> = setup.members.iter().map(|m| m.seed).collect();
        let top = Top::new(setup, backbone, &seeds);
        let promoted = built.promoted.iter().map(Param::share);
        let params = built.tuning.params().into_iter().chain(promoted).chain(top.params()).collect();
        let optimizer = Optimizer::new(setup.rule, params, setup.members);
        // Heads stand on blocks that the method may not touch.
        let entry = if matches!(top, Top::Pixels(_)) { Entry::Images } else { built.entry };
        Ensemble { tuning: built.tuning, promoted: built.promoted, entry, top, optimizer, seeds }
    }

    /// Sets what starts from training images, of which there are `train`. `images` gives them by index, normalised;
    /// `labels`: their classes `[N]`, where images have one.
    pub fn prepare(
        &self,
        backbone: &Backbone,
        setup: &Setup<'_>,
        train: i64,
        labels: Option<&Tensor>,
        images: &dyn Fn(&[i64]) -> Tensor,
    ) {
        let start = |&seed: &i64| match setup.method {
            Method::Spt(spt) => {
                Some(tuning::spt::prompts(spt, backbone, setup.image_size, train, seed, images))
            }
            Method::Vpt(vpt) if vpt.init.is_of_classes() => {
                Some(tuning::classes::prompts(vpt, backbone, labels?, images))
            }
            _ => None,
        };
        let Some(prompts) = self.seeds.iter().map(start).collect::<Option<Vec<Tensor>>>() else { return };
        if let Some(prompt) = self.saved().iter().find(|param| param.name == "prompt") {
            tch::no_grad(|| prompt.value.shallow_clone().copy_(&Tensor::stack(&prompts, 0)));
        }
    }

    /// Everything that is optimised, counted and saved.
    pub fn params(&self) -> &[Param] {
        self.optimizer.params()
    }

    /// What is saved beside them: frozen masks, running statistics of the head.
    pub fn buffers(&self) -> Vec<Param> {
        self.tuning.buffers().into_iter().chain(self.top.buffers()).collect()
    }

    /// Both: everything that a run is continued or used from.
    pub fn saved(&self) -> Vec<Param> {
        self.params().iter().map(Param::share).chain(self.buffers()).collect()
    }

    /// Factors on prompts whose gradients say what can be pruned; none for most methods.
    pub fn masks(&self) -> Vec<Param> {
        self.tuning.masks()
    }

    /// Tuned numbers of one member, the head's included.
    pub fn trainable(&self) -> i64 {
        self.params().iter().map(|p| p.value.numel() as i64 / self.seeds.len() as i64).sum()
    }

    /// Numbers of the backbone and of all that is tuned; tensors of the backbone that are trained count once.
    pub fn total(&self, backbone: &Backbone) -> i64 {
        let frozen = backbone.arch().parameters() as i64;
        let own = self.tuning.weights(backbone).into_iter().map(|(name, _)| name);
        let mut replaced: Vec<String> = self.promoted.iter().map(|param| param.name.clone()).collect();
        replaced.extend(own.filter(|name| self.params().iter().any(|param| param.name == *name)));
        let replaced: i64 = replaced.iter().map(|name| backbone.tensor(name).numel() as i64).sum();
        frozen - replaced + self.trainable()
    }

    /// Where the forward pass starts: what comes before it needs no gradient.
    pub fn entry(&self) -> Entry {
        self.entry
    }

    pub fn optimizer(&self) -> &Optimizer {
        &self.optimizer
    }

    pub fn optimizer_mut(&mut self) -> &mut Optimizer {
        &mut self.optimizer
    }

    /// Images or tokens `[K·B, …]`, as [`Ensemble::entry`] says, to features `[K·B, D]` and logits `[K, B, C]`.
    ///
    /// # Panics
    /// Where pixels are labelled.
    pub fn forward(&self, backbone: &Backbone, x: Tensor, noise: Option<Noise<'_>>) -> (Tensor, Tensor) {
        let Top::Image(head) = &self.top else { panic!("there is no feature of an image") };
        let (step, tuning) = (self.step(noise), self.tuning.as_ref());
        let changed = self.changed(backbone);
        let backbone = changed.as_ref().unwrap_or(backbone);
        let images = (self.entry == Entry::Images).then(|| x.shallow_clone());
        let x = self.through(backbone, x, step, &[]).remove(0);
        let z = tuning.feature(tuning.pool(backbone, &x), images.as_ref(), step);
        let logits = head.forward(&z, step);
        (z, logits)
    }

    fn step<'n>(&self, noise: Option<Noise<'n>>) -> Step<'n> {
        let (dropout, drop_path) = (self.tuning.dropout(), self.tuning.drop_path());
        Step { members: self.seeds.len() as i64, noise, dropout, drop_path }
    }

    /// What the blocks `taps` hand on, and what the last one does.
    fn through(&self, backbone: &Backbone, x: Tensor, step: Step<'_>, taps: &[usize]) -> Vec<Tensor> {
        let tuning = self.tuning.as_ref();
        let (mut x, mut from) = match self.entry {
            Entry::Block(first) => (x, first),
            Entry::Images => {
                let tokens = backbone.embed(&tuning.images(x, step));
                (step.dropped(tokens, "dropout embedding"), 0)
            }
        };
        let depth = backbone.arch().depth() as usize;
        let mut handed = Vec::with_capacity(taps.len() + 1);
        for until in taps.iter().map(|tap| tap + 1).chain([depth]) {
            x = backbone.blocks(x, from..until, tuning, step);
            handed.push(x.shallow_clone());
            from = until;
        }
        handed
    }

    /// [`Ensemble::through`] of images, where pixels are labelled.
    fn tokens(
        &self,
        backbone: &Backbone,
        x: Tensor,
        noise: Option<Noise<'_>>,
        taps: &[usize],
    ) -> Vec<Tensor> {
        let changed = self.changed(backbone);
        self.through(changed.as_ref().unwrap_or(backbone), x, self.step(noise), taps)
    }

    /// Each member's loss, `[K]`. `labels`: `[K, B]`, or `[1, B, S, S]` where pixels are labelled.
    fn losses(&self, backbone: &Backbone, x: Tensor, labels: &Tensor, noise: Option<Noise<'_>>) -> Tensor {
        match &self.top {
            Top::Image(_) => cross_entropy(&self.forward(backbone, x, noise).1, labels),
            Top::Pixels(heads) => {
                let tokens = self.tokens(backbone, x, noise, heads.blocks());
                heads.loss(&tokens, &labels.get(0), noise.is_some()).unsqueeze(0)
            }
        }
    }

    /// The backbone with the method's tensors in it, all brought into their domain; `None` if it is left as it is.
    fn changed(&self, backbone: &Backbone) -> Option<Backbone> {
        self.tuning.constrain();
        let mut replaced = self.tuning.weights(backbone);
        replaced.extend(self.promoted.iter().map(|param| (param.name.clone(), param.value.get(0))));
        (!replaced.is_empty()).then(|| backbone.with(replaced))
    }

    /// Gradients of each member's loss on a batch, without dropout and without a step: they are left in the parameters, in
    /// the place of older ones. `labels` as for [`Ensemble::train_step`].
    pub fn backward(&mut self, backbone: &Backbone, x: Tensor, labels: &Tensor) {
        let losses = self.losses(backbone, x, labels, None);
        self.optimizer.zero_grad();
        losses.sum(losses.kind()).backward();
    }

    /// One training step. `labels`: `[K, B]`, or `[1, B, S, S]` where pixels are labelled; `lr`: one learning rate per
    /// member. Returns the loss of each member, `[K]`, before the step: the mean cross entropy, or what [`Heads::loss`] says.
    /// One that is not finite stays within its member.
    pub fn train_step(&mut self, backbone: &Backbone, x: Tensor, labels: &Tensor, lr: &[f64]) -> Tensor {
        let seeds = self.seeds.clone();
        let noise = Noise { seeds: &seeds, position: self.optimizer.steps() };
        let losses = self.losses(backbone, x, labels, Some(noise));
        self.optimizer.zero_grad();
        losses.sum(losses.kind()).backward();
        self.optimizer.step(lr);
        losses.detach()
    }

    /// Logits of `B` samples shared by all members, `[K, B, C]`, or `[1, B, C, S, S]` where pixels are labelled. `x`: `[B, …]`,
    /// as [`Ensemble::entry`] says.
    pub fn evaluate(&self, backbone: &Backbone, x: &Tensor) -> Tensor {
        let mut repeats = vec![1; x.dim()];
        repeats[0] = self.seeds.len() as i64;
        tch::no_grad(|| match &self.top {
            Top::Image(_) => self.forward(backbone, x.repeat(repeats), None).1,
            Top::Pixels(heads) => {
                let tokens = self.tokens(backbone, x.shallow_clone(), None, &[]);
                heads.logits(&tokens[0], x.size()[3]).unsqueeze(0)
            }
        })
    }
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
