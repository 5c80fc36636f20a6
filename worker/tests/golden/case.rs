//! A case's files, and its replay with our code.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sweeps::recipe::{HeadInit, Method, Vpt};
use tch::{Device, Kind, Tensor};
use worker::backbone::{Arch, Backbone, Weights};
use worker::convnet::{convnext, resnet};
use worker::swin;
use worker::trainer::{Ensemble, Member, Rule, Setup, cross_entropy};
use worker::tuning::{self, Entry, Kept, Linear, Noise, Param, Side, Step};
use worker::vit::{self, Pool, PositionResize};

use crate::compare::Comparison;
use crate::method;

#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) folder: PathBuf,
    pub(crate) method: String,
    pub(crate) json: Value,
    pub(crate) expected: HashMap<String, Tensor>,
}

pub(crate) type Tensors = HashMap<String, Tensor>;

/// How a case is replayed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct How {
    pub(crate) members: usize,
    pub(crate) kind: Kind,
}

impl Case {
    pub(crate) fn read(folder: &Path) -> Result<Case, String> {
        let path = folder.join("case.json");
        let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let json: Value = serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
        let expected = folder.join("expected.safetensors");
        Ok(Case {
            folder: folder.to_owned(),
            method: json["method"].as_str().unwrap_or_default().to_owned(),
            expected: if expected.is_file() { tensors(&expected)? } else { Tensors::new() },
            json,
        })
    }

    pub(crate) fn tensors(&self, file: &str) -> Result<Tensors, String> {
        tensors(&self.folder.join(file))
    }

    pub(crate) fn arch(&self) -> Result<vit::Arch, String> {
        let vit = &self.json["vit"];
        let size = |key| number_of(vit, key).ok_or_else(|| format!("case.json: vit.{key} is missing"));
        let dim = size("dim")?;
        Ok(vit::Arch {
            dim,
            depth: size("depth")?,
            heads: size("heads")?,
            patch_size: size("patch_size")?,
            image_size: size("image_size")?,
            mlp_dim: (f64::from(dim) * vit["mlp_ratio"].as_f64().unwrap_or(4.0)) as u32,
            layer_norm_eps: vit["layer_norm_eps"].as_f64().unwrap_or(1e-6),
            layer_scale: vit["layer_scale"].as_bool().unwrap_or(false),
            pool: match vit["pool"].as_str() {
                Some("cls") => Pool::Cls,
                Some("mean_norm") => Pool::MeanNorm,
                Some("mean_fc_norm") => Pool::MeanFcNorm,
                other => return Err(format!("case.json: pool {other:?} is not known")),
            },
            position_resize: PositionResize::Bilinear,
        })
    }

    /// The section of the backbone's family.
    fn family(&self) -> (&'static str, &Value) {
        let families = ["vit", "swin", "resnet", "convnext"];
        let family = families.into_iter().find(|family| self.json[family].is_object()).unwrap_or("vit");
        (family, &self.json[family])
    }

    fn any_arch(&self) -> Result<Arch, String> {
        let (family, shape) = self.family();
        let list = |key: &str| -> Vec<u32> {
            let numbers = shape[key].as_array().into_iter().flatten();
            numbers.filter_map(|n| n.as_u64().and_then(|n| u32::try_from(n).ok())).collect()
        };
        let size = |key| number_of(shape, key).ok_or_else(|| format!("case.json: {family}.{key} is missing"));
        let eps = |key: &str| shape[key].as_f64().unwrap_or(1e-5);
        Ok(match family {
            "swin" => {
                let (dim, ratio) = (size("embed_dim")?, shape["mlp_ratio"].as_f64().unwrap_or(4.0));
                let shapes = list("depths").into_iter().zip(list("heads")).enumerate();
                let stages = shapes.map(|(s, (depth, heads))| {
                    let mlp_dim = (f64::from(dim << s) * ratio) as u32;
                    swin::Stage { depth, heads, mlp_dim }
                });
                Arch::Swin(swin::Arch {
                    image_size: size("image_size")?,
                    patch_size: size("patch_size")?,
                    dim,
                    window: size("window")?,
                    stages: stages.collect(),
                    layer_norm_eps: eps("layer_norm_eps"),
                })
            }
            "resnet" => {
                let is_basic = shape["block"].as_str().is_some_and(|block| block.contains("Basic"));
                let (widths, depths) = (list("widths"), list("blocks"));
                let stages = depths.iter().zip(&widths);
                Arch::Resnet(resnet::Arch {
                    block: if is_basic { resnet::BlockKind::Basic } else { resnet::BlockKind::Bottleneck },
                    stem: number_of(shape, "stem_width").or(widths.first().copied()).unwrap_or(0),
                    stages: stages.map(|(&depth, &width)| resnet::Stage { depth, width }).collect(),
                    batch_norm_eps: eps("bn_eps"),
                })
            }
            "convnext" => {
                let (dims, depths) = (list("dims"), list("depths"));
                let stages = depths.iter().zip(&dims);
                Arch::Convnext(convnext::Arch {
                    stages: stages.map(|(&depth, &dim)| convnext::Stage { depth, dim }).collect(),
                    layer_norm_eps: shape["layer_norm_eps"].as_f64().unwrap_or(1e-6),
                })
            }
            _ => Arch::Vit(self.arch()?),
        })
    }

