//! What the samplers find, and how long a suggestion takes: `make bench-samplers` compares with Optuna
//! (`bench/samplers/compare.py`, which calls this), `make bench-suggest` times suggestions after 10,000 results.
//!
//! `samplers curves` prints the best value so far, by problem, sampler, seed and trial, as CSV; the problems are
//! those of `compare.py`. A batch is so many suggestions that are made before any of their results is known.

#![allow(clippy::print_stdout, reason = "a bench prints what it measured")]

use std::time::Instant;

use coordinator::search::cma_es::{self, Strategy};
use coordinator::search::sampler::{self, Observation, Outcome, Shape};
use sweeps::stage::Child;
use sweeps::study::{Algorithm, Point, Studies};
use sweeps::{Settings, Spec, Value};

const SEEDS: u64 = 20;
const TRIALS: usize = 100;
/// Of which the first are drawn evenly.
const STARTUP: usize = 10;

type Function = Box<dyn Fn(&Child) -> f64>;

/// A space as a sweep file has it, and what is to be minimised in it.
struct Problem {
    name: &'static str,
    space: String,
    samplers: &'static [&'static str],
    value: Function,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.as_slice() {
        [verb] if verb == "curves" => curves(),
        [verb] if verb == "speed" => speed(),
        _ => panic!("curves, or speed"),
    }
}

fn problems() -> Vec<Problem> {
    vec![
        Problem {
            name: "branin",
            space: "base: {method: linear}\naxes:\n  lr: {range: {min: 0, max: 15}}\n  wd: {range: {min: 0, max: 15}}"
                .to_owned(),
            samplers: &["tpe", "cma_es"],
            value: Box::new(|child| branin(number(child, "lr") - 5.0, number(child, "wd"))),
        },
        Problem {
            name: "hartmann6",
            space: format!(
                "base: {{method: e2vpt, prompt_length: 10, kv_prompt_length: 1}}\naxes:\n{}",
                SIX.map(|key| format!("  {key}: {{range: {{min: 0, max: 0.999999}}}}\n")).concat()
            ),
            samplers: &["tpe", "cma_es"],
            value: Box::new(|child| hartmann(&SIX.map(|key| number(child, key)))),
        },
        Problem {
            name: "mixed",
            space: MIXED.to_owned(),
            samplers: &["tpe"],
            value: Box::new(mixed),
        },
    ]
}

const SIX: [&str; 6] = ["lr", "wd", "wd_head", "prompt_dropout", "pruning_ratio", "segment_ratio"];

/// Two blocks of different keys, a logarithmic, an integer and a categorical axis.
const MIXED: &str = "
base: {epochs: 20}
axes:
  lr: {range: {min: 0.0001, max: 10, scale: log}}
  wd: {range: {min: 0.000001, max: 0.1, scale: log}}
  prompt_length: {range: {min: 1, max: 100, type: int}}
  head_init: {values: [vpt, spt, zero]}
blocks:
  - {name: shallow, set: {method: vpt_shallow}, axes: {insertion_depth: {range: {min: 0, max: 11, type: int}}}}
  - {name: gated, set: {method: gated}, axes: {gate_init: {range: {min: 0, max: 20}}}}
";

fn mixed(child: &Child) -> f64 {
    let (lr, wd) = (number(child, "lr").log10(), number(child, "wd").log10());
    let length = number(child, "prompt_length");
    let head = match &child.settings["head_init"] {
        Value::String(name) if name == "vpt" => 0.0,
        Value::String(name) if name == "spt" => 0.3,
        _ => 0.6,
    };
    match child.settings.get("insertion_depth") {
        Some(_) => {
            let depth = number(child, "insertion_depth");
            (lr - 0.5).powi(2)
                + 0.2 * (wd + 3.0).powi(2)
                + head
                + ((length - 60.0) / 30.0).powi(2)
                + 0.05 * depth
                + 0.5
        }
        None => {
            let gate = number(child, "gate_init");
            let tilt = 0.5 * (lr + 1.5) * (gate - 12.0) / 6.0;
            (lr + 1.5).powi(2)
                + 0.2 * (wd + 2.0).powi(2)
                + head
                + ((length - 20.0) / 30.0).powi(2)
                + ((gate - 12.0) / 6.0).powi(2)
                + tilt
        }
    }
}

fn number(child: &Child, key: &str) -> f64 {
    match child.settings.get(key) {
        Some(Value::Int(i)) => *i as f64,
        Some(Value::Float(x)) => *x,
        other => panic!("{key}: {other:?}"),
    }
}

fn branin(x: f64, y: f64) -> f64 {
    use std::f64::consts::PI;
    (y - 5.1 / (4.0 * PI * PI) * x * x + 5.0 / PI * x - 6.0).powi(2)
        + 10.0 * (1.0 - 1.0 / (8.0 * PI)) * x.cos()
        + 10.0
}

fn hartmann(x: &[f64; 6]) -> f64 {
    const ALPHA: [f64; 4] = [1.0, 1.2, 3.0, 3.2];
    const A: [[f64; 6]; 4] = [
        [10.0, 3.0, 17.0, 3.5, 1.7, 8.0],
        [0.05, 10.0, 17.0, 0.1, 8.0, 14.0],
        [3.0, 3.5, 1.7, 10.0, 17.0, 8.0],
        [17.0, 8.0, 0.05, 10.0, 0.1, 14.0],
    ];
    const P: [[f64; 6]; 4] = [
        [0.1312, 0.1696, 0.5569, 0.0124, 0.8283, 0.5886],
        [0.2329, 0.4135, 0.8307, 0.3736, 0.1004, 0.9991],
        [0.2348, 0.1451, 0.3522, 0.2883, 0.3047, 0.6650],
        [0.4047, 0.8828, 0.8732, 0.5743, 0.1091, 0.0381],
    ];
    -(0..4)
        .map(|i| ALPHA[i] * (-(0..6).map(|j| A[i][j] * (x[j] - P[i][j]).powi(2)).sum::<f64>()).exp())
        .sum::<f64>()
}

