//! `sweep plan`: what a file would run, and which workers could run it.

use std::collections::{BTreeMap, BTreeSet};

use proto::v1::{Capabilities, Worker};
use serde::Serialize;
use sweeps::recipe::Recipe;
use sweeps::space::Plan;
use sweeps::spec::Spec;
use sweeps::study::Studies;

use super::{file, open, workers};
use crate::cli::{Format, Global, PlanArgs};
use crate::error::CliError;
use crate::output::{self, Column, Grid};

pub(crate) async fn plan(args: &PlanArgs, global: &Global) -> Result<(), CliError> {
    let file::Checked { spec, .. } = file::read(&args.file)?;
    let plan = spec.plan();
    let coverage = if args.offline {
        None
    } else {
        let workers = workers::fetch(&mut open(global).await?).await?;
        Some(Coverage { refused: refused(&spec, &workers), ..coverage(&kinds(&spec), &workers) })
    };
    match global.output {
        Format::Json => output::print_json(&Answer { plan: &plan, workers: coverage.as_ref() }),
        _ => output::print(&page(&plan, coverage.as_ref())),
    }
}

#[derive(Debug, Serialize)]
struct Answer<'a> {
    #[serde(flatten)]
    plan: &'a Plan,
    #[serde(skip_serializing_if = "Option::is_none")]
    workers: Option<&'a Coverage>,
}

/// What a worker must offer to run a trial.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Kind {
    backbone: String,
    task: String,
    method: String,
    /// Label files of the task.
    splits: BTreeSet<String>,
}

impl Kind {
    fn of(recipe: &Recipe) -> Self {
        let split = &recipe.split;
        let splits = [Some(&split.train), Some(&split.eval), split.test.as_ref()];
        Self {
            backbone: recipe.backbone.clone(),
            task: recipe.task.clone(),
            method: recipe.method.name().to_owned(),
            splits: splits.into_iter().flatten().cloned().collect(),
        }
    }

    /// What an offer lacks for this kind of trial, in words.
    fn missing(&self, offer: &Capabilities) -> Vec<String> {
        let mut lacks = Vec::new();
        if !offer.backbones.iter().any(|backbone| backbone.name == self.backbone) {
            lacks.push(format!("backbone {}", self.backbone));
        }
        match offer.tasks.iter().find(|task| task.name == self.task) {
            None => lacks.push(format!("task {}", self.task)),
            Some(task) => {
                let absent = self.splits.iter().filter(|split| !task.splits.contains(split));
                lacks.extend(absent.map(|split| format!("split {split} of {}", self.task)));
            }
        }
        if !offer.methods.contains(&self.method) {
            lacks.push(format!("method {}", self.method));
        }
        lacks
    }
}

/// The kinds of trials of a sweep, and how many there are of each; those of stages that choose when all goes well.
fn kinds(spec: &Spec) -> BTreeMap<Kind, u64> {
    let mut kinds = BTreeMap::new();
    let seeds = spec.seeds.len() as u64;
    for configuration in spec.configurations() {
        *kinds.entry(Kind::of(&configuration.recipe)).or_insert(0) += seeds;
    }
    // Of what a sampler chooses later, nobody knows how many are of which kind: as if it took all alike.
    for study in spec.studies.iter().flat_map(|studies| &studies.list) {
        let Some(Studies { adaptive, .. }) = &spec.studies else { continue };
        let examples: BTreeSet<Kind> =
            adaptive.examples(study).iter().map(|child| Kind::of(&child.recipe)).collect();
        let (trials, count) = (u64::from(adaptive.trials) * seeds, examples.len() as u64);
        for (place, kind) in (0..).zip(examples) {
            *kinds.entry(kind).or_insert(0) += trials * (place + 1) / count - trials * place / count;
        }
    }
    for (number, stage) in spec.stages.iter().enumerate() {
        for opened in spec.opened(number) {
            let trials = opened.configurations * stage.seeds.len() as u64;
            *kinds.entry(Kind::of(&opened.recipe)).or_insert(0) += trials;
        }
    }
    kinds
}

