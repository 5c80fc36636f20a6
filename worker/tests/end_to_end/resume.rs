//! A run that is cut, wherever it is, and goes on from its checkpoint ends in the same bits.

use std::collections::BTreeMap;

use sweeps::recipe::Recipe;
use worker::home::Home;
use worker::trainer::{self, Attendant, Job, Metrics, Outcome, Session, Tuned};

use crate::home::home;

/// Two steps an epoch, one chunk of images to validate or test on.
const BASE: &str = r#""backbone": "tiny", "task": "test/shades", "image_size": 32, "batch_size": 8, "lr": 0.05,
    "epochs": 3, "split": {"train": "train", "eval": "val", "test": "test"}"#;
const RECIPES: [&str; 6] = [
    r#""method": "vpt_deep", "prompt_length": 3, "prompt_dropout": 0.2"#,
    r#""method": "gated", "prompt_length": 2, "optimizer": "adamw", "wd": 0.1"#,
    r#""method": "e2vpt", "prompt_length": 4, "kv_prompt_length": 2, "segments": 8, "pruning_ratio": 0.5, "segment_ratio": 0.25,
        "schedule": "constant", "rewind_schedule": {"prune_at": 2, "epochs": 2}"#,
    r#""method": "condense", "prompt_length": 3, "pruning_ratio": 0.5,
        "schedule": "constant", "rewind_schedule": {"prune_at": 2, "to": {"epoch": 1}, "epochs": 2, "lr": "continue"}"#,
    r#""method": "e2vpt", "prompt_length": 2, "kv_prompt_length": 1, "segments": 2, "pruning_ratio": 0.5, "fidelity": "code",
        "importance": "leave_one_out", "schedule": "constant", "rewind_schedule": {"to": "init", "epochs": 1}"#,
    r#""method": "vpt_deep", "prompt_length": 3, "prompt_dropout": 0.2, "epoch_steps": 3, "schedule": "poly""#,
];
/// A segmentation, whose crops, colours and batch norms go on too.
const SEGMENTATION: &str = r#"{"backbone": "tiny", "task": "test/shapes", "image_size": 32, "batch_size": 3, "lr": 0.02,
    "split": {"train": "training", "eval": "held_out", "test": "validation"}, "head": "setr_pup", "head_channels": 4,
    "epochs": 2, "epoch_steps": 3, "schedule": "poly", "scales": [0.5, 1], "stride": 24, "method": "gated", "prompt_length": 2}"#;

fn job(method: &str) -> Job {
    // A later key hides an earlier one of the same name.
    let base: serde_json::Value = serde_json::from_str(&format!("{{{BASE}}}")).expect("JSON");
    let own: serde_json::Value = serde_json::from_str(&format!("{{{method}}}")).expect("JSON");
    let mut all = base.as_object().expect("a map").clone();
    all.extend(own.as_object().expect("a map").clone());
    job_of(&serde_json::Value::Object(all).to_string())
}

fn job_of(json: &str) -> Job {
    Job { recipe: Recipe::from_json(json).expect("a recipe"), seed: 7 }
}

fn session() -> Session {
    Session::new(Home::open(home()).expect("a home"), "cpu", 1).expect("a CPU")
}

/// Lets a run take so many questions, then asks it to leave.
#[derive(Default)]
struct Clock {
    patience: Option<usize>,
    asked: std::cell::Cell<usize>,
    epochs: BTreeMap<u32, Metrics>,
    kept: Option<Vec<u8>>,
}

impl Clock {
    fn of(patience: usize) -> Clock {
        Clock { patience: Some(patience), ..Clock::default() }
    }
}

impl Attendant for Clock {
    fn epoch(&mut self, epoch: u32, metrics: &Metrics) {
        self.epochs.insert(epoch, exact(metrics));
    }

    fn is_leaving(&self) -> bool {
        self.asked.set(self.asked.get() + 1);
        self.patience.is_some_and(|patience| self.asked.get() > patience)
    }

    fn checkpoint(&mut self, bytes: Vec<u8>, _epoch: u32) {
        self.kept = Some(bytes);
    }
}

