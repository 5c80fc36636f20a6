//! From settings to a recipe: the keys known and read by the method, the values in range, the defaults filled in.

use std::borrow::Cow;
use std::ops::RangeInclusive;

use super::keys::{self, KEYS, METHODS};
use super::names::{self, HEAD_INIT, NORMALIZATION, PREPROCESSING, WARMUP};
use super::pruning;
use super::read_method::read_method;
use super::setr;
use super::{
    DEFAULT_BATCH_SIZE, HeadInit, Method, Normalization, Optimizer, Preprocessing, Recipe, RecipeError,
    Schedule, Split, Warmup, known_family,
};
use crate::value::{self, Settings, Value};

/// AlexNet pools an image of fewer pixels to nothing.
const SMALLEST_SIDE_IMAGE: u32 = 63;

/// Settings in layers, of which a later one hides the same keys of those before it. A space of a million
/// configurations shares its base this way instead of copying it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(crate) layers: &'a [&'a Settings],
}

impl<'a> Source<'a> {
    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.layers.iter().rev().find_map(|layer| layer.get(key))
    }

    fn keys(&self) -> impl Iterator<Item = &'a str> {
        self.layers.iter().flat_map(|layer| layer.keys()).map(String::as_str)
    }
}

impl Recipe {
    /// Resolves a flat map with the keys of a sweep file's `base`.
    ///
    /// # Errors
    /// The first key that is unknown, not read by the method, missing or out of range.
    pub fn from_settings(settings: &Settings) -> Result<Recipe, RecipeError> {
        Recipe::resolve(Source { layers: &[settings] }, 1.0)
    }

    /// Reads the wire form, which may leave out defaults.
    ///
    /// # Errors
    /// As [`Recipe::from_settings`]; text that is no JSON object is an error of the empty key.
    pub fn from_json(json: &str) -> Result<Recipe, RecipeError> {
        let whole = |message: String| RecipeError::new("", message);
        let json: serde_json::Value =
            serde_json::from_str(json).map_err(|error| whole(format!("the recipe is no JSON: {error}")))?;
        match Value::from_json(&json).map_err(|error| whole(error.to_string()))? {
            Value::Map(settings) => Recipe::from_settings(&settings),
            other => Err(whole(format!("the recipe must be a JSON object, found {}", other.describe()))),
        }
    }

    /// As [`Recipe::from_settings`], the learning rate multiplied by `lr_factor`.
    pub(crate) fn resolve(source: Source<'_>, lr_factor: f64) -> Result<Recipe, RecipeError> {
        let top = Fields { scope: None, source };
        let method = top.method_name()?;
        top.check_keys(method)?;
        let epochs = top.int("epochs", Some(100), 1..=100_000)?;
        let backbone = top.name("backbone", names::check_name)?;
        let method = read_method(&top, method)?;
        let schedule = schedule(source, epochs)?;
        let image_size = top.int("image_size", Some(224), 1..=4096)?;
        let recipe = Recipe {
            setr: setr::read(&top, &method, image_size)?,
            pruning: pruning::read(&top, &method, epochs, schedule)?,
            task: top.name("task", names::check_task_name)?,
            split: split(source)?,
            preprocessing: top.choice("recipe", Some(Preprocessing::VptTf), PREPROCESSING)?,
            normalization: top.choice("normalization", Some(Normalization::Imagenet), NORMALIZATION)?,
            image_size,
            method,
            head_init: top.choice("head_init", Some(HeadInit::Vpt), HEAD_INIT)?,
            epochs,
            epoch_steps: epoch_steps(&top)?,
            batch_size: top.int("batch_size", Some(DEFAULT_BATCH_SIZE), 1..=65_536)?,
            lr: lr(&top, lr_factor)?,
            wd: top.float("wd", Some(0.0), "a number >= 0", |x| x >= 0.0)?,
            wd_head: wd_head(&top)?,
            optimizer: optimizer(source)?,
            schedule,
            backbone,
        };
        if let Some(family) = known_family(&recipe.backbone) {
            recipe.check_family(family)?;
        }
        if let Some(depth) = names::known_depth(&recipe.backbone) {
            recipe.check_depth(depth)?;
        }
        if let Some(width) = names::known_width(&recipe.backbone) {
            recipe.check_width(width)?;
        }
        if recipe.method == Method::Sidetune && recipe.image_size < SMALLEST_SIDE_IMAGE {
            let message =
                format!("is too small for the network of `sidetune`: use at least {SMALLEST_SIDE_IMAGE}");
            return Err(RecipeError::new("image_size", message));
        }
        Ok(recipe)
    }
}

