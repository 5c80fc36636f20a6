//! From a recipe to its flat form: every default written out.
//!
//! The form is built once, borrowed ([`Recipe::items`]); settings and canonical JSON are both made from it, the
//! latter without copies, because a space of a million configurations hashes each of them.

use super::{
    Cvpt, E2vpt, Fidelity, Location, Method, Optimizer, Pruning, Recipe, Rewind, Schedule, Setr, Split, Spt,
    Vpt, names,
};
use crate::value::{Settings, Value, write_display, write_number, write_string};

/// A value of the flat form.
enum Item<'a> {
    Null,
    Bool(bool),
    Int(u32),
    Float(f64),
    Str(&'a str),
    List(Vec<Item<'a>>),
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
            ("normalization", Item::Str(self.normalization.name())),
            ("image_size", Item::Int(self.image_size)),
            ("method", Item::Str(self.method.name())),
            ("epochs", Item::Int(self.epochs)),
            ("batch_size", Item::Int(self.batch_size)),
            ("lr", Item::Float(self.lr)),
            ("wd", Item::Float(self.wd)),
            ("optimizer", optimizer(self.optimizer)),
            ("schedule", schedule(self.schedule)),
        ]);
        match &self.setr {
            None => out.extend([
                ("recipe", Item::Str(self.preprocessing.name())),
                ("head_init", Item::Str(self.head_init.name())),
            ]),
            Some(head) => setr(head, &mut out),
        }
        if let Some(steps) = self.epoch_steps {
            out.push(("epoch_steps", Item::Int(steps)));
        }
        if let Some(wd_head) = self.wd_head {
            out.push(("wd_head", Item::Float(wd_head)));
        }
        if let Some(how) = &self.pruning {
            pruning(how, &self.method, &mut out);
        }
        method(&self.method, &mut out);
        out
    }
}

/// Keys that came after the first hashes were stored are written only where they are not at their default.
fn method<'a>(method: &'a Method, out: &mut Items<'a>) {
    match method {
        Method::Linear | Method::Sidetune | Method::Ssf => {}
        Method::Full { dropout, drop_path } => {
            for (key, rate) in [("backbone_dropout", *dropout), ("drop_path", *drop_path)] {
                if rate != 0.0 {
                    out.push((key, Item::Float(rate)));
                }
            }
        }
        Method::MlpK { layers, dropout } => {
            out.extend([("mlp_layers", Item::Int(*layers)), ("mlp_dropout", Item::Float(*dropout))]);
        }
        Method::PartialK { blocks, norm } => {
            out.extend([("trained_blocks", Item::Int(*blocks)), ("train_norm", Item::Bool(*norm))]);
        }
        Method::Bias { lr_factor } => out.push(("bias_lr_factor", Item::Float(*lr_factor))),
        Method::Cls { reinit } => out.push(("cls_reinit", Item::Bool(*reinit))),
        Method::Adapter { reduction, fidelity: f } => {
            out.extend([("reduction", Item::Int(*reduction)), fidelity(*f)]);
        }
        Method::Lora { rank, alpha } => {
            out.extend([("rank", Item::Int(*rank)), ("lora_alpha", Item::Float(*alpha))]);
        }
        Method::Vpt(method) => vpt(method, out),
        Method::E2vpt(method) => e2vpt(method, out),
        Method::Gated { prompt_length, insertion_depth, prompt_dropout, gate_init, temperature } => {
            out.extend([
                ("prompt_length", Item::Int(*prompt_length)),
                ("insertion_depth", Item::Int(*insertion_depth)),
                ("prompt_dropout", Item::Float(*prompt_dropout)),
                ("gate_init", Item::Float(*gate_init)),
                ("temperature", Item::Bool(*temperature)),
            ]);
        }
        Method::Spt(method) => spt(method, out),
        Method::Cvpt(method) => cvpt(method, out),
    }
}

fn fidelity(fidelity: Fidelity) -> (&'static str, Item<'static>) {
    ("fidelity", chosen(names::FIDELITY, &fidelity))
}

