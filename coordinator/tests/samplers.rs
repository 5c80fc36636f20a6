//! Samplers that choose while results come in, on both databases: what a slot runs is chosen when it asks, once, and from
//! all that has ended by then.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use coordinator::store::explain::ExplainSweep;
use coordinator::store::ops::{Cancel, Lease, Pause, Propose, Suggest};
use coordinator::store::reads::{HasWork, Results, Trials};
use coordinator::store::rows::{SweepRow, TrialView};
use coordinator::store::{Store, Token};
use coordinator::trial::{FailureClass, WorkerId};
use support::{Env, TTL, failure, is_accepted, on_both, success, sweep, sweep_of, token};
use sweeps::{Settings, Value};

const FILE: &str = "
version: 1
name: s
base: {backbone: b, method: linear, task: t, split: {train: train, eval: train, test: null}}
axes:
  lr: {range: {min: 0.0001, max: 1, scale: log}}
  wd: {range: {min: 0, max: 0.1}}
search: {sampler: tpe, trials: 24, startup: 6, seed: 3}
";
const PER_TASK: &str = "
version: 1
name: s
base: {backbone: b, method: linear}
axes:
  task: {values: [t, u]}
  lr: {range: {min: 0.0001, max: 1, scale: log}}
search: {sampler: tpe, trials: 5, startup: 2, per: [task]}
replicates: {seeds: [0, 1]}
retry: {max_attempts: 1}
stages:
  - {name: tune, split: {train: train, eval: train}}
  - name: final
    from: {stage: tune, per: [task]}
    split: {train: train, eval: val200, test: test}
    replicates: {seeds: [7, 8, 9]}
";

on_both!(
    what_runs_next_is_chosen_when_a_slot_asks,
    results_decide_what_is_chosen,
    the_same_history_gives_the_same_configurations,
    a_restart_changes_nothing,
    coordinators_that_ask_at_once_choose_each_once,
    what_runs_is_not_chosen_again,
    each_study_has_its_own_history_and_its_own_group,
    a_space_that_is_used_up_ends_its_study,
    cancel_gives_up_what_was_not_chosen,
    paused_and_limited_sweeps_choose_nothing,
    a_sampler_waits_its_turn,
    failures_are_bad_results,
    stopped_trials_rank_behind_finished_ones,
    configurations_that_the_file_states_are_known,
    a_strategy_goes_on_from_generation_to_generation,
    it_is_said_why_nothing_is_chosen,
    studies_of_tasks_that_a_worker_lacks_are_left_to_others,
);

async fn worker(env: &Env, slots: u32, tasks: &[&str]) -> WorkerId {
    let mut offer = support::offer(&["linear", "vpt_deep", "gated"]);
    let splits = ["train", "val200", "test"].map(str::to_owned).to_vec();
    let task = |name: &&str| coordinator::offer::Task {
        name: (*name).to_owned(),
        classes: 2,
        splits: splits.clone(),
    };
    offer.tasks = tasks.iter().map(task).collect();
    env.worker_offering(&format!("gpu of {}", tasks.join(" ")), slots, offer).await
}

async fn trials(env: &Env) -> Vec<TrialView> {
    let all = Trials { sweep: "s".to_owned(), after: 0, states: vec![], limit: 1_000 };
    env.store.read(all).await.unwrap()
}

fn number(settings: &str, key: &str) -> f64 {
    match serde_json::from_str::<Settings>(settings).unwrap().remove(key) {
        Some(Value::Float(x)) => x,
        Some(Value::Int(i)) => f64::from(i32::try_from(i).unwrap()),
        other => panic!("{other:?}"),
    }
}

/// Best at a rate of 0.01.
fn score(settings: &str) -> f64 {
    90.0 - 10.0 * (number(settings, "lr").log10() + 2.0).powi(2)
}

/// Runs a sweep to its end, `slots` trials at a time; the settings in the order in which they were chosen.
async fn run(env: &Env, slots: u32, score: impl Fn(&str) -> f64) -> Vec<String> {
    let gpu = worker(env, slots, &["t", "u"]).await;
    for round in 0.. {
        let leased = env.lease(&gpu, &format!("r{round}"), slots).await;
        if leased.is_empty() {
            break;
        }
        let all = trials(env).await;
        for row in &leased {
            let settings = &all.iter().find(|trial| trial.id == row.trial).unwrap().settings_json;
            assert!(is_accepted(&env.finish(&gpu, success(token(row), score(settings))).await));
        }
    }
    trials(env).await.into_iter().map(|trial| trial.settings_json).collect()
}