/// What does not depend on the clock on the wall.
fn exact(metrics: &Metrics) -> Metrics {
    let costs = ["seconds/", "memory/", "images_per_second"];
    let exact = metrics.iter().filter(|(name, _)| !costs.iter().any(|cost| name.starts_with(cost)));
    exact.map(|(name, value)| (name.clone(), *value)).collect()
}

/// Runs without a cut.
fn straight(job: &Job, session: &mut Session) -> (Tuned, Clock) {
    let mut clock = Clock::default();
    match trainer::run(job, None, session, &mut clock).expect("the run succeeds") {
        Outcome::Finished(tuned) => (*tuned, clock),
        Outcome::Left => panic!("nobody asked it to leave"),
    }
}

fn assert_same(found: &Tuned, wanted: &Tuned, context: &str) {
    assert_eq!(exact(&found.metrics), exact(&wanted.metrics), "{context}");
    assert!(found.tensors.keys().eq(wanted.tensors.keys()), "{context}");
    for (name, tensor) in &wanted.tensors {
        assert!(found.tensors[name].equal(tensor), "{context}: {name}");
    }
}

#[test]
fn a_run_cut_anywhere_ends_in_the_same_bits() {
    let mut session = session();
    for method in RECIPES.into_iter().chain([SEGMENTATION]) {
        let job = if method == SEGMENTATION { job_of(method) } else { job(method) };
        let (wanted, quiet) = straight(&job, &mut session);
        let questions = quiet.asked.get();
        assert!(questions >= 10, "it asks in every step and every evaluation: {questions}");
        for patience in 0..questions {
            let mut first = Clock::of(patience);
            let outcome = trainer::run(&job, None, &mut session, &mut first).expect("it leaves");
            assert!(matches!(outcome, Outcome::Left), "{method}, cut after {patience}");
            let kept = first.kept.expect("a checkpoint");
            let mut second = Clock::default();
            let outcome = trainer::run(&job, Some(&kept), &mut session, &mut second);
            let Ok(Outcome::Finished(found)) = outcome else { panic!("{method}, {patience}: {outcome:?}") };
            assert_same(&found, &wanted, &format!("{method}, cut after {patience}"));
            assert_eq!(second.epochs, quiet.epochs, "{method}, cut after {patience}");
            // At most a step, or the scoring of prompts, is done again.
            assert!(second.asked.get() <= questions - patience + 6, "{method}: {patience} were not kept");
        }
    }
}

#[test]
fn a_run_cut_again_and_again_ends_in_the_same_bits() {
    let (mut session, job) = (session(), job(RECIPES[0]));
    let (wanted, _) = straight(&job, &mut session);
    let mut kept: Option<Vec<u8>> = None;
    for cuts in 0.. {
        // Each attempt gets one step further.
        let mut clock = Clock::of(1);
        match trainer::run(&job, kept.as_deref(), &mut session, &mut clock).expect("it leaves or ends") {
            Outcome::Left => kept = clock.kept,
            Outcome::Finished(found) => {
                assert!(cuts >= 9, "{cuts}");
                assert_same(&found, &wanted, "cut again and again");
                return;
            }
        }
    }
}

#[test]
fn a_checkpoint_that_is_damaged_or_of_another_run_costs_its_work_alone() {
    let (mut session, job) = (session(), job(RECIPES[0]));
    let (wanted, quiet) = straight(&job, &mut session);
    let mut clock = Clock::of(5);
    trainer::run(&job, None, &mut session, &mut clock).expect("it leaves");
    let good = clock.kept.expect("a checkpoint");
    let mut flipped = good.clone();
    let middle = good.len() / 2;
    flipped[middle] ^= 1;
    let other = Job { seed: 8, ..job.clone() };
    let mut clock = Clock::of(5);
    trainer::run(&other, None, &mut session, &mut clock).expect("it leaves");
    let foreign = clock.kept.expect("a checkpoint");
    for bad in [flipped.as_slice(), &good[..good.len() - 1], b"".as_slice(), &foreign] {
        let mut clock = Clock::default();
        let outcome = trainer::run(&job, Some(bad), &mut session, &mut clock);
        let Ok(Outcome::Finished(found)) = outcome else { panic!("{outcome:?}") };
        assert_same(&found, &wanted, "a bad checkpoint");
        assert_eq!(clock.asked.get(), quiet.asked.get(), "it begins anew");
    }
}
