//! `early_stop`: which rule ends trials early, and what it compares with what.

use serde::{Deserialize, Serialize};

use super::axes;
use super::fields::{Problems, Section};
use crate::recipe;
use crate::space::Space;
use crate::stage::{self, BLOCK, Stage};
use crate::value::{self, Settings, Value};

/// How trials are ended early. All that is needed for it is in here, so that the coordinator stores it as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EarlyStop {
    pub rule: Rule,
    /// No trial is ended before it has trained so many epochs.
    pub min: u32,
    /// What is kept at a rung, is one of so many; the next rung is so many times later.
    pub eta: u32,
    /// So many others must have come as far before the median counts.
    pub min_trials: u32,
    /// Only trials whose configurations have these in common are compared.
    scope: Vec<String>,
    never_stop: Vec<Settings>,
    base: Settings,
    /// The stages whose trials may be ended: not those that state final results.
    stages: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// Ends a trial whose best score so far is below the median of what the others had on average up to that epoch
    /// (Golovin et al., 2017).
    Median,
    /// Asynchronous successive halving (Li et al., 2020).
    Asha,
    /// Successive halving from several first rungs at once (Li et al., 2018).
    Hyperband,
}

/// With what a trial is compared, if it may be ended at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// Trials of the same text are compared.
    pub text: String,
    /// Of Hyperband: the first rung is min · eta^bracket.
    pub bracket: u32,
}

impl EarlyStop {
    /// With what the trials of a configuration are compared; `None`: they run to the end.
    #[must_use]
    pub fn scope(
        &self,
        stage: &str,
        number: u64,
        settings: &Settings,
        block: Option<&str>,
        epochs: u32,
    ) -> Option<Scope> {
        let get = |key: &str| settings.get(key).or_else(|| self.base.get(key));
        let is_spared = self
            .never_stop
            .iter()
            .any(|entry| entry.iter().all(|(key, value)| get(key).is_some_and(|found| found.same(value))));
        if is_spared || !self.stages.iter().any(|name| name == stage) {
            return None;
        }
        let bracket = match self.rule {
            Rule::Hyperband => self.bracket(number, epochs),
            Rule::Median | Rule::Asha => 0,
        };
        let mut key = stage::key(&self.scope, settings, &self.base, block);
        key.insert("stage".to_owned(), Value::String(stage.to_owned()));
        key.insert("bracket".to_owned(), Value::Int(bracket.into()));
        let text = value::canonical(&key).expect("the numbers of a sweep file are finite");
        Some(Scope { text, bracket })
    }

    /// Brackets in the proportions of Hyperband: that of s has (s_max + 1) / (s_max − s + 1) · eta^(s_max − s) shares. Consecutive
    /// numbers are spread over them by the golden ratio.
    fn bracket(&self, number: u64, epochs: u32) -> u32 {
        let last = self.last_bracket(epochs);
        let shares: Vec<f64> = (0..=last)
            .map(|s| {
                f64::from(last + 1) / f64::from(last - s + 1) * f64::from(self.eta).powf(f64::from(last - s))
            })
            .collect();
        #[expect(clippy::cast_precision_loss, reason = "there are at most a million configurations")]
        let mut at = (number as f64 * 0.618_033_988_749_894_9).fract() * shares.iter().sum::<f64>();
        for (bracket, share) in (0..).zip(&shares) {
            if at < *share {
                return bracket;
            }
            at -= share;
        }
        last
    }

    /// The last bracket with a rung before the end.
    fn last_bracket(&self, epochs: u32) -> u32 {
        let mut rung = u64::from(self.min) * u64::from(self.eta);
        let mut last = 0;
        while rung < u64::from(epochs) {
            rung *= u64::from(self.eta);
            last += 1;
        }
        last
    }
}

