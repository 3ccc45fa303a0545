//! What is measured: how long calls took at the caller, and what the coordinator's process used.

use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::ensure;
use proto::RpcError;
use serde_json::{Value, json};

use crate::server::Usage;

/// Of leases and signs of life.
const P99_MAX: Duration = Duration::from_millis(50);
/// Memory that grows more slowly is flat.
const GROWTH_MAX_MIB_PER_MINUTE: f64 = 1.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rpc {
    Heartbeat,
    Lease,
    FetchWeights,
    PublishWeights,
    CommitStep,
}

const RPCS: [(Rpc, &str); 5] = [
    (Rpc::Heartbeat, "heartbeat"),
    (Rpc::Lease, "lease"),
    (Rpc::FetchWeights, "fetch_weights"),
    (Rpc::PublishWeights, "publish_weights"),
    (Rpc::CommitStep, "commit_step"),
];

#[derive(Default)]
pub(crate) struct Figures(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    measuring: bool,
    /// Microseconds, in the order of `RPCS`.
    took: [Vec<u32>; RPCS.len()],
    errors: [u64; RPCS.len()],
    /// The first of them.
    told: Option<String>,
    usage: Vec<Usage>,
    steps: (u32, u32),
}

/// Of one kind of call.
struct Row {
    name: &'static str,
    calls: usize,
    errors: u64,
    /// p50, p90, p99 and the longest.
    millis: [f64; 4],
}

impl Figures {
    /// Awaits a call; `None` where it fails.
    pub(crate) async fn timed<T>(
        &self,
        rpc: Rpc,
        call: impl Future<Output = Result<T, RpcError>>,
    ) -> Option<T> {
        let began = Instant::now();
        let outcome = call.await;
        let took = u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX);
        let mut inner = self.lock();
        if inner.measuring {
            inner.took[rpc as usize].push(took);
        }
        match outcome {
            Ok(answer) => Some(answer),
            Err(error) => {
                inner.errors[rpc as usize] += 1;
                inner.told.get_or_insert(error.to_string());
                None
            }
        }
    }

    pub(crate) fn begin(&self, steps: u32) {
        let mut inner = self.lock();
        (inner.measuring, inner.steps.0) = (true, steps);
    }

    pub(crate) fn end(&self, steps: u32) {
        let mut inner = self.lock();
        (inner.measuring, inner.steps.1) = (false, steps);
    }

    pub(crate) fn sample(&self, usage: Usage) {
        self.lock().usage.push(usage);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn table(&self) -> String {
        let inner = self.lock();
        let mut text = String::from("| call | calls | errors | p50, ms | p90 | p99 | max |\n");
        text.push_str("|---|---|---|---|---|---|---|\n");
        for Row { name, calls, errors, millis: [p50, p90, p99, max] } in inner.rows() {
            let _ = writeln!(
                text,
                "| {name} | {calls} | {errors} | {p50:.1} | {p90:.1} | {p99:.1} | {max:.1} |"
            );
        }
        let (from, to) = inner.steps;
        let _ = write!(
            text,
            "steps {} to {to} in {:.0} s; the coordinator took {:.0}% of a core, {:.1} MiB at the \
             end, growing {:+.2} MiB a minute",
            from + 1,
            inner.seconds(),
            inner.cpu_share() * 100.0,
            inner.resident_mib().last().copied().unwrap_or_default(),
            inner.growth(),
        );
        text
    }

    pub(crate) fn json(&self, actors: u32) -> Value {
        let inner = self.lock();
        let rows = inner.rows().into_iter().map(|row| {
            let [p50, p90, p99, max] = row.millis;
            let millis = json!({ "p50": p50, "p90": p90, "p99": p99, "max": max });
            json!({ "call": row.name, "calls": row.calls, "errors": row.errors, "ms": millis })
        });
        json!({
            "actors": actors,
            "seconds": inner.seconds(),
            "calls": rows.collect::<Vec<_>>(),
            "first_error": inner.told,
            "steps": inner.steps.1 - inner.steps.0,
            "cpu_share": inner.cpu_share(),
            "resident_mib": inner.resident_mib(),
            "growth_mib_per_minute": inner.growth(),
        })
    }

    /// # Errors
    /// What is promised does not hold.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let inner = self.lock();
        for row in inner.rows() {
            let Row { name, errors, millis, .. } = row;
            ensure!(errors == 0, "{name} failed {errors} times, first: {:?}", inner.told);
            let bounded = ["heartbeat", "lease"].contains(&name);
            let most = P99_MAX.as_secs_f64() * 1e3;
            ensure!(!bounded || millis[2] < most, "p99 of {name} is {:.1} ms", millis[2]);
        }
        ensure!(inner.steps.1 > inner.steps.0, "no step was committed");
        let growth = inner.growth();
        let flat = growth < GROWTH_MAX_MIB_PER_MINUTE;
        ensure!(flat, "the coordinator's memory grows by {growth:.2} MiB a minute");
        Ok(())
    }
}

impl Inner {
    fn rows(&self) -> Vec<Row> {
        let rows = RPCS.iter().map(|(rpc, name)| {
            let mut took = self.took[*rpc as usize].clone();
            took.sort_unstable();
            let at = |share: f64| {
                let place = (took.len() as f64 * share) as usize;
                f64::from(took.get(place.min(took.len().saturating_sub(1))).copied().unwrap_or(0))
                    / 1e3
            };
            let millis = [at(0.5), at(0.9), at(0.99), at(1.0)];
            Row { name, calls: took.len(), errors: self.errors[*rpc as usize], millis }
        });
        rows.collect()
    }

    fn seconds(&self) -> f64 {
        let (first, last) = (self.usage.first(), self.usage.last());
        let between = first.zip(last).map(|(first, last)| last.at.duration_since(first.at));
        between.unwrap_or_default().as_secs_f64()
    }

    fn cpu_share(&self) -> f64 {
        let (first, last) = (self.usage.first(), self.usage.last());
        let used = first.zip(last).map(|(first, last)| last.cpu.saturating_sub(first.cpu));
        used.unwrap_or_default().as_secs_f64() / self.seconds().max(f64::MIN_POSITIVE)
    }

    fn resident_mib(&self) -> Vec<f64> {
        self.usage.iter().map(|usage| usage.resident_bytes as f64 / f64::from(1 << 20)).collect()
    }

    /// The slope of the straight line through all samples, in MiB a minute.
    fn growth(&self) -> f64 {
        let Some(first) = self.usage.first() else { return 0.0 };
        let minutes = self.usage.iter().map(|usage| usage.at.duration_since(first.at));
        let minutes: Vec<f64> = minutes.map(|at| at.as_secs_f64() / 60.0).collect();
        let resident = self.resident_mib();
        let mean = |of: &[f64]| of.iter().sum::<f64>() / of.len() as f64;
        let (middle, level) = (mean(&minutes), mean(&resident));
        let pairs = || minutes.iter().zip(&resident);
        let over: f64 = pairs().map(|(at, size)| (at - middle) * (size - level)).sum();
        let under: f64 = minutes.iter().map(|at| (at - middle).powi(2)).sum();
        if under > 0.0 { over / under } else { 0.0 }
    }
}