/// Which live worker can run how much of a sweep.
#[derive(Debug, PartialEq, Serialize)]
struct Coverage {
    live: Vec<Offer>,
    /// Trials that no live worker can run.
    unserved: Vec<Unserved>,
    /// Why the coordinator will refuse the file: what does not fit the backbones and tasks that live workers have.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Offer {
    worker: String,
    /// Trials that it can run.
    trials: u64,
    lacks: Vec<String>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Unserved {
    #[serde(flatten)]
    kind: Kind,
    trials: u64,
}

fn coverage(kinds: &BTreeMap<Kind, u64>, workers: &[Worker]) -> Coverage {
    let nothing = Capabilities::default();
    let offers: Vec<(&Worker, &Capabilities)> = workers
        .iter()
        .filter(|worker| worker.state == "live")
        .map(|worker| (worker, worker.capabilities.as_ref().unwrap_or(&nothing)))
        .collect();
    let live = offers.iter().map(|(worker, offer)| {
        let able = kinds.iter().filter(|(kind, _)| kind.missing(offer).is_empty());
        let lacks: BTreeSet<String> = kinds.keys().flat_map(|kind| kind.missing(offer)).collect();
        Offer {
            worker: worker.name.clone(),
            trials: able.map(|(_, trials)| trials).sum(),
            lacks: lacks.into_iter().collect(),
        }
    });
    let live = live.collect();
    let is_served = |kind: &Kind| offers.iter().any(|(_, offer)| kind.missing(offer).is_empty());
    let unserved = kinds.iter().filter(|(kind, _)| !is_served(kind));
    let unserved = unserved.map(|(kind, trials)| Unserved { kind: kind.clone(), trials: *trials });
    Coverage { live, unserved: unserved.collect(), refused: None }
}

/// The first configuration that does not fit what a live worker has under its names.
fn refused(spec: &Spec, workers: &[Worker]) -> Option<String> {
    let live = || workers.iter().filter(|worker| worker.state == "live");
    let offers = || live().filter_map(|worker| Some((worker, worker.capabilities.as_ref()?)));
    spec.configurations().find_map(|configuration| {
        offers().find_map(|(worker, offer)| {
            let recipe = &configuration.recipe;
            let backbones = offer.backbones.iter().filter(|backbone| backbone.name == recipe.backbone);
            let tasks = offer.tasks.iter().filter(|task| task.name == recipe.task);
            let problem = backbones
                .map(|backbone| recipe.check_offered(&backbone.family, backbone.depth, backbone.dim))
                .chain(tasks.map(|task| recipe.check_classes(task.classes)))
                .find_map(Result::err)?;
            let (number, settings) = (configuration.number, configuration.settings_json());
            Some(format!("configuration {number} ({settings}): {problem}, as worker {} has it", worker.name))
        })
    })
}

fn page(plan: &Plan, coverage: Option<&Coverage>) -> String {
    let mut grid = Grid {
        columns: vec![
            Column::text("stage"),
            Column::text("block"),
            Column::number("configurations"),
            Column::number("trials"),
        ],
        rows: Vec::new(),
    };
    for stage in &plan.stages {
        for (block, configurations) in &stage.blocks {
            grid.rows.push(vec![
                stage.name.clone(),
                block.clone(),
                configurations.to_string(),
                String::new(),
            ]);
        }
        let (configurations, trials) = (stage.configurations.to_string(), stage.trials.to_string());
        grid.rows.push(vec![stage.name.clone(), "all".to_owned(), configurations, trials]);
    }
    let mut text = grid.to_text();
    let epochs: u64 = plan.stages.iter().map(|stage| stage.epochs).sum();
    let shared: u64 = plan.stages.iter().map(|stage| stage.shared_epochs).sum();
    if shared > 0 {
        text.push_str(&format!(
            "\n{} of {epochs} epochs are trained: {shared} are those of trials that share the training before they prune\n",
            epochs - shared
        ));
    }
    for stage in &plan.stages {
        if let Some(studies) = stage.studies {
            let samplers = if studies == 1 { "one sampler" } else { "samplers" };
            let of = if studies == 1 { String::new() } else { format!("{studies} ") };
            text.push_str(&format!(
                "{}: {of}{samplers} choose the configurations one by one, as results come in\n",
                stage.name
            ));
        }
    }
    if let Some(coverage) = coverage {
        text.push('\n');
        text.push_str(&sentences(coverage, plan.stages.iter().map(|stage| stage.trials).sum()));
    }
    text
}

fn sentences(coverage: &Coverage, trials: u64) -> String {
    let mut text = String::new();
    if coverage.live.is_empty() {
        text.push_str("no live worker; the trials will wait until one registers\n");
        return text;
    }
    for offer in &coverage.live {
        text.push_str(&format!("{} can run {} of {trials} trials", offer.worker, offer.trials));
        if !offer.lacks.is_empty() {
            text.push_str(&format!("; it lacks {}", offer.lacks.join(", ")));
        }
        text.push('\n');
    }
    if let Some(problem) = &coverage.refused {
        text.push_str(&format!("it would be refused: {problem}\n"));
    }
    for Unserved { kind, trials } in &coverage.unserved {
        let Kind { backbone, task, method, .. } = kind;
        text.push_str(&format!("no live worker can run {trials} trials: {backbone} {task} {method}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use proto::v1::{Backbone, Task};
    use sweeps::space::StagePlan;

    use super::*;

    fn kind(task: &str, method: &str) -> Kind {
        Kind {
            backbone: "vit_b16".into(),
            task: task.into(),
            method: method.into(),
            splits: ["train800".to_owned(), "val200".to_owned()].into(),
        }
    }

    fn worker(name: &str, state: &str, tasks: &[&str], splits: &[&str]) -> Worker {
        let task = |name: &&str| Task {
            name: (*name).to_owned(),
            classes: 10,
            splits: splits.iter().map(|split| (*split).to_owned()).collect(),
        };
        let offer = Capabilities {
            backbones: vec![Backbone { name: "vit_b16".into(), family: "vit".into(), ..Backbone::default() }],
            tasks: tasks.iter().map(task).collect(),
            methods: vec!["linear".into()],
            ..Capabilities::default()
        };
        Worker { name: name.into(), state: state.into(), capabilities: Some(offer), ..Worker::default() }
    }

    /// A worker that has no test images can run what tunes, and not what is tested.
    #[test]
    fn later_stages_are_matched_too() {
        let file = "version: 1\nname: s\nbase: {backbone: vit_b16, method: linear}\n\
                    axes: {task: {values: [vtab/dtd, vtab/svhn]}, lr: {values: [1, 2]}}\n\
                    stages:\n- {name: tune, split: {train: train800, eval: val200}}\n\
                    - {name: final, from: {stage: tune, per: [task]}, split: {train: train800, eval: val200, test: test},\n\
                    \x20  replicates: {seeds: [1, 2, 3]}}\n";
        let kinds = kinds(&Spec::parse("sweep.yaml", file, &[]).expect("valid"));
        let worker = worker("gpu-01", "live", &["vtab/dtd", "vtab/svhn"], &["train800", "val200"]);
        let coverage = coverage(&kinds, &[worker]);
        let lacks = ["split test of vtab/dtd".to_owned(), "split test of vtab/svhn".to_owned()];
        assert_eq!((coverage.live[0].trials, &coverage.live[0].lacks[..]), (4, &lacks[..]));
        assert_eq!(coverage.unserved.iter().map(|unserved| unserved.trials).collect::<Vec<_>>(), [3, 3]);
    }

    #[test]
    fn a_method_that_the_offered_backbone_cannot_take_is_told() {
        let file = |method: &str| {
            let text = format!(
                "version: 1\nname: n\nbase: {{backbone: mine, task: t, lr: 1, prompt_length: 2, method: {method}}}\n"
            );
            Spec::parse("n.yaml", &text, &[]).expect("valid")
        };
        let mut swin = worker("gpu-01", "live", &["t"], &["train800", "val200", "test"]);
        if let Some(offer) = &mut swin.capabilities {
            let shape = Backbone {
                name: "mine".into(),
                family: "swin".into(),
                depth: 24,
                dim: 1024,
                ..Default::default()
            };
            offer.backbones = vec![shape];
        }
        let workers = [swin];
        assert_eq!(refused(&file("vpt_deep"), &workers), None);
        let problem = refused(&file("gated"), &workers).expect("a problem");
        assert!(
            problem.starts_with("configuration 1 (")
                && problem.contains("`gated` cannot tune `mine`, a swin backbone")
                && problem.ends_with("as worker gpu-01 has it"),
            "{problem}"
        );
        let coverage = Coverage { live: Vec::new(), unserved: Vec::new(), refused: Some(problem) };
        let live =
            Coverage { live: vec![Offer { worker: "w".into(), trials: 1, lacks: Vec::new() }], ..coverage };
        assert!(sentences(&live, 1).contains("it would be refused: configuration 1"));
    }

    #[test]
    fn a_plan_says_who_can_run_it_and_who_lacks_what() {
        let kinds = BTreeMap::from([
            (kind("vtab/dtd", "linear"), 10),
            (kind("vtab/svhn", "linear"), 20),
            (kind("vtab/svhn", "gated"), 5),
        ]);
        let splits = ["train800", "val200", "test"];
        let workers = [
            worker("gpu-01", "live", &["vtab/dtd", "vtab/svhn"], &splits),
            worker("gpu-02", "live", &["vtab/dtd"], &splits[..1]),
            worker("gpu-03", "lost", &["vtab/dtd"], &splits),
        ];
        let stage = StagePlan {
            name: "tune".into(),
            configurations: 7,
            trials: 35,
            blocks: vec![("a".into(), 6)],
            from: None,
            groups: None,
            epochs: 3500,
            shared_epochs: 1200,
            studies: None,
        };
        let plan = Plan { stages: vec![stage], warnings: Vec::new() };
        insta::assert_snapshot!(page(&plan, Some(&coverage(&kinds, &workers))));
        insta::assert_snapshot!(sentences(&coverage(&kinds, &workers[2..]), 35), @"no live worker; the trials will wait until one registers");
    }
}
