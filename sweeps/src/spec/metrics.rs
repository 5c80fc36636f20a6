//! The names of what trainers report. Images are scored on `val/` and `test/`; of training there is the loss alone. What a
//! head scores depends on whether it labels images or pixels.

/// Scores of an epoch: what an objective may be, those of the test images apart.
pub const SCORE_METRICS: &[&str] = &[
    "val/top1",
    "val/top5",
    "val/per_class",
    "val/loss",
    "train/loss",
    "test/top1",
    "test/top5",
    "test/per_class",
    "test/loss",
    "val/miou",
    "val/accuracy",
    "val/mean_accuracy",
    "test/miou",
    "test/accuracy",
    "test/mean_accuracy",
    "test/miou_ms",
    "test/accuracy_ms",
    "test/mean_accuracy_ms",
];

/// Whether a score is one of label maps; `None`: every head has it.
pub(crate) fn is_of_maps(metric: &str) -> Option<bool> {
    match metric.rsplit('/').next().unwrap_or(metric) {
        "loss" => None,
        "top1" | "top5" | "per_class" => Some(false),
        _ => Some(true),
    }
}

/// What a trial cost: reported once at its end, for tables alone.
pub const COST_METRICS: &[&str] = &[
    "seconds/cpu",
    "seconds/gpu",
    "seconds/wall",
    "images_per_second",
    "memory/peak_mib",
    "params/trainable",
    "params/percent",
    "params/effective",
    "prompts/tokens",
    "prompts/segments",
    "dense/top1",
    "dense/loss",
    "pruned/top1",
    "pruned/loss",
];
