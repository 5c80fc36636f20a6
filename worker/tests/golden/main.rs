//! Golden vectors: what the authors' own code computed, against ours.
//!
//! Every folder of `cases` is one run of a published implementation on a tiny backbone: logits, features, loss, every
//! gradient, and three optimiser steps. `cargo test -p worker --test golden` prints a line per case. Further folders of
//! cases are taken from GOLDEN_DIR, separated by colons; words on the command line select cases by part of their name.

#![allow(clippy::print_stdout, reason = "the report is what this test is for")]

mod case;
mod compare;
mod method;
mod spt_init;
#[path = "../support/mod.rs"]
mod support;
mod tables;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use case::{Case, How};
use tch::Kind;
use worker::tuning::is_fusable;

/// How a case went.
enum Outcome {
    Passed(compare::Worst),
    Failed(compare::Worst, Vec<String>),
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let folders = match case_folders() {
        Ok(folders) => folders,
        Err(message) => {
            println!("golden: {message}");
            return ExitCode::FAILURE;
        }
    };
    println!("{:<28} {:>9} {:>9} {:>9}  ", "case", "logits", "gradients", "3 steps");
    let (mut passed, mut failed) = (0, 0);
    for folder in folders {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !words.is_empty() && !words.iter().any(|w| name.contains(w.as_str())) {
            continue;
        }
        match run(&folder) {
            Ok(Outcome::Passed(worst)) => {
                passed += 1;
                println!("{name:<28} {worst}  passed");
            }
            Ok(Outcome::Failed(worst, tensors)) => {
                failed += 1;
                println!("{name:<28} {worst}  FAILED: {}", tensors.join(", "));
            }
            Err(message) => {
                failed += 1;
                println!("{name:<28} {:>9} {:>9} {:>9}  FAILED: {message}", "-", "-", "-");
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    let nothing = passed + failed == 0 && words.is_empty();
    if failed > 0 || nothing { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Every case of the project and of GOLDEN_DIR, sorted by folder.
fn case_folders() -> Result<Vec<PathBuf>, String> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/cases");
    let further = std::env::var("GOLDEN_DIR").unwrap_or_default();
    let further = further.split(':').filter(|d| !d.is_empty()).map(PathBuf::from);
    let mut cases = Vec::new();
    for root in std::iter::once(own).chain(further) {
        let before = cases.len();
        for folder in [root.clone(), root.join("cases")] {
            if folder.join("case.json").is_file() {
                cases.push(folder.clone());
            }
            let Ok(entries) = folder.read_dir() else { continue };
            let mut found: Vec<PathBuf> =
                entries.flatten().map(|e| e.path()).filter(|p| p.join("case.json").is_file()).collect();
            found.sort();
            cases.append(&mut found);
        }
        if cases.len() == before {
            return Err(format!("no case.json is found in {}", root.display()));
        }
    }
    Ok(cases)
}

fn run(folder: &Path) -> Result<Outcome, String> {
    let case = Case::read(folder)?;
    match case.method.as_str() {
        "lr_schedule" => return tables::schedules(folder),
        "param_counts" => return tables::parameters(folder),
        "npz_load" => return tables::npz(&case),
        "spt_init" => return spt_init::draws(&case),
        _ => {}
    }
    let method = method::method(&case, &case.tensors("params.safetensors")?)?;
    // K = 3 equal members have to give what one gives: the member axis is part of the proof. In float64 the recorded
    // numbers have to come out as well, so that no error of ours hides in rounding.
    let mut worst = compare::Worst::default();
    let mut wrong = Vec::new();
    for (members, kind) in [(1, Kind::Float), (3, Kind::Float), (1, Kind::Double)] {
        if members > 1 && !is_fusable(&method) {
            continue;
        }
        let mut comparison = compare::Comparison::new(&case);
        case.replay(&method, How { members, kind }, &mut comparison)?;
        worst.merge(&comparison.worst);
        wrong.extend(comparison.wrong.into_iter().map(|w| format!("{w} (K = {members}, {kind:?})")));
    }
    Ok(if wrong.is_empty() { Outcome::Passed(worst) } else { Outcome::Failed(worst, wrong) })
}
