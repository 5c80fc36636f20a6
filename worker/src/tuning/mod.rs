//! Methods of visual prompt tuning, one file per method beside its equation, over the hook sites of a frozen backbone.
//!
//! Every tuned tensor has a leading axis K of *members*: trials that are trained together on one backbone. The batch of
//! a step is `[K·B, …]`, members first. Nothing here mixes members.

mod gated;
mod head;
mod linear;
mod noise;
mod swin;
mod vpt;

use sweeps::recipe::Method;
use tch::{Device, Kind, Tensor};

use crate::backbone::Arch;
use crate::swin::Order;
use crate::vit;

pub use head::Head;
pub use linear::Linear;
pub use noise::{Noise, seeded, stream};

/// A tensor that is optimised, counted and saved.
#[derive(Debug)]
pub struct Param {
    /// Canonical name: `prompt`, `gate_logit`, `temperature`, `head.weight`, `head.bias`.
    pub name: &'static str,
    /// `[K, …]`, a leaf that requires gradients.
    pub value: Tensor,
    /// Whether weight decay applies to it.
    pub decay: bool,
}

impl Param {
    fn new(name: &'static str, value: Tensor, decay: bool) -> Param {
        Param { name, value: value.set_requires_grad(true), decay }
    }

    /// The same leaf under a second handle.
    fn share(&self) -> Param {
        Param { name: self.name, value: self.value.shallow_clone(), decay: self.decay }
    }
}

/// One forward pass.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// K.
    pub members: i64,
    /// Where dropout draws from; `None` in evaluation.
    pub noise: Option<Noise<'a>>,
}

impl<'a> Step<'a> {
    pub fn evaluation(members: i64) -> Step<'a> {
        Step { members, noise: None }
    }

    pub fn at(self, layer: usize) -> Site<'a> {
        Site { layer, step: self }
    }
}

/// A block in a forward pass.
#[derive(Debug, Clone, Copy)]
pub struct Site<'a> {
    pub layer: usize,
    pub step: Step<'a>,
}

/// Where a method touches the forward pass first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// Before the images are embedded.
    Images,
    /// At the entrance of a block; the number of blocks stands for the head.
    Block(usize),
}

/// What a method does to the backbone. Every hook defaults to the identity, so that a method with no hook is the plain
/// ViT. Tokens are `[K·B, T, D]`; their order is `[CLS, prompts, patches]`.
pub trait Tuning: std::fmt::Debug {
    /// The method's tensors, the head's excepted.
    fn params(&self) -> Vec<Param>;

    /// Where the forward pass is touched first. What comes before depends on the image alone and needs no gradient.
    fn entry(&self) -> Entry;

    /// Tensors of the backbone that the method trains: their names in the checkpoint and their values now, without
    /// member axis. Only for methods that run with one member.
    fn promoted(&self) -> Vec<(String, Tensor)> {
        Vec::new()
    }

    /// Brings parameters back into their domain, in place; called at the start of every forward pass.
    fn constrain(&self) {}

    /// Normalised images `[K·B, 3, S, S]` before they are embedded. Asked for only where the entry is [`Entry::Images`].
    fn images(&self, images: Tensor, _step: Step<'_>) -> Tensor {
        images
    }

    /// Swin only: prompts `[K·B, P, C]` that take the slots at the entrance of block `layer`, for `samples` = K·B; `None`
    /// leaves the slots as they are.
    fn slots(&self, _layer: usize, _samples: i64, _step: Step<'_>) -> Option<Tensor> {
        None
    }

    /// Swin only: which windows get whose prompts.
    fn window_order(&self) -> Order {
        Order::BatchMajor
    }

    /// The sequence that enters block `at.layer`.
    fn tokens(&self, x: Tensor, _at: Site<'_>) -> Tensor {
        x
    }

    /// Attention of block `at.layer` on queries, keys and values `[K·B, H, T, d]`; returns `[K·B, H, T, d]`.
    fn attention(&self, q: &Tensor, k: &Tensor, v: &Tensor, _at: Site<'_>) -> Tensor {
        attention(q, k, v)
    }

    /// The MLP's output before it is added to the residual stream.
    fn mlp(&self, h: Tensor, _at: Site<'_>) -> Tensor {
        h
    }

    /// What block `at.layer` hands on, given what entered it (after [`Tuning::tokens`]) and what it computed.
    fn boundary(&self, _entered: &Tensor, computed: Tensor, _at: Site<'_>) -> Tensor {
        computed
    }

    /// The head's input `[K·B, D]`, after pooling.
    fn feature(&self, z: Tensor) -> Tensor {
        z
    }
}

