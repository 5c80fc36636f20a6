//! Every ready-made sweep of this folder is valid, and says at its top how to run it.

use std::path::Path;

use sweeps::stage::Parent;
use sweeps::{Recipe, Spec};

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
        assert_eq!(spec.trials().len(), spec.configuration_count() * spec.seeds.len(), "{name}");
        assert!(text.starts_with(&format!("# {name}: ")), "{name} begins with its name and what it does");
        assert!(
            text.contains(&format!("sweep submit sweeps/{name}")),
            "{name} gives the command that runs it"
        );
        let trials: Vec<String> = spec.plan().stages.iter().map(|stage| with_commas(stage.trials)).collect();
        let stated = format!("= {} trials", trials.join(" + "));
        assert!(text.contains(&stated), "{name} states its counts: `{stated}`");
        if spec.stages.len() == 1 {
            let stated = format!("= {} configurations", with_commas(spec.configuration_count() as u64));
            assert!(text.contains(&stated), "{name} states its counts: `{stated}`");
        }
        let tests = recipes(&spec).iter().any(|recipe| recipe.split.test.is_some());
        let reports_tests = spec.report.iter().any(|metric| metric.starts_with("test/"));
        assert!(tests || !reports_tests, "{name} reports scores of test images that no trial sees");
        found += 1;
    }
    assert!(found >= 20, "found {found} sweeps in {}", folder.display());
}

/// What the protocols of the papers come to.
#[test]
fn protocols_have_the_published_counts() {
    for (name, trials) in [
        ("vtab_vpt.yaml", vec![4_560, 95]),
        ("vtab_gated_mae.yaml", vec![19]),
        ("vtab_gated_moco.yaml", vec![19]),
        ("vtab_gated_mae_grid.yaml", vec![19 * 7 * 4 * 4, 95]),
        ("vtab_gated_moco_grid.yaml", vec![19 * 7 * 4 * 4, 95]),
        ("vtab_e2vpt.yaml", vec![19 * 40, 19, 19 * 72, 19 * 5]),
        ("vtab_spt.yaml", vec![19 * 15, 95]),
        ("vtab_prompts.yaml", vec![2_128]),
        ("ade20k_setr.yaml", vec![10]),
    ] {
        let plan = read(name).plan();
        assert_eq!(plan.stages.iter().map(|stage| stage.trials).collect::<Vec<_>>(), trials, "{name}");
    }
    let vpt = read("vtab_vpt.yaml");
    let one = Spec::parse("f", &text("vtab_vpt.yaml"), &["axes.task.values=[vtab/dtd]".to_owned()]).unwrap();
    assert_eq!(one.plan().stages.iter().map(|stage| stage.trials).sum::<u64>(), 245);
    let e2vpt =
        Spec::parse("f", &text("vtab_e2vpt.yaml"), &["axes.task.values=[vtab/dtd]".to_owned()]).unwrap();
    assert_eq!(e2vpt.plan().stages.iter().map(|stage| stage.trials).sum::<u64>(), 118);
    // 50 × 128 / 256 at one token, 50 × 64 / 256 at 200 tokens.
    let rates: Vec<f64> = vpt.configurations().map(|c| c.recipe.lr).collect();
    assert_eq!(
        (rates.iter().copied().fold(0.0, f64::max), rates.last()),
        (25.0, Some(&(0.05 * 64.0 / 256.0)))
    );
    // Tuning does not touch test images; the end is scored on them once.
    let last = recipes(&vpt).pop().unwrap();
    assert!(vpt.configurations().all(|c| c.recipe.split.test.is_none()));
    assert_eq!((last.split.train.as_str(), last.split.test.as_deref()), ("train800val200", Some("test")));
}

/// The number of steps, and what mmsegmentation's configuration says of the rest.
#[test]
fn ade20k_is_trained_as_published() {
    let spec = read("ade20k_setr.yaml");
    for recipe in recipes(&spec) {
        assert_eq!(u64::from(recipe.epochs) * u64::from(recipe.epoch_steps.unwrap()), 160_000);
        let setr = recipe.setr.unwrap();
        assert_eq!((setr.stride, setr.aux_blocks(12), setr.aux_weight), (341, vec![5, 9], 0.4));
        assert_eq!((setr.channels, setr.lr_factor, setr.photometric), (256, 10.0, true));
    }
}

/// A file that uses the whole language: zips of maps, conditions, exclusions, stages, early stopping, resources.
#[test]
fn a_whole_study_counts_right() {
    let spec = Spec::parse("prompt_study.yaml", include_str!("files/prompt_study.yaml"), &[]);
    let plan = spec.unwrap_or_else(|errors| panic!("{errors}")).plan();
    let counts: Vec<(u64, u64)> =
        plan.stages.iter().map(|stage| (stage.configurations, stage.trials)).collect();
    // 144 shallow, less 24 excluded, + 96 deep + 144 gated + 144 pruned + 1 included; 3 tasks × 4 blocks + the included one.
    assert_eq!(counts, [(505, 1515), (13, 65)]);
    let blocks: Vec<u64> = plan.stages[0].blocks.iter().map(|(_, count)| *count).collect();
    assert_eq!(blocks, [120, 96, 144, 144]);
}

fn text(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

fn read(name: &str) -> Spec {
    Spec::parse(name, &text(name), &[]).unwrap_or_else(|errors| panic!("{errors}"))
}

/// A recipe of each stage: of the first, all.
fn recipes(spec: &Spec) -> Vec<Recipe> {
    let mut recipes: Vec<Recipe> = spec.configurations().map(|configuration| configuration.recipe).collect();
    let first = spec.configurations().next().unwrap();
    let mut settings = vec![first.settings];
    for stage in spec.stages.iter().skip(1) {
        let from = stage.from.as_ref().unwrap();
        let parent = Parent { settings: &settings[from.stage], hash: "", is_lr_scaled: first.is_lr_scaled };
        let child = from.opening.children(parent).unwrap().remove(0);
        settings.push(child.settings);
        recipes.push(child.recipe);
    }
    recipes
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
fn with_commas(count: u64) -> String {
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
