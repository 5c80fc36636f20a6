//! What a result depends on besides recipe and seed: the bytes that the run reads and the code that computes.

use sha2::{Digest, Sha256};

/// Version of this program: that of the package, and the beginning of the digest of its sources.
pub const CODE: &str = concat!(env!("CARGO_PKG_VERSION"), "+", env!("SOURCES_DIGEST"));

/// A digest of what a run reads: the backbone as it is read, the number of classes, and images and labels of every split,
/// in the order train, eval, test.
pub(super) fn inputs(backbone: &str, classes: u32, splits: &[&str]) -> String {
    let mut hash = Sha256::new();
    let classes = classes.to_string();
    for part in [backbone, classes.as_str()].iter().chain(splits) {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_differs_shows() {
        let base = inputs("b", 2, &["x", "y"]);
        assert_eq!(base.len(), 64);
        for other in [
            inputs("c", 2, &["x", "y"]),
            inputs("b", 3, &["x", "y"]),
            inputs("b", 2, &["y", "x"]),
            inputs("b", 2, &["x", "y", "z"]),
            inputs("b", 2, &["xy"]),
        ] {
            assert_ne!(base, other);
        }
        assert!(CODE.starts_with(concat!(env!("CARGO_PKG_VERSION"), "+")) && CODE.len() > 16);
    }
}
