//! What stages will run, before anything has: exactly for the first, by examples for those that choose.

use std::collections::BTreeMap;

use super::Space;
use crate::recipe::Recipe;
use crate::spec::Spec;
use crate::stage::{FromStage, Parent};
use crate::study::Studies;
use crate::value::Settings;

/// A configuration that a stage may open, standing for all of its group at the same point of the stage's axes.
#[derive(Debug, Clone)]
pub struct Opened {
    pub recipe: Recipe,
    /// Configurations that it stands for.
    pub configurations: u64,
    group: usize,
    settings: Settings,
    block: Option<String>,
    is_lr_scaled: bool,
}

/// A configuration that may be chosen.
struct Candidate {
    settings: Settings,
    block: Option<String>,
    is_lr_scaled: bool,
}

/// Epochs of some trials of one seed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Epochs {
    /// Of all phases, each trial for itself.
    pub(super) all: u64,
    /// Of these, what others of the same seed have trained already.
    pub(super) shared: u64,
}

impl Spec {
    /// What a stage that chooses opens when every trial ends well, as if the first of each group were chosen; empty for
    /// the first stage.
    #[must_use]
    pub fn opened(&self, stage: usize) -> Vec<Opened> {
        let Some(from) = self.stages.get(stage).and_then(|stage| stage.from.as_ref()) else {
            return Vec::new();
        };
        let points = from.opening.point_count().max(1);
        let mut opened = Vec::new();
        for (group, candidate) in self.candidates(from).into_iter().enumerate() {
            let Some(Candidate { settings, block, is_lr_scaled }) = candidate else { continue };
            let parent = Parent { settings: &settings, hash: "", is_lr_scaled };
            let configurations = from.groups[group].configurations / points;
            let children = from.opening.children(parent).unwrap_or_default().into_iter();
            opened.extend(children.map(|child| Opened {
                recipe: child.recipe,
                configurations,
                group,
                settings: child.settings,
                block: block.clone(),
                is_lr_scaled: child.is_lr_scaled,
            }));
        }
        opened
    }

    /// The first that may be chosen from each group.
    fn candidates(&self, from: &FromStage) -> Vec<Option<Candidate>> {
        let places: BTreeMap<&str, usize> =
            from.groups.iter().enumerate().map(|(place, group)| (group.key.as_str(), place)).collect();
        let mut first: Vec<Option<Candidate>> = from.groups.iter().map(|_| None).collect();
        let mut add = |candidate: Candidate| {
            let key = from.opening.key(&candidate.settings, candidate.block.as_deref());
            if let Some(place) = places.get(key.as_str()) {
                first[*place].get_or_insert(candidate);
            }
        };
        if from.stage == 0 {
            (0..self.space.example_count()).for_each(|index| add(candidate(&self.space, index)));
        } else {
            for Opened { settings, block, is_lr_scaled, .. } in self.opened(from.stage) {
                add(Candidate { settings, block, is_lr_scaled });
            }
        }
        first
    }

    /// The epochs of a stage, of all seeds.
    pub(super) fn epochs(&self, stage: usize) -> Epochs {
        let seeds = self.stages[stage].seeds.len() as u64;
        if self.stages[stage].from.is_none() {
            let of_one_seed = if self.space.facts.prunes {
                let recipes: Vec<Recipe> =
                    self.configurations().map(|configuration| configuration.recipe).collect();
                Epochs::of(&recipes, self.share_prefix)
            } else {
                Epochs { all: self.space.facts.epochs, shared: 0 }
            };
            // Those of a study as if all were like the first example of it.
            let of_study = |Studies { adaptive, list }: &Studies| {
                let epochs = |study| {
                    adaptive
                        .examples(study)
                        .first()
                        .map_or(0, |child| u64::from(child.recipe.epochs_in_all()))
                };
                list.iter().map(epochs).sum::<u64>() * u64::from(adaptive.trials)
            };
            let all = of_one_seed.all + self.studies.as_ref().map_or(0, of_study);
            return Epochs { all, ..of_one_seed }.times(seeds);
        }
        let opened = self.opened(stage);
        let groups = opened.chunk_by(|a, b| a.group == b.group);
        groups.fold(Epochs::default(), |sum, group| {
            let recipes: Vec<Recipe> = group.iter().map(|opened| opened.recipe.clone()).collect();
            let more =
                Epochs::of(&recipes, self.share_prefix).times(group[0].configurations.saturating_mul(seeds));
            Epochs { all: sum.all.saturating_add(more.all), shared: sum.shared.saturating_add(more.shared) }
        })
    }

    /// Whether any of its trials may share the training before they prune.
    #[must_use]
    pub fn is_sharing(&self) -> bool {
        let prunes = |stage| self.opened(stage).iter().any(|opened| opened.recipe.pruning.is_some());
        self.share_prefix && (self.space.facts.prunes || (1..self.stages.len()).any(prunes))
    }
}

impl Epochs {
    fn of(recipes: &[Recipe], is_sharing: bool) -> Self {
        let mut epochs = Epochs::default();
        let mut known: BTreeMap<String, u64> = BTreeMap::new();
        for recipe in recipes {
            epochs.all += u64::from(recipe.epochs_in_all());
            let Some(prefix) = recipe.prefix().filter(|_| is_sharing) else { continue };
            let trained = known.entry(prefix.hash).or_default();
            epochs.shared += *trained;
            *trained = prefix.epochs.into();
        }
        epochs
    }

    fn times(self, n: u64) -> Self {
        Self { all: self.all.saturating_mul(n), shared: self.shared.saturating_mul(n) }
    }
}

fn candidate(space: &Space, index: usize) -> Candidate {
    let (block, settings) = space.settings(index);
    Candidate {
        settings,
        is_lr_scaled: block.is_some_and(|block| block.is_lr_scaled()),
        block: block.and_then(|block| block.name.as_deref()).map(str::to_owned),
    }
}