    pub(crate) fn classes(&self) -> Result<i64, String> {
        let (family, shape) = self.family();
        shape["num_classes"].as_i64().ok_or_else(|| format!("case.json: {family}.num_classes is missing"))
    }

    pub(crate) fn backbone(&self, kind: Kind) -> Result<Backbone, String> {
        let arch = self.any_arch()?;
        let own = self.folder.join("backbone.safetensors");
        let shared = self.json["backbone_file"].as_str();
        let path = shared
            .and_then(|file| self.folder.ancestors().map(|a| a.join(file)).find(|p| p.is_file()))
            .unwrap_or(own);
        let weights = Weights::read(&path, &arch, kind, Device::Cpu).map_err(|e| e.to_string())?;
        Ok(Backbone::new(arch, weights))
    }

    /// Forward, backward and three steps with K equal members, compared with what is expected of one.
    pub(crate) fn replay(&self, method: &Method, how: How, out: &mut Comparison<'_>) -> Result<(), String> {
        let backbone = self.backbone(how.kind)?;
        let params = self.tensors("params.safetensors")?;
        let kept = method::kept(self, &params);
        let run = Run::new(self, &backbone, method, how, kept.as_ref())?;
        run.assign(params)?;
        run.forward(out);
        run.pools(out)?;
        run.importance(out)?;
        run.steps(out);
        // The position table that a frame leads to is checked through the logits.
        out.finish(&["pos_embed_resized"]);
        Ok(())
    }
}

/// A case in the middle of its replay.
struct Run<'a> {
    case: &'a Case,
    backbone: &'a Backbone,
    method: &'a Method,
    how: How,
    kept: Option<&'a Kept>,
    inputs: Tensors,
    ensemble: std::cell::RefCell<Ensemble>,
    lr: f64,
}

