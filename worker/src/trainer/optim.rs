//! SGD and AdamW whose settings are vectors over members.
//!
//! libtorch's own optimisers hold one scalar per parameter group; here learning rate, weight decay and momentum are
//! `[K]` and broadcast over the `[K, …]` parameters. The tests compare the rules with libtorch's.

use tch::{Kind, Tensor};

use crate::tuning::{Decay, Param};

/// The update rule. With g the gradient, η the learning rate and λ the weight decay of a member:
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    /// `v ← μ v + (g + λ p)`, `p ← p − η v` (torch's SGD: coupled decay, no dampening, no Nesterov).
    /// μ is per member, see [`Optimizer::new`].
    Sgd,
    /// `p ← p (1 − η λ)`, `m ← β₁ m + (1 − β₁) g`, `v ← β₂ v + (1 − β₂) g²`,
    /// `p ← p − η/(1 − β₁ᵗ) · m / (√v/√(1 − β₂ᵗ) + ε)` (torch's AdamW: decoupled decay).
    AdamW { beta1: f64, beta2: f64, eps: f64 },
    /// `m` and `v` as above, `p ← p − η √(1 − β₂ᵗ)/(1 − β₁ᵗ) · m / (√v + ε)`, then `p ← p − η λ p`: ε enters before the
    /// bias correction, the decay comes after the update and spares what is named a bias (VPT's own AdamW).
    AdamWVpt { beta1: f64, beta2: f64, eps: f64 },
}

/// What may differ between members.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Member {
    pub seed: i64,
    /// Weight decay of all but the head.
    pub wd: f64,
    /// Weight decay of the head.
    pub wd_head: f64,
    /// Read by SGD alone.
    pub momentum: f64,
}

impl Rule {
    /// The weight decay of a parameter for each member; `None` if it is never decayed.
    pub fn decay(self, param: &Param, members: &[Member]) -> Option<Vec<f64>> {
        let is_spared = matches!(self, Rule::AdamWVpt { .. }) && param.name.contains("bias");
        match param.decay {
            _ if is_spared => None,
            Decay::Never => None,
            Decay::Body => Some(members.iter().map(|m| m.wd).collect()),
            Decay::Head => Some(members.iter().map(|m| m.wd_head).collect()),
        }
    }
}

/// The optimiser and its buffers.
#[derive(Debug)]
pub struct Optimizer {
    rule: Rule,
    params: Vec<Param>,
    /// Per parameter: `[v]` for SGD, `[m, v]` for AdamW.
    buffers: Vec<Vec<Tensor>>,
    steps: u64,
    members: Vec<Member>,
    /// Members that are still trained.
    active: Vec<bool>,
}

impl Optimizer {
    pub fn new(rule: Rule, params: Vec<Param>, members: &[Member]) -> Optimizer {
        let count = if rule == Rule::Sgd { 1 } else { 2 };
        let buffers =
            params.iter().map(|p| (0..count).map(|_| p.value.zeros_like().detach()).collect()).collect();
        let (members, active) = (members.to_vec(), vec![true; members.len()]);
        Optimizer { rule, params, buffers, steps: 0, members, active }
    }

    pub fn params(&self) -> &[Param] {
        &self.params
    }

    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Stops training a member. Its parameters and buffers stay as they are; the others do not notice.
    pub fn deactivate(&mut self, member: usize) {
        self.active[member] = false;
    }

    pub fn zero_grad(&mut self) {
        for param in &mut self.params {
            param.value.zero_grad();
        }
    }

