//! Learning-rate schedules.

use std::f64::consts::PI;

use sweeps::recipe::{Schedule, Warmup};

/// A training step's place in a run.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// From 0.
    pub epoch: u32,
    /// Within the epoch, from 0.
    pub step: u64,
    /// Of an epoch.
    pub steps: u64,
    /// Of the run.
    pub epochs: u32,
}

/// The learning rate of a step; `peak` is the recipe's. With W warm-up epochs of T and e the epoch:
///
/// - cosine: from epoch W on `peak · ½ (1 + cos(π (e − W)/(T − W)))`. Before it, `vpt` gives `peak · e/W` as the VPT
///   code does, so that epoch 0 trains nothing; `nonzero` gives `peak · (e + 1)/(W + 1)`.
/// - poly: t is (`epoch + step/steps`)/T, so that each step has its own rate; `min + (peak − min) (1 − t)^power`.
/// - SPT: e is `epoch + step/steps`, so that each step has its own rate; `peak · e/W`, then
///   `min + (peak − min) · ½ (1 + cos(π (e − W)/(T − W)))`.
/// - CVPT: e is the epoch before, 0 in the first two; `warmup + e (peak − warmup)/W`, then
///   `min + (peak − min) · ½ (1 + cos(π e/T))`.
pub fn learning_rate(schedule: Schedule, peak: f64, at: Moment) -> f64 {
    let (epoch, total) = (f64::from(at.epoch), f64::from(at.epochs));
    let fall = |from: f64, to: f64, share: f64| to + (from - to) * 0.5 * (1.0 + (PI * share).cos());
    match schedule {
        Schedule::Constant => peak,
        Schedule::Cosine { warmup_epochs, warmup } => {
            let w = f64::from(warmup_epochs);
            match warmup {
                _ if at.epoch >= warmup_epochs => fall(peak, 0.0, (epoch - w) / (total - w).max(1.0)),
                Warmup::Vpt => peak * (epoch / w),
                Warmup::Nonzero => peak * ((epoch + 1.0) / (w + 1.0)),
            }
        }
        Schedule::CosineSpt { warmup_epochs, min_lr } => {
            let w = f64::from(warmup_epochs);
            let e = epoch + at.step as f64 / at.steps.max(1) as f64;
            if e < w { peak * e / w } else { fall(peak, min_lr, (e - w) / (total - w).max(1.0)) }
        }
        Schedule::Poly { power, min_lr } => {
            let done = (epoch + at.step as f64 / at.steps.max(1) as f64) / total;
            min_lr + (peak - min_lr) * (1.0 - done).powf(power)
        }
        Schedule::CosineCvpt { warmup_epochs, warmup_lr, min_lr } => {
            let (w, e) = (f64::from(warmup_epochs), (epoch - 1.0).max(0.0));
            if e < w { warmup_lr + e * (peak - warmup_lr) / w } else { fall(peak, min_lr, e / total) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(schedule: Schedule, epoch: u32, step: u64, epochs: u32) -> f64 {
        learning_rate(schedule, 1.0, Moment { epoch, step, steps: 4, epochs })
    }

    #[test]
    fn vpt_wastes_epoch_0_and_nonzero_does_not() {
        let cosine = |warmup| Schedule::Cosine { warmup_epochs: 10, warmup };
        assert_eq!(rate(cosine(Warmup::Vpt), 0, 3, 100), 0.0);
        assert!((rate(cosine(Warmup::Nonzero), 0, 0, 100) - 1.0 / 11.0).abs() < 1e-15);
        for warmup in [Warmup::Vpt, Warmup::Nonzero] {
            assert_eq!(rate(cosine(warmup), 10, 1, 100), 1.0);
            assert!((rate(cosine(warmup), 99, 0, 100) - 3.0459e-4).abs() < 1e-7);
        }
    }

    #[test]
    fn constant_is_one_and_no_warmup_starts_at_the_peak() {
        assert_eq!(rate(Schedule::Constant, 7, 0, 10), 1.0);
        let plain = Schedule::Cosine { warmup_epochs: 0, warmup: Warmup::Nonzero };
        assert_eq!(rate(plain, 0, 0, 3), 1.0);
        assert!((rate(plain, 2, 0, 3) - 0.25).abs() < 1e-12);
        assert_eq!(rate(Schedule::CosineSpt { warmup_epochs: 0, min_lr: 0.1 }, 0, 0, 3), 1.0);
    }

    #[test]
    fn poly_falls_in_every_step() {
        let poly = |power| Schedule::Poly { power, min_lr: 0.2 };
        let close = |a: f64, b: f64| (a - b).abs() < 1e-12;
        assert!(close(rate(poly(1.0), 0, 0, 2), 1.0) && close(rate(poly(1.0), 1, 2, 2), 0.2 + 0.8 * 0.25));
        // mmsegmentation after a half of 160,000 steps: 10⁻⁴ + (10⁻³ − 10⁻⁴) · ½^0.9.
        let half = Moment { epoch: 5, step: 0, steps: 16_000, epochs: 10 };
        let found = learning_rate(Schedule::Poly { power: 0.9, min_lr: 1e-4 }, 1e-3, half);
        assert!(close(found, 1e-4 + 9e-4 * 0.5f64.powf(0.9)), "{found}");
    }

    #[test]
    fn spt_climbs_within_an_epoch_and_cvpt_lags_one() {
        let spt = Schedule::CosineSpt { warmup_epochs: 2, min_lr: 0.1 };
        assert_eq!([0, 1, 2].map(|step| rate(spt, 0, step, 10)), [0.0, 0.125, 0.25]);
        assert!(rate(spt, 9, 3, 10) > 0.1 && rate(spt, 9, 3, 10) < rate(spt, 9, 2, 10));
        let cvpt = Schedule::CosineCvpt { warmup_epochs: 2, warmup_lr: 0.5, min_lr: 0.0 };
        assert_eq!([0, 1, 2].map(|epoch| rate(cvpt, epoch, 0, 10)), [0.5, 0.5, 0.75]);
    }
}
