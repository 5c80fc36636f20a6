//! The middle of a trial that prunes: score, prune, and go back.

use std::collections::BTreeMap;

use sweeps::recipe::{Importance, Method, Pruning, Rewind, Scope};
use tch::Tensor;

use super::attendant::Attendant;
use super::ensemble::Ensemble;
use super::error::TrialError;
use super::prune::{self, Importances, Mean, Pruned};
use super::run::Metrics;
use super::trial::Trial;
use crate::protocol::FailureClass;
use crate::tuning::{Kept, Param, stream};

/// Values of parameters by name, each with the member axis.
pub(super) type Values = BTreeMap<String, Tensor>;

/// Values by the epoch after which they were so.
pub(super) type Snapshots = BTreeMap<u32, Values>;

impl Trial<'_> {
    /// Scores, prunes and rewinds. Figures: `dense/…` of the eval split before, `pruned/…` with what is pruned gone and
    /// nothing trained again, `prompts/tokens` and `prompts/segments` that stay, and `params/effective`, which counts
    /// those of the tuned numbers that are left. `None`: the run is to leave.
    pub(super) fn prune(
        &mut self,
        how: &Pruning,
        attendant: &dyn Attendant,
    ) -> Result<Option<Metrics>, TrialError> {
        let Some(mut metrics) = self.score(&self.eval, "dense", attendant)? else { return Ok(None) };
        let Some(importances) = self.importances(how, attendant)? else { return Ok(None) };
        let kept = prune::keep(&importances, how, self.prompted_blocks());
        let trained = self.values();
        let pruned = self.build(self.job.seed, Some(&kept));
        give(&pruned, &trained, &kept);
        let dense = std::mem::replace(&mut self.ensemble, pruned);
        let scores = self.score(&self.eval, "pruned", attendant);
        self.ensemble = dense;
        metrics.extend(match scores? {
            Some(scores) => scores,
            None => return Ok(None),
        });
        self.rewind(how, Pruned { kept, importances });
        metrics.extend(self.counts());
        Ok(Some(metrics))
    }

    /// Values of the parameters now.
    pub(super) fn values(&self) -> Values {
        self.ensemble.params().iter().map(|param| (param.name.clone(), param.value.detach().copy())).collect()
    }

    /// Keeps the values of now if this is an epoch that pruning goes back to: this trial's, or one of `others`.
    pub(super) fn remember(&mut self, others: &[u32]) {
        let (phase, epoch) = (self.at.phase, self.at.epoch);
        if phase == 0 && (self.rewinds_to() == Some(epoch) || others.contains(&epoch)) {
            let values = self.values();
            self.snapshots.insert(epoch, values);
        }
    }

    /// The epoch that pruning goes back to; 0 is before the first.
    pub(super) fn rewinds_to(&self) -> Option<u32> {
        match self.job.recipe.pruning?.to {
            Rewind::Init => Some(0),
            Rewind::Epoch(epoch) => Some(epoch),
            Rewind::Fresh => None,
        }
    }

    /// Puts a new ensemble in the old one's place: what stays of the prompts, at its old or new values.
    fn rewind(&mut self, how: &Pruning, pruned: Pruned) {
        self.ensemble = self.build(self.seed_after(how), Some(&pruned.kept));
        let values = self.rewinds_to().and_then(|epoch| self.snapshots.remove(&epoch));
        if let Some(values) = values {
            give(&self.ensemble, &values, &pruned.kept);
        }
        self.snapshots.clear();
        self.pruned = Some(pruned);
    }

    /// The seed that the second training draws from.
    pub(super) fn seed_after(&self, how: &Pruning) -> i64 {
        match how.to {
            Rewind::Fresh => stream(self.job.seed, "rewind", 0),
            Rewind::Init | Rewind::Epoch(_) => self.job.seed,
        }
    }

    /// `None`: the run is to leave.
    fn importances(
        &mut self,
        how: &Pruning,
        attendant: &dyn Attendant,
    ) -> Result<Option<Importances>, TrialError> {
        if how.importance == Importance::LeaveOneOut {
            return self.leave_one_out(how, attendant);
        }
        let segments = self.segments().filter(|_| how.segments > 0.0);
        let mut mean = Mean::default();
        for (x, labels) in self.train.labelled()?.batches(i64::from(self.job.recipe.batch_size)) {
            if attendant.is_leaving() {
                return Ok(None);
            }
            self.ensemble.backward(&self.frozen.backbone, x, &labels.unsqueeze(0));
            let of = |name: &str| self.ensemble.params().iter().find(|param| param.name == name);
            let gradient = |param: &Param| param.value.grad().get(0);
            match (of("token_mask"), of("piece_mask"), of("prompt")) {
                // Where masks are trained (`fidelity: code`), they are no ones, and their own gradients count.
                (Some(tokens), Some(pieces), _) if how.importance != Importance::Taylor => {
                    mean.add_masks(how, &gradient(tokens), segments.map(|_| gradient(pieces)).as_ref());
                }
                (_, _, Some(prompt)) => mean.add(how, segments, &prompt.value.get(0), &gradient(prompt)),
                _ => {
                    let message = "there are no prompts to be pruned";
                    return Err(TrialError::new(FailureClass::CodeError, message));
                }
            }
        }
        self.ensemble.optimizer_mut().zero_grad();
        mean.finish().map(Some).ok_or_else(|| TrialError::invalid("there is no image to score prompts by"))
    }

    /// How much the training loss grows without each token, and without each segment.
    fn leave_one_out(
        &mut self,
        how: &Pruning,
        attendant: &dyn Attendant,
    ) -> Result<Option<Importances>, TrialError> {
        let Some(base) = self.loss(attendant)? else { return Ok(None) };
        let trained = self.values();
        let (blocks, length) = (i64::from(self.prompted_blocks()), i64::from(self.length()));
        let rest = |gone: i64| (0..length).filter(|&token| token != gone).collect::<Vec<i64>>();
        let every = || (0..length).collect::<Vec<i64>>();
        let mut tokens = Vec::new();
        for block in 0..if how.scope == Scope::Global { blocks } else { 1 } {
            for token in 0..length {
                let lists = match how.scope {
                    Scope::Tokens => vec![rest(token)],
                    Scope::Global => {
                        (0..blocks).map(|b| if b == block { rest(token) } else { every() }).collect()
                    }
                };
                let kept = Kept { tokens: lists, segments: None };
                let Some(loss) = self.loss_without(&kept, &trained, attendant)? else { return Ok(None) };
                tokens.push(loss - base);
            }
        }
        let mut of_segments = Vec::new();
        let segments = self.segments().filter(|_| how.segments > 0.0);
        for i in 0..segments.map_or(0, |segments| length * segments) {
            let segments = segments.unwrap_or(1);
            let mask = Tensor::ones([length * segments], (tch::Kind::Float, tch::Device::Cpu));
            let _ = mask.get(i).fill_(0.0);
            let kept = Kept { tokens: Vec::new(), segments: Some(mask.reshape([length, segments])) };
            let Some(loss) = self.loss_without(&kept, &trained, attendant)? else { return Ok(None) };
            of_segments.push(loss - base);
        }
        let shape: &[i64] = if how.scope == Scope::Global { &[blocks, length] } else { &[length] };
        Ok(Some(Importances {
            tokens: Tensor::from_slice(&tokens).reshape(shape),
            segments: segments.map(|segments| Tensor::from_slice(&of_segments).reshape([length, segments])),
        }))
    }

    fn loss_without(
        &mut self,
        kept: &Kept,
        trained: &Values,
        attendant: &dyn Attendant,
    ) -> Result<Option<f64>, TrialError> {
        let without = self.build(self.job.seed, Some(kept));
        give(&without, trained, kept);
        let whole = std::mem::replace(&mut self.ensemble, without);
        let loss = self.loss(attendant);
        self.ensemble = whole;
        loss
    }

    /// Mean loss over the training images, without dropout.
    fn loss(&self, attendant: &dyn Attendant) -> Result<Option<f64>, TrialError> {
        Ok(self.score(&self.train, "train", attendant)?.map(|metrics| metrics["train/loss"]))
    }

    /// P.
    fn length(&self) -> u32 {
        match &self.job.recipe.method {
            Method::E2vpt(e2vpt) => e2vpt.prompt_length,
            Method::Vpt(vpt) => vpt.prompt_length,
            _ => 0,
        }
    }

    /// S, of methods that have segments.
    fn segments(&self) -> Option<i64> {
        match &self.job.recipe.method {
            Method::E2vpt(e2vpt) => Some(i64::from(e2vpt.segments)),
            _ => None,
        }
    }

    /// n.
    fn prompted_blocks(&self) -> u32 {
        let depth = self.frozen.backbone.arch().depth();
        match &self.job.recipe.method {
            Method::Vpt(vpt) => vpt.blocks(depth),
            _ => depth,
        }
    }

    /// What is left of the prompts.
    pub(super) fn counts(&self) -> Metrics {
        let Some(Pruned { kept, .. }) = &self.pruned else { return Metrics::new() };
        let (length, blocks) = (f64::from(self.length()), f64::from(self.prompted_blocks()));
        let tokens = match &kept.tokens[..] {
            [] => length * blocks,
            [one] => one.len() as f64 * blocks,
            lists => lists.iter().map(Vec::len).sum::<usize>() as f64,
        };
        let share = match (&kept.segments, self.segments()) {
            (Some(mask), Some(segments)) => self.share_of_segments(mask, kept) / segments as f64,
            _ => 1.0,
        };
        let width = f64::from(self.frozen.backbone.arch().dim());
        let stored: i64 = self
            .ensemble
            .params()
            .iter()
            .filter(|p| p.name == "prompt")
            .map(|p| p.value.numel() as i64)
            .sum();
        let masks: i64 = self
            .ensemble
            .params()
            .iter()
            .filter(|p| p.name.ends_with("_mask"))
            .map(|p| p.value.numel() as i64)
            .sum();
        let effective = (self.ensemble.trainable() - stored - masks) as f64 + tokens * share * width;
        let mut counts = Metrics::from([
            ("prompts/tokens".to_owned(), tokens / blocks),
            ("params/effective".to_owned(), effective),
        ]);
        if let Some(segments) = self.segments() {
            counts.insert("prompts/segments".to_owned(), share * segments as f64);
        }
        counts
    }

    /// Mean number of segments of the tokens that stay.
    fn share_of_segments(&self, mask: &Tensor, kept: &Kept) -> f64 {
        let mask = match &kept.tokens[..] {
            [tokens] => mask.index_select(0, &Tensor::from_slice(tokens)),
            _ => mask.shallow_clone(),
        };
        mask.sum_dim_intlist(1, false, tch::Kind::Double).mean(tch::Kind::Double).double_value(&[])
    }
}

/// Gives values to an ensemble that was built with what is kept of their prompts.
fn give(ensemble: &Ensemble, values: &Values, kept: &Kept) {
    for param in ensemble.params() {
        let Some(value) = values.get(&param.name) else { continue };
        let value =
            if value.size() == param.value.size() { value.shallow_clone() } else { prune::cut(value, kept) };
        tch::no_grad(|| param.value.shallow_clone().copy_(&value));
    }
}
