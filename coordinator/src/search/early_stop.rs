//! The rules that end trials early. Pure: what others scored goes in, whether a trial goes on comes out.
//!
//! Scores are such that more is better. A trial is only compared with those of its scope that have come as far.

use sweeps::spec::{EarlyStop, Rule};

/// Whether a trial is looked at when it has trained so many of its epochs. At the last one there is nothing to stop.
pub fn is_rung(rule: &EarlyStop, bracket: u32, epoch: u32, epochs: u32) -> bool {
    if epoch < rule.min || epoch >= epochs {
        return false;
    }
    match rule.rule {
        Rule::Median => true,
        Rule::Asha | Rule::Hyperband => {
            let eta = u64::from(rule.eta);
            let mut rung = u64::from(rule.min).saturating_mul(eta.saturating_pow(bracket));
            while rung < u64::from(epoch) {
                rung = rung.saturating_mul(eta);
            }
            rung == u64::from(epoch)
        }
    }
}

/// What a trial with these scores so far, in the order of epochs, is at a rung: what it is judged by, and what others are
/// compared with.
pub fn standing(rule: Rule, is_best: bool, scores: &[f64]) -> Option<(f64, f64)> {
    let last = *scores.last()?;
    let best = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mean = scores.iter().sum::<f64>() / scores.len() as f64;
    Some(match rule {
        Rule::Median => (best, mean),
        Rule::Asha | Rule::Hyperband if is_best => (best, best),
        Rule::Asha | Rule::Hyperband => (last, last),
    })
}

/// Whether a trial goes on that is judged by `own`, when `others` have come as far.
pub fn goes_on(rule: &EarlyStop, own: f64, others: &[f64]) -> bool {
    match rule.rule {
        Rule::Median => others.len() < rule.min_trials as usize || own >= median(others),
        Rule::Asha | Rule::Hyperband => {
            let kept = ((others.len() + 1) / rule.eta as usize).max(1);
            let better = others.iter().filter(|other| **other > own).count();
            better < kept
        }
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> EarlyStop {
        let file = format!(
            "version: 1\nname: t\nbase: {{backbone: b, task: t, method: linear, lr: 1}}\nearly_stop: {text}\n"
        );
        sweeps::Spec::parse("t", &file, &[]).unwrap().early_stop.unwrap()
    }

    fn rungs(rule: &EarlyStop, bracket: u32, epochs: u32) -> Vec<u32> {
        (0..=epochs).filter(|epoch| is_rung(rule, bracket, *epoch, epochs)).collect()
    }

    #[test]
    fn rungs_grow_by_eta_and_end_before_the_last_epoch() {
        let asha = rule("{rule: asha, min: 10, eta: 3}");
        assert_eq!(rungs(&asha, 0, 100), [10, 30, 90]);
        assert_eq!(rungs(&asha, 0, 90), [10, 30]);
        assert_eq!(rungs(&asha, 0, 10), [] as [u32; 0]);
        let hyperband = rule("{rule: hyperband, min: 1, eta: 2}");
        assert_eq!(rungs(&hyperband, 0, 9), [1, 2, 4, 8]);
        assert_eq!(rungs(&hyperband, 2, 9), [4, 8]);
        assert_eq!(rungs(&rule("{rule: median, min: 3}"), 0, 6), [3, 4, 5]);
    }

    #[test]
    fn successive_halving_keeps_the_best_of_every_eta() {
        let asha = rule("{rule: asha, min: 1, eta: 3}");
        assert!(goes_on(&asha, 1.0, &[]), "the first");
        assert!(!goes_on(&asha, 1.0, &[2.0]));
        assert!(goes_on(&asha, 2.0, &[2.0]), "a tie");
        assert!(!goes_on(&asha, 4.0, &[1.0, 2.0, 3.0, 5.0]), "one of five");
        assert!(goes_on(&asha, 4.0, &[1.0, 2.0, 3.0, 3.5, 5.0]), "two of six");
        assert!(!goes_on(&asha, 3.0, &[1.0, 2.0, 4.0, 3.5, 5.0]));
    }

    #[test]
    fn the_median_counts_once_there_are_enough_others() {
        let median = rule("{rule: median, min: 1, min_trials: 3}");
        assert!(goes_on(&median, 0.0, &[5.0, 6.0]));
        assert!(!goes_on(&median, 4.9, &[5.0, 6.0, 1.0]));
        assert!(goes_on(&median, 5.0, &[5.0, 6.0, 1.0]));
        assert!(!goes_on(&median, 3.4, &[5.0, 6.0, 1.0, 2.0]));
        assert_eq!(standing(Rule::Median, false, &[1.0, 5.0, 3.0]), Some((5.0, 3.0)));
        assert_eq!(standing(Rule::Asha, false, &[1.0, 5.0, 3.0]), Some((3.0, 3.0)));
        assert_eq!(standing(Rule::Asha, true, &[1.0, 5.0, 3.0]), Some((5.0, 5.0)));
        assert_eq!(standing(Rule::Asha, true, &[]), None);
    }
}
