//! From a recipe's method to its hooks and to the tensors of the backbone that it trains.

use sweeps::recipe::{self, AlsoTrain, Deep, Fidelity, Location, Method, Spt};

use super::adapter::Adapter;
use super::add::Add;
use super::below::Below;
use super::cvpt::Cvpt;
use super::e2vpt::E2vpt;
use super::gated::Gated;
use super::lora::Lora;
use super::pad::Pad;
use super::pixels::Pixels;
use super::promoted::Trained;
use super::sidetune::{AlexNet, Side, Sidetune};
use super::ssf::Ssf;
use super::swin::SwinVpt;
use super::vpt::Vpt;
use super::{Entry, Init, Kept, Linear, Param, Tuning};
use crate::backbone::{Arch, Backbone};
use crate::swin::Order;

/// A method, ready for a forward pass.
#[derive(Debug)]
pub struct Built {
    pub tuning: Box<dyn Tuning>,
    /// Tensors of the backbone that are trained, `[1, …]` under their timm names.
    pub promoted: Vec<Param>,
    /// Where the forward pass starts.
    pub entry: Entry,
}

/// Whether several members can be trained in one forward pass.
pub fn is_fusable(method: &Method) -> bool {
    let computes_weights = match method {
        Method::Vpt(vpt) => vpt.location == Location::Below,
        Method::Ssf => true,
        _ => false,
    };
    trained(method) == Trained::Nothing && !computes_weights
}

/// What of the backbone a method trains.
fn trained(method: &Method) -> Trained {
    match method {
        Method::Full { .. } => Trained::Everything,
        Method::PartialK { blocks, norm } => Trained::Last { blocks: *blocks, norm: *norm },
        Method::Bias { lr_factor } => Trained::Biases { lr_factor: *lr_factor },
        Method::Cls { reinit } => Trained::Cls { anew: *reinit },
        Method::Vpt(vpt) => match vpt.also_train {
            AlsoTrain::None => Trained::Nothing,
            AlsoTrain::Bias => Trained::Biases { lr_factor: vpt.bias_lr_factor },
            AlsoTrain::Cls => Trained::Cls { anew: false },
            AlsoTrain::ClsReinit => Trained::Cls { anew: true },
        },
        _ => Trained::Nothing,
    }
}

/// Builds a method for `seeds.len()` members, each initialised from its own seed, for images of `image_size` pixels.
/// `kept`: what pruning has left of the prompts.
pub fn build(
    method: &Method,
    backbone: &Backbone,
    image_size: i64,
    seeds: &[i64],
    kept: Option<&Kept>,
) -> Built {
    assert!(seeds.len() == 1 || is_fusable(method), "members of `{}` share the backbone", method.name());
    let trained = trained(method);
    let init = Init::new(seeds, backbone);
    let tuning = hooks(method, backbone, image_size, &init, kept);
    let entry = tuning.entry().min(trained.entry(backbone.arch()));
    Built { tuning, promoted: trained.leaves(backbone, seeds[0]), entry }
}

fn hooks(
    method: &Method,
    backbone: &Backbone,
    image_size: i64,
    init: &Init<'_>,
    kept: Option<&Kept>,
) -> Box<dyn Tuning> {
    match (method, backbone.arch()) {
        (Method::Full { dropout, drop_path }, arch) => {
            Box::new(Linear::new(arch).with_noise(*dropout, *drop_path))
        }
        (
            Method::Linear
            | Method::MlpK { .. }
            | Method::PartialK { .. }
            | Method::Bias { .. }
            | Method::Cls { .. },
            arch,
        ) => Box::new(Linear::new(arch)),
        (Method::Vpt(vpt), _) if vpt.location == Location::Pad => Box::new(Pad::new(vpt, image_size, init)),
        (Method::Vpt(vpt), _) if vpt.location == Location::Below => {
            Box::new(Below::new(vpt, backbone, image_size, init))
        }
        (Method::Vpt(vpt), Arch::Swin(arch)) => {
            let first = vpt.insertion_depth;
            let blocks = first as usize..(first + vpt.blocks(arch.depth())) as usize;
            Box::new(SwinVpt::new(
                arch,
                vpt.prompt_length,
                blocks,
                vpt.prompt_dropout,
                match vpt.fidelity {
                    Fidelity::Paper => Order::BatchMajor,
                    Fidelity::Code => Order::WindowMajor,
                },
                init,
            ))
        }
        (Method::Vpt(vpt), Arch::Vit(arch)) => match vpt.location {
            Location::PrependPixel => Box::new(Pixels::new(vpt, arch, backbone, init)),
            Location::Add | Location::Add1 => Box::new(Add::new(vpt, arch, image_size, init)),
            Location::Prepend | Location::Pad | Location::Below => Box::new(Vpt::new(vpt, arch, init, kept)),
        },
        (Method::E2vpt(e2vpt), Arch::Vit(arch)) => Box::new(E2vpt::new(e2vpt, arch, init, kept)),
        (
            Method::Gated { prompt_length, insertion_depth, prompt_dropout, gate_init, temperature },
            Arch::Vit(arch),
        ) => {
            let dim = i64::from(arch.dim);
            let prompt = init.prompt(arch.patch_size, dim, &[1, i64::from(*prompt_length), dim]);
            let first = *insertion_depth as usize;
            Box::new(Gated::new(prompt, first, *prompt_dropout, *gate_init, *temperature, arch, init))
        }
        (Method::Spt(spt), Arch::Vit(arch)) => {
            Box::new(Vpt::new(&as_vpt(spt), arch, init, kept).with_drop_path(spt.drop_path))
        }
        (Method::Cvpt(cvpt), Arch::Vit(arch)) => Box::new(Cvpt::new(cvpt, arch, init)),
        (Method::Adapter { reduction, fidelity }, Arch::Vit(arch)) => {
            Box::new(Adapter::new(*reduction, *fidelity, arch, init))
        }
        (Method::Lora { rank, alpha }, Arch::Vit(arch)) => Box::new(Lora::new(*rank, *alpha, arch, init)),
        (Method::Ssf, Arch::Vit(arch)) => Box::new(Ssf::new(arch, init)),
        (Method::Sidetune, arch) => {
            let width = AlexNet::width(image_size).unwrap_or(0);
            Box::new(Sidetune::new(Box::new(AlexNet::new(init)), width, arch, init))
        }
        (method, _) => unreachable!("`{}` got past Recipe::check_family", method.name()),
    }
}

/// Self-prompt tuning differs from VPT in how prompts start, which [`spt::prompts`](super::spt::prompts) makes.
fn as_vpt(spt: &Spt) -> recipe::Vpt {
    let deep = spt.deep.then(Deep::default);
    recipe::Vpt { deep, ..recipe::Vpt::shallow(spt.prompt_length) }
}

/// Side-tuning with another network of `width` features beside the backbone.
pub fn beside(side: Box<dyn Side>, width: i64, backbone: &Backbone, seeds: &[i64]) -> Built {
    let tuning = Box::new(Sidetune::new(side, width, backbone.arch(), &Init::new(seeds, backbone)));
    Built { entry: tuning.entry(), tuning, promoted: Vec::new() }
}