    /// One update of every active member. `lr`: one learning rate per member, schedule applied.
    pub fn step(&mut self, lr: &[f64]) {
        self.steps += 1;
        tch::no_grad(|| {
            for (param, buffers) in self.params.iter().zip(&mut self.buffers) {
                let gradient = param.value.grad();
                if !gradient.defined() {
                    continue;
                }
                let column = |values: &[f64]| column(values, &param.value);
                let rate = column(&lr.iter().map(|lr| lr * param.lr).collect::<Vec<f64>>());
                let decay = self.rule.decay(param, &self.members).map(|decay| column(&decay));
                let (p, wd) = (&param.value, decay.as_ref());
                let t = i32::try_from(self.steps).unwrap_or(i32::MAX);
                let updated = match self.rule {
                    Rule::Sgd => {
                        let momentum: Vec<f64> = self.members.iter().map(|m| m.momentum).collect();
                        sgd(p, gradient, &rate, wd, &column(&momentum), buffers)
                    }
                    Rule::AdamW { beta1, beta2, eps } => {
                        adamw(p, &gradient, &rate, wd, (beta1, beta2, eps), t, buffers)
                    }
                    Rule::AdamWVpt { beta1, beta2, eps } => {
                        adamw_vpt(p, &gradient, &rate, wd, (beta1, beta2, eps), t, buffers)
                    }
                };
                assign(&param.value, buffers, updated, &self.active);
            }
        });
    }

    /// Buffers by `<parameter>.<index>`, for a checkpoint.
    pub(super) fn buffers(&self) -> Vec<(String, &Tensor)> {
        let mut all = Vec::new();
        for (param, buffers) in self.params.iter().zip(&self.buffers) {
            for (i, buffer) in buffers.iter().enumerate() {
                all.push((format!("{}.{i}", param.name), buffer));
            }
        }
        all
    }

    pub(super) fn set_steps(&mut self, steps: u64) {
        self.steps = steps;
    }
}

/// `[K]` as `[K, 1, …]`, to broadcast over `like`.
fn column(values: &[f64], like: &Tensor) -> Tensor {
    let mut shape = vec![1; like.dim()];
    shape[0] = values.len() as i64;
    Tensor::from_slice(values).to_kind(like.kind()).to_device(like.device()).reshape(shape)
}

/// New value and new buffers.
type Updated = (Tensor, Vec<Tensor>);

fn sgd(p: &Tensor, g: Tensor, lr: &Tensor, wd: Option<&Tensor>, mu: &Tensor, old: &[Tensor]) -> Updated {
    let g = match wd {
        Some(wd) => g + wd * p,
        None => g,
    };
    let v = mu * &old[0] + g;
    (p - lr * &v, vec![v])
}

fn adamw(
    p: &Tensor,
    g: &Tensor,
    lr: &Tensor,
    wd: Option<&Tensor>,
    (beta1, beta2, eps): (f64, f64, f64),
    t: i32,
    old: &[Tensor],
) -> Updated {
    let p = match wd {
        Some(wd) => p * (1.0 - lr * wd),
        None => p.shallow_clone(),
    };
    let (m, v) = moments(g, (beta1, beta2), old);
    let update = &m / (v.sqrt() / (1.0 - beta2.powi(t)).sqrt() + eps);
    (p - lr / (1.0 - beta1.powi(t)) * update, vec![m, v])
}

fn adamw_vpt(
    p: &Tensor,
    g: &Tensor,
    lr: &Tensor,
    wd: Option<&Tensor>,
    (beta1, beta2, eps): (f64, f64, f64),
    t: i32,
    old: &[Tensor],
) -> Updated {
    let (m, v) = moments(g, (beta1, beta2), old);
    let rate = lr * ((1.0 - beta2.powi(t)).sqrt() / (1.0 - beta1.powi(t)));
    let p = p - rate * &m / (v.sqrt() + eps);
    let p = match wd {
        Some(wd) => &p - lr * wd * &p,
        None => p,
    };
    (p, vec![m, v])
}

/// `m` and `v` behind a gradient.
fn moments(g: &Tensor, (beta1, beta2): (f64, f64), old: &[Tensor]) -> (Tensor, Tensor) {
    (&old[0] * beta1 + g * (1.0 - beta1), &old[1] * beta2 + g * g * (1.0 - beta2))
}