fn chosen<T: PartialEq>(table: &[(&'static str, T)], choice: &T) -> Item<'static> {
    Item::Str(names::name_of(table, choice))
}

fn integer(number: Option<u32>) -> Item<'static> {
    number.map_or(Item::Null, Item::Int)
}

fn vpt(vpt: &Vpt, out: &mut Items<'_>) {
    let default = Vpt::shallow(vpt.prompt_length);
    let mut unless_default = |is_default: bool, key: &'static str, item: Item<'static>| {
        if !is_default {
            out.push((key, item));
        }
    };
    unless_default(vpt.location == Location::Prepend, "location", chosen(names::LOCATION, &vpt.location));
    let has_length = !matches!(vpt.location, Location::Add | Location::Add1);
    unless_default(!has_length, "prompt_length", Item::Int(vpt.prompt_length));
    unless_default(vpt.init == default.init, "prompt_init", chosen(names::PROMPT_INIT, &vpt.init));
    unless_default(vpt.is_trained, "train_prompts", Item::Bool(vpt.is_trained));
    unless_default(vpt.project.is_none(), "prompt_project", integer(vpt.project));
    unless_default(vpt.pooling == default.pooling, "pooling", chosen(names::POOLING, &vpt.pooling));
    let also_train = chosen(names::ALSO_TRAIN, &vpt.also_train);
    unless_default(vpt.also_train == default.also_train, "also_train", also_train);
    unless_default(vpt.bias_lr_factor == 1.0, "bias_lr_factor", Item::Float(vpt.bias_lr_factor));
    let (key, item) = fidelity(vpt.fidelity);
    unless_default(vpt.fidelity == Fidelity::Paper, key, item);
    if let Some(deep) = vpt.deep {
        unless_default(!deep.shared, "shared", Item::Bool(deep.shared));
        unless_default(!deep.noexpand, "noexpand", Item::Bool(deep.noexpand));
        out.push(("prompted_blocks", integer(deep.prompted_blocks)));
    }
    out.extend([
        ("insertion_depth", Item::Int(vpt.insertion_depth)),
        ("prompt_dropout", Item::Float(vpt.prompt_dropout)),
    ]);
}

fn e2vpt(e2vpt: &E2vpt, out: &mut Items<'_>) {
    out.extend([
        ("prompt_length", Item::Int(e2vpt.prompt_length)),
        ("prompt_dropout", Item::Float(e2vpt.prompt_dropout)),
        ("kv_prompt_length", Item::Int(e2vpt.kv_prompt_length)),
        ("kv_share", Item::Bool(e2vpt.kv_share)),
        ("kv_position", chosen(names::KV_POSITION, &e2vpt.kv_position)),
        ("kv_blocks", chosen(names::KV_BLOCKS, &e2vpt.kv_blocks)),
        ("segments", Item::Int(e2vpt.segments)),
        fidelity(e2vpt.fidelity),
    ]);
}

fn spt(spt: &Spt, out: &mut Items<'_>) {
    out.extend([
        ("prompt_length", Item::Int(spt.prompt_length)),
        ("prompt_init", chosen(names::SPT_INIT, &spt.init)),
        ("init_images", integer(spt.init_images)),
        ("drop_path", Item::Float(spt.drop_path)),
    ]);
}

fn cvpt(cvpt: &Cvpt, out: &mut Items<'_>) {
    out.extend([
        ("prompt_length", Item::Int(cvpt.prompt_length)),
        ("prompt_dropout", Item::Float(cvpt.prompt_dropout)),
        ("cross_insertion", chosen(names::CROSS_INSERTION, &cvpt.insertion)),
        ("drop_path", Item::Float(cvpt.drop_path)),
        fidelity(cvpt.fidelity),
    ]);
}

fn pruning(how: &Pruning, method: &Method, out: &mut Items<'_>) {
    let to = match how.to {
        Rewind::Init => Item::Str("init"),
        Rewind::Fresh => Item::Str("fresh"),
        Rewind::Epoch(epoch) => Item::Map(vec![("epoch", Item::Int(epoch))]),
    };
    out.extend([
        ("pruning_ratio", Item::Float(how.tokens)),
        ("importance", chosen(names::IMPORTANCE, &how.importance)),
        (
            "rewind_schedule",
            Item::Map(vec![
                ("prune_at", Item::Int(how.prune_at)),
                ("to", to),
                ("epochs", Item::Int(how.epochs)),
                ("lr", chosen(names::REWIND_LR, &how.lr)),
            ]),
        ),
    ]);
    if matches!(method, Method::E2vpt(_)) {
        out.push(("segment_ratio", Item::Float(how.segments)));
    }
}

fn setr(setr: &Setr, out: &mut Items<'_>) {
    let integers = |list: &Vec<u32>| Item::List(list.iter().map(|&n| Item::Int(n)).collect());
    let scales: Vec<Item<'_>> = setr.scales.iter().map(|&scale| Item::Float(scale)).collect();
    out.extend([
        ("head", chosen(names::HEAD, &true)),
        ("head_channels", Item::Int(setr.channels)),
        ("head_lr_factor", Item::Float(setr.lr_factor)),
        ("aux_blocks", setr.aux_blocks.as_ref().map_or(Item::Null, integers)),
        ("aux_weight", Item::Float(setr.aux_weight)),
        ("stride", Item::Int(setr.stride)),
        ("scales", if scales.is_empty() { Item::Null } else { Item::List(scales) }),
        ("cat_max_ratio", Item::Float(setr.cat_max_ratio)),
        ("photometric", Item::Bool(setr.photometric)),
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
        Optimizer::AdamW { beta1, beta2, eps } | Optimizer::AdamWVpt { beta1, beta2, eps } => {
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
        Schedule::CosineSpt { warmup_epochs, min_lr } => {
            vec![name, ("warmup_epochs", Item::Int(warmup_epochs)), ("min_lr", Item::Float(min_lr))]
        }
        Schedule::Poly { power, min_lr } => {
            vec![name, ("power", Item::Float(power)), ("min_lr", Item::Float(min_lr))]
        }
        Schedule::CosineCvpt { warmup_epochs, warmup_lr, min_lr } => vec![
            name,
            ("warmup_epochs", Item::Int(warmup_epochs)),
            ("warmup_lr", Item::Float(warmup_lr)),
            ("min_lr", Item::Float(min_lr)),
        ],
    })
}

fn to_settings(items: Items<'_>) -> Settings {
    items.into_iter().map(|(key, item)| (key.to_owned(), to_value(item))).collect()
}

fn to_value(item: Item<'_>) -> Value {
    match item {
        Item::Null => Value::Null,
        Item::Bool(b) => Value::Bool(b),
        Item::Int(i) => Value::Int(i.into()),
        Item::Float(x) => Value::Float(x),
        Item::Str(s) => Value::String(s.to_owned()),
        Item::List(items) => Value::List(items.into_iter().map(to_value).collect()),
        Item::Map(items) => Value::Map(to_settings(items)),
    }
}

/// The canonical form of [`value::canonical`](crate::value::canonical), as a test compares.
fn write_items(out: &mut String, mut items: Items<'_>) {
    items.sort_unstable_by_key(|(key, _)| *key);
    for (i, (key, item)) in items.into_iter().enumerate() {
        out.push(if i == 0 { '{' } else { ',' });
        write_string(out, key);
        out.push(':');
        write_item(out, item);
    }
    out.push('}');
}

fn write_item(out: &mut String, item: Item<'_>) {
    match item {
        Item::Null => out.push_str("null"),
        Item::Bool(b) => out.push_str(if b { "true" } else { "false" }),
        Item::Int(i) => write_display(out, i),
        Item::Float(x) => write_number(out, x),
        Item::Str(s) => write_string(out, s),
        Item::List(items) => {
            out.push('[');
            for (i, item) in items.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_item(out, item);
            }
            out.push(']');
        }
        Item::Map(items) => write_items(out, items),
    }
}
