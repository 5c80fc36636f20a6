//! What people get to read when a sweep file is wrong: the place, the mistake, the mend.

use std::fmt::Write;

use sweeps::Spec;

const HEAD: &str = "version: 1\nname: t\n";
const BASE: &str = "base: {backbone: vit_b16, task: vtab/dtd, method: vpt_deep, prompt_length: 5, lr: 0.5}\n";

/// What is wrong, and the file after its head; `!` leaves the head out.
const FILES: &[(&str, &str)] = &[
    ("empty file", "!"),
    ("not a map", "!- version\n"),
    ("not YAML", "axes: {lr: [1, 2\nbase: x\n"),
    ("tabs", "axes:\n\tlr: 1\n"),
    ("duplicate key", "priority: 1\npriority: 2\n"),
    ("merge key", "base: &b {lr: 1}\naxes:\n  <<: *b\n"),
    ("two documents", "---\nversion: 1\n"),
    ("no version, no name", "!kind: sweep\n"),
    ("wrong version", "!version: 2\nname: t\n"),
    ("wrong kind", "kind: experiment\n"),
    ("name that is a path", "!version: 1\nname: ../t\n"),
    ("misspelled key", "objectiv: {metric: val/top1}\n"),
    ("parameter at the top", "lr: 0.5\n"),
    (
        "checkpoints, reuse",
        "early_stop: {rule: asha}\ncheckpoint: {every: 10ms, on_drain: 1}\nreuse: same\nshare_prefix: 1\n",
    ),
    ("resources of no GPU", "resources: {gpu: 0, gpu_memory: 1GiB, share: false}\n"),
    (
        "resources",
        "resources: {gpu_memory: 16GB, gpus: 1, labels: {gpu: [a100]}}\nlimits: {pause_after_code_errors: 0}\n",
    ),
    ("sampler without trials, and keys of others", "search: {sampler: tpe, order: shuffled}\n"),
    ("startup of a grid, and no axis", "search: {startup: 5, per: [task]}\naxes: {lr: {values: [1, 2]}}\n"),
    (
        "sampler that cannot do the space",
        "search: {sampler: cma_es, trials: 9}\naxes:\n  lr: {range: {min: 0.1, max: 1}}\n  head_init: {values: [vpt, spt]}\n",
    ),
    (
        "strategy over blocks",
        "search: {sampler: cma_es, trials: 9}\nblocks:\n  - {name: a, axes: {wd: {range: {min: 0, max: 1}}}}\n  - {name: b, axes: {wd: {range: {min: 0, max: 2}}}}\n",
    ),
    (
        "sampler that asks for more than there is",
        "search: {sampler: tpe, trials: 9}\naxes: {lr: {values: [0.1, 0.2]}, wd: {values: [0, 1, 2]}}\n",
    ),
    (
        "studies by what is no list, twice, or unknown",
        "search: {sampler: tpe, trials: 9, per: [lr, wd, wd, task]}\naxes: {lr: {range: {min: 0.1, max: 1}}, wd: {values: [0, 1]}}\n",
    ),
    (
        "stage by what a sampler chooses",
        "search: {sampler: tpe, trials: 9}\naxes: {lr: {range: {min: 0.1, max: 1}}, wd: {values: [0, 1]}}\nstages: [{name: a}, {name: b, from: {stage: a, per: [wd]}}]\n",
    ),
    (
        "study of which nothing is left",
        "BASE\nsearch: {sampler: tpe, trials: 2, per: [wd]}\naxes: {lr: {range: {min: 0.1, max: 1}}, wd: {values: [0, 1]}}\nexclude: [{wd: 1}]\n",
    ),
    ("unknown sampler", "search: {sampler: gird}\n"),
    ("random without trials", "search: {sampler: random}\n"),
    ("grid with trials", "search: {trials: 5}\n"),
    ("choosing on test images", "objective: {metric: test/top1}\n"),
    (
        "accuracy on training images, which is not scored",
        "objective: {metric: train/top1}\nreport: [train/loss, train/top5, train/per_class]\n",
    ),
    ("choosing on a cost", "objective: {metric: seconds/gpu}\n"),
    (
        "misspelled metric",
        "objective: {metric: val/top2, goal: max}\nreport: [test/top1, test/top1, seconds/gup]\n",
    ),
    ("label that is a list", "labels: {paper: [1]}\n"),
    ("seeds twice, and one that is none", "replicates: {seeds: [0, 1, 0, -1, '2']}\n"),
    ("no seeds", "replicates: {seeds: []}\n"),
    (
        "durations",
        "limits: {trial_timeout: 3 hours, max_running: 0}\nretry: {backoff: {first: 30, max: 90d}}\n",
    ),
    ("backoff that shrinks", "retry: {backoff: {first: 1m, max: 30s, factor: 0.5}, never: [diverge]}\n"),
    ("unknown parameter", "base: {batchsize: 64}\n"),
    ("list as an axis", "axes: {lr: [1, 2]}\n"),
    ("axis with neither values nor range", "axes: {lr: {vals: [1, 2]}}\n"),
    ("empty values", "axes: {lr: {values: []}}\n"),
    ("axis that nobody knows", "axes: {learning_rate: {values: [1]}}\n"),
    (
        "scaling of another axis",
        "axes: {wd: {values: [1], scaled_by: batch_size/256}, lr: {values: [1], scaled_by: epochs}}\n",
    ),
    ("range upside down", "axes: {lr: {range: {min: 2, max: 1, num: 3}}}\n"),
    ("log range from zero", "axes: {lr: {range: {min: 0, max: 1, num: 3, scale: log}}}\n"),
    ("grid range without num", "axes: {lr: {range: {min: 0, max: 1}}}\n"),
    ("range with num and step", "axes: {lr: {range: {min: 0, max: 1, num: 3, step: 0.5}}}\n"),
    ("steps that miss the end", "axes: {lr: {range: {min: 0, max: 1, step: 0.3}}}\n"),
    (
        "integer range",
        "axes: {prompt_length: {range: {min: 1, max: 3, num: 10, type: int}}, epochs: {range: {min: 0.5, max: 3, num: 2, type: int}}}\n",
    ),
    ("infinite end", "axes: {lr: {range: {min: 0, max: .inf, num: 3}}}\n"),
    ("zip of unequal lengths", "zip:\n  - lr: [1, 2, 3]\n    wd: [0, 1]\n"),
    ("zip of one key", "zip: [{lr: [1, 2]}]\n"),
    ("axis and zip of one key", "axes: {lr: {values: [1]}}\nzip:\n  - lr: [1, 2]\n    wd: [0, 1]\n"),
    ("block without a name", "blocks: [{set: {method: linear}}]\n"),
    (
        "two blocks of one name",
        "blocks:\n  - {name: a, set: {method: linear}}\n  - {name: a, set: {method: gated}}\n",
    ),
    ("block that sets an axis", "axes: {lr: {values: [1]}}\nblocks:\n  - {name: a, set: {lr: 2}}\n"),
    (
        "key that the method does not read",
        "base: {backbone: b, task: t, lr: 1}\naxes: {prompt_length: {values: [5, 10]}}\nblocks:\n  - {name: lin, set: {method: linear}}\n  - {name: deep, set: {method: vpt_deep}}\n",
    ),
    (
        "key in base that a block's method does not read",
        "base: {backbone: b, task: t, lr: 1, gate_init: 5}\nblocks:\n  - {name: lin, set: {method: linear}}\n",
    ),
    ("quoted number on an axis", "BASE\naxes: {wd: {values: [0.1, '0.01']}}\n"),
    ("value out of range", "BASE\naxes: {prompt_dropout: {values: [0, 0.5, 1]}}\n"),
    ("depth beyond the backbone", "BASE\naxes: {insertion_depth: {values: [0, 11, 12]}}\n"),
    (
        "prompts beyond the last block",
        "BASE\naxes: {insertion_depth: {values: [0, 6]}, prompted_blocks: {values: [6, 7]}}\n",
    ),
    (
        "wrong optimizer",
        "base: {backbone: b, task: t, method: linear, lr: 1, optimizer: {name: sgd, beta1: 0.9}}\n",
    ),
    (
        "warm-up longer than training",
        "BASE\naxes: {epochs: {values: [5, 20]}, schedule: {values: [{name: cosine, warmup_epochs: 10}]}}\n",
    ),
    (
        "nothing sets the learning rate",
        "base: {backbone: b, task: t}\nblocks: [{name: lin, set: {method: linear}}]\n",
    ),
    (
        "include that is incomplete",
        "base: {backbone: b, task: t, method: linear}\ninclude:\n  - {lr: 1}\n  - {wd: 1}\n",
    ),
    ("exclude that empties a block", "BASE\naxes: {wd: {values: [0, 1]}}\nexclude: [{wd: 0}, {wd: 1}]\n"),
    ("exclude of an unknown key", "BASE\nexclude: [{weight_decay: 0}]\n"),
    ("early stopping by no rule", "BASE\nearly_stop: {min: 0, eta: 1}\n"),
    (
        "early stopping by what a rule does not read",
        "BASE\nearly_stop: {rule: median, eta: 3, resource: step, scope: [wd]}\n",
    ),
    (
        "early stopping among what is no axis",
        "BASE\naxes: {wd: {values: [0, 1]}}\nearly_stop: {rule: asha, scope: [wd, task], never_stop: [{weight_decay: 0}]}\n",
    ),
    ("no stages", "BASE\nstages: []\n"),
    ("stage without a name", "BASE\nstages: [{split: {train: train800}}]\n"),
    ("two stages of one name", "BASE\nstages: [{name: a}, {name: a, from: {stage: a}}]\n"),
    ("misspelled key of a stage", "BASE\nstages: [{name: a, replicate: {seeds: [1]}}]\n"),
    ("first stage that chooses", "BASE\nstages: [{name: a, from: {stage: a}, axes: {wd: {values: [0]}}}]\n"),
    ("stage that chooses from nothing", "BASE\nstages: [{name: a}, {name: b}]\n"),
    ("stage that chooses from itself", "BASE\nstages: [{name: a}, {name: b, from: {stage: b}}]\n"),
    (
        "stages in a circle",
        "BASE\nstages: [{name: a}, {name: b, from: {stage: c}}, {name: c, from: {stage: b}}]\n",
    ),
    (
        "best of none",
        "BASE\nstages: [{name: a}, {name: b, from: {stage: a, best: 0, allow_stopped: maybe}}]\n",
    ),
    (
        "groups by what does not vary",
        "BASE\naxes: {wd: {values: [0, 1]}}\nstages: [{name: a}, {name: b, from: {stage: a, per: [task, wd, wd, block, x]}}]\n",
    ),
    (
        "groups by what will be chosen",
        "BASE\naxes: {wd: {values: [0, 1]}, epochs: {values: [20, 30]}}\nstages:\n  - {name: a}\n  - {name: b, from: {stage: a, per: [epochs]}}\n  - {name: c, from: {stage: b, per: [wd]}}\n",
    ),
    (
        "groups of a single configuration",
        "BASE\nstages: [{name: a}, {name: b, from: {stage: a, per: [lr]}}]\n",
    ),
    (
        "stage that sets an axis of the file",
        "BASE\naxes: {wd: {values: [0, 1]}}\nstages: [{name: a, set: {wd: 1}}]\n",
    ),
    ("split in two places", "BASE\nstages: [{name: a, set: {split: {train: x}}}]\n"),
    (
        "stage that sets what its method does not read",
        "BASE\nstages:\n  - {name: a}\n  - {name: b, from: {stage: a}, set: {gate_init: 5}}\n",
    ),
    (
        "stage whose axis is out of range",
        "BASE\nstages:\n  - {name: a}\n  - {name: b, from: {stage: a}, axes: {insertion_depth: {values: [0, 12]}}}\n",
    ),
    (
        "stage that sets its own axis",
        "BASE\nstages:\n  - {name: a}\n  - {name: b, from: {stage: a}, set: {wd: 1}, axes: {wd: {values: [0, 12]}}}\n",
    ),
    (
        "stages beyond the bound",
        "BASE\naxes: {wd: {range: {min: 0, max: 1, num: 1000}}}\nstages:\n  - {name: a}\n  - {name: b, from: {stage: a, per: [wd]}, axes: {lr: {range: {min: 0, max: 1, num: 1000}}}}\n",
    ),
    (
        "choosing from a stage that is scored on test images",
        "BASE\nstages:\n  - {name: a, split: {train: train800, eval: test}}\n  - {name: b, from: {stage: a}}\n",
    ),
    ("task that leaves its folder", "base: {backbone: b, task: ../../etc, method: linear, lr: 1}\n"),
    (
        "scores of whole images where pixels are labelled",
        "base: {backbone: b, task: t, method: linear, lr: 1, head: setr_pup}\n",
    ),
    ("scores of label maps where images are labelled", "BASE\nobjective: {metric: val/miou}\n"),
    (
        "both heads under one score",
        "BASE\nobjective: {metric: val/miou}\naxes: {head: {values: [linear, setr_pup]}}\n",
    ),
    (
        "what a head does not read",
        "BASE\nobjective: {metric: val/miou}\nblocks:\n  - {name: a, set: {stride: 3}}\n  - {name: b, set: {head: setr_pup, recipe: noah}}\n",
    ),
    (
        "label maps on a backbone without patches",
        "objective: {metric: val/miou}\nbase: {backbone: swin_b, task: t, method: linear, lr: 1, head: setr_pup}\n",
    ),
    (
        "test set to something else",
        "base: {backbone: b, task: t, method: linear, lr: 1, split: {test: no such}}\n",
    ),
];

