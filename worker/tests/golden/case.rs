//! A case's files, and its replay with our code.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sweeps::recipe::{HeadInit, Method};
use tch::{Device, Kind, Tensor};
use worker::backbone::{Arch, Backbone, Weights};
use worker::convnet::resnet;
use worker::swin;
use worker::trainer::{Ensemble, Member, Rule, cross_entropy};
use worker::tuning::{Entry, Linear, Step};
use worker::vit::{self, Pool, PositionResize};

use crate::compare::Comparison;

#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) folder: PathBuf,
    pub(crate) method: String,
    pub(crate) json: Value,
    pub(crate) expected: HashMap<String, Tensor>,
}

pub(crate) type Tensors = HashMap<String, Tensor>;

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

    /// The case's method in our terms, or why it cannot be run.
    pub(crate) fn recipe(&self) -> Result<Method, String> {
        let config = &self.json["method_config"];
        let allowed = |keys: &[&str]| {
            let other = config.as_object().and_then(|c| c.keys().find(|k| !keys.contains(&k.as_str())));
            other.map_or(Ok(()), |key| Err(format!("`{key}` is not built yet")))
        };
        let number = |key: &str| config[key].as_u64().and_then(|n| u32::try_from(n).ok());
        let prompt_length = number("prompt_tokens");
        let depth = number_of(&self.json["vit"], "depth").unwrap_or(0);
        match (self.method.as_str(), prompt_length) {
            ("linear", _) => allowed(&[]).map(|()| Method::Linear),
            ("vpt", Some(prompt_length)) => {
                allowed(&[
                    "prompt_tokens",
                    "deep",
                    "location",
                    "prompt_layers",
                    "k",
                    "first_insert",
                    "pool_types",
                    "gate",
                    "temperature",
                ])?;
                if config["location"].as_str().is_some_and(|l| l != "prepend") {
                    return Err(format!("location {} is not built yet", config["location"]));
                }
                if config["first_insert"].as_str() == Some("overwrite") {
                    return Err("first_insert \"overwrite\" is not built yet".to_owned());
                }
                if config["deep"].as_bool() != Some(true) {
                    return Ok(Method::VptShallow { prompt_length, insertion_depth: 0, prompt_dropout: 0.0 });
                }
                let (insertion_depth, prompted_blocks) =
                    match (config["prompt_layers"].as_str().unwrap_or("all"), number("k")) {
                        ("all", _) => (0, None),
                        ("first", Some(k)) => (0, Some(k)),
                        ("last", Some(k)) => (depth.saturating_sub(k), Some(k)),
                        (other, _) => return Err(format!("prompt_layers `{other}` is not known")),
                    };
                Ok(Method::VptDeep { prompt_length, insertion_depth, prompted_blocks, prompt_dropout: 0.0 })
            }
            ("vpt_swin", Some(prompt_length)) => {
                allowed(&["prompt_tokens", "deep"])?;
                match (config["deep"].as_bool(), self.json["fidelity"].as_str()) {
                    (Some(true), _) => Ok(Method::VptDeep {
                        prompt_length,
                        insertion_depth: 0,
                        prompted_blocks: None,
                        prompt_dropout: 0.0,
                    }),
                    (_, Some("code")) => Err("fidelity \"code\" of vpt_shallow is not built yet".to_owned()),
                    _ => Ok(Method::VptShallow { prompt_length, insertion_depth: 0, prompt_dropout: 0.0 }),
                }
            }
            ("gated", Some(prompt_length)) => {
                allowed(&["prompt_tokens", "gate_init", "gate_logit", "temperature"])?;
                Ok(Method::Gated {
                    prompt_length,
                    insertion_depth: 0,
                    prompt_dropout: 0.0,
                    gate_init: config["gate_init"].as_f64().unwrap_or(10.0),
                    temperature: config["temperature"].as_str().is_some_and(|t| t.starts_with("learned")),
                })
            }
            (other, _) => Err(format!("method `{other}` is not built yet")),
        }
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
        let families = ["vit", "swin", "resnet"];
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
                    stem: widths.first().copied().unwrap_or(0),
                    stages: stages.map(|(&depth, &width)| resnet::Stage { depth, width }).collect(),
                    batch_norm_eps: eps("bn_eps"),
                })
            }
            _ => Arch::Vit(self.arch()?),
        })
    }

    pub(crate) fn classes(&self) -> Result<i64, String> {
        let (family, shape) = self.family();
        shape["num_classes"].as_i64().ok_or_else(|| format!("case.json: {family}.num_classes is missing"))
    }

    fn backbone(&self) -> Result<Backbone, String> {
        let arch = self.any_arch()?;
        let own = self.folder.join("backbone.safetensors");
        let shared = self.json["backbone_file"].as_str();
        let path = shared
            .and_then(|file| self.folder.ancestors().map(|a| a.join(file)).find(|p| p.is_file()))
            .unwrap_or(own);
        let weights = Weights::read(&path, &arch, Kind::Float, Device::Cpu).map_err(|e| e.to_string())?;
        Ok(Backbone::new(arch, weights))
    }

    /// Forward, backward and three steps with K equal members, compared with what is expected of one.
    pub(crate) fn replay(
        &self,
        method: &Method,
        members: usize,
        out: &mut Comparison<'_>,
    ) -> Result<(), String> {
        let backbone = self.backbone()?;
        let inputs = self.tensors("inputs.safetensors")?;
        let (images, labels) = (&inputs["images"], &inputs["labels"]);
        let k = members as i64;
        let labels = labels.unsqueeze(0).repeat([k, 1]);

        let optimizer = &self.json["optimizer"];
        let (decay, lr) = groups(optimizer);
        let member = Member { seed: 0, wd: decay, momentum: optimizer["momentum"].as_f64().unwrap_or(0.9) };
        let mut ensemble = Ensemble::new(
            backbone.arch(),
            method,
            HeadInit::Zero,
            self.classes()?,
            Rule::Sgd,
            &vec![member; members],
            Kind::Float,
            Device::Cpu,
        );
        self.assign(&ensemble, k)?;
        check_groups(optimizer, &ensemble)?;

        // What enters the first touched block needs no gradient, as in training.
        let tokens = |ensemble: &Ensemble| {
            tch::no_grad(|| {
                let x = match ensemble.entry() {
                    Entry::Images => images.shallow_clone(),
                    Entry::Block(first) => {
                        let plain = Linear::new(backbone.arch());
                        backbone.blocks(backbone.embed(images), 0..first, &plain, Step::evaluation(1))
                    }
                };
                Tensor::cat(&std::iter::repeat_n(&x, members).collect::<Vec<_>>(), 0)
            })
        };
        let (features, logits) = ensemble.forward(&backbone, tokens(&ensemble), None);
        let losses = cross_entropy(&logits, &labels);
        losses.sum(Kind::Float).backward();
        let batch = features.size()[0] / k;
        for m in 0..k {
            out.check("features", &features.narrow(0, m * batch, batch));
            out.check("logits", &logits.get(m));
            out.check("loss", &losses.get(m));
            for param in ensemble.params() {
                out.check(&format!("grad.{}", param.name), &param.value.grad().get(m));
                out.check(&format!("{}_after_forward", param.name), &param.value.get(m));
            }
        }
        if out.has("step3.losses") {
            let steps: Vec<Tensor> = (0..3)
                .map(|_| ensemble.train_step(&backbone, tokens(&ensemble), &labels, &vec![lr; members]))
                .collect();
            let losses = Tensor::stack(&steps, 1); // [K, 3]
            let (_, logits) = ensemble.forward(&backbone, tokens(&ensemble), None);
            for m in 0..k {
                out.check("step3.losses", &losses.get(m));
                out.check("step3.logits", &logits.get(m));
                for param in ensemble.params() {
                    out.check(&format!("step3.{}", param.name), &param.value.get(m));
                }
            }
        }
        // The pooling ablations of one case are not built; its original pooling is compared.
        out.finish(&["logits.", "features.", "pos_embed_resized"]);
        Ok(())
    }

    /// Sets every trainable tensor to the case's value.
    fn assign(&self, ensemble: &Ensemble, members: i64) -> Result<(), String> {
        let mut given = self.tensors("params.safetensors")?;
        for param in ensemble.params() {
            let value =
                given.remove(param.name).ok_or_else(|| format!("{} is not in the case", param.name))?;
            let mut shape = value.size();
            shape.insert(0, members);
            if param.value.size() != shape {
                return Err(format!("{} is {:?}, not {shape:?}", param.name, param.value.size()));
            }
            tch::no_grad(|| param.value.shallow_clone().copy_(&value.unsqueeze(0).expand(shape, false)));
        }
        match given.into_keys().next() {
            None => Ok(()),
            Some(name) => Err(format!("the case trains `{name}`, which the method has not")),
        }
    }
}

/// Learning rate, and the weight decay of the tensors that are decayed.
fn groups(optimizer: &Value) -> (f64, f64) {
    let groups = optimizer["groups"].as_array().cloned().unwrap_or_default();
    let largest = |key: &str| groups.iter().filter_map(|g| g[key].as_f64()).fold(0.0, f64::max);
    (largest("weight_decay"), largest("lr"))
}

/// Our rule of what is decayed has to give each tensor the authors' settings.
fn check_groups(optimizer: &Value, ensemble: &Ensemble) -> Result<(), String> {
    let Some(list) = optimizer["groups"].as_array() else { return Ok(()) };
    let (decay, lr) = groups(optimizer);
    for param in ensemble.params() {
        let group = list
            .iter()
            .find(|g| g["params"].as_array().is_some_and(|p| p.iter().any(|n| n == param.name)))
            .ok_or_else(|| format!("{} is in no optimiser group", param.name))?;
        let ours = if param.decay { decay } else { 0.0 };
        if group["weight_decay"].as_f64() != Some(ours) || group["lr"].as_f64() != Some(lr) {
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
