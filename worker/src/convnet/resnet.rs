//! ResNet of torchvision (He et al., 2016; the stride of a bottleneck lies on its 3×3 convolution).

use std::ops::Range;

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::layers::{BatchNorm, Conv, mean_places};
use crate::backbone::{ArchError, Place, TensorShape, Weights};

/// The shape of a ResNet. It takes images of any size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arch {
    pub block: BlockKind,
    /// Channels behind the first convolution.
    pub stem: u32,
    pub stages: Vec<Stage>,
    pub batch_norm_eps: f64,
}

/// Blocks of one width; every stage but the first halves the map.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    pub depth: u32,
    /// Channels inside a block; a bottleneck hands on four times as many.
    pub width: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockKind {
    /// Two 3×3 convolutions (ResNet-18, -34).
    Basic,
    /// 1×1, 3×3, 1×1 (ResNet-50 and deeper).
    Bottleneck,
}

impl BlockKind {
    /// Channels out, over channels inside.
    pub fn expansion(self) -> u32 {
        match self {
            BlockKind::Basic => 1,
            BlockKind::Bottleneck => 4,
        }
    }
}

/// A block as its place in the network makes it.
struct Site {
    stage: usize,
    index: u32,
    input: u32,
    width: u32,
    stride: i64,
}

impl Arch {
    pub fn check(&self) -> Result<(), ArchError> {
        let mut positive =
            vec![("stem", self.stem), ("stages", u32::try_from(self.stages.len()).unwrap_or(u32::MAX))];
        for stage in &self.stages {
            positive.extend([("depth", stage.depth), ("width", stage.width)]);
        }
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(ArchError::Zero(name));
        }
        if !(self.batch_norm_eps.is_finite() && self.batch_norm_eps > 0.0) {
            return Err(ArchError::BatchNormEps);
        }
        Ok(())
    }

    pub fn depth(&self) -> u32 {
        self.stages.iter().map(|stage| stage.depth).sum()
    }

    pub fn feature_dim(&self) -> u32 {
        self.stages.last().map_or(self.stem, |stage| stage.width * self.block.expansion())
    }

    fn sites(&self) -> impl Iterator<Item = Site> + '_ {
        let mut input = self.stem;
        self.stages
            .iter()
            .enumerate()
            .flat_map(move |(stage, shape)| (0..shape.depth).map(move |index| (stage, index, shape.width)))
            .map(move |(stage, index, width)| {
                let stride = if index == 0 && stage > 0 { 2 } else { 1 };
                let site = Site { stage, index, input, width, stride };
                input = width * self.block.expansion();
                site
            })
    }

    /// Numbers that enter a block for one image of `size` pixels; behind the last block only the mean counts.
    pub fn entering(&self, first: usize, size: i64) -> i64 {
        let Some(site) = self.sites().nth(first) else { return i64::from(self.feature_dim()) };
        let halved = 2 + self.sites().take(first).filter(|site| site.stride == 2).count();
        let side = (0..halved).fold(size, |side, _| (side + 1) / 2);
        i64::from(site.input) * side * side
    }

    /// Where a tensor is read.
    pub fn place(&self, name: &str) -> Place {
        let parts: Vec<&str> = name.split('.').collect();
        let stage = parts[0].strip_prefix("layer").and_then(|n| n.parse::<usize>().ok());
        match (stage, parts.get(1).and_then(|n| n.parse::<usize>().ok())) {
            (Some(stage), Some(index)) => {
                let before = self.stages.iter().take(stage.saturating_sub(1));
                Place::Block(before.map(|stage| stage.depth as usize).sum::<usize>() + index)
            }
            _ => Place::Embedding,
        }
    }

    /// Every tensor under torchvision's name, in the order of the forward pass.
    pub fn tensors(&self) -> Vec<TensorShape> {
        let mut all = Vec::new();
        let mut add = |name: String, shape: &[u32]| {
            let shape = shape.iter().map(|&n| n as usize).collect();
            all.push(TensorShape { name, shape });
        };
        let mut conv = |name: &str, norm: &str, shape: [u32; 4]| {
            add(format!("{name}.weight"), &shape);
            for part in ["weight", "bias", "running_mean", "running_var"] {
                add(format!("{norm}.{part}"), &shape[..1]);
            }
        };
        conv("conv1", "bn1", [self.stem, 3, 7, 7]);
        for Site { stage, index, input, width: w, stride } in self.sites() {
            let block = format!("layer{}.{index}", stage + 1);
            let out = w * self.block.expansion();
            let shapes = match self.block {
                BlockKind::Basic => vec![[w, input, 3, 3], [w, w, 3, 3]],
                BlockKind::Bottleneck => vec![[w, input, 1, 1], [w, w, 3, 3], [out, w, 1, 1]],
            };
            for (k, shape) in shapes.into_iter().enumerate() {
                conv(&format!("{block}.conv{}", k + 1), &format!("{block}.bn{}", k + 1), shape);
            }
            if stride != 1 || input != out {
                let down = format!("{block}.downsample");
                conv(&format!("{down}.0"), &format!("{down}.1"), [out, input, 1, 1]);
            }
        }
        all
    }
}