impl<'a> Run<'a> {
    fn new(
        case: &'a Case,
        backbone: &'a Backbone,
        method: &'a Method,
        how: How,
        kept: Option<&'a Kept>,
    ) -> Result<Run<'a>, String> {
        let inputs = case.tensors("inputs.safetensors")?;
        let (member, lr, rule) = settings(&case.json["optimizer"]);
        let ensemble = ensemble(case, backbone, method, (how, member, rule), kept, &inputs)?;
        check_groups(&case.json["optimizer"], &ensemble, (member, lr, rule))?;
        Ok(Run { case, backbone, method, how, kept, inputs, ensemble: ensemble.into(), lr })
    }

    /// Sets every trainable tensor and every buffer to the case's value.
    fn assign(&self, mut given: Tensors) -> Result<(), String> {
        let ensemble = self.ensemble.borrow();
        let mut all: Vec<Param> = ensemble.params().iter().map(Param::share).collect();
        all.extend(ensemble.buffers());
        for param in all {
            let Some(value) = given.remove(&param.name) else {
                // Masks that are constant are in a case only if it prunes.
                if param.name.ends_with("_mask") {
                    continue;
                }
                return Err(format!("{} is not in the case", param.name));
            };
            let ours = param.value.size()[1..].to_vec();
            let value = method::kept_rows(self.kept, &param.name, &value, &ours);
            if value.size() != ours {
                return Err(format!("{} is {ours:?}, not {:?}", param.name, value.size()));
            }
            let value = value.unsqueeze(0).expand_as(&param.value);
            tch::no_grad(|| param.value.shallow_clone().copy_(&value));
        }
        match given.into_keys().next() {
            None => Ok(()),
            Some(name) => Err(format!("the case trains `{name}`, which the method has not")),
        }
    }

    fn is_training(&self) -> bool {
        self.case.json["mode"].as_str() == Some("train")
    }

    fn labels(&self, labels: &Tensor) -> Tensor {
        labels.unsqueeze(0).repeat([self.how.members as i64, 1])
    }

    /// What the forward pass starts from. It needs no gradient, as in training.
    fn start(&self, images: &Tensor) -> Tensor {
        let images = images.to_kind(self.how.kind);
        let members = self.how.members as i64;
        tch::no_grad(|| match self.ensemble.borrow().entry() {
            Entry::Images => images.repeat([members, 1, 1, 1]),
            Entry::Block(first) => {
                let x = self.backbone.embed(&images);
                let plain = Linear::new(self.backbone.arch());
                let x = self.backbone.blocks(x, 0..first, &plain, Step::evaluation(1));
                let mut repeats = vec![1; x.dim()];
                repeats[0] = members;
                x.repeat(repeats)
            }
        })
    }

    /// Features, logits, loss and gradients; in train mode also what batch norm remembers, and logits in evaluation.
    fn forward(&self, out: &mut Comparison<'_>) {
        let (images, labels) = (&self.inputs["images"], self.labels(&self.inputs["labels"]));
        let seeds = vec![0; self.how.members];
        let noise = Noise { seeds: &seeds, position: 0 };
        let x = self.start(images);
        let mut ensemble = self.ensemble.borrow_mut();
        if self.is_training() {
            let (_, logits) = tch::no_grad(|| ensemble.forward(self.backbone, x.shallow_clone(), None));
            self.each(|m| out.check("eval.logits", &logits.get(m)));
        }
        let (features, logits) = ensemble.forward(self.backbone, x, self.is_training().then_some(noise));
        let losses = cross_entropy(&logits, &labels);
        ensemble.optimizer_mut().zero_grad();
        losses.sum(self.how.kind).backward();
        let batch = features.size()[0] / self.how.members as i64;
        self.each(|m| {
            out.check("features", &features.narrow(0, m * batch, batch));
            out.check("logits", &logits.get(m));
            out.check("loss", &losses.get(m));
            for param in ensemble.params() {
                self.check(out, &format!("grad.{}", param.name), &param.value.grad().get(m));
                out.check(&format!("{}_after_forward", param.name), &param.value.get(m));
            }
            for buffer in ensemble.buffers() {
                out.check(&format!("bn_after.{}", buffer.name), &buffer.value.get(m));
            }
        });
        self.mask_gradients(&ensemble, &labels, out);
    }

    /// Gradients of masks that are constant in our terms but have one in the case.
    fn mask_gradients(&self, ensemble: &Ensemble, labels: &Tensor, out: &mut Comparison<'_>) {
        let constant: Vec<Param> =
            ensemble.masks().into_iter().filter(|m| !m.value.requires_grad()).collect();
        if !constant.iter().any(|mask| out.has(&format!("grad.{}", mask.name))) {
            return;
        }
        for (name, gradient) in mask_gradients(self, ensemble, &self.inputs["images"], labels) {
            self.each(|m| out.check(&format!("grad.{name}"), &gradient.get(m)));
        }
    }

    /// The pooling ablations, each a method of its own on the same tensors.
    fn pools(&self, out: &mut Comparison<'_>) -> Result<(), String> {
        let Method::Vpt(vpt) = self.method else { return Ok(()) };
        for (name, pooling) in method::poolings(self.case) {
            let method = Method::Vpt(Vpt { pooling, ..vpt.clone() });
            let run = Run::new(self.case, self.backbone, &method, self.how, self.kept)?;
            run.assign(self.case.tensors("params.safetensors")?)?;
            let x = run.start(&self.inputs["images"]);
            let (features, logits) = run.ensemble.borrow().forward(self.backbone, x, None);
            let batch = features.size()[0] / self.how.members as i64;
            self.each(|m| {
                out.check(&format!("features.{name}"), &features.narrow(0, m * batch, batch));
                out.check(&format!("logits.{name}"), &logits.get(m));
            });
        }
        Ok(())
    }

    /// E²VPT's scores: the mean over batches of the mask's gradient, of its size, and of its size per image.
    fn importance(&self, out: &mut Comparison<'_>) -> Result<(), String> {
        if !self.case.expected.keys().any(|name| name.starts_with("importance.")) {
            return Ok(());
        }
        let (mut batches, mut singles) = (Vec::new(), Vec::new());
        let ensemble = self.ensemble.borrow();
        for index in 0.. {
            let Some(images) = self.inputs.get(&format!("images_b{index}")) else { break };
            let labels =
                self.inputs.get(&format!("labels_b{index}")).ok_or("labels of a batch are missing")?;
            batches.push(mask_gradients(self, &ensemble, images, &self.labels(labels)));
            for i in 0..labels.size()[0] {
                let (image, label) = (images.narrow(0, i, 1), labels.narrow(0, i, 1));
                singles.push(mask_gradients(self, &ensemble, &image, &self.labels(&label)));
            }
        }
        for (i, name) in ["token", "piece"].into_iter().enumerate() {
            let mean = |all: &[Vec<(String, Tensor)>], change: fn(&Tensor) -> Tensor| {
                let all: Vec<Tensor> = all.iter().map(|gradients| change(&gradients[i].1)).collect();
                Tensor::stack(&all, 0).mean_dim(0, false, None)
            };
            let signed = mean(&batches, Tensor::shallow_clone);
            let (abs, abs_per_sample) = (mean(&batches, Tensor::abs), mean(&singles, Tensor::abs));
            self.each(|m| {
                out.check(&format!("importance.{name}.signed"), &signed.get(m));
                out.check(&format!("importance.{name}.abs"), &abs.get(m));
                out.check(&format!("importance.{name}.abs_per_sample"), &abs_per_sample.get(m));
            });
        }
        Ok(())
    }

    /// Three steps on one batch.
    fn steps(&self, out: &mut Comparison<'_>) {
        if !out.has("step3.losses") {
            return;
        }
        let (images, labels) = (&self.inputs["images"], self.labels(&self.inputs["labels"]));
        let (x, rates) = (self.start(images), vec![self.lr; self.how.members]);
        let mut ensemble = self.ensemble.borrow_mut();
        let steps: Vec<Tensor> =
            (0..3).map(|_| ensemble.train_step(self.backbone, x.shallow_clone(), &labels, &rates)).collect();
        let losses = Tensor::stack(&steps, 1); // [K, 3]
        let seeds = vec![0; self.how.members];
        let noise = Noise { seeds: &seeds, position: 0 };
        let (_, logits) = ensemble.forward(self.backbone, x, self.is_training().then_some(noise));
        self.each(|m| {
            out.check("step3.losses", &losses.get(m));
            out.check("step3.logits", &logits.get(m));
            for param in ensemble.params() {
                self.check(out, &format!("step3.{}", param.name), &param.value.get(m));
            }
        });
    }

    fn each(&self, mut compare: impl FnMut(i64)) {
        (0..self.how.members as i64).for_each(&mut compare);
    }

    /// Compares a tensor of which the case may hold more rows than we do.
    fn check(&self, out: &mut Comparison<'_>, name: &str, got: &Tensor) {
        let kept = self.kept;
        out.check_part(name, got, |want| method::kept_rows(kept, name, want, &got.size()));
    }
}

