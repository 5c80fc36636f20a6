//! From a recipe to its flat form: every default written out.

use super::{Method, Optimizer, Recipe, Schedule, Split};
use crate::value::{self, Settings, Value};

impl Recipe {
    /// The complete flat form. [`Recipe::from_settings`] reads it back to an equal recipe.
    #[must_use]
    pub fn to_settings(&self) -> Settings {
        let mut out = map([
            ("backbone", string(&self.backbone)),
            ("task", string(&self.task)),
            ("split", split(&self.split)),
            ("recipe", string(self.preprocessing.name())),
            ("normalization", string(self.normalization.name())),
            ("image_size", int(self.image_size)),
            ("method", string(self.method.name())),
            ("head_init", string(self.head_init.name())),
            ("epochs", int(self.epochs)),
            ("batch_size", int(self.batch_size)),
            ("lr", Value::Float(self.lr)),
            ("wd", Value::Float(self.wd)),
            ("optimizer", optimizer(self.optimizer)),
            ("schedule", schedule(self.schedule)),
        ]);
        out.extend(method(&self.method));
        out
    }

    /// The wire form: [`Recipe::to_settings`] as canonical JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        value::canonical(&self.to_settings()).expect("the numbers of a recipe are finite")
    }
}

fn method(method: &Method) -> Settings {
    match *method {
        Method::Linear => Settings::new(),
        Method::VptShallow { prompt_length, insertion_depth, prompt_dropout } => {
            prompts(prompt_length, insertion_depth, prompt_dropout)
        }
        Method::VptDeep { prompt_length, insertion_depth, prompted_blocks, prompt_dropout } => {
            let mut out = prompts(prompt_length, insertion_depth, prompt_dropout);
            out.insert("prompted_blocks".into(), prompted_blocks.map_or(Value::Null, int));
            out
        }
        Method::Gated { prompt_length, insertion_depth, prompt_dropout, gate_init, temperature } => {
            let mut out = prompts(prompt_length, insertion_depth, prompt_dropout);
            out.insert("gate_init".into(), Value::Float(gate_init));
            out.insert("temperature".into(), Value::Bool(temperature));
            out
        }
    }
}

fn prompts(length: u32, depth: u32, dropout: f64) -> Settings {
    map([
        ("prompt_length", int(length)),
        ("insertion_depth", int(depth)),
        ("prompt_dropout", Value::Float(dropout)),
    ])
}

fn split(split: &Split) -> Value {
    Value::Map(map([
        ("train", string(&split.train)),
        ("eval", string(&split.eval)),
        ("test", split.test.as_deref().map_or(Value::Null, string)),
    ]))
}

fn optimizer(optimizer: Optimizer) -> Value {
    let name = ("name", string(optimizer.name()));
    Value::Map(match optimizer {
        Optimizer::Sgd { momentum } => map([name, ("momentum", Value::Float(momentum))]),
        Optimizer::AdamW { beta1, beta2, eps } => {
            let float = Value::Float;
            map([name, ("beta1", float(beta1)), ("beta2", float(beta2)), ("eps", float(eps))])
        }
    })
}

fn schedule(schedule: Schedule) -> Value {
    let name = ("name", string(schedule.name()));
    Value::Map(match schedule {
        Schedule::Constant => map([name]),
        Schedule::Cosine { warmup_epochs, warmup } => {
            map([name, ("warmup_epochs", int(warmup_epochs)), ("warmup", string(warmup.name()))])
        }
    })
}

fn map<const N: usize>(entries: [(&str, Value); N]) -> Settings {
    entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn string(s: &str) -> Value {
    Value::String(s.to_owned())
}

fn int(i: u32) -> Value {
    Value::Int(i.into())
}
