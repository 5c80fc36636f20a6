//! What is taken out of trained prompts, and how what is left is trained again.

use super::names::{IMPORTANCE, REWIND_LR};
use super::read::{Fields, Source};
use super::{Location, Method, RecipeError, Schedule};
use crate::value::{Settings, Value};

/// Pruning in the middle of a trial: train, score, prune, rewind, train again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pruning {
    /// Share of the prompt tokens that go, rounded down.
    pub tokens: f64,
    /// Share of each token's segments that go, rounded down.
    pub segments: f64,
    pub scope: Scope,
    pub importance: Importance,
    /// Epochs of training before; 0: what the trial starts from is pruned.
    pub prune_at: u32,
    pub to: Rewind,
    /// Epochs of training after.
    pub epochs: u32,
    pub lr: RewindLr,
}

/// What is ranked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// A token stays or goes in all blocks (E²VPT).
    Tokens,
    /// Each block's tokens for themselves, in one ranking over all blocks (`condense`).
    Global,
}

/// What makes a token or segment important. p: its entries, g: the gradient of a batch's loss at them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Importance {
    /// Mean over batches of |Σ p·g|, the gradient at a mask of one (E²VPT's paper).
    Abs,
    /// Mean over batches of Σ p·g, the least first (E²VPT's code).
    Signed,
    /// Mean over batches of Σ |p·g|.
    Taylor,
    /// How much the loss grows without it.
    LeaveOneOut,
}

/// Where the tensors of the second training start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rewind {
    /// As the first training started: at random, or from another trial's tensors.
    Init,
    /// From other random values (E²VPT's code).
    Fresh,
    /// As they were after so many epochs of the first training.
    Epoch(u32),
}

/// The learning rate of the second training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RewindLr {
    /// Its own schedule, from the start.
    Restart,
    /// The first schedule, from the epoch that was gone back to.
    Continue,
}

impl Pruning {
    /// Tokens that go, of `length` tokens in each of `blocks` blocks.
    #[must_use]
    pub fn tokens_to_go(&self, length: u32, blocks: u32) -> u32 {
        share(self.tokens, if self.scope == Scope::Global { length.saturating_mul(blocks) } else { length })
    }

    /// Segments of each token that go, of `segments`.
    #[must_use]
    pub fn segments_to_go(&self, segments: u32) -> u32 {
        share(self.segments, segments)
    }

    /// The epoch of the first training that the second one starts from, and takes its schedule up at.
    #[must_use]
    pub fn base(&self) -> u32 {
        match self.to {
            Rewind::Init | Rewind::Fresh => 0,
            Rewind::Epoch(epoch) => epoch,
        }
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "ratios are from 0 to 1")]
fn share(ratio: f64, of: u32) -> u32 {
    // int(P · pct / 100) of the code, which has whole percents: what a product lacks of a whole number is rounding.
    (f64::from(of) * ratio + 1e-9) as u32
}

/// The keys that only say how to prune.
const MANNER: &[&str] = &["importance", "rewind_schedule"];

/// Reads the keys of pruning; `None` if none of them is there.
pub(super) fn read(
    top: &Fields<'_>,
    method: &Method,
    epochs: u32,
    schedule: Schedule,
) -> Result<Option<Pruning>, RecipeError> {
    let is_given = |key: &str| top.source.get(key).is_some();
    let is_condensed = matches!(method, Method::Vpt(vpt) if vpt.deep.is_some_and(|deep| deep.is_condensed));
    if is_condensed && !is_given("pruning_ratio") {
        return Err(RecipeError::new("pruning_ratio", "is required: the share of all prompts that go"));
    }
    if !is_given("pruning_ratio") && !is_given("segment_ratio") {
        return match MANNER.iter().find(|key| is_given(key)) {
            Some(key) => {
                Err(RecipeError::new(*key, "says how to prune, but `pruning_ratio` does not say how much"))
            }
            None => Ok(None),
        };
    }
    let ratio = |key| top.float(key, Some(0.0), "a number from 0 to 1", |x| (0.0..=1.0).contains(&x));
    let plan = rewind(top, epochs, is_condensed)?;
    let importance = if is_condensed { Importance::Taylor } else { Importance::Abs };
    let pruning = Pruning {
        tokens: ratio("pruning_ratio")?,
        segments: ratio("segment_ratio")?,
        scope: if is_condensed { Scope::Global } else { Scope::Tokens },
        importance: top.choice("importance", Some(importance), IMPORTANCE)?,
        ..plan
    };
    check_amount(&pruning, method)?;
    check_start(&pruning, method)?;
    check_time(&pruning, epochs, schedule)?;
    Ok(Some(pruning))
}