fn counts(row: &SweepRow) -> [i64; 5] {
    [row.configurations, row.trials, row.waiting, row.queued, row.running]
}

async fn what_runs_next_is_chosen_when_a_slot_asks(env: &Env) {
    let submitted = env.submit(sweep_of(FILE)).await;
    assert_eq!(counts(&submitted), [24, 24, 24, 0, 0], "nothing is chosen yet");
    assert_eq!(submitted.state, "active");
    let gpu = worker(env, 2, &["t"]).await;
    assert!(env.store.read(HasWork { worker: gpu.clone() }).await.unwrap());
    assert_eq!(env.lease(&gpu, "r1", 1).await.len(), 1);
    assert_eq!(counts(&env.sweep("s").await), [24, 24, 23, 0, 1], "one was asked for, one was chosen");
    assert_eq!(env.lease(&gpu, "r1", 1).await.len(), 1, "a repetition gets the same");
    assert_eq!(env.lease(&gpu, "r2", 8).await.len(), 1, "one slot is left");
    assert_eq!(counts(&env.sweep("s").await), [24, 24, 22, 0, 2]);
    let events = env.events(&submitted).await;
    let event = events.iter().find(|event| event.kind == "suggested").unwrap();
    assert_eq!(event.message, "tpe: #1 after 0 results, 1 of 24");
}

/// A third of the space is near the best; evenly drawn, 7 of 20 would be.
async fn results_decide_what_is_chosen(env: &Env) {
    env.submit(sweep_of(&FILE.replace("trials: 24", "trials: 60"))).await;
    let settings = run(env, 1, score).await;
    assert_eq!(settings.len(), 60);
    assert_eq!(settings.iter().collect::<BTreeSet<_>>().len(), 60, "nothing is run twice");
    let near = |settings: &[String]| {
        settings.iter().filter(|settings| (number(settings, "lr").log10() + 2.0).abs() < 0.7).count()
    };
    let (first, last) = (near(&settings[..6]), near(&settings[40..]));
    assert!(last >= 14 && first <= 3, "{first} of 6 at the start, {last} of 20 at the end: {settings:?}");
    let row = env.sweep("s").await;
    assert_eq!((row.state.as_str(), row.succeeded, row.waiting), ("ended", 60, 0));
    let page = Results { sweep: "s".to_owned(), after: 0, limit: 100 };
    let page = env.store.read(page).await.unwrap();
    assert_eq!((page.configurations.len(), page.outcomes.len()), (60, 60));
    assert!(!page.first_recipe_json.is_empty());
}

async fn the_same_history_gives_the_same_configurations(env: &Env) {
    env.submit(sweep_of(FILE)).await;
    let first = run(env, 3, score).await;
    let other = if env.is_sqlite() { Env::sqlite().await } else { Env::postgres().await };
    other.submit(sweep_of(FILE)).await;
    assert_eq!(run(&other, 3, score).await, first);
    let third = if env.is_sqlite() { Env::sqlite().await } else { Env::postgres().await };
    third.submit(sweep_of(&FILE.replace("seed: 3", "seed: 4"))).await;
    assert_ne!(run(&third, 3, score).await, first);
}

async fn a_restart_changes_nothing(env: &Env) {
    env.submit(sweep_of(FILE)).await;
    let expected = run(env, 1, score).await;
    let mut other = if env.is_sqlite() { Env::sqlite().await } else { Env::postgres().await };
    other.submit(sweep_of(FILE)).await;
    let gpu = worker(&other, 1, &["t"]).await;
    for (place, expected) in expected.iter().enumerate() {
        let leased = other.lease(&gpu, &format!("r{place}"), 1).await;
        other.reopen().await;
        let settings = trials(&other).await.pop().unwrap().settings_json;
        assert_eq!(settings, *expected);
        other.finish(&gpu, success(token(&leased[0]), score(&settings))).await;
        other.reopen().await;
    }
}

