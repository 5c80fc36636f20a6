//! What a training step will keep in memory, estimated before it is tried.

use sweeps::recipe::{Location, Method, Recipe, Vpt};

use super::error::TrialError;
use crate::protocol::FailureClass;
use crate::tuning::Entry;
use crate::vit::Arch;

/// Bytes that a step cannot do without: for each token of each block that a gradient passes through, the inputs of both
/// norms, queries, keys and values, the attention's output, and the MLP's hidden layer, in float32. Frozen linear layers
/// keep nothing. What is freed along the way, and the prompts themselves, are not counted.
fn activations(recipe: &Recipe, arch: &Arch, entry: Entry) -> u64 {
    let blocks = match entry {
        _ if recipe.method == Method::Sidetune => 0, // no gradient passes through the backbone
        Entry::Images => arch.depth,
        Entry::Block(first) => arch.depth.saturating_sub(u32::try_from(first).unwrap_or(u32::MAX)),
    };
    let of_token = 6 * u64::from(arch.dim) + u64::from(arch.mlp_dim);
    let images = u64::from(blocks) * u64::from(recipe.batch_size);
    images.saturating_mul(tokens(recipe, arch)).saturating_mul(4 * of_token)
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
pub(super) fn check(recipe: &Recipe, arch: &Arch, entry: Entry, free: u64) -> Result<(), TrialError> {
    let needed = activations(recipe, arch, entry);
    if needed <= free {
        return Ok(());
    }
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let message = format!(
        "a training step on {} images of {} tokens keeps {:.1} GiB or more, but {:.1} GiB of memory are free: use a \
         smaller batch_size, fewer prompts or a later insertion_depth",
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
        let needed = |extra: &str, entry| activations(&recipe(extra), &tiny::arch(), entry);
        // 3 × 3 patches, CLS and 5 prompts; 6 × 12 + 20 numbers a token.
        let deep = r#""vpt_deep", "prompt_length": 5"#;
        assert_eq!(needed(deep, Entry::Block(0)), 4 * 10 * 15 * 92 * 4);
        assert_eq!(needed(deep, Entry::Block(3)), 10 * 15 * 92 * 4);
        assert_eq!(needed(r#""full""#, Entry::Images), 4 * 10 * 10 * 92 * 4);
        assert_eq!(needed(r#""linear""#, Entry::Block(4)), 0);
        assert_eq!(needed(r#""vpt_shallow", "location": "add""#, Entry::Block(0)), 4 * 10 * 10 * 92 * 4);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_numbers_and_the_mend() {
        let large = recipe(r#""vpt_deep", "prompt_length": 10000"#);
        let check = |free| check(&large, &tiny::arch(), Entry::Block(0), free);
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
