//! Whatever a file holds, parsing it ends with a spec or with errors that have a place.

use proptest::prelude::*;
use sweeps::Spec;

const STUDY: &str = include_str!("files/study.yaml");

fn check(text: &str, overrides: &[String]) -> Result<(), TestCaseError> {
    match Spec::parse("f.yaml", text, overrides) {
        Ok(spec) => prop_assert_eq!(spec.trials().len(), spec.trial_count()),
        Err(errors) => {
            prop_assert!(!errors.errors().is_empty());
            prop_assert!(errors.errors().iter().all(|error| error.line >= 1 && error.column >= 1));
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn arbitrary_text(text in any::<String>()) {
        check(&text, &[])?;
    }

    /// A real file with one piece replaced gets past the parser and into the decoder.
    #[test]
    fn a_study_with_a_piece_replaced(
        at in 0..STUDY.len(),
        length in 0..12_usize,
        piece in "[0-9]{0,3}|null|\\{\\}|\\[\\]|\\[1, a\\]|-1|1e300|[a-z_:\n ,{}]{0,6}",
    ) {
        let end = (at + length).min(STUDY.len());
        prop_assume!(STUDY.is_char_boundary(at) && STUDY.is_char_boundary(end));
        check(&format!("{}{piece}{}", &STUDY[..at], &STUDY[end..]), &[])?;
    }

    #[test]
    fn a_study_with_an_override(
        path in "(axes|base|blocks|search|zip|limits|retry|exclude)(\\.(lr|0|range|values|deep|set|backoff|x)){0,3}",
        value in "[0-9]{1,4}|null|\\{\\}|\\[\\]|\\[1, a\\]|\\{lr: 1\\}|-1|x|1e300",
    ) {
        check(STUDY, &[format!("{path}={value}")])?;
    }
}