/// Gradients `[K, …]` of the mean loss with respect to the masks, which are constant afterwards as they were before.
fn mask_gradients(
    run: &Run<'_>,
    ensemble: &Ensemble,
    images: &Tensor,
    labels: &Tensor,
) -> Vec<(String, Tensor)> {
    let masks = ensemble.masks();
    let trained: Vec<bool> = masks.iter().map(|mask| mask.value.requires_grad()).collect();
    let leaves: Vec<Tensor> = masks.iter().map(|mask| mask.value.set_requires_grad(true)).collect();
    let (_, logits) = ensemble.forward(run.backbone, run.start(images), None);
    let loss = cross_entropy(&logits, labels).sum(run.how.kind);
    let gradients = Tensor::run_backward(&[loss], &leaves, false, false);
    for (mask, trained) in masks.iter().zip(trained) {
        let _ = mask.value.set_requires_grad(trained);
    }
    masks.into_iter().zip(gradients).map(|(mask, gradient)| (mask.name, gradient)).collect()
}

fn ensemble(
    case: &Case,
    backbone: &Backbone,
    method: &Method,
    (how, member, rule): (How, Member, Rule),
    kept: Option<&Kept>,
    inputs: &Tensors,
) -> Result<Ensemble, String> {
    let members = vec![member; how.members];
    let setup = Setup {
        method,
        head: HeadInit::Zero,
        setr: None,
        classes: case.classes()?,
        image_size: inputs["images"].size()[3],
        rule,
        members: &members,
        kept,
    };
    let Some(side) = inputs.get("side_features") else { return Ok(Ensemble::new(backbone, &setup)) };
    let side = GivenSide(side.flatten(1, -1).to_kind(how.kind));
    let width = side.0.size()[1];
    let built = tuning::beside(Box::new(side), width, backbone, &vec![0; how.members]);
    Ok(Ensemble::with(built, backbone, &setup))
}

