//! From a recipe to its flat form: every default written out.
//!
//! The form is built once, borrowed ([`Recipe::items`]); settings and canonical JSON are both made from it, the
//! latter without copies, because a space of a million configurations hashes each of them.

use super::{Method, Optimizer, Recipe, Schedule, Split};
use crate::value::{Settings, Value, write_display, write_number, write_string};

/// A value of the flat form.
enum Item<'a> {
    Null,
    Bool(bool),
    Int(u32),
    Float(f64),
    Str(&'a str),
    Map(Items<'a>),
}

type Items<'a> = Vec<(&'static str, Item<'a>)>;

impl Recipe {
    /// The complete flat form. [`Recipe::from_settings`] reads it back to an equal recipe.
    #[must_use]
    pub fn to_settings(&self) -> Settings {
        to_settings(self.items())
    }

    /// The wire form: [`Recipe::to_settings`] as canonical JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut out = String::with_capacity(640);
        write_items(&mut out, self.items());
        out
    }

    fn items(&self) -> Items<'_> {
        let mut out = Vec::with_capacity(20);
        out.extend([
            ("backbone", Item::Str(&self.backbone)),
            ("task", Item::Str(&self.task)),
            ("split", split(&self.split)),
            ("recipe", Item::Str(self.preprocessing.name())),
            ("normalization", Item::Str(self.normalization.name())),
            ("image_size", Item::Int(self.image_size)),
            ("method", Item::Str(self.method.name())),
            ("head_init", Item::Str(self.head_init.name())),
            ("epochs", Item::Int(self.epochs)),
            ("batch_size", Item::Int(self.batch_size)),
            ("lr", Item::Float(self.lr)),
            ("wd", Item::Float(self.wd)),
            ("optimizer", optimizer(self.optimizer)),
            ("schedule", schedule(self.schedule)),
        ]);
        method(&self.method, &mut out);
        out
    }
}

fn method(method: &Method, out: &mut Items<'_>) {
    let (length, depth, dropout) = match *method {
        Method::Linear => return,
        Method::VptShallow { prompt_length, insertion_depth, prompt_dropout } => {
            (prompt_length, insertion_depth, prompt_dropout)
        }
        Method::VptDeep { prompt_length, insertion_depth, prompted_blocks, prompt_dropout } => {
            out.push(("prompted_blocks", prompted_blocks.map_or(Item::Null, Item::Int)));
            (prompt_length, insertion_depth, prompt_dropout)
        }
        Method::Gated { prompt_length, insertion_depth, prompt_dropout, gate_init, temperature } => {
            out.extend([("gate_init", Item::Float(gate_init)), ("temperature", Item::Bool(temperature))]);
            (prompt_length, insertion_depth, prompt_dropout)
        }
    };
    out.extend([
        ("prompt_length", Item::Int(length)),
        ("insertion_depth", Item::Int(depth)),
        ("prompt_dropout", Item::Float(dropout)),
    ]);
}

fn split(split: &Split) -> Item<'_> {
    Item::Map(vec![
        ("train", Item::Str(&split.train)),
        ("eval", Item::Str(&split.eval)),
        ("test", split.test.as_deref().map_or(Item::Null, Item::Str)),
    ])
}

fn optimizer(optimizer: Optimizer) -> Item<'static> {
    let name = ("name", Item::Str(optimizer.name()));
    Item::Map(match optimizer {
        Optimizer::Sgd { momentum } => vec![name, ("momentum", Item::Float(momentum))],
        Optimizer::AdamW { beta1, beta2, eps } => {
            vec![
                name,
                ("beta1", Item::Float(beta1)),
                ("beta2", Item::Float(beta2)),
                ("eps", Item::Float(eps)),
            ]
        }
    })
}

fn schedule(schedule: Schedule) -> Item<'static> {
    let name = ("name", Item::Str(schedule.name()));
    Item::Map(match schedule {
        Schedule::Constant => vec![name],
        Schedule::Cosine { warmup_epochs, warmup } => {
            vec![name, ("warmup_epochs", Item::Int(warmup_epochs)), ("warmup", Item::Str(warmup.name()))]
        }
    })
}

fn to_settings(items: Items<'_>) -> Settings {
    let value = |item| match item {
        Item::Null => Value::Null,
        Item::Bool(b) => Value::Bool(b),
        Item::Int(i) => Value::Int(i.into()),
        Item::Float(x) => Value::Float(x),
        Item::Str(s) => Value::String(s.to_owned()),
        Item::Map(items) => Value::Map(to_settings(items)),
    };
    items.into_iter().map(|(key, item)| (key.to_owned(), value(item))).collect()
}

/// The canonical form of [`value::canonical`](crate::value::canonical), as a test compares.
fn write_items(out: &mut String, mut items: Items<'_>) {
    items.sort_unstable_by_key(|(key, _)| *key);
    for (i, (key, item)) in items.into_iter().enumerate() {
        out.push(if i == 0 { '{' } else { ',' });
        write_string(out, key);
        out.push(':');
        match item {
            Item::Null => out.push_str("null"),
            Item::Bool(b) => out.push_str(if b { "true" } else { "false" }),
            Item::Int(i) => write_display(out, i),
            Item::Float(x) => write_number(out, x),
            Item::Str(s) => write_string(out, s),
            Item::Map(items) => write_items(out, items),
        }
    }
    out.push('}');
}
