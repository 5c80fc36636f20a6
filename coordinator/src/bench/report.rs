//! What was measured, for people and for programs.

use std::io::Write;
use std::time::Duration;

use serde::Serialize;

/// Milliseconds that calls took.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Default)]
pub(super) struct Latency {
    pub(super) calls: usize,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) max_ms: f64,
}

impl Latency {
    pub(super) fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        // The smallest time that so many of a hundred calls did not exceed.
        let nth = |percent: usize| {
            let place = (times.len() * percent).div_ceil(100).saturating_sub(1);
            times.get(place).map_or(0.0, |time| time.as_secs_f64() * 1e3)
        };
        Self { calls: times.len(), p50_ms: nth(50), p99_ms: nth(99), max_ms: nth(100) }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) database: &'static str,
    pub(super) trials: u32,
    /// Of these, ended in the measurement.
    pub(super) run: u64,
    /// Ended before.
    pub(super) history: u32,
    pub(super) workers: u32,
    pub(super) slots: u32,
    pub(super) trial_time_ms: u64,
    pub(super) submit_s: f64,
    pub(super) run_s: f64,
    pub(super) trials_per_s: f64,
    pub(super) lease: Latency,
    pub(super) finish: Latency,
    pub(super) renew: Latency,
    pub(super) lost_leases: u64,
    pub(super) commits: u64,
    pub(super) cpu_s: f64,
    pub(super) cores: f64,
    pub(super) peak_mib_submit: u64,
    pub(super) peak_mib: u64,
    pub(super) restart_s: Option<f64>,
    pub(super) read_trials_ms: f64,
    pub(super) read_results_ms: f64,
}

impl Report {
    pub(super) fn print(&self, as_json: bool) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        if as_json {
            serde_json::to_writer(&mut out, self)?;
            writeln!(out)?;
            return Ok(());
        }
        let latency = |it: &Latency| {
            format!(
                "p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms ({} calls)",
                it.p50_ms, it.p99_ms, it.max_ms, it.calls
            )
        };
        let mut lines = vec![
            (
                "load",
                format!(
                    "{} of {} trials beside {} ended ones, {} workers × {} slots, {} ms a trial, {}",
                    self.run,
                    self.trials,
                    self.history,
                    self.workers,
                    self.slots,
                    self.trial_time_ms,
                    self.database
                ),
            ),
            ("submit to last result", format!("{:.0} trials/s", self.trials_per_s)),
            ("submit", format!("{:.2} s, {} MiB at most", self.submit_s, self.peak_mib_submit)),
            ("run", format!("{:.2} s", self.run_s)),
            ("lease", latency(&self.lease)),
            ("finish", latency(&self.finish)),
        ];
        if self.renew.calls > 0 {
            lines.push(("renew", latency(&self.renew)));
        }
        lines.push(("leases lost", self.lost_leases.to_string()));
        lines.push(("commits", format!("{}, {:.0}/s", self.commits, self.commits as f64 / self.run_s)));
        let cpu = format!("{:.2} s CPU ({:.2} cores), {} MiB at most", self.cpu_s, self.cores, self.peak_mib);
        lines.push(("coordinator", cpu));
        if let Some(restart) = self.restart_s {
            lines.push(("kill to answer", format!("{restart:.2} s")));
        }
        lines.push(("read all trials", format!("{:.0} ms", self.read_trials_ms)));
        lines.push(("read all results", format!("{:.0} ms", self.read_results_ms)));
        for (name, value) in lines {
            writeln!(out, "{name:<22} {value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_times_that_were_measured() {
        let times = (1..=200).rev().map(Duration::from_millis).collect();
        let expected = Latency { calls: 200, p50_ms: 100.0, p99_ms: 198.0, max_ms: 200.0 };
        assert_eq!(Latency::of(times), expected);
        assert_eq!(Latency::of(Vec::new()), Latency::default());
    }
}