async fn coordinators_that_ask_at_once_choose_each_once(env: &Env) {
    env.submit(sweep_of(FILE)).await;
    let gpu = worker(env, 100, &["t"]).await;
    let other = match env.is_sqlite() {
        true => env.store.clone(),
        false => env.store.before(Store::open(&env.url, env.clock()).await.unwrap()),
    };
    let lease = |number: usize| Lease {
        worker: gpu.clone(),
        request: format!("r{number}"),
        max: 3,
        ttl: TTL,
        warm: Vec::new(),
        may_ask: true,
    };
    let asks = (0..12).map(|number| {
        let (store, lease) = (if number % 2 == 0 { env.store.clone() } else { other.clone() }, lease(number));
        tokio::spawn(async move { store.lease(&lease).await.unwrap().assignments.len() })
    });
    let mut leased = 0;
    for ask in asks.collect::<Vec<_>>() {
        leased += ask.await.unwrap();
    }
    let row = env.sweep("s").await;
    let all = trials(env).await;
    assert_eq!((all.len() as i64, leased as i64), (24 - row.waiting, row.running));
    assert!(leased >= 12, "{leased}");
    let settings: BTreeSet<String> = all.into_iter().map(|trial| trial.settings_json).collect();
    assert_eq!(settings.len() as i64, row.queued + row.running, "none twice");

    // The same proposal counts once.
    let propose = Propose { sweep: row.number, worker: gpu.clone(), trials: 1 };
    if let Some(proposal) = env.store.read(propose).await.unwrap() {
        let store = env.store.reliable();
        assert!(store.write(Suggest { proposal: proposal.clone() }).await.unwrap());
        assert!(!store.write(Suggest { proposal }).await.unwrap());
    }
}

async fn what_runs_is_not_chosen_again(env: &Env) {
    env.submit(sweep_of(FILE)).await;
    let gpu = worker(env, 24, &["t"]).await;
    for row in env.lease(&gpu, "r1", 8).await {
        let settings = trials(env).await.iter().find(|t| t.id == row.trial).unwrap().settings_json.clone();
        env.finish(&gpu, success(token(&row), score(&settings))).await;
    }
    let running = env.lease(&gpu, "r2", 16).await;
    assert_eq!(running.len(), 16);
    let all = trials(env).await;
    let mut rates: Vec<f64> =
        all[8..].iter().map(|trial| number(&trial.settings_json, "lr").log10()).collect();
    rates.sort_by(f64::total_cmp);
    assert!(rates.windows(2).all(|pair| pair[1] - pair[0] > 1e-6), "{rates:?}");
    assert!(rates[15] - rates[0] > 0.5, "they are spread: {rates:?}");
}