fn lr(top: &Fields<'_>, factor: f64) -> Result<f64, RecipeError> {
    let written = top.float("lr", None, "a number >= 0", |x| x >= 0.0)?;
    let lr = written * factor;
    if lr.is_finite() { Ok(lr) } else { Err(RecipeError::new("lr", "is too large once it is scaled")) }
}

/// `None` where nothing sets it, or where it is null.
fn epoch_steps(top: &Fields<'_>) -> Result<Option<u32>, RecipeError> {
    match top.source.get("epoch_steps") {
        None | Some(Value::Null) => Ok(None),
        Some(_) => top.int("epoch_steps", None, 1..=10_000_000).map(Some),
    }
}

/// `None` where nothing sets it, or where it is null.
fn wd_head(top: &Fields<'_>) -> Result<Option<f64>, RecipeError> {
    match top.source.get("wd_head") {
        None | Some(Value::Null) => Ok(None),
        Some(_) => top.float("wd_head", None, "a number >= 0", |x| x >= 0.0).map(Some),
    }
}

fn split(source: Source<'_>) -> Result<Split, RecipeError> {
    let empty = Settings::new();
    let map = match source.get("split") {
        None => &empty,
        Some(Value::Map(map)) => map,
        Some(other) => {
            return Err(RecipeError::new(
                "split",
                format!(
                    "must be a map like {{train: train800, eval: val200, test: test}}, found {}",
                    other.describe()
                ),
            ));
        }
    };
    let layers = [map];
    let fields = Fields { scope: Some("split"), source: Source { layers: &layers } };
    fields.check_fields(&["train", "eval", "test"], "`split`")?;
    let name = |field: &str, default: &str| match map.get(field) {
        None => Ok(default.to_owned()),
        Some(_) => fields.name(field, names::check_name),
    };
    let test = match map.get("test") {
        Some(Value::Null) => None,
        _ => Some(name("test", "test")?),
    };
    Ok(Split { train: name("train", "train800")?, eval: name("eval", "val200")?, test })
}

fn optimizer(source: Source<'_>) -> Result<Optimizer, RecipeError> {
    let map = named(source, "optimizer", "sgd")?;
    let layers = [map.as_ref()];
    let fields = Fields { scope: Some("optimizer"), source: Source { layers: &layers } };
    let share = |field: &str, default: f64| {
        fields.float(field, Some(default), "a number with 0 <= x < 1", |x| (0.0..1.0).contains(&x))
    };
    let name =
        fields.choice("name", None, &[("sgd", "sgd"), ("adamw", "adamw"), ("adamw_vpt", "adamw_vpt")])?;
    if name == "sgd" {
        fields.check_fields(&["name", "momentum"], name)?;
        return Ok(Optimizer::Sgd { momentum: share("momentum", 0.9)? });
    }
    fields.check_fields(&["name", "beta1", "beta2", "eps"], name)?;
    let (beta1, beta2) = (share("beta1", 0.9)?, share("beta2", 0.999)?);
    let eps = |default: f64| fields.float("eps", Some(default), "a number > 0", |x| x > 0.0);
    Ok(match name {
        "adamw" => Optimizer::AdamW { beta1, beta2, eps: eps(1e-8)? },
        _ => Optimizer::AdamWVpt { beta1, beta2, eps: eps(1e-6)? },
    })
}