/// Builds a method for `seeds.len()` members, each initialised from its own seed.
pub fn build(method: &Method, arch: &Arch, seeds: &[i64], kind: Kind, device: Device) -> Box<dyn Tuning> {
    let init = Init { seeds, kind, device };
    match (method.clone(), arch) {
        (Method::Linear, _) => Box::new(Linear::new(arch)),
        (Method::VptShallow { prompt_length, insertion_depth, prompt_dropout }, Arch::Vit(arch)) => Box::new(
            vpt::Vpt::new(init.prompt(arch, 1, prompt_length), insertion_depth as usize, prompt_dropout),
        ),
        (
            Method::VptDeep { prompt_length, insertion_depth, prompted_blocks, prompt_dropout },
            Arch::Vit(arch),
        ) => {
            let first = insertion_depth as usize;
            let blocks = prompted_blocks.map_or(arch.depth as usize - first, |n| n as usize);
            Box::new(vpt::Vpt::new(init.prompt(arch, blocks, prompt_length), first, prompt_dropout))
        }
        (
            Method::Gated { prompt_length, insertion_depth, prompt_dropout, gate_init, temperature },
            Arch::Vit(arch),
        ) => {
            let prompt = init.prompt(arch, 1, prompt_length);
            let first = insertion_depth as usize;
            Box::new(gated::Gated::new(prompt, first, prompt_dropout, gate_init, temperature, arch, &init))
        }
        (Method::VptShallow { prompt_length, insertion_depth, prompt_dropout }, Arch::Swin(arch)) => {
            let blocks = insertion_depth as usize..insertion_depth as usize + 1;
            Box::new(swin::SwinVpt::new(
                arch,
                prompt_length,
                blocks,
                prompt_dropout,
                Order::BatchMajor,
                &init,
            ))
        }
        (
            Method::VptDeep { prompt_length, insertion_depth, prompted_blocks, prompt_dropout },
            Arch::Swin(arch),
        ) => {
            let last = prompted_blocks.map_or(arch.depth(), |n| insertion_depth + n);
            let blocks = insertion_depth as usize..last as usize;
            Box::new(swin::SwinVpt::new(
                arch,
                prompt_length,
                blocks,
                prompt_dropout,
                Order::BatchMajor,
                &init,
            ))
        }
        (method, _) => unreachable!("`{}` got past Recipe::check_family", method.name()),
    }
}

/// How tensors of a new run are made.
#[derive(Debug)]
struct Init<'a> {
    seeds: &'a [i64],
    kind: Kind,
    device: Device,
}

impl Init<'_> {
    /// Stacks one tensor per member, drawn on the CPU so that every device starts alike: `[K, …]`.
    fn members(&self, purpose: &str, draw: impl Fn() -> Tensor) -> Tensor {
        let drawn: Vec<Tensor> =
            self.seeds.iter().map(|&seed| seeded(stream(seed, purpose, 0), &draw)).collect();
        Tensor::stack(&drawn, 0).to_kind(self.kind).to_device(self.device)
    }

    /// The same value for every member.
    fn constant(&self, value: f64, shape: &[i64]) -> Tensor {
        let shape = [&[self.seeds.len() as i64], shape].concat();
        Tensor::full(shape, value, (self.kind, self.device))
    }

    /// Prompts `[K, n, P, D]` ~ U(−v, v), v = √(6 / (3p² + D)) with patch side p (VPT, section 3.2 and its code).
    fn prompt(&self, arch: &vit::Arch, blocks: usize, length: u32) -> Tensor {
        let v = (6.0 / f64::from(3 * arch.patch_size * arch.patch_size + arch.dim)).sqrt();
        let shape = [blocks as i64, i64::from(length), i64::from(arch.dim)];
        self.members("prompt", || Tensor::empty(shape, (Kind::Float, Device::Cpu)).uniform_(-v, v))
    }
}

/// softmax(q kᵀ/√d) v by libtorch's fused kernel.
fn attention(q: &Tensor, k: &Tensor, v: &Tensor) -> Tensor {
    Tensor::scaled_dot_product_attention(q, k, v, None::<&Tensor>, 0.0, false, None, false)
}

/// Inserts prompts `[K·B, P, D]` behind CLS; `replaced` slots that stand there already are dropped.
fn insert(x: &Tensor, prompts: &Tensor, replaced: i64) -> Tensor {
    let rest = 1 + replaced;
    Tensor::cat(&[x.narrow(1, 0, 1), prompts.shallow_clone(), x.narrow(1, rest, x.size()[1] - rest)], 1)
}

/// Repeats a per-member tensor `[K, …]` for each of the member's samples: `[K·B, …]`.
fn per_sample(value: &Tensor, batch: i64) -> Tensor {
    let size = value.size();
    let (members, rest) = (size[0], &size[1..]);
    let expanded = [&[members, batch], rest].concat();
    let joined = [&[members * batch], rest].concat();
    value.unsqueeze(1).expand(expanded, false).reshape(joined)
}

#[cfg(test)]
mod tests;
