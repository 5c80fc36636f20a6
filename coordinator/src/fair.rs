//! Which sweep is served next. Pure.
//!
//! Higher priority goes first, always. Among equals it is the project with the fewest running trials, within it the
//! sweep with the fewest; of equals again, the one that has waited longest since it was last leased from. So with one
//! slot sweeps take turns, with many they hold equal numbers, and none of a priority waits for ever.

use std::collections::BTreeMap;

/// An active sweep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub number: i64,
    pub project: String,
    pub priority: i64,
    pub running: i64,
    /// Trials that may be leased by its limits, and that there are; 0 when none fits the worker now.
    pub room: i64,
    /// Position of the last lease from it among all leases.
    pub served: i64,
}

/// What a sweep gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    pub number: i64,
    pub trials: i64,
    /// Its `served` after that.
    pub served: i64,
}

/// How many of `max` trials each sweep gives, in the order of the first of them.
#[must_use]
pub fn shares(mut candidates: Vec<Candidate>, max: i64) -> Vec<Share> {
    // Running, and last served.
    let mut projects: BTreeMap<String, (i64, i64)> = BTreeMap::new();
    for candidate in &candidates {
        let project = projects.entry(candidate.project.clone()).or_default();
        project.0 += candidate.running;
        project.1 = project.1.max(candidate.served);
    }
    let mut clock = candidates.iter().map(|candidate| candidate.served).max().unwrap_or(0);
    let mut shares: Vec<Share> = Vec::new();
    for _ in 0..max {
        let next = candidates.iter_mut().filter(|candidate| candidate.room > 0).min_by_key(|candidate| {
            let project = projects.get(&candidate.project).copied().unwrap_or_default();
            (-candidate.priority, project, candidate.running, candidate.served, candidate.number)
        });
        let Some(next) = next else { break };
        clock += 1;
        next.room -= 1;
        next.running += 1;
        next.served = clock;
        if let Some(project) = projects.get_mut(&next.project) {
            *project = (project.0 + 1, clock);
        }
        match shares.iter_mut().find(|share| share.number == next.number) {
            Some(share) => *share = Share { trials: share.trials + 1, served: clock, ..*share },
            None => shares.push(Share { number: next.number, trials: 1, served: clock }),
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(number: i64, project: &str, running: i64) -> Candidate {
        Candidate { number, project: project.to_owned(), priority: 0, running, room: 100, served: 0 }
    }

    fn given(candidates: Vec<Candidate>, max: i64) -> Vec<(i64, i64)> {
        shares(candidates, max).into_iter().map(|share| (share.number, share.trials)).collect()
    }

    #[test]
    fn priority_goes_before_everything() {
        let urgent = Candidate { priority: 1, room: 3, running: 50, served: 9, ..candidate(2, "b", 0) };
        assert_eq!(given(vec![candidate(1, "a", 0), urgent], 5), [(2, 3), (1, 2)]);
    }

    #[test]
    fn projects_share_alike_whatever_number_of_sweeps_they_have() {
        let sweeps = vec![
            candidate(1, "many", 0),
            candidate(2, "many", 0),
            candidate(3, "many", 0),
            candidate(4, "one", 0),
        ];
        assert_eq!(given(sweeps, 6), [(1, 1), (4, 3), (2, 1), (3, 1)]);
    }

    #[test]
    fn who_has_less_catches_up() {
        assert_eq!(given(vec![candidate(1, "", 7), candidate(2, "", 2)], 7), [(2, 6), (1, 1)]);
    }

    #[test]
    fn a_limit_leaves_the_rest_to_others() {
        let narrow = Candidate { room: 1, ..candidate(1, "", 0) };
        assert_eq!(given(vec![narrow, candidate(2, "", 0)], 4), [(1, 1), (2, 3)]);
        let full = Candidate { room: 0, ..candidate(1, "", 0) };
        assert!(given(vec![full], 4).is_empty());
    }

    /// One slot, so that nobody runs when the next is chosen, and a newcomer with every turn.
    #[test]
    fn nobody_waits_for_ever() {
        let mut sweeps = vec![candidate(1, "", 0), candidate(2, "", 0)];
        let mut got = [0; 3];
        for turn in 0..60 {
            let Share { number, served, .. } = shares(sweeps.clone(), 1)[0];
            for sweep in sweeps.iter_mut().filter(|sweep| sweep.number == number) {
                // What came later has one trial.
                *sweep = Candidate { served, room: if number > 2 { 0 } else { 100 }, ..sweep.clone() };
            }
            got[usize::try_from(number.min(3)).unwrap() - 1] += 1;
            // A newcomer starts where the clock stands, not before everybody.
            sweeps.push(Candidate { served, ..candidate(3 + turn, "", 0) });
        }
        assert!(got[0] >= 3 && got[1] >= 3, "{got:?}");
    }
}