fn schedule(source: Source<'_>, epochs: u32) -> Result<Schedule, RecipeError> {
    let map = named(source, "schedule", "cosine")?;
    let layers = [map.as_ref()];
    let fields = Fields { scope: Some("schedule"), source: Source { layers: &layers } };
    let kinds = [
        ("cosine", "cosine"),
        ("cosine_spt", "cosine_spt"),
        ("cosine_cvpt", "cosine_cvpt"),
        ("poly", "poly"),
        ("constant", "constant"),
    ];
    let name = fields.choice("name", None, &kinds)?;
    let rate = |field: &str, default: f64| fields.float(field, Some(default), "a number >= 0", |x| x >= 0.0);
    if name == "constant" {
        fields.check_fields(&["name"], name)?;
        return Ok(Schedule::Constant);
    }
    if name == "poly" {
        fields.check_fields(&["name", "power", "min_lr"], name)?;
        let power = fields.float("power", Some(0.9), "a number > 0", |x| x > 0.0)?;
        return Ok(Schedule::Poly { power, min_lr: rate("min_lr", 0.0)? });
    }
    let own: &[&str] = match name {
        "cosine" => &["name", "warmup_epochs", "warmup"],
        "cosine_spt" => &["name", "warmup_epochs", "min_lr"],
        _ => &["name", "warmup_epochs", "warmup_lr", "min_lr"],
    };
    fields.check_fields(own, name)?;
    let warmup_epochs = fields.int("warmup_epochs", Some(epochs / 10), 0..=100_000)?;
    if warmup_epochs >= epochs {
        let message = format!("is {warmup_epochs}, but must be less than `epochs`, which is {epochs}");
        return Err(RecipeError::within("schedule", "warmup_epochs", message));
    }
    Ok(match name {
        "cosine" => Schedule::Cosine {
            warmup_epochs,
            warmup: fields.choice("warmup", Some(Warmup::Nonzero), WARMUP)?,
        },
        "cosine_spt" => Schedule::CosineSpt { warmup_epochs, min_lr: rate("min_lr", 1e-8)? },
        _ => Schedule::CosineCvpt {
            warmup_epochs,
            warmup_lr: rate("warmup_lr", 1e-6)?,
            min_lr: rate("min_lr", 1e-5)?,
        },
    })
}

/// The map under `key`; a bare name stands for the map that holds only the name.
fn named<'a>(source: Source<'a>, key: &str, default: &str) -> Result<Cow<'a, Settings>, RecipeError> {
    let name = |name: Value| Cow::Owned(Settings::from([("name".to_owned(), name)]));
    match source.get(key) {
        None => Ok(name(Value::String(default.to_owned()))),
        Some(Value::Map(map)) => Ok(Cow::Borrowed(map)),
        Some(bare @ Value::String(_)) => Ok(name(bare.clone())),
        Some(other) => Err(RecipeError::new(
            key,
            format!("must be a name or a map like {{name: {default}}}, found {}", other.describe()),
        )),
    }
}

/// Typed access to a flat map: the recipe itself, or (with a `scope`) the map under one of its keys.
pub(super) struct Fields<'a> {
    pub(super) scope: Option<&'static str>,
    pub(super) source: Source<'a>,
}

impl<'a> Fields<'a> {
    fn wrong(&self, field: &str, message: String) -> RecipeError {
        match self.scope {
            None => RecipeError::new(field, message),
            Some(key) => RecipeError::within(key, field, message),
        }
    }