/// Reads `early_stop`. The stages are known already.
pub(super) fn read(
    top: &Section<'_>,
    space: &Space,
    stages: &[Stage],
    axes_of_file: &[String],
    problems: &mut Problems<'_>,
) -> Option<EarlyStop> {
    const KEYS: &[&str] = &["rule", "resource", "min", "eta", "min_trials", "scope", "never_stop"];
    let field = top.get("early_stop").filter(|field| !field.is_null())?;
    let section = field.section(KEYS, problems)?;
    let rules = [("median", Rule::Median), ("asha", Rule::Asha), ("hyperband", Rule::Hyperband)];
    let rule = section.require("rule", problems)?.choice(&rules, problems)?;
    if let Some(field) = section.get("resource") {
        field.choice(&[("epoch", ())], problems);
    }
    let number = |key: &str, default: u32, range, problems: &mut Problems<'_>| {
        section.get(key).map_or(Some(default), |field| field.u32(range, problems))
    };
    let min = number("min", 1, 1..=100_000, problems);
    let eta = number("eta", 3, 2..=1_000, problems);
    let min_trials = number("min_trials", 5, 1..=1_000_000, problems);
    for (key, readers) in
        [("eta", &[Rule::Asha, Rule::Hyperband] as &[Rule]), ("min_trials", &[Rule::Median])]
    {
        if let Some(field) = section.get(key).filter(|_| !readers.contains(&rule)) {
            let readers: Vec<&str> =
                rules.iter().filter(|(_, rule)| readers.contains(rule)).map(|(name, _)| *name).collect();
            field.error(problems, format!("is for {} only: leave it out", recipe::list(&readers)));
        }
    }
    let scope = scope(&section, space, axes_of_file, problems);
    let never_stop = axes::layers(section.get("never_stop"), problems);
    let mut base = space.base.settings.clone();
    base.extend(space.set.settings.clone());
    let is_chosen_from = |index: usize| {
        index == 0 || stages.iter().flat_map(|stage| &stage.from).any(|from| from.stage == index)
    };
    let stages = stages.iter().enumerate().filter(|(index, _)| is_chosen_from(*index));
    let stages = stages.map(|(_, stage)| stage.name.to_string()).collect();
    let never_stop = never_stop.into_iter().map(|layer| layer.settings).collect();
    Some(EarlyStop { rule, min: min?, eta: eta?, min_trials: min_trials?, scope, never_stop, base, stages })
}

fn scope(section: &Section<'_>, space: &Space, axes: &[String], problems: &mut Problems<'_>) -> Vec<String> {
    let Some(items) = section.get("scope").and_then(|field| field.list("a list of axes", problems)) else {
        return Vec::new();
    };
    let mut known: Vec<&str> = axes.iter().map(String::as_str).collect();
    if space.blocks.iter().any(|block| block.name.is_some()) {
        known.push(BLOCK);
    }
    let mut scope = Vec::new();
    for item in items {
        match item.string("the name of an axis", problems) {
            Some(key) if known.contains(&key) => scope.push(key.to_owned()),
            Some(key) if known.is_empty() => {
                item.error(problems, format!("`{key}` is no axis: leave `scope` out"))
            }
            Some(key) => item.error(problems, format!("`{key}` is no axis: use {}", recipe::list(&known))),
            None => {}
        }
    }
    scope
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn hyperband() -> EarlyStop {
        EarlyStop {
            rule: Rule::Hyperband,
            min: 1,
            eta: 3,
            min_trials: 5,
            scope: vec!["task".to_owned()],
            never_stop: vec![Settings::from([("method".to_owned(), Value::String("linear".to_owned()))])],
            base: Settings::from([("task".to_owned(), Value::String("t".to_owned()))]),
            stages: vec!["tune".to_owned()],
        }
    }

    #[test]
    fn only_like_is_compared_and_what_is_spared_is_not() {
        let settings =
            |method: &str| Settings::from([("method".to_owned(), Value::String(method.to_owned()))]);
        let rule = EarlyStop { rule: Rule::Asha, ..hyperband() };
        let scope = rule.scope("tune", 1, &settings("gated"), None, 100).unwrap();
        assert_eq!(scope.text, r#"{"bracket":0,"stage":"tune","task":"t"}"#);
        assert_eq!(rule.scope("tune", 1, &settings("linear"), None, 100), None);
        assert_eq!(rule.scope("final", 1, &settings("gated"), None, 100), None);
    }

    #[test]
    fn brackets_have_the_shares_of_hyperband() {
        let rule = hyperband();
        assert_eq!(rule.last_bracket(81), 3);
        let mut counts: BTreeMap<u32, u32> = BTreeMap::new();
        for number in 1..=1_000 {
            *counts.entry(rule.bracket(number, 81)).or_default() += 1;
        }
        // 27, 12, 6 and 4 shares of 49.
        let shares: Vec<u32> = counts.values().copied().collect();
        for (found, wanted) in shares.iter().zip([551, 245, 122, 82]) {
            assert!(found.abs_diff(wanted) < 10, "{shares:?}");
        }
        assert_eq!(rule.last_bracket(3), 0);
    }
}
