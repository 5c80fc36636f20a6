//! The one table of a recipe's keys: what each means and which methods read it.

/// The methods of this version, in the order of the documentation.
pub const METHODS: &[&str] = &["linear", "vpt_shallow", "vpt_deep", "gated"];

/// A key of a recipe.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    pub name: &'static str,
    /// The methods that read it.
    pub methods: &'static [&'static str],
    /// One line for people: meaning, range, default.
    pub doc: &'static str,
}

const PROMPTED: &[&str] = &["vpt_shallow", "vpt_deep", "gated"];
const DEEP: &[&str] = &["vpt_deep"];
const GATED: &[&str] = &["gated"];

/// Every key, in the order of the documentation.
pub const KEYS: &[Key] = &[
    key("backbone", METHODS, "name of the frozen weights; required"),
    key("task", METHODS, "name of the data set and label, `group/name` or `name`; required"),
    key(
        "split",
        METHODS,
        "map {train, eval, test} of label files; train800, val200, test; `test: null`: no test",
    ),
    key("recipe", METHODS, "preprocessing: vpt_tf, noah or spt; vpt_tf"),
    key("normalization", METHODS, "of the pixels: imagenet, inception or none; imagenet"),
    key("image_size", METHODS, "side of the square input in pixels, 1 to 4096; 224"),
    key("method", METHODS, "linear, vpt_shallow, vpt_deep or gated; required"),
    key("prompt_length", PROMPTED, "prompt tokens per prompted block, 1 to 10000; required"),
    key("insertion_depth", PROMPTED, "first block (from 0) whose input receives prompts; 0"),
    key(
        "prompted_blocks",
        DEEP,
        "consecutive blocks with prompts of their own; null: all from insertion_depth on",
    ),
    key(
        "prompt_dropout",
        PROMPTED,
        "share of prompt activations dropped, 0 <= p < 1; vpt_shallow 0, else 0.1",
    ),
    key("gate_init", GATED, "the gates' logits start at minus this, -100 to 100; 10"),
    key("temperature", GATED, "whether attention temperatures are trained; true"),
    key("head_init", METHODS, "how the linear head starts: vpt, spt or zero; vpt"),
    key("epochs", METHODS, "passes over the training images, 1 to 100000; 100"),
    key("batch_size", METHODS, "images per step, 1 to 65536; 64"),
    key("lr", METHODS, "peak learning rate, >= 0; required"),
    key("wd", METHODS, "weight decay, >= 0; 0"),
    key(
        "optimizer",
        METHODS,
        "{name: sgd, momentum} or {name: adamw, beta1, beta2, eps}; sgd with momentum 0.9",
    ),
    key("schedule", METHODS, "{name: cosine, warmup_epochs, warmup} or {name: constant}; cosine"),
];

const fn key(name: &'static str, methods: &'static [&'static str], doc: &'static str) -> Key {
    Key { name, methods, doc }
}

/// The methods that read `key`; none if there is no such key.
#[must_use]
pub fn methods_reading(key: &str) -> &'static [&'static str] {
    find(key).map_or(&[], |key| key.methods)
}

/// Whether `method` reads `key`.
#[must_use]
pub fn method_reads(method: &str, key: &str) -> bool {
    methods_reading(key).contains(&method)
}

pub(crate) fn is_key(name: &str) -> bool {
    find(name).is_some()
}

fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The message for a name that is none of `known`, with the nearest one if any is near.
pub(crate) fn unknown(what: &str, name: &str, known: &[&str]) -> String {
    match nearest(name, known) {
        Some(near) => format!("unknown {what} `{name}`: did you mean `{near}`?"),
        None => format!("unknown {what} `{name}`: use {}", join(known, "or")),
    }
}

/// Names that other programs give to our keys; no distance between spellings finds them.
const SYNONYMS: &[(&str, &str)] = &[
    ("learning_rate", "lr"),
    ("base_lr", "lr"),
    ("weight_decay", "wd"),
    ("dataset", "task"),
    ("model", "backbone"),
    ("num_tokens", "prompt_length"),
    ("num_epochs", "epochs"),
    ("seed", "replicates"),
    ("seeds", "replicates"),
];

/// The known name that `name` was probably meant to be.
pub(crate) fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    // Names beyond this length are no misspellings, and the distance takes quadratic time.
    if name.len() > 64 {
        return None;
    }
    if let Some((_, ours)) = SYNONYMS.iter().find(|(theirs, ours)| *theirs == name && known.contains(ours)) {
        return Some(ours);
    }
    let distances = known.iter().map(|known| (strsim::damerau_levenshtein(name, known), *known));
    let (distance, near) = distances.min_by_key(|(distance, _)| *distance)?;
    let allowed = (near.len().max(name.len()) / 3).clamp(1, 4);
    (distance <= allowed).then_some(near)
}

/// "`a`", "`a` and `b`", "`a`, `b` and `c`".
pub(crate) fn list(names: &[&str]) -> String {
    join(names, "and")
}

fn join(names: &[&str], last_word: &str) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        None => "none".to_owned(),
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} {last_word} {last}", rest.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelled_key_is_recognised_and_a_foreign_one_is_not() {
        let known: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
        assert_eq!(nearest("prompt_lenght", &known), Some("prompt_length"));
        assert_eq!(nearest("Lr", &known), Some("lr"));
        assert_eq!(nearest("weight_decay", &known), Some("wd"));
        assert_eq!(nearest("dropout_of_prompts", &known), None);
        assert_eq!(nearest(&"lr".repeat(100), &known), None);
    }

    #[test]
    fn every_key_is_read_by_some_method_and_only_by_methods_that_exist() {
        for key in KEYS {
            assert!(!key.methods.is_empty(), "{}", key.name);
            assert!(key.methods.iter().all(|method| METHODS.contains(method)), "{}", key.name);
        }
        assert_eq!(methods_reading("gate_init"), ["gated"]);
        assert!(methods_reading("no_such_key").is_empty());
        assert!(method_reads("vpt_deep", "prompted_blocks") && !method_reads("linear", "prompt_length"));
    }

    #[test]
    fn lists_read_like_prose() {
        assert_eq!(list(&[]), "none");
        assert_eq!(list(&["a"]), "`a`");
        assert_eq!(list(&["a", "b", "c"]), "`a`, `b` and `c`");
    }
}