/// A frozen ResNet.
#[derive(Debug)]
pub struct Resnet {
    stem: (Conv, BatchNorm),
    blocks: Vec<Block>,
}

/// `y = relu(x + f(x))`, where `x` goes through `downsample` if its shape changes.
#[derive(Debug)]
struct Block {
    convs: Vec<(Conv, BatchNorm)>,
    downsample: Option<(Conv, BatchNorm)>,
}

impl Resnet {
    /// Builds the backbone from weights that were checked against `arch`.
    pub fn new(arch: &Arch, mut weights: Weights) -> Resnet {
        let (w, eps) = (&mut weights, arch.batch_norm_eps);
        let stem = (Conv::plain(w, "conv1", 2, 3), BatchNorm::new(w, "bn1", eps));
        let blocks = arch.sites().map(|site| Block::new(w, arch, &site)).collect();
        Resnet { stem, blocks }
    }

    /// Images `[B, 3, S, S]`, normalised, to the map entering block 0, `[B, C, S/4, S/4]`.
    pub fn embed(&self, images: &Tensor) -> Tensor {
        let x = self.stem.1.forward(&self.stem.0.forward(images)).relu();
        x.max_pool2d([3, 3], [2, 2], [1, 1], [1, 1], false)
    }

    pub fn blocks(&self, x: Tensor, range: Range<usize>) -> Tensor {
        range.fold(x, |x, layer| self.blocks[layer].forward(&x))
    }

    /// The mean over all places, `[N, C, H, W]` → `[N, C]`.
    pub fn pool(&self, x: &Tensor) -> Tensor {
        mean_places(x).flatten(1, -1)
    }
}

impl Block {
    fn new(weights: &mut Weights, arch: &Arch, site: &Site) -> Block {
        let name = format!("layer{}.{}", site.stage + 1, site.index);
        let eps = arch.batch_norm_eps;
        let mut layer = |k: usize, stride: i64, padding: i64| {
            let conv = Conv::plain(weights, &format!("{name}.conv{k}"), stride, padding);
            (conv, BatchNorm::new(weights, &format!("{name}.bn{k}"), eps))
        };
        let convs = match arch.block {
            BlockKind::Basic => vec![layer(1, site.stride, 1), layer(2, 1, 1)],
            BlockKind::Bottleneck => vec![layer(1, 1, 0), layer(2, site.stride, 1), layer(3, 1, 0)],
        };
        let changes = site.stride != 1 || site.input != site.width * arch.block.expansion();
        let downsample = changes.then(|| {
            let conv = Conv::plain(weights, &format!("{name}.downsample.0"), site.stride, 0);
            (conv, BatchNorm::new(weights, &format!("{name}.downsample.1"), eps))
        });
        Block { convs, downsample }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let last = self.convs.len() - 1;
        let mut y = x.shallow_clone();
        for (k, (conv, norm)) in self.convs.iter().enumerate() {
            y = norm.forward(&conv.forward(&y));
            if k < last {
                y = y.relu();
            }
        }
        let x = match &self.downsample {
            Some((conv, norm)) => norm.forward(&conv.forward(x)),
            None => x.shallow_clone(),
        };
        (x + y).relu()
    }
}
