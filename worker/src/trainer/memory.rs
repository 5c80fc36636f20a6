//! What a training step will keep in memory, estimated before it is tried.

use sweeps::recipe::{Location, Method, Recipe, Vpt};

use super::error::TrialError;
use crate::dense;
use crate::protocol::FailureClass;
use crate::tuning::Entry;
use crate::vit::Arch;

/// Bytes that a step cannot do without: for each token of each block that a gradient passes through, the inputs of both
/// norms, queries, keys and values, the attention's output, and the MLP's hidden layer, and what the heads of a segmentation
/// keep, in float32. Frozen linear layers keep nothing. What is freed along the way, and the prompts themselves, are not counted.
fn activations(recipe: &Recipe, arch: &Arch, classes: u32, entry: Entry) -> u64 {
    let blocks = match entry {
        // No gradient passes through the backbone.
        _ if matches!(recipe.method, Method::Sidetune | Method::Linear) => 0,
        Entry::Images => arch.depth,
        Entry::Block(first) => arch.depth.saturating_sub(u32::try_from(first).unwrap_or(u32::MAX)),
    };
    let of_token = 6 * u64::from(arch.dim) + u64::from(arch.mlp_dim);
    let images = u64::from(blocks) * u64::from(recipe.batch_size);
    let of_blocks = images.saturating_mul(tokens(recipe, arch)).saturating_mul(of_token);
    let side = u64::from(recipe.image_size);
    let of_heads = recipe.setr.as_ref().map_or(0, |setr| {
        u64::from(recipe.batch_size).saturating_mul(dense::kept_numbers(setr, arch, u64::from(classes), side))
    });
    of_blocks.saturating_add(of_heads).saturating_mul(4)
}

/// Length of the sequence behind its insertions.
fn tokens(recipe: &Recipe, arch: &Arch) -> u64 {
    let grid = u64::from(recipe.image_size / arch.patch_size);
    let prompts = match &recipe.method {
        Method::Vpt(Vpt { location: Location::Prepend | Location::PrependPixel, prompt_length, .. }) => {
            *prompt_length
        }
        Method::Gated { prompt_length, .. } => *prompt_length,
        Method::E2vpt(method) => method.prompt_length,
        Method::Spt(method) => method.prompt_length,
        _ => 0,
    };
    1 + grid * grid + u64::from(prompts)
}

/// Refuses a run that `free` bytes cannot hold.
pub(super) fn check(
    recipe: &Recipe,
    arch: &Arch,
    classes: u32,
    entry: Entry,
    free: u64,
) -> Result<(), TrialError> {
    let needed = activations(recipe, arch, classes, entry);
    if needed <= free {
        return Ok(());
    }
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let mend = match recipe.setr {
        Some(_) => "fewer prompts, a smaller image_size or fewer head_channels",
        None => "fewer prompts or a later insertion_depth",
    };
    let message = format!(
        "a training step on {} images of {} tokens keeps {:.1} GiB or more, but {:.1} GiB of memory are free: use a \
         smaller batch_size, {mend}",
        recipe.batch_size,
        tokens(recipe, arch),
        gib(needed),
        gib(free)
    );
    Err(TrialError::new(FailureClass::HostOom, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backbone::tiny;

    fn recipe(extra: &str) -> Recipe {
        let json = format!(
            r#"{{"backbone": "b", "task": "t", "lr": 1, "image_size": 12, "batch_size": 10, "method": {extra}}}"#
        );
        Recipe::from_json(&json).unwrap()
    }

    #[test]
    fn prompts_blocks_and_images_multiply() {
        let needed = |extra: &str, entry| activations(&recipe(extra), &tiny::arch(), 7, entry);
        // 3 × 3 patches, CLS and 5 prompts; 6 × 12 + 20 numbers a token.
        let deep = r#""vpt_deep", "prompt_length": 5"#;
        assert_eq!(needed(deep, Entry::Block(0)), 4 * 10 * 15 * 92 * 4);
        assert_eq!(needed(deep, Entry::Block(3)), 10 * 15 * 92 * 4);
        assert_eq!(needed(r#""full""#, Entry::Images), 4 * 10 * 10 * 92 * 4);
        assert_eq!(needed(r#""linear""#, Entry::Block(4)), 0);
        assert_eq!(needed(r#""vpt_shallow", "location": "add""#, Entry::Block(0)), 4 * 10 * 10 * 92 * 4);
    }

    #[test]
    fn maps_of_heads_are_counted_too() {
        let linear = recipe(r#""linear", "head": "setr_pup", "head_channels": 6"#);
        let maps = dense::kept_numbers(linear.setr.as_ref().unwrap(), &tiny::arch(), 7, 12);
        assert_eq!(activations(&linear, &tiny::arch(), 7, Entry::Images), 10 * maps * 4);
        let deep = recipe(r#""vpt_deep", "prompt_length": 5, "head": "setr_pup", "head_channels": 6"#);
        let needed = activations(&deep, &tiny::arch(), 7, Entry::Images);
        assert_eq!(needed, 10 * (4 * 15 * 92 + maps) * 4);
        let error = check(&deep, &tiny::arch(), 7, Entry::Images, needed - 1).unwrap_err();
        assert!(error.message.ends_with("a smaller image_size or fewer head_channels"), "{}", error.message);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_numbers_and_the_mend() {
        let large = recipe(r#""vpt_deep", "prompt_length": 10000"#);
        let check = |free| check(&large, &tiny::arch(), 7, Entry::Block(0), free);
        assert!(check(1 << 30).is_ok());
        let error = check(1 << 27).unwrap_err();
        assert_eq!(error.class, FailureClass::HostOom);
        assert_eq!(
            error.message,
            "a training step on 10 images of 10010 tokens keeps 0.1 GiB or more, but 0.1 GiB of memory are free: use a \
             smaller batch_size, fewer prompts or a later insertion_depth"
        );
    }
}
