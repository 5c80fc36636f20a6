//! Learning-rate schedules, stepped once per epoch.

use std::f64::consts::PI;

use sweeps::recipe::{Schedule, Warmup};

/// Factor of the peak learning rate during `epoch` (from 0) of `epochs`.
///
/// Cosine with W warm-up epochs of T: from epoch W on `½ (1 + cos(π (e − W)/(T − W)))`. Before it, `vpt` gives e/W as
/// the VPT code does, so that epoch 0 trains nothing; `nonzero` gives (e + 1)/(W + 1).
pub fn factor(schedule: Schedule, epoch: u32, epochs: u32) -> f64 {
    let Schedule::Cosine { warmup_epochs, warmup } = schedule else { return 1.0 };
    let (e, w) = (f64::from(epoch), f64::from(warmup_epochs));
    if epoch < warmup_epochs {
        return match warmup {
            Warmup::Vpt => e / w,
            Warmup::Nonzero => (e + 1.0) / (w + 1.0),
        };
    }
    let rest = f64::from(epochs.saturating_sub(warmup_epochs).max(1));
    0.5 * (1.0 + (PI * (e - w) / rest).cos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vpt_wastes_epoch_0_and_nonzero_does_not() {
        let cosine = |warmup| Schedule::Cosine { warmup_epochs: 10, warmup };
        assert_eq!(factor(cosine(Warmup::Vpt), 0, 100), 0.0);
        assert!((factor(cosine(Warmup::Nonzero), 0, 100) - 1.0 / 11.0).abs() < 1e-15);
        for warmup in [Warmup::Vpt, Warmup::Nonzero] {
            assert_eq!(factor(cosine(warmup), 10, 100), 1.0);
            assert!((factor(cosine(warmup), 99, 100) - 3.0459e-4).abs() < 1e-7);
        }
    }

    #[test]
    fn constant_is_one_and_no_warmup_starts_at_the_peak() {
        assert_eq!(factor(Schedule::Constant, 7, 10), 1.0);
        let plain = Schedule::Cosine { warmup_epochs: 0, warmup: Warmup::Nonzero };
        assert_eq!(factor(plain, 0, 3), 1.0);
        assert!((factor(plain, 2, 3) - 0.25).abs() < 1e-12);
    }
}