fn file(space: &str, sampler: &str, trials: usize, seed: u64) -> String {
    let startup = if sampler == "tpe" { format!(", startup: {STARTUP}") } else { String::new() };
    let base = "{backbone: b, task: t, lr: 1, ";
    format!(
        "version: 1\nname: bench\nsearch: {{sampler: {sampler}, trials: {trials}{startup}, seed: {seed}}}\n{}",
        space.replacen("base: {", &format!("base: {base}"), 1)
    )
}

/// One study, asked as a coordinator asks it.
struct Study {
    studies: Studies,
    history: Vec<Observation>,
    hashes: std::collections::HashSet<String>,
    strategy: Strategy,
}

impl Study {
    fn new(text: &str) -> Self {
        let spec = Spec::parse("bench", text, &[]).unwrap_or_else(|errors| panic!("{errors}"));
        let studies = spec.studies.expect("a sampler that chooses while results come in");
        Self { studies, history: Vec::new(), hashes: Default::default(), strategy: Strategy::default() }
    }

    fn ask(&mut self) -> Option<Child> {
        let Studies { adaptive, list } = &self.studies;
        if adaptive.algorithm == Algorithm::CmaEs {
            self.strategy = cma_es::advance(&self.strategy, &Shape::of(adaptive, &list[0]), &self.history);
        }
        let number = self.history.len() as u32;
        let accept = |points: Vec<Point>, generation| {
            points.into_iter().find_map(|point| {
                let child = adaptive.child(&list[0], &point)?;
                (!self.hashes.contains(&child.hash)).then_some((point, child, generation))
            })
        };
        let mut found = (0..8).find_map(|attempt| {
            let suggestion =
                sampler::suggest(adaptive, &list[0], &self.history, &self.strategy, number, attempt);
            accept(suggestion.points, suggestion.generation)
        });
        if found.is_none() {
            found = accept(sampler::rest(adaptive, &list[0], &self.history, 1 << 16)?, None);
        }
        let (point, child, generation) = found?;
        self.hashes.insert(child.hash.clone());
        self.history.push(Observation { point, outcome: Outcome::Pending, generation, ended: 0 });
        Some(child)
    }

    fn tell(&mut self, place: usize, value: f64) {
        self.history[place].outcome = Outcome::Scored(value);
        self.history[place].ended = place as i64 + 1;
    }
}

fn curves() {
    println!("problem,sampler,batch,seed,trial,best");
    for problem in problems() {
        for sampler in problem.samplers {
            for batch in [1, 4] {
                for seed in 0..SEEDS {
                    curve(&problem, sampler, batch, seed);
                }
            }
        }
    }
}

fn curve(problem: &Problem, sampler: &str, batch: usize, seed: u64) {
    let mut study = Study::new(&file(&problem.space, sampler, TRIALS, seed));
    let mut best = f64::INFINITY;
    let mut trial = 0;
    while trial < TRIALS {
        let children: Vec<Child> = (0..batch).map_while(|_| study.ask()).collect();
        if children.is_empty() {
            return;
        }
        for child in children {
            let value = (problem.value)(&child);
            study.tell(trial, value);
            best = best.min(value);
            trial += 1;
            println!("{},{sampler},{batch},{seed},{trial},{best}", problem.name);
        }
    }
}

/// Suggestions after 10,000 results, in a space of two blocks with five axes each.
fn speed() {
    const PAST: usize = 9_900;
    const ROUNDS: usize = 25;
    let text = file(MIXED, "random", PAST, 0);
    let drawn = Spec::parse("bench", &text, &[]).unwrap_or_else(|errors| panic!("{errors}"));
    for (sampler, space) in [("tpe", MIXED.to_owned()), ("cma_es", problems_of_six())] {
        let mut study = Study::new(&file(&space, sampler, 10_000, 0));
        if sampler == "tpe" {
            for configuration in drawn.configurations() {
                let Studies { adaptive, list } = &study.studies;
                let mut settings: Settings = configuration.settings.clone();
                settings.extend([(
                    "method".to_owned(),
                    Value::String(configuration.recipe.method.name().to_owned()),
                )]);
                let point = adaptive.find(&list[0], &settings).expect("a point of the same space");
                let child = adaptive.child(&list[0], &point).expect("a configuration");
                let ended = study.history.len() as i64 + 1;
                study.hashes.insert(child.hash.clone());
                let outcome = Outcome::Scored(mixed(&child));
                study.history.push(Observation { point, outcome, generation: None, ended });
            }
        } else {
            for place in 0..PAST {
                let child = study.ask().expect("a suggestion");
                study.tell(place, hartmann(&SIX.map(|key| number(&child, key))));
            }
        }
        let mut times: Vec<f64> = (0..ROUNDS)
            .map(|_| {
                let start = Instant::now();
                study.ask().expect("a suggestion");
                start.elapsed().as_secs_f64() * 1e3
            })
            .collect();
        times.sort_by(f64::total_cmp);
        println!(
            "{sampler}: {:.1} ms a suggestion after {PAST} results (median of {ROUNDS}; slowest {:.1} ms)",
            times[ROUNDS / 2],
            times[ROUNDS - 1]
        );
    }
}

fn problems_of_six() -> String {
    format!(
        "base: {{method: e2vpt, prompt_length: 10, kv_prompt_length: 1}}\naxes:\n{}",
        SIX.map(|key| format!("  {key}: {{range: {{min: 0, max: 0.999999}}}}\n")).concat()
    )
}
