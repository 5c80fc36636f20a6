//! A sweep file of Weights & Biases as one of ours, as far as it maps. Pure.
//!
//! What means the same is carried over; everything else is said, nothing is guessed.

use sweeps::recipe::KEYS;
use sweeps::spec::SCORE_METRICS;
use sweeps::{Settings, Value};

/// The file that came of it, and what did not map.
#[derive(Debug, PartialEq)]
pub(crate) struct Imported {
    pub(crate) file: String,
    pub(crate) remarks: Vec<String>,
}

/// Other names of our parameters.
const NAMES: &[(&str, &str)] = &[
    ("learning_rate", "lr"),
    ("base_lr", "lr"),
    ("weight_decay", "wd"),
    ("dataset", "task"),
    ("model", "backbone"),
    ("arch", "backbone"),
    ("num_tokens", "prompt_length"),
    ("num_prompts", "prompt_length"),
    ("num_epochs", "epochs"),
    ("batchsize", "batch_size"),
    ("bs", "batch_size"),
    ("dropout", "prompt_dropout"),
];
/// Keys that say how W&B runs a program, which workers here do not need.
const RUNNING: [&str; 6] = ["program", "command", "entity", "controller", "imageuri", "job"];

/// Reads a sweep configuration of W&B. `fallback` is the name where the file has none.
pub(crate) fn wandb(text: &str, fallback: &str) -> Result<Imported, String> {
    let given = sweeps::settings::parse(text).map_err(|error| error.to_string())?;
    let Some(Value::Map(parameters)) = given.get("parameters") else {
        return Err("it has no map `parameters`: is it a sweep configuration of W&B?".to_owned());
    };
    let mut draft = Draft::default();
    let is_random = draft.sampler(&given);
    for (name, spec) in parameters {
        draft.parameter(name, spec, is_random);
    }
    draft.rest(&given);
    let file = draft.file(&given, fallback);
    Ok(Imported { file, remarks: draft.remarks })
}

#[derive(Default)]
struct Draft {
    search: Option<String>,
    objective: Option<String>,
    base: Vec<(String, String)>,
    axes: Vec<(String, String)>,
    seeds: Option<String>,
    remarks: Vec<String>,
}

fn text<'a>(map: &'a Settings, key: &str) -> Option<&'a str> {
    match map.get(key) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    }
}

fn number(map: &Settings, key: &str) -> Option<f64> {
    match map.get(key) {
        Some(Value::Int(number)) => Some(*number as f64),
        Some(Value::Float(number)) => Some(*number),
        _ => None,
    }
}

/// A value in YAML, of which JSON is a part.
fn written(value: &Value) -> String {
    value.to_json().map_or_else(|_| "null".to_owned(), |json| json.to_string())
}

impl Draft {
    fn remark(&mut self, remark: impl Into<String>) {
        self.remarks.push(remark.into());
    }

    /// The sampler; whether it draws from ranges.
    fn sampler(&mut self, given: &Settings) -> bool {
        let trials = number(given, "run_cap").unwrap_or(100.0);
        let random = format!("{{sampler: random, trials: {trials}}}");
        match text(given, "method") {
            Some("grid") | None => return false,
            Some("random") => {}
            Some(method) => self.remark(format!("method `{method}` became `sampler: random`")),
        }
        if !given.contains_key("run_cap") {
            self.remark(
                "a random sampler needs its number of configurations: `search.trials` is 100 for now",
            );
        }
        self.search = Some(random);
        true
    }

    fn parameter(&mut self, name: &str, spec: &Value, is_random: bool) {
        let key = NAMES.iter().find(|(theirs, _)| *theirs == name).map_or(name, |(_, ours)| ours);
        let Value::Map(spec) = spec else {
            return self.remark(format!("parameter `{name}` is no map: left out"));
        };
        if spec.contains_key("parameters") {
            return self.remark(format!("parameter `{name}` is nested: left out"));
        }
        if matches!(key, "seed" | "seeds") {
            return match (spec.get("values"), spec.get("value")) {
                (Some(values @ Value::List(_)), _) => self.seeds = Some(written(values)),
                (_, Some(value)) => self.seeds = Some(format!("[{}]", written(value))),
                _ => self.remark(format!("`{name}` has no list of seeds: left out")),
            };
        }
        if !KEYS.iter().any(|known| known.name == key) {
            return self.remark(format!("parameter `{name}` has no counterpart: left out"));
        }
        if spec.contains_key("probabilities") {
            self.remark(format!("the probabilities of `{name}` are left out: every value is as likely"));
        }
        match (spec.get("value"), spec.get("values")) {
            (Some(value), _) => self.base.push((key.to_owned(), written(value))),
            (None, Some(Value::List(values))) if values.len() == 1 => {
                self.base.push((key.to_owned(), written(&values[0])));
            }
            (None, Some(values @ Value::List(_))) => {
                self.axes.push((key.to_owned(), format!("{{values: {}}}", written(values))));
            }
            _ => match range(spec, is_random) {
                Ok(range) => self.axes.push((key.to_owned(), format!("{{range: {{{range}}}}}"))),
                Err(reason) => self.remark(format!("parameter `{name}`: {reason}: left out")),
            },
        }
    }

