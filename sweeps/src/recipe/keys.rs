//! The one table of a recipe's keys: what each means and which methods read it.

/// The methods of this version, in the order of the documentation.
pub const METHODS: &[&str] = &[
    "linear",
    "mlp_k",
    "partial_k",
    "full",
    "bias",
    "cls",
    "adapter",
    "sidetune",
    "lora",
    "ssf",
    "vpt_shallow",
    "vpt_deep",
    "condense",
    "e2vpt",
    "gated",
    "spt_shallow",
    "spt_deep",
    "cvpt",
];

/// A key of a recipe.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    pub name: &'static str,
    /// The methods that read it.
    pub methods: &'static [&'static str],
    /// One line for people: meaning, range, default.
    pub doc: &'static str,
}

const PROMPTED: &[&str] =
    &["vpt_shallow", "vpt_deep", "condense", "e2vpt", "gated", "spt_shallow", "spt_deep", "cvpt"];
const DROPPED: &[&str] = &["vpt_shallow", "vpt_deep", "condense", "e2vpt", "gated", "cvpt"];
const INSERTED: &[&str] = &["vpt_shallow", "vpt_deep", "condense", "gated"];
const VPT: &[&str] = &["vpt_shallow", "vpt_deep"];
const TOKENS: &[&str] = &["vpt_shallow", "vpt_deep", "condense"];
const DEEP: &[&str] = &["vpt_deep"];
const E2VPT: &[&str] = &["e2vpt"];
const PRUNED: &[&str] = &["vpt_deep", "condense", "e2vpt"];
const GATED: &[&str] = &["gated"];
const SPT: &[&str] = &["spt_shallow", "spt_deep"];

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
    key("method", METHODS, "how the backbone is tuned, one of those in docs/methods.md; required"),
    key(
        "prompt_length",
        PROMPTED,
        "prompt tokens per prompted block, 1 to 10000; width of the frame for `pad`; required",
    ),
    key("insertion_depth", INSERTED, "first block (from 0) whose input receives prompts; 0"),
    key(
        "prompted_blocks",
        &["vpt_deep", "condense"],
        "consecutive blocks with prompts of their own; null: all from insertion_depth on",
    ),
    key(
        "prompt_dropout",
        DROPPED,
        "share of prompt activations dropped, 0 <= p < 1; vpt_shallow 0, else 0.1",
    ),
    key("location", VPT, "of prompts: prepend, prepend_pixel, add, add_1, pad or below; prepend"),
    key(
        "prompt_init",
        &["vpt_shallow", "vpt_deep", "condense", "spt_shallow", "spt_deep"],
        "how prompts start: uniform, gaussian, imagenet, class_final, class_entering or class_leaving; of spt: random, \
         mean_pooling, max_pooling or kmeans",
    ),
    key("train_prompts", VPT, "whether prompts are trained, or stay as they start; true"),
    key(
        "prompt_project",
        VPT,
        "width of the prompts before a linear layer to the backbone's; null: no layer",
    ),
    key("pooling", TOKENS, "tokens that feed the head: original, image, prompt or image_prompt; original"),
    key("also_train", TOKENS, "of the backbone: none, bias, cls or cls_reinit; none"),
    key("shared", DEEP, "whether all blocks get the same prompts; false"),
    key("noexpand", DEEP, "whether the slots are taken out behind the last prompted block; false"),
    key("kv_prompt_length", E2VPT, "key-value prompts per head, 0 to 10000; required"),
    key("kv_share", E2VPT, "whether keys and values get the same prompts; true"),
    key("kv_position", E2VPT, "of key-value prompts: before or after; the same function; before"),
    key("kv_blocks", E2VPT, "blocks with key-value prompts: all or first; all"),
    key("segments", E2VPT, "segments of a token that can be pruned; divides the width; 16"),
    key("gate_init", GATED, "the gates' logits start at minus this, -100 to 100; 10"),
    key("temperature", GATED, "whether attention temperatures are trained; true"),
    key("init_images", SPT, "training images drawn for the prompts; null: as many as there are"),
    key(
        "cross_insertion",
        &["cvpt"],
        "before_attention, parallel, after_attention, into_mlp or after_mlp; after_attention",
    ),
    key(
        "drop_path",
        &["full", "spt_shallow", "spt_deep", "cvpt"],
        "stochastic depth of the backbone's blocks in training, at the last block; 0",
    ),
    key("backbone_dropout", &["full"], "dropout inside the backbone in training; 0"),
    key("mlp_layers", &["mlp_k"], "linear layers of the head, 2 to 16; required"),
    key("mlp_dropout", &["mlp_k"], "share of hidden activations dropped; 0.1"),
    key("trained_blocks", &["partial_k"], "last blocks that are trained; required"),
    key("train_norm", &["partial_k"], "whether the last norm is trained too; true"),
    key("cls_reinit", &["cls"], "whether the class token starts anew; false"),
    key(
        "bias_lr_factor",
        &["bias", "vpt_shallow", "vpt_deep", "condense"],
        "factor of the learning rate of the backbone's biases; 1",
    ),
    key("reduction", &["adapter"], "the backbone's width over the bottleneck's; 8"),
    key("rank", &["lora"], "of the updates; 8"),
    key("lora_alpha", &["lora"], "updates are scaled by this over rank; rank"),
    key(
        "fidelity",
        &["adapter", "vpt_shallow", "vpt_deep", "e2vpt", "cvpt"],
        "where paper and code differ: paper or code; paper",
    ),
    key(
        "pruning_ratio",
        PRUNED,
        "share of the prompt tokens taken out in the middle of the trial, 0 to 1; 0",
    ),
    key("segment_ratio", E2VPT, "share of each token's segments taken out, 0 to 1; 0"),
    key("importance", PRUNED, "what decides: abs, signed, taylor or leave_one_out; abs, of condense taylor"),
    key(
        "rewind_schedule",
        PRUNED,
        "{prune_at, to: init, fresh or {epoch}, epochs, lr: restart or continue}; {epochs, fresh, epochs, restart}, of \
         condense {epochs, {epoch: prune_at}, epochs, restart}",
    ),
    key("head", METHODS, "linear: a label for an image; setr_pup: one for every pixel; linear"),
    key("head_channels", METHODS, "of setr_pup: channels of its convolutions; 256"),
    key("head_lr_factor", METHODS, "of setr_pup: factor of the heads' learning rate; 10"),
    key(
        "aux_blocks",
        METHODS,
        "of setr_pup: list of the blocks behind which auxiliary heads stand; null: 5/12 and 9/12 of them",
    ),
    key("aux_weight", METHODS, "of setr_pup: weight of an auxiliary head's loss; 0.4"),
    key("stride", METHODS, "of setr_pup: pixels from window to window; null: 2/3 of image_size"),
    key("scales", METHODS, "of setr_pup: list of sizes in which test images are seen too; null: none"),
    key("cat_max_ratio", METHODS, "of setr_pup: share of a crop that one class may cover, 0 to 1; 0.75"),
    key("photometric", METHODS, "of setr_pup: whether crops change their colours; true"),
    key("head_init", METHODS, "how the linear head starts: vpt, spt or zero; vpt"),
    key("epochs", METHODS, "passes over the training images, 1 to 100000; 100"),
    key(
        "epoch_steps",
        METHODS,
        "steps of an epoch, the images running on; null: a pass over the training images",
    ),
    key("batch_size", METHODS, "images per step, 1 to 65536; 64"),
    key("lr", METHODS, "peak learning rate, >= 0; required"),
    key("wd", METHODS, "weight decay, >= 0; 0"),
    key("wd_head", METHODS, "weight decay of the head; null: as wd"),
    key(
        "optimizer",
        METHODS,
        "{name: sgd, momentum} or {name: adamw or adamw_vpt, beta1, beta2, eps}; sgd with momentum 0.9",
    ),
    key(
        "schedule",
        METHODS,
        "{name: cosine, warmup_epochs, warmup}, cosine_spt, cosine_cvpt, poly or {name: constant}; cosine",
    ),
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

pub(super) fn join(names: &[&str], last_word: &str) -> String {
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
