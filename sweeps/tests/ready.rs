//! Every ready-made sweep of this folder is valid, and says at its top how to run it.

use std::path::Path;

use sweeps::Spec;

#[test]
fn every_ready_made_sweep_expands() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let spec = Spec::parse(&name, &text, &[]).unwrap_or_else(|errors| panic!("{errors}"));
        assert!(spec.warnings.is_empty(), "{name}: {:?}", spec.warnings);
        assert_eq!(spec.trials().len(), spec.configurations().count() * spec.seeds.len(), "{name}");
        assert!(text.starts_with(&format!("# {name}: ")), "{name} begins with its name and what it does");
        assert!(
            text.contains(&format!("sweep submit sweeps/{name}")),
            "{name} gives the command that runs it"
        );
        let counts = [(spec.configuration_count(), "configurations"), (spec.trial_count(), "trials")];
        for (count, what) in counts {
            let stated = format!("= {} {what}", with_commas(count));
            assert!(text.contains(&stated), "{name} states its counts: `{stated}`");
        }
        let tests = spec.configurations().any(|configuration| configuration.recipe.split.test.is_some());
        let reports_tests = spec.report.iter().any(|metric| metric.starts_with("test/"));
        assert!(tests || !reports_tests, "{name} reports scores of test images that no trial sees");
        found += 1;
    }
    assert!(found >= 2, "found {found} sweeps in {}", folder.display());
}

#[test]
fn every_parameter_is_documented_with_its_readers() {
    let manual = include_str!("../../docs/sweep-file.md");
    for key in sweeps::recipe::KEYS {
        let readers = match key.methods {
            many if many.len() == sweeps::recipe::METHODS.len() => "all".to_owned(),
            some => some.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
        };
        let row = format!("| `{}` | {readers} |", key.name);
        assert!(manual.contains(&row), "docs/sweep-file.md lacks `{row}`");
    }
}

/// 4560 as "4,560".
fn with_commas(count: usize) -> String {
    let digits = count.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