#[test]
fn messages() {
    let mut out = String::new();
    for (what, text) in FILES {
        let text = match text.strip_prefix('!') {
            Some(whole) => whole.to_owned(),
            None => format!("{HEAD}{}", text.replace("BASE\n", BASE)),
        };
        let errors = Spec::parse("sweep.yaml", &text, &[]).map(|_| ()).expect_err(what);
        writeln!(out, "# {what}\n{errors}\n").unwrap();
    }
    insta::assert_snapshot!(out);
}

#[test]
fn a_wrong_override_is_shown_as_such() {
    let text = format!("{HEAD}{BASE}axes: {{wd: {{range: {{min: 0, max: 1, num: 3}}}}}}\n");
    let overrides = ["axes.wd.range.num=many".to_owned(), "search.order=backwards".to_owned()];
    let errors = Spec::parse("sweep.yaml", &text, &overrides).unwrap_err();
    assert_eq!(
        errors.to_string(),
        "--set axes.wd.range.num=many:1:1: axes.wd.range.num: must be an integer >= 2, found the string \"many\"\n\
         --set search.order=backwards:1:1: search.order: unknown order `backwards`: use `shuffled` or `as_written`"
    );
    let fine = Spec::parse("sweep.yaml", &text, &["axes.wd.range.num=5".to_owned()]).unwrap();
    assert_eq!(fine.configuration_count(), 5);
}

#[test]
fn a_file_full_of_mistakes_shows_the_first_of_them() {
    let keys: String = (0..1_000).map(|i| format!("key{i}: 1\n")).collect();
    let errors = Spec::parse("sweep.yaml", &format!("{HEAD}{keys}"), &[]).unwrap_err();
    assert_eq!(errors.errors().len(), 50);
}
