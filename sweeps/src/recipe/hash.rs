//! The identity of a configuration.
//!
//! `config_hash` = SHA-256 of a version tag, a line feed, and the canonical JSON of the *resolved* recipe: every
//! default is written out, so a file that states a default hashes like one that does not, and a later change of a
//! default cannot make two different trials look alike. Hashes are stored and compared across versions, so:
//! a key added later is left out of the hashed form while it has the value that older versions implied, and the
//! golden hashes below never change. A change that must break them needs a new tag.

use sha2::{Digest, Sha256};

use super::Recipe;

const TAG: &str = "promptsweep recipe 1";

impl Recipe {
    /// 64 hexadecimal digits, equal for recipes that are equal.
    #[must_use]
    pub fn config_hash(&self) -> String {
        hex(&self.digest())
    }

    pub(crate) fn digest(&self) -> [u8; 32] {
        let mut sha = Sha256::new();
        sha.update(TAG);
        sha.update("\n");
        sha.update(self.to_json());
        sha.finalize().into()
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from(b"0123456789abcdef"[usize::from(nibble)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Recipe;

    #[track_caller]
    fn golden(json: &str, hash: &str) {
        assert_eq!(Recipe::from_json(json).unwrap().config_hash(), hash, "{json}");
    }

    /// These stand for trials that were stored: they may be added to, never edited.
    #[test]
    fn golden_hashes() {
        golden(
            r#"{"backbone": "vit_b16_in21k", "task": "vtab/dtd", "method": "linear", "lr": 0.5}"#,
            "182fc89cc9b099a128fd7e7f578f258e5371bad3d4fb4920158939692388799b",
        );
        golden(
            r#"{"backbone": "vit_b16_in21k", "task": "vtab/svhn", "method": "vpt_shallow", "prompt_length": 10,
                "insertion_depth": 6, "lr": 12.5, "wd": 0.0001, "recipe": "noah", "normalization": "inception"}"#,
            "2b9cfc9126239b5babb7a2f50c6f3df57ee6caf71a1be01ea9b76e345f436d4a",
        );
        golden(
            r#"{"backbone": "vit_l16", "task": "digits", "method": "vpt_deep", "prompt_length": 50, "lr": 1e-7,
                "prompted_blocks": 3, "optimizer": "adamw", "schedule": "constant", "epochs": 7,
                "split": {"train": "train800val200", "test": null}}"#,
            "cbdf14b1c7c7e3b4a2e485d3cf17bf6cd35679ca4abb32f5b84ce996db983d65",
        );
        golden(
            r#"{"backbone": "dinov2_vits14_imgfocus", "task": "elpv/type", "method": "gated", "prompt_length": 1,
                "lr": 0.05, "gate_init": 5, "temperature": false, "head_init": "zero", "image_size": 56,
                "schedule": {"name": "cosine", "warmup_epochs": 10, "warmup": "vpt"}}"#,
            "3f171009a5c6fdf166f4155c8c15f9af07d7ce78cd05778094f46e63e3da6a30",
        );
    }

    #[test]
    fn a_stated_default_changes_nothing() {
        let short = r#"{"backbone": "b", "task": "t", "method": "linear", "lr": 1}"#;
        let long = r#"{"backbone": "b", "task": "t", "method": "linear", "lr": 1.0, "wd": 0.0, "epochs": 100,
            "split": {"eval": "val200"}, "schedule": "cosine"}"#;
        let hash = |json| Recipe::from_json(json).unwrap().config_hash();
        assert_eq!(hash(short), hash(long));
        assert_ne!(hash(short), hash(&long.replace("100", "101")));
    }
}
