//! The stores against the lifecycle alone: random commands go to SQLite, to Postgres and to trials in memory, and after
//! each command all must say the same, and every invariant must hold. The way to the stores loses and doubles calls.
//!
//! Commands that failed once are kept in `seeds` and tried first. `PROPTEST_CASES=1000` tries more.

#[path = "../support/mod.rs"]
mod support;

mod model;
mod steps;

use coordinator::store::reads::Trials;
use coordinator::trial::TrialId;
use proptest::prelude::*;
use proptest::test_runner::{FileFailurePersistence, RngAlgorithm, TestRng, TestRunner};

use model::Model;
use steps::{Mutant, Rig, Step, TRIALS, WORKERS, step};
use support::{Env, Faults, sweep};

/// Of the calls, per mille.
const FAULTS: i64 = 50;
const CASES: u32 = 12;

async fn agrees(env: Env, steps: Vec<Step>, mutant: Mutant) {
    let per_mille = if mutant == Mutant::None { FAULTS } else { 0 };
    let env = env.behind(Faults::new(steps.len() as u64, per_mille));
    let new = sweep("s", TRIALS, 1);
    let policy = new.policy.clone();
    env.submit(new).await;
    let trials = Trials { sweep: "s".to_owned(), after: 0, states: vec![], limit: 100 };
    let rows = env.store.read(trials).await.unwrap();
    let mut rig = Rig { env, mutant };
    let mut workers = Vec::new();
    for worker in 0..WORKERS.len() {
        workers.push(rig.register(worker).await);
    }
    let mut model = Model::new(rows.iter().map(|row| TrialId(row.id)).collect(), policy, workers);
    // A check of Postgres is a process more: there, now and then.
    let every = if rig.env.is_sqlite() { 1 } else { 8 };
    for (place, step) in (1..).zip(steps) {
        steps::take(&mut rig, &mut model, step).await;
        steps::compare(&rig.env, &model).await;
        if place % every == 0 {
            rig.env.check().await;
        }
    }
    rig.env.check().await;
    rig.env.store.close().await;
}

fn cases(most: u32) -> u32 {
    let wanted = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok());
    wanted.unwrap_or(most)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(CASES),
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("tests/model/seeds"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_stores_do_what_the_lifecycle_says(steps in prop::collection::vec(step(), 1..80)) {
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            agrees(Env::sqlite_in_memory().await, steps.clone(), Mutant::None).await;
            agrees(Env::postgres().await, steps, Mutant::None).await;
        });
    }
}

/// A test that cannot fail is worth nothing: each mutation must be noticed.
#[test]
fn a_store_that_is_broken_on_purpose_is_noticed() {
    for mutant in [Mutant::UnfencedFinish, Mutant::HastyReaper, Mutant::ForgetfulLease] {
        let config = ProptestConfig {
            cases: 64,
            max_shrink_iters: 0,
            failure_persistence: None,
            ..ProptestConfig::default()
        };
        let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        let noticed =
            TestRunner::new_with_rng(config, rng).run(&prop::collection::vec(step(), 20..80), |steps| {
                let env = async { agrees(Env::sqlite_in_memory().await, steps, mutant).await };
                tokio::runtime::Runtime::new().unwrap().block_on(env);
                Ok(())
            });
        assert!(noticed.is_err(), "{mutant:?} passes");
    }
}