    fn required(&self, field: &str) -> Result<&'a Value, RecipeError> {
        self.source.get(field).ok_or_else(|| match self.scope {
            None => RecipeError::missing(field, "is required, and nothing sets it"),
            Some(key) => RecipeError::within(key, field, "is required, and nothing sets it"),
        })
    }

    /// The value of `field`, or `None` where there is a default for a missing one.
    fn value<T>(&self, field: &str, default: Option<&T>) -> Result<Option<&'a Value>, RecipeError> {
        if default.is_some() { Ok(self.source.get(field)) } else { self.required(field).map(Some) }
    }

    fn method_name(&self) -> Result<&'static str, RecipeError> {
        if let Some(Value::String(found)) = self.source.get("method")
            && let Some(name) = METHODS.iter().find(|name| *name == found)
        {
            return Ok(name);
        }
        let names: Vec<(&str, &'static str)> = METHODS.iter().map(|name| (*name, *name)).collect();
        self.choice("method", None, &names)
    }

    fn check_keys(&self, method: &str) -> Result<(), RecipeError> {
        for key in self.source.keys() {
            if keys::method_reads(method, key) {
                continue;
            }
            let message = if keys::is_key(key) {
                let readers = keys::methods_reading(key);
                let verb = if readers.len() == 1 { "reads" } else { "read" };
                format!("is not read by method `{method}`: {} {verb} it", keys::list(readers))
            } else {
                let known: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
                keys::unknown("key", key, &known)
            };
            return Err(RecipeError::foreign(key, message));
        }
        Ok(())
    }

    pub(super) fn check_fields(&self, known: &[&str], of: &str) -> Result<(), RecipeError> {
        match self.source.keys().find(|field| !known.contains(field)) {
            None => Ok(()),
            Some(field) => Err(self.wrong(field, keys::unknown(&format!("key of {of}"), field, known))),
        }
    }

    pub(super) fn int(
        &self,
        field: &str,
        default: Option<u32>,
        range: RangeInclusive<u32>,
    ) -> Result<u32, RecipeError> {
        let (low, high) = (*range.start(), *range.end());
        match self.value(field, default.as_ref())? {
            None => Ok(default.unwrap_or(low)),
            Some(value) => whole(value).filter(|i| range.contains(i)).ok_or_else(|| {
                self.wrong(field, expected(&format!("an integer from {low} to {high}"), value))
            }),
        }
    }

    pub(super) fn float(
        &self,
        field: &str,
        default: Option<f64>,
        what: &str,
        is_allowed: impl Fn(f64) -> bool,
    ) -> Result<f64, RecipeError> {
        match (self.value(field, default.as_ref())?, default) {
            (None, default) => Ok(default.unwrap_or_default()),
            (Some(value), _) => real(value)
                .filter(|x| x.is_finite() && is_allowed(*x))
                .ok_or_else(|| self.wrong(field, expected(what, value))),
        }
    }

    pub(super) fn bool(&self, field: &str, default: bool) -> Result<bool, RecipeError> {
        match self.source.get(field) {
            None => Ok(default),
            Some(Value::Bool(b)) => Ok(*b),
            Some(value) => Err(self.wrong(field, expected("true or false", value))),
        }
    }

    pub(super) fn choice<T: Copy>(
        &self,
        field: &str,
        default: Option<T>,
        choices: &[(&str, T)],
    ) -> Result<T, RecipeError> {
        let names = || choices.iter().map(|(name, _)| *name).collect::<Vec<_>>();
        match (self.value(field, default.as_ref())?, default) {
            (None, Some(default)) => Ok(default),
            (Some(Value::String(s)), _) => match choices.iter().find(|(name, _)| name == s) {
                Some((_, choice)) => Ok(*choice),
                None => Err(self.wrong(field, keys::unknown(field, s, &names()))),
            },
            (value, _) => {
                let found = value.map_or("nothing".to_owned(), Value::describe);
                Err(self.wrong(field, format!("must be one of {}, found {found}", keys::list(&names()))))
            }
        }
    }

    fn name(&self, field: &str, check: fn(&str) -> Result<(), String>) -> Result<String, RecipeError> {
        match self.required(field)? {
            Value::String(s) => match check(s) {
                Ok(()) => Ok(s.clone()),
                Err(message) => Err(self.wrong(field, message)),
            },
            Value::Int(_) | Value::Float(_) | Value::Bool(_) => {
                Err(self.wrong(field, "must be a name: put quotes around it".to_owned()))
            }
            value => Err(self.wrong(field, expected("a name", value))),
        }
    }
}

/// A number that is a whole one, however it was written.
pub(super) fn whole(value: &Value) -> Option<u32> {
    let int = match value {
        Value::Int(i) => Some(*i),
        Value::Float(x) => value::integral(*x),
        _ => None,
    };
    int.and_then(|i| u32::try_from(i).ok())
}

#[expect(clippy::cast_precision_loss, reason = "a number of a recipe is a float, however it was written")]
pub(super) fn real(value: &Value) -> Option<f64> {
    match value {
        Value::Int(i) => Some(*i as f64),
        Value::Float(x) => Some(*x),
        _ => None,
    }
}

/// "must be …, found …", with the mend for a number in quotes.
fn expected(what: &str, found: &Value) -> String {
    let mend = match found {
        Value::String(s) if s.parse::<f64>().is_ok() || s == "true" || s == "false" => ": remove the quotes",
        _ => "",
    };
    format!("must be {what}, found {}{mend}", found.describe())
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