/// Writes the update into the leaf, for the active members only.
fn assign(value: &Tensor, buffers: &mut [Tensor], (new, new_buffers): Updated, active: &[bool]) {
    let mask = (!active.iter().all(|&a| a)).then(|| {
        let numbers: Vec<f64> = active.iter().map(|&a| f64::from(u8::from(a))).collect();
        column(&numbers, value).to_kind(Kind::Bool)
    });
    let chosen = |new: Tensor, old: &Tensor| match &mask {
        None => new,
        Some(mask) => new.where_self(mask, old),
    };
    value.shallow_clone().copy_(&chosen(new, value));
    for (buffer, new) in buffers.iter_mut().zip(new_buffers) {
        *buffer = chosen(new, buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::nn::{self, OptimizerConfig};
    use tch::{Device, Kind};

    fn param(value: Tensor) -> Param {
        Param { name: "p".to_owned(), value: value.set_requires_grad(true), decay: Decay::Body, lr: 1.0 }
    }

    fn member(wd: f64, momentum: f64) -> Member {
        Member { seed: 0, wd, wd_head: wd, momentum }
    }

    /// Three steps of ours on K = 2 members against libtorch's optimiser on each member alone.
    fn compare(rule: Rule, momentum: f64, build: impl Fn(&nn::VarStore, f64, f64) -> nn::Optimizer) {
        let (lr, wd) = ([0.3, 0.02], [0.01, 0.5]);
        let start = Tensor::from_slice(&[1.0, -2.0, 0.5, 4.0, 0.25, -1.5]).reshape([2, 3]);
        let target = Tensor::from_slice(&[0.5, 0.5, 0.1, -1.0, 2.0, 3.0]).reshape([2, 3]);
        let loss = |p: &Tensor, t: &Tensor| ((p - t).pow_tensor_scalar(4) + p.sin()).sum(Kind::Double) * 0.1;

        let ours = param(start.copy());
        let leaf = ours.value.shallow_clone();
        let mut optimizer = Optimizer::new(rule, vec![ours], &wd.map(|wd| member(wd, momentum)));
        for _ in 0..3 {
            optimizer.zero_grad();
            loss(&leaf, &target).backward();
            optimizer.step(&lr);
        }

        for k in 0..2 {
            let mut vars = nn::VarStore::new(Device::Cpu);
            let p = vars.root().var_copy("p", &start.get(k));
            vars.double();
            let mut theirs = build(&vars, lr[k as usize], wd[k as usize]);
            for _ in 0..3 {
                theirs.backward_step(&loss(&p, &target.get(k)));
            }
            let difference = (&p - leaf.get(k)).abs().max().double_value(&[]);
            assert!(difference < 1e-12, "member {k} is off by {difference}");
        }
    }

    #[test]
    fn sgd_is_libtorchs() {
        compare(Rule::Sgd, 0.9, |vars, lr, wd| {
            nn::Sgd { momentum: 0.9, dampening: 0.0, wd, nesterov: false }.build(vars, lr).unwrap()
        });
    }

    #[test]
    fn adamw_is_libtorchs() {
        let rule = Rule::AdamW { beta1: 0.9, beta2: 0.99, eps: 1e-6 };
        compare(rule, 0.0, |vars, lr, wd| {
            nn::AdamW { beta1: 0.9, beta2: 0.99, wd, eps: 1e-6, amsgrad: false }.build(vars, lr).unwrap()
        });
    }

    #[test]
    fn a_deactivated_member_stays_and_its_nan_does_not_spread() {
        let param = param(Tensor::from_slice(&[1.0, 1.0]).reshape([2, 1]));
        let leaf = param.value.shallow_clone();
        let mut optimizer = Optimizer::new(Rule::Sgd, vec![param], &[member(0.0, 0.9); 2]);
        optimizer.deactivate(0);
        let factor = Tensor::from_slice(&[f64::NAN, 2.0]).reshape([2, 1]);
        (&leaf * factor).sum(Kind::Double).backward();
        optimizer.step(&[1.0, 1.0]);
        assert_eq!(Vec::<f64>::try_from(leaf.flatten(0, -1)).unwrap(), [1.0, -1.0]);
        assert!(optimizer.buffers().iter().all(|(_, b)| b.isfinite().all().int64_value(&[]) == 1));
    }
}