async fn each_study_has_its_own_history_and_its_own_group(env: &Env) {
    let submitted = env.submit(sweep_of(PER_TASK)).await;
    assert_eq!(counts(&submitted), [10 + 2, 20 + 6, 26, 0, 0]);
    let gpu = worker(env, 4, &["t", "u"]).await;
    let mut opened_at = BTreeMap::new();
    for round in 0.. {
        let leased = env.lease(&gpu, &format!("r{round}"), 4).await;
        if leased.is_empty() {
            break;
        }
        let all = trials(env).await;
        for row in &leased {
            let trial = all.iter().find(|trial| trial.id == row.trial).unwrap();
            opened_at.entry(trial.stage.clone()).or_insert(round);
            env.finish(&gpu, success(token(row), score(&trial.settings_json))).await;
        }
    }
    let all = trials(env).await;
    let of = |stage: &str, task: &str| {
        let is_of = |trial: &&TrialView| trial.stage == stage && trial.settings_json.contains(task);
        all.iter().filter(is_of).map(|trial| trial.settings_json.clone()).collect::<Vec<_>>()
    };
    for task in [r#""t""#, r#""u""#] {
        let tuned = of("tune", task);
        assert_eq!((tuned.len(), of("final", task).len()), (10, 3));
        let best = tuned.iter().max_by(|a, b| score(a).total_cmp(&score(b))).unwrap();
        assert_eq!(of("final", task)[0], *best);
    }
    assert_ne!(
        of("tune", r#""t""#).iter().map(|s| number(s, "lr").to_bits()).collect::<Vec<_>>(),
        of("tune", r#""u""#).iter().map(|s| number(s, "lr").to_bits()).collect::<Vec<_>>(),
        "studies do not draw alike"
    );
    let row = env.sweep("s").await;
    assert_eq!((row.state.as_str(), row.succeeded, row.configurations), ("ended", 26, 12));
}

async fn a_space_that_is_used_up_ends_its_study(env: &Env) {
    // Of nine points, three are excluded: six are left of the eight that are asked for.
    let text = "
version: 1
name: s
base: {backbone: b, method: linear, task: t}
axes:
  lr: {values: [0.1, 0.2, 0.3]}
  wd: {values: [0, 0.1, 0.2]}
exclude: [{lr: 0.1}]
search: {sampler: tpe, trials: 8, startup: 2}
stages:
  - {name: tune, split: {train: train, eval: train}}
  - {name: final, from: {stage: tune, best: 2}, split: {train: train, eval: val200, test: test}}
";
    let submitted = env.submit(sweep_of(text)).await;
    assert_eq!(counts(&submitted)[..3], [10, 10, 10]);
    let settings = run(env, 2, |settings| number(settings, "wd")).await;
    assert_eq!(settings[..6].iter().collect::<BTreeSet<_>>().len(), 6);
    assert_eq!(settings.len(), 8, "the stage after it has opened: {settings:?}");
    let row = env.sweep("s").await;
    assert_eq!((row.state.as_str(), row.succeeded, row.trials, row.configurations), ("ended", 8, 8, 8));
    let events = env.events(&submitted).await;
    assert!(
        events.iter().any(|event| event.message == "tpe: there is nothing new after 6 of 8 configurations")
    );
}

async fn cancel_gives_up_what_was_not_chosen(env: &Env) {
    env.submit(sweep_of(PER_TASK)).await;
    let gpu = worker(env, 4, &["t", "u"]).await;
    assert_eq!(env.lease(&gpu, "r1", 4).await.len(), 4);
    let row = env.store.write(Cancel { sweep: "s".to_owned() }).await.unwrap();
    assert_eq!((row.state.as_str(), counts(&row)), ("cancelled", [2, 4, 0, 0, 0]));
    assert!(env.lease(&gpu, "r2", 4).await.is_empty());
}

async fn paused_and_limited_sweeps_choose_nothing(env: &Env) {
    env.submit(sweep_of(&format!("{FILE}limits: {{max_running: 2}}\n"))).await;
    let gpu = worker(env, 8, &["t"]).await;
    assert_eq!(env.lease(&gpu, "r1", 8).await.len(), 2);
    assert!(env.lease(&gpu, "r2", 8).await.is_empty());
    assert_eq!(counts(&env.sweep("s").await), [24, 24, 22, 0, 2], "nothing waits in the queue");
    let leased = env.trial(coordinator::trial::TrialId(1)).await.trial;
    let held = Token { trial: coordinator::trial::TrialId(leased.id), attempt: 1 };
    env.finish(&gpu, success(held, 1.0)).await;
    env.store.write(Pause { sweep: "s".to_owned() }).await.unwrap();
    assert!(env.lease(&gpu, "r3", 8).await.is_empty());
    assert_eq!(counts(&env.sweep("s").await), [24, 24, 22, 0, 1]);
}

async fn a_sampler_waits_its_turn(env: &Env) {
    let plain = sweep("plain", 10, 1);
    env.submit(plain).await;
    env.submit(sweep_of(&FILE.replace("name: s", "name: s\npriority: 5"))).await;
    let gpu = worker(env, 30, &["t"]).await;
    for round in 0..3 {
        env.lease(&gpu, &format!("r{round}"), 1).await;
    }
    assert_eq!(
        (env.sweep("s").await.running, env.sweep("plain").await.running),
        (3, 0),
        "it is served first"
    );
    assert_eq!(env.lease(&gpu, "rest", 30).await.len(), 27);
    assert_eq!((env.sweep("s").await.running, env.sweep("plain").await.running), (24, 6));

    let env = if env.is_sqlite() { Env::sqlite().await } else { Env::postgres().await };
    env.submit(sweep("plain", 10, 1)).await;
    env.submit(sweep_of(FILE)).await;
    let gpu = worker(&env, 30, &["t"]).await;
    assert_eq!(env.lease(&gpu, "r", 8).await.len(), 8);
    assert_eq!((env.sweep("s").await.running, env.sweep("plain").await.running), (4, 4), "equals take turns");
}

async fn failures_are_bad_results(env: &Env) {
    // High rates diverge, and are left alone soon.
    env.submit(sweep_of(&format!("{FILE}limits: {{pause_after_failures: null}}\n"))).await;
    let gpu = worker(env, 1, &["t"]).await;
    for round in 0..24 {
        let leased = env.lease(&gpu, &format!("r{round}"), 1).await;
        let settings = trials(env).await.pop().unwrap().settings_json;
        let rate = number(&settings, "lr");
        let end = match rate {
            rate if rate > 0.01 => failure(token(&leased[0]), FailureClass::Diverged),
            rate => success(token(&leased[0]), 50.0 - (rate.log10() + 3.0).abs()),
        };
        assert!(is_accepted(&env.finish(&gpu, end).await));
    }
    let all = trials(env).await;
    let diverged = |trials: &[TrialView]| trials.iter().filter(|trial| trial.state == "failed").count();
    assert!(
        diverged(&all[..6]) >= 2 && diverged(&all[12..]) <= 5,
        "{} {}",
        diverged(&all[..6]),
        diverged(&all[12..])
    );
    assert_eq!(env.sweep("s").await.state, "ended");
}

async fn stopped_trials_rank_behind_finished_ones(env: &Env) {
    let text = format!("{FILE}early_stop: {{rule: asha, min: 1, eta: 2}}\n");
    env.submit(sweep_of(&text)).await;
    let gpu = worker(env, 1, &["t"]).await;
    for round in 0.. {
        let leased = env.lease(&gpu, &format!("r{round}"), 1).await;
        let Some(row) = leased.first() else { break };
        let settings = trials(env).await.pop().unwrap().settings_json;
        let progress = coordinator::store::ops::Progress {
            token: token(row),
            points: vec![support::point(1, score(&settings))],
            checkpoint: None,
            prefix: None,
        };
        let report = coordinator::store::ops::Report { worker: gpu.clone(), progress: vec![progress] };
        if env.store.write(report).await.unwrap().is_empty() {
            env.finish(&gpu, success(token(row), score(&settings))).await;
        }
    }
    let row = env.sweep("s").await;
    assert_eq!((row.state.as_str(), row.stopped + row.succeeded), ("ended", 24));
    assert!(row.stopped > 3, "{}", row.stopped);
}

async fn configurations_that_the_file_states_are_known(env: &Env) {
    let include: Vec<String> =
        (0..8).map(|i| format!("  - {{lr: {}, wd: 0.0{i}}}\n", 0.001 * f64::from(1 + i))).collect();
    let text = format!("{FILE}include:\n{}", include.concat()).replace("startup: 6", "startup: 8");
    let submitted = env.submit(sweep_of(&text)).await;
    assert_eq!(counts(&submitted), [32, 32, 24, 8, 0]);
    let gpu = worker(env, 8, &["t"]).await;
    for row in env.lease(&gpu, "r1", 8).await {
        let settings = trials(env).await.iter().find(|t| t.id == row.trial).unwrap().settings_json.clone();
        env.finish(&gpu, success(token(&row), score(&settings))).await;
    }
    assert_eq!(env.lease(&gpu, "r2", 1).await.len(), 1);
    let events = env.events(&submitted).await;
    let event = events.iter().find(|event| event.kind == "suggested").unwrap();
    assert_eq!(event.message, "tpe: #9 after 8 results, 1 of 24");
}

async fn a_strategy_goes_on_from_generation_to_generation(env: &Env) {
    env.submit(sweep_of(
        &FILE.replace("sampler: tpe, trials: 24, startup: 6", "sampler: cma_es, trials: 60"),
    ))
    .await;
    let settings = run(env, 3, score).await;
    assert_eq!(settings.len(), 60);
    let error = |settings: &[String]| {
        let sum: f64 = settings.iter().map(|settings| (number(settings, "lr").log10() + 2.0).abs()).sum();
        sum / settings.len() as f64
    };
    let (first, last) = (error(&settings[..12]), error(&settings[48..]));
    assert!(last < 0.5 * first, "from {first} to {last}");
}

async fn it_is_said_why_nothing_is_chosen(env: &Env) {
    env.submit(sweep_of(FILE)).await;
    let ask = ExplainSweep { sweep: "s".to_owned() };
    let told = env.store.read(ask.clone()).await.unwrap();
    let choosing = "tpe has chosen 0 of 24 configurations; it chooses the next when a slot is free for it, so as to know \
                    what has ended by then";
    assert_eq!(told.state, "waiting");
    assert_eq!(told.reasons, [choosing, "there is no live worker; start one with `worker start`"]);
    let other = worker(env, 1, &["u"]).await;
    let told = env.store.read(ask.clone()).await.unwrap();
    assert_eq!(told.reasons[1], "no worker can take it now");
    assert_eq!(told.workers, [("gpu of u".to_owned(), vec!["lacks task t".to_owned()])]);
    assert!(!env.store.read(HasWork { worker: other.clone() }).await.unwrap());
    assert!(env.lease(&other, "r", 1).await.is_empty());
}

async fn studies_of_tasks_that_a_worker_lacks_are_left_to_others(env: &Env) {
    env.submit(sweep_of(PER_TASK)).await;
    let (t, u) = (worker(env, 8, &["t"]).await, worker(env, 8, &["u"]).await);
    assert_eq!(env.lease(&u, "r1", 4).await.len(), 4);
    assert!(trials(env).await.iter().all(|trial| trial.settings_json.contains(r#""u""#)));
    assert_eq!(env.lease(&t, "r1", 4).await.len(), 4);
    assert_eq!(env.sweep("s").await.queued, 0);
}