/// A side network whose output the case gives.
#[derive(Debug)]
struct GivenSide(Tensor);

impl Side for GivenSide {
    fn params(&self) -> Vec<Param> {
        Vec::new()
    }

    fn features(&self, _images: &Tensor, members: i64) -> Tensor {
        self.0.repeat([members, 1])
    }
}

/// The case's optimiser: what a member is given, its learning rate, and the rule.
fn settings(optimizer: &Value) -> (Member, f64, Rule) {
    let groups = optimizer["groups"].as_array().cloned().unwrap_or_default();
    let holds = |group: &Value, name: &str| {
        group["params"].as_array().is_some_and(|params| params.iter().any(|p| p.as_str() == Some(name)))
    };
    let of = |name: &str, key: &str| groups.iter().find(|g| holds(g, name)).and_then(|g| g[key].as_f64());
    // The head is decayed on its own where it stands in a group of its own.
    let is_body = |group: &&Value| {
        let params = group["params"].as_array();
        params.is_some_and(|all| all.iter().filter_map(Value::as_str).any(|name| !name.starts_with("head.")))
    };
    let wd = groups.iter().filter(is_body).filter_map(|g| g["weight_decay"].as_f64()).fold(0.0, f64::max);
    let wd_head = of("head.weight", "weight_decay").unwrap_or(0.0);
    let betas = |i: usize, default: f64| optimizer["betas"][i].as_f64().unwrap_or(default);
    let (beta1, beta2) = (betas(0, 0.9), betas(1, 0.999));
    let eps = |default: f64| optimizer["eps"].as_f64().unwrap_or(default);
    let rule = match optimizer["name"].as_str() {
        Some("adamw") => Rule::AdamW { beta1, beta2, eps: eps(1e-8) },
        Some("adamw_vpt") => Rule::AdamWVpt { beta1, beta2, eps: eps(1e-6) },
        _ => Rule::Sgd,
    };
    let momentum = optimizer["momentum"].as_f64().unwrap_or(0.9);
    let lr = optimizer["lr"].as_f64().or_else(|| of("head.weight", "lr")).unwrap_or(0.0);
    (Member { seed: 0, wd, wd_head, momentum }, lr, rule)
}

/// Our rule of what is decayed has to give each tensor the authors' settings.
fn check_groups(
    optimizer: &Value,
    ensemble: &Ensemble,
    (member, lr, rule): (Member, f64, Rule),
) -> Result<(), String> {
    let Some(list) = optimizer["groups"].as_array() else { return Ok(()) };
    for param in ensemble.params() {
        let group = list
            .iter()
            .find(|g| g["params"].as_array().is_some_and(|p| p.iter().any(|n| *n == param.name)))
            .ok_or_else(|| format!("{} is in no optimiser group", param.name))?;
        let ours = rule.decay(param, &[member]).map_or(0.0, |decay| decay[0]);
        let (decay, rate) = (group["weight_decay"].as_f64(), group["lr"].as_f64());
        let is_rate = rate.is_some_and(|rate| (rate - lr * param.lr).abs() <= 1e-12);
        if decay != Some(ours) || !is_rate {
            return Err(format!("{} has other settings in the authors' optimiser", param.name));
        }
    }
    Ok(())
}

fn number_of(object: &Value, key: &str) -> Option<u32> {
    object[key].as_u64().and_then(|n| u32::try_from(n).ok())
}

pub(crate) fn tensors(path: &Path) -> Result<Tensors, String> {
    let read = Tensor::read_safetensors(path).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(read.into_iter().collect())
}
