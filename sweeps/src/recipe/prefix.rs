//! What trials that prune have in common: their first training, whatever they do with it.

use super::{Importance, Method, Pruning, Recipe, Rewind, RewindLr, Scope, Vpt};
use crate::recipe::hex;
use sha2::{Digest, Sha256};

const TAG: &str = "promptsweep prefix 1";

impl Recipe {
    /// Stands for the training before pruning; `None` for trials that do not prune, or have none before. Trials whose recipes have the same, of
    /// one seed, are the same to the bit up to there.
    #[must_use]
    pub fn prefix(&self) -> Option<Prefix> {
        let how = self.pruning.filter(|how| how.prune_at > 0)?;
        let neutral = Pruning {
            tokens: 0.0,
            segments: 0.0,
            scope: Scope::Tokens,
            importance: Importance::Abs,
            prune_at: how.prune_at,
            to: Rewind::Fresh,
            epochs: 1,
            lr: RewindLr::Restart,
        };
        let mut recipe = Recipe { pruning: Some(neutral), ..self.clone() };
        recipe.split.test = None;
        // What is condensed is trained as deep prompts are.
        if let Method::Vpt(Vpt { deep: Some(deep), .. }) = &mut recipe.method {
            deep.is_condensed = false;
        }
        let rewind = match how.to {
            Rewind::Epoch(epoch) => Some(epoch),
            Rewind::Init | Rewind::Fresh => None,
        };
        let hash = hex(&Sha256::digest(format!("{TAG}\n{}", recipe.to_json())));
        Some(Prefix { hash, epochs: how.prune_at, rewind })
    }
}

/// The training of a trial before it prunes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefix {
    /// 64 hexadecimal digits, equal where the training is.
    pub hash: String,
    pub epochs: u32,
    /// The epoch whose values are gone back to after it.
    pub rewind: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(more: &str) -> Option<Prefix> {
        let text = format!(
            r#"{{"backbone": "b", "task": "t", "method": "vpt_deep", "prompt_length": 8, "lr": 1, "epochs": 20{more}}}"#
        );
        Recipe::from_json(&text).unwrap().prefix()
    }

    #[test]
    fn it_is_told_by_all_that_comes_before_pruning_and_by_nothing_after() {
        assert_eq!(prefix(""), None);
        let base = prefix(r#", "pruning_ratio": 0.5"#).unwrap();
        assert_eq!((base.epochs, base.rewind), (20, None));
        for same in [
            r#", "pruning_ratio": 0.25, "importance": "taylor""#,
            r#", "pruning_ratio": 0.5, "rewind_schedule": {"to": "init", "epochs": 7}"#,
            r#", "pruning_ratio": 0.5, "split": {"test": null}"#,
        ] {
            assert_eq!(prefix(same), Some(base.clone()), "{same}");
        }
        let condensed = r#"{"backbone": "b", "task": "t", "method": "condense", "prompt_length": 8, "lr": 1, "epochs": 20,
            "pruning_ratio": 0.5, "rewind_schedule": {"to": "init"}}"#;
        assert_eq!(Recipe::from_json(condensed).unwrap().prefix(), Some(base.clone()));
        assert_eq!(prefix(r#", "pruning_ratio": 0.5, "rewind_schedule": {"prune_at": 0}"#), None);
        let back = prefix(
            r#", "pruning_ratio": 0.5, "rewind_schedule": {"to": {"epoch": 3}, "lr": "continue", "epochs": 9}"#,
        );
        assert_eq!(back, Some(Prefix { rewind: Some(3), ..base.clone() }));
        for other in [
            r#", "pruning_ratio": 0.5, "rewind_schedule": {"prune_at": 10}"#,
            r#", "pruning_ratio": 0.5, "wd": 0.1"#,
            r#", "pruning_ratio": 0.5, "split": {"eval": "val100"}"#,
        ] {
            assert_ne!(prefix(other).unwrap().hash, base.hash, "{other}");
        }
    }
}