/// `rewind_schedule`; what it does not say is the default. What condensation leaves goes on from where it is.
fn rewind(top: &Fields<'_>, epochs: u32, is_condensed: bool) -> Result<Pruning, RecipeError> {
    let empty = Settings::new();
    let map = match top.source.get("rewind_schedule") {
        None => &empty,
        Some(Value::Map(map)) => map,
        Some(other) => {
            let message =
                format!("must be a map like {{to: fresh, epochs: 100}}, found {}", other.describe());
            return Err(RecipeError::new("rewind_schedule", message));
        }
    };
    let layers = [map];
    let fields = Fields { scope: Some("rewind_schedule"), source: Source { layers: &layers } };
    fields.check_fields(&["prune_at", "to", "epochs", "lr"], "`rewind_schedule`")?;
    let prune_at = fields.int("prune_at", Some(epochs), 0..=100_000)?;
    let default = match (is_condensed, prune_at) {
        (false, _) => Rewind::Fresh,
        (true, 0) => Rewind::Init,
        (true, last) => Rewind::Epoch(last),
    };
    Ok(Pruning {
        tokens: 0.0,
        segments: 0.0,
        scope: Scope::Tokens,
        importance: Importance::Abs,
        prune_at,
        to: to(&fields, default)?,
        epochs: fields.int("epochs", Some(epochs), 1..=100_000)?,
        lr: fields.choice("lr", Some(RewindLr::Restart), REWIND_LR)?,
    })
}

fn to(fields: &Fields<'_>, default: Rewind) -> Result<Rewind, RecipeError> {
    let Some(Value::Map(map)) = fields.source.get("to") else {
        return fields.choice("to", Some(default), &[("init", Rewind::Init), ("fresh", Rewind::Fresh)]);
    };
    let layers = [map];
    let inner = Fields { scope: Some("rewind_schedule"), source: Source { layers: &layers } };
    inner.check_fields(&["epoch"], "`to`")?;
    inner.int("epoch", None, 1..=100_000).map(Rewind::Epoch)
}

fn check_amount(pruning: &Pruning, method: &Method) -> Result<(), RecipeError> {
    let (length, segments) = match method {
        Method::E2vpt(e2vpt) => (e2vpt.prompt_length, Some(e2vpt.segments)),
        Method::Vpt(vpt) => {
            let is_plain = vpt.location == Location::Prepend
                && vpt.project.is_none()
                && vpt.is_trained
                && vpt.deep.is_some_and(|deep| !deep.shared);
            if !is_plain {
                let message = "prunes trained prompt tokens of each block: leave `location`, `prompt_project`, `shared` and \
                               `train_prompts` out";
                return Err(RecipeError::new("pruning_ratio", message));
            }
            (vpt.prompt_length, None)
        }
        _ => return Ok(()), // the table of keys lets no other method read them
    };
    let refused = |key: &str, message: String| Err(RecipeError::new(key, message));
    // Of L blocks with P tokens each, as of one, a share of less than one leaves at least one.
    if pruning.tokens_to_go(length, 1) >= length {
        return refused("pruning_ratio", format!("leaves none of the {length} tokens: use less than 1"));
    }
    match segments {
        Some(segments) if pruning.segments_to_go(segments) >= segments => {
            refused("segment_ratio", format!("leaves none of the {segments} segments: use less than 1"))
        }
        _ => Ok(()),
    }
}

/// Prompts that are the classes' have no other start.
fn check_start(pruning: &Pruning, method: &Method) -> Result<(), RecipeError> {
    match method {
        Method::Vpt(vpt) if vpt.init.is_of_classes() && pruning.to == Rewind::Fresh => {
            let message =
                "`fresh` draws prompts at random, but `prompt_init` makes them of the classes: use `init`";
            Err(RecipeError::within("rewind_schedule", "to", message.to_owned()))
        }
        _ => Ok(()),
    }
}

fn check_time(pruning: &Pruning, epochs: u32, schedule: Schedule) -> Result<(), RecipeError> {
    let refused = |field: &str, message: String| Err(RecipeError::within("rewind_schedule", field, message));
    let Pruning { prune_at, epochs: again, .. } = *pruning;
    if prune_at > epochs {
        return refused("prune_at", format!("is {prune_at}, beyond the {epochs} epochs of `epochs`"));
    }
    if pruning.base() > prune_at {
        let message =
            format!("epoch {} is not there: the training before ends at {prune_at}", pruning.base());
        return refused("to", message);
    }
    match pruning.lr {
        RewindLr::Continue if pruning.base() + again > epochs => {
            let base = pruning.base();
            let left = epochs - base;
            refused("epochs", format!("is {again}, but {left} are left of the schedule from epoch {base} on"))
        }
        RewindLr::Restart if again <= schedule.warmup_epochs() => {
            let warmup = schedule.warmup_epochs();
            refused("epochs", format!("is {again}, but must be more than the {warmup} epochs of warm-up"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "pruning_tests.rs"]
mod tests;
