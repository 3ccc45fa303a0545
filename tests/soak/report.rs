//! What a soak found, as Markdown, and whether it is what was promised.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use anyhow::ensure;

use crate::faults::Fault;
use crate::run::End;
use crate::samples::{Life, Samples};

/// A process needs so long until its memory is what it works with.
const WARM_SECONDS: f64 = 30.0;
/// Shorter lives say nothing of a slope.
const LIFE_SECONDS: f64 = 60.0;
const SLOPE_MAX: f64 = 1.0;
const SPAN_SUCCESS_MIN: f64 = 0.999;
const GROUPS_PER_STEP: f64 = 8.0;

pub(crate) struct Report {
    seed: u64,
    /// Seconds until the run had got on and everyone was there, by fault.
    recoveries: BTreeMap<String, Vec<f64>>,
    pub(crate) samples: Samples,
    pub(crate) end: End,
}

/// Memory and open files of a role's processes.
struct Slope {
    lives: usize,
    longest: f64,
    mib_last: f64,
    mib_per_minute: f64,
    files_per_minute: f64,
}

impl Report {
    pub(crate) fn new(seed: u64) -> Self {
        let (samples, end) = (Samples::default(), End::default());
        Self { seed, recoveries: BTreeMap::new(), samples, end }
    }

    pub(crate) fn note(&mut self, fault: &Fault, recovery: Duration) {
        self.recoveries.entry(fault.kind()).or_default().push(recovery.as_secs_f64());
    }

    /// # Errors
    /// Whatever was promised and did not hold.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let Samples { trained_twice, consumed, .. } = self.samples;
        ensure!(trained_twice == 0.0, "{trained_twice} groups were trained twice");
        ensure!(self.end.gaps == 0, "{} lines of metrics.jsonl are out of order", self.end.gaps);
        // The run went on a little after the last look.
        let due = self.end.steps as f64 * GROUPS_PER_STEP;
        ensure!(consumed % GROUPS_PER_STEP == 0.0 && consumed <= due, "{consumed} of {due}");
        ensure!(self.end.orphans.is_empty(), "left behind: {}", self.end.orphans.join(", "));
        ensure!(self.end.exit_code == Some(143), "it ended with {:?}", self.end.exit_code);
        let success = self.span_success();
        ensure!(success >= SPAN_SUCCESS_MIN, "spans answered at once: {success}");
        for (role, slope) in self.slopes() {
            let grown = slope.mib_per_minute;
            ensure!(grown < SLOPE_MAX, "{role} grows by {grown:.2} MiB a minute");
        }
        Ok(())
    }

    /// Of the spans outside faults, those that were answered without a second request.
    fn span_success(&self) -> f64 {
        let spans = self.samples.spans;
        1.0 - spans.calm_retries / spans.calm.max(1.0)
    }

    fn slopes(&self) -> BTreeMap<String, Slope> {
        let mut by_role: BTreeMap<String, Vec<&Life>> = BTreeMap::new();
        for life in &self.samples.lives {
            let role = life.name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '-');
            by_role.entry(role.to_owned()).or_default().push(life);
        }
        by_role.into_iter().map(|(role, lives)| (role, Slope::of(&lives))).collect()
    }

    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        let faults: usize = self.recoveries.values().map(Vec::len).sum();
        let samples = &self.samples;
        let last = samples.lives.iter().flat_map(|life| life.points.last());
        let seconds = last.map(|point| point.0).fold(0.0, f64::max);
        let mut line = |words: String| writeln!(text, "{words}").expect("a string takes it");
        line(format!("Seed {}, {seconds:.0} s, {faults} faults.\n", self.seed));
        line(format!(
            "- {} steps, {} undone, {} groups consumed at the last look, trained twice {}, \
             {} gaps in `metrics.jsonl`",
            self.end.steps, samples.undone, samples.consumed, samples.trained_twice, self.end.gaps
        ));
        line(format!(
            "- processes started again: {}; left behind at the end: {}; exit code {:?}",
            samples.restarts,
            self.end.orphans.len(),
            self.end.exit_code.unwrap_or(-1)
        ));
        line(format!(
            "- weak spans: {}, {} repeated; outside of faults {}, {} repeated: {:.5} at once\n",
            samples.spans.all,
            samples.spans.all_retries,
            samples.spans.calm,
            samples.spans.calm_retries,
            self.span_success()
        ));
        line("| Fault | Times | Seconds until all was well: median | Most |".to_owned());
        line("|---|---|---|---|".to_owned());
        for (kind, seconds) in &self.recoveries {
            let mut sorted = seconds.clone();
            sorted.sort_by(f64::total_cmp);
            let (median, most) = (sorted[sorted.len() / 2], sorted[sorted.len() - 1]);
            line(format!("| {kind} | {} | {median:.1} | {most:.1} |", sorted.len()));
        }
        line(
            "\n| Processes | Lives | Longest, s | Last MiB | MiB/minute | Files/minute |"
                .to_owned(),
        );
        line("|---|---|---|---|---|---|".to_owned());
        for (role, slope) in self.slopes() {
            let Slope { lives, longest, mib_last, mib_per_minute, files_per_minute } = slope;
            line(format!(
                "| {role} | {lives} | {longest:.0} | {mib_last:.0} | {mib_per_minute:.2} | \
                 {files_per_minute:.2} |"
            ));
        }
        text
    }
}

impl Slope {
    /// Least squares in each life that is long enough, weighted by its length.
    fn of(lives: &[&Life]) -> Self {
        let length = |life: &Life| match (life.points.first(), life.points.last()) {
            (Some(first), Some(last)) => last.0 - first.0,
            _ => 0.0,
        };
        let longest = lives.iter().map(|life| length(life)).fold(0.0, f64::max);
        let mib_last = lives.iter().filter_map(|life| life.points.last()).map(|p| p.1);
        let (mut weight, mut mib, mut files) = (0.0, 0.0, 0.0);
        for life in lives.iter().filter(|life| length(life) >= LIFE_SECONDS) {
            let start = life.points[0].0 + WARM_SECONDS;
            let warm: Vec<_> = life.points.iter().filter(|point| point.0 >= start).collect();
            let of = length(life) - WARM_SECONDS;
            weight += of;
            mib += of * slope(warm.iter().map(|point| (point.0, point.1)));
            files += of * slope(warm.iter().map(|point| (point.0, point.2)));
        }
        let weight = f64::max(weight, 1.0);
        Self {
            lives: lives.len(),
            longest,
            mib_last: mib_last.fold(0.0, f64::max),
            mib_per_minute: 60.0 * mib / weight,
            files_per_minute: 60.0 * files / weight,
        }
    }
}

/// Of the line through the points that leaves the least squares.
fn slope(points: impl Iterator<Item = (f64, f64)> + Clone) -> f64 {
    let count = points.clone().count().max(1) as f64;
    let (x, y) = points.clone().fold((0.0, 0.0), |(x, y), p| (x + p.0 / count, y + p.1 / count));
    let (mut top, mut bottom) = (0.0, 0.0);
    for point in points {
        top += (point.0 - x) * (point.1 - y);
        bottom += (point.0 - x) * (point.0 - x);
    }
    if bottom > 0.0 { top / bottom } else { 0.0 }
}
