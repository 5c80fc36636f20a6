//! The measure: r = max|a − b| / (max|b| + 10⁻⁶) per tensor, and what r may be.

use std::collections::HashMap;

use tch::{Kind, Tensor};

use crate::case::Case;

/// Largest r of each group of tensors.
#[derive(Debug, Default, Clone)]
pub(crate) struct Worst {
    logits: Option<f64>,
    gradients: Option<f64>,
    steps: Option<f64>,
}

impl Worst {
    pub(crate) fn merge(&mut self, other: &Worst) {
        for (mine, theirs) in [
            (&mut self.logits, other.logits),
            (&mut self.gradients, other.gradients),
            (&mut self.steps, other.steps),
        ] {
            *mine = match (*mine, theirs) {
                (Some(a), Some(b)) => Some(a.max(b)),
                (a, b) => a.or(b),
            };
        }
    }
}

impl std::fmt::Display for Worst {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = |r: Option<f64>| r.map_or("-".to_owned(), |r| format!("{r:.1e}"));
        let (a, b, c) = (shown(self.logits), shown(self.gradients), shown(self.steps));
        write!(f, "{a:>9} {b:>9} {c:>9}")
    }
}

/// Compares tensors with a case's `expected.safetensors`, and notes which of them were never asked for.
#[derive(Debug)]
pub(crate) struct Comparison<'a> {
    expected: &'a HashMap<String, Tensor>,
    seen: Vec<String>,
    loose: f64,
    is_adam: bool,
    pub(crate) worst: Worst,
    pub(crate) wrong: Vec<String>,
}

impl<'a> Comparison<'a> {
    pub(crate) fn new(case: &'a Case) -> Comparison<'a> {
        // At the temperature 0.01 the softmax amplifies rounding a hundredfold.
        let temperature = case.json["method_config"]["temperature"].as_str().unwrap_or_default();
        let loose = if temperature.contains("below 0.01") { 40.0 } else { 1.0 };
        let is_adam = case.json["optimizer"]["name"].as_str().is_some_and(|name| name.starts_with("adam"));
        Comparison {
            expected: &case.expected,
            seen: Vec::new(),
            loose,
            is_adam,
            worst: Worst::default(),
            wrong: Vec::new(),
        }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.expected.contains_key(name)
    }

    /// `got` without member axis. A name that the case does not hold is no error.
    pub(crate) fn check(&mut self, name: &str, got: &Tensor) {
        self.check_part(name, got, Tensor::shallow_clone);
    }

    /// As [`Comparison::check`], with a part of what is expected.
    pub(crate) fn check_part(&mut self, name: &str, got: &Tensor, part: impl Fn(&Tensor) -> Tensor) {
        let Some(want) = self.expected.get(name) else { return };
        self.seen.push(name.to_owned());
        // The bias of the keys has an exactly zero gradient, of which Adam amplifies the rounding.
        let is_noise = self.is_adam && name.starts_with("step3.") && name.ends_with("attn.qkv.bias");
        let (got, want) = if is_noise {
            (without_keys(got), without_keys(want))
        } else {
            (got.shallow_clone(), part(want))
        };
        if got.size() != want.size() {
            self.wrong.push(format!("{name} is {:?}, not {:?}", got.size(), want.size()));
            return;
        }
        let got = got.to_kind(Kind::Double);
        let want = want.to_kind(Kind::Double);
        let largest = want.abs().max().double_value(&[]);
        let r = (got - &want).abs().max().double_value(&[]) / (largest + 1e-6);
        // A token's mask works through the eps of a layer norm alone.
        let is_faint = name.ends_with("token_mask") || name.starts_with("importance.token");
        let (slot, tolerance) = if name.starts_with("grad.") || name.starts_with("importance.") {
            (&mut self.worst.gradients, if is_faint { 5e-4 } else { 5e-5 })
        } else if name.starts_with("step3.") {
            (&mut self.worst.steps, if self.is_adam { 2e-4 } else { 5e-5 })
        } else {
            (&mut self.worst.logits, 1e-5)
        };
        *slot = Some(slot.map_or(r, |old| old.max(r)));
        let tolerance = tolerance * self.loose;
        // Not `r > tolerance`: a NaN has to fail.
        if !matches!(r.partial_cmp(&tolerance), Some(std::cmp::Ordering::Less)) {
            self.wrong.push(format!("{name} is off by {r:.1e}"));
        }
    }

    /// Every expected tensor has to have been compared, but for those under `except`.
    pub(crate) fn finish(&mut self, except: &[&str]) {
        let mut missed: Vec<&String> = self
            .expected
            .keys()
            .filter(|name| !self.seen.contains(name) && !except.iter().any(|e| name.starts_with(e)))
            .collect();
        missed.sort();
        self.wrong.extend(missed.into_iter().map(|name| format!("{name} was not computed")));
    }
}

/// `[3D]` without its middle third.
fn without_keys(bias: &Tensor) -> Tensor {
    let dim = bias.size()[0] / 3;
    Tensor::cat(&[bias.narrow(0, 0, dim), bias.narrow(0, 2 * dim, dim)], 0)
}