    /// The objective, and what is left.
    fn rest(&mut self, given: &Settings) {
        if let Some(Value::Map(metric)) = given.get("metric") {
            let name = text(metric, "name").unwrap_or_default();
            let ours = match name {
                "val_acc" | "val_accuracy" | "val/acc" | "val/accuracy" | "accuracy" => "val/top1",
                "val_loss" => "val/loss",
                "train_loss" | "loss" => "train/loss",
                name => name,
            };
            if SCORE_METRICS.contains(&ours) && !ours.starts_with("test/") {
                let goal = text(metric, "goal").map(|goal| format!(", goal: {goal}")).unwrap_or_default();
                self.objective = Some(format!("{{metric: {ours}{goal}}}"));
            } else {
                self.remark(format!("metric `{name}` is none that trials here report: `val/top1` is taken"));
            }
        }
        if given.contains_key("early_terminate") {
            self.remark("`early_terminate` is left out");
        }
        for key in RUNNING.iter().filter(|key| given.contains_key(**key)) {
            self.remark(format!("`{key}` is left out: workers know how to train"));
        }
    }

    fn file(&mut self, given: &Settings, fallback: &str) -> String {
        let plain = |name: &str| -> String {
            let name: String =
                name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(128).collect();
            name.trim_matches('-').to_owned()
        };
        let name = Some(plain(text(given, "name").unwrap_or(fallback))).filter(|name| !name.is_empty());
        let mut file =
            format!("version: 1\nkind: sweep\nname: {}\n", quoted(name.as_deref().unwrap_or("imported")));
        let project = text(given, "project").map(plain).filter(|project| !project.is_empty());
        if let Some(project) = project {
            file.push_str(&format!("project: {}\n", quoted(&project)));
        }
        for (key, value) in [("objective", &self.objective), ("search", &self.search)] {
            if let Some(value) = value {
                file.push_str(&format!("{key}: {value}\n"));
            }
        }
        for (section, entries) in [("base", &self.base), ("axes", &self.axes)] {
            if !entries.is_empty() {
                file.push_str(&format!("{section}:\n"));
            }
            for (key, value) in entries {
                file.push_str(&format!("  {key}: {value}\n"));
            }
        }
        if let Some(seeds) = &self.seeds {
            file.push_str(&format!("replicates: {{seeds: {seeds}}}\n"));
        }
        file
    }
}

/// A name that YAML could take for a number or a truth value is quoted.
fn quoted(name: &str) -> String {
    let is_plain = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && !["true", "false", "null"].iter().any(|word| name.eq_ignore_ascii_case(word));
    if is_plain { name.to_owned() } else { format!("\"{name}\"") }
}

/// The inside of a range, or why there is none.
fn range(spec: &Settings, is_random: bool) -> Result<String, String> {
    let (Some(mut min), Some(mut max)) = (number(spec, "min"), number(spec, "max")) else {
        let distribution = text(spec, "distribution").unwrap_or("without values");
        return Err(format!("distribution `{distribution}` has no bounds"));
    };
    let is_int = matches!((spec.get("min"), spec.get("max")), (Some(Value::Int(_)), Some(Value::Int(_))));
    let default = if is_int { "int_uniform" } else { "uniform" };
    let mut more = String::new();
    match text(spec, "distribution").unwrap_or(default) {
        "uniform" => {}
        "int_uniform" => more.push_str(", type: int"),
        "log_uniform_values" => more.push_str(", scale: log"),
        // Bounds are exponents of e.
        "log_uniform" => {
            (min, max) = (min.exp(), max.exp());
            more.push_str(", scale: log");
        }
        "q_uniform" => {
            let step = number(spec, "q").unwrap_or(1.0);
            more.push_str(&format!(", step: {step}"));
        }
        other => return Err(format!("distribution `{other}` has no counterpart")),
    }
    if !is_random && !more.contains("step") {
        return Err("a grid needs values".to_owned());
    }
    Ok(format!("min: {min}, max: {max}{more}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_maps_is_carried_over_and_the_rest_is_said() {
        let text = "
program: train.py
method: bayes
name: my sweep/1
project: vpt
metric: {name: val_acc, goal: maximize}
run_cap: 40
early_terminate: {type: hyperband, min_iter: 3}
parameters:
  model: {value: vit_b16}
  dataset: {values: [vtab/dtd]}
  method: {value: vpt_deep}
  learning_rate: {distribution: log_uniform_values, min: 1e-3, max: 10}
  weight_decay: {distribution: log_uniform, min: -9.21, max: -4.6}
  num_tokens: {min: 1, max: 100}
  prompt_dropout: {distribution: q_uniform, q: 0.1, min: 0, max: 0.5}
  batch_size: {values: [32, 64], probabilities: [0.5, 0.5]}
  optimizer: {parameters: {momentum: {value: 0.9}}}
  hidden: {values: [1, 2]}
  epochs: {distribution: normal, mu: 10, sigma: 2}
  seed: {values: [1, 2]}
";
        let imported = wandb(text, "file").expect("valid");
        insta::assert_snapshot!(format!("{}\n{}", imported.file, imported.remarks.join("\n")));
        let spec = sweeps::Spec::parse("f", &imported.file, &[]).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!((spec.configuration_count(), spec.seeds.as_slice()), (40, [1, 2].as_slice()));
    }

    #[test]
    fn a_grid_stays_one() {
        let text = "method: grid\nparameters: {lr: {values: [1, 2]}, wd: {min: 0, max: 1}}\n";
        let imported = wandb(text, "2024").expect("valid");
        assert_eq!(imported.file, "version: 1\nkind: sweep\nname: \"2024\"\naxes:\n  lr: {values: [1,2]}\n");
        assert_eq!(imported.remarks, ["parameter `wd`: a grid needs values: left out"]);
    }

    #[test]
    fn other_files_are_refused() {
        assert!(wandb("method: grid\n", "f").expect_err("no parameters").contains("`parameters`"));
        assert!(wandb("a: [1\n", "f").is_err());
    }
}
