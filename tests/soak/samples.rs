//! What is looked at once a second while the run goes on: memory, open files, and what actors and
//! coordinator count.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::run::{Process, SoakRun, processes};

const PERIOD: Duration = Duration::from_secs(1);

/// One process from its start to its end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Life {
    pub(crate) name: String,
    /// Seconds since the sampling began, resident MiB, open files.
    pub(crate) points: Vec<(f64, f64, f64)>,
}

/// Spans and their repetitions, while nothing was wrong and otherwise.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spans {
    pub(crate) calm: f64,
    pub(crate) calm_retries: f64,
    pub(crate) all: f64,
    pub(crate) all_retries: f64,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Samples {
    pub(crate) lives: Vec<Life>,
    pub(crate) spans: Spans,
    /// The last that the coordinator said.
    pub(crate) consumed: f64,
    pub(crate) trained_twice: f64,
    /// Over all of its lives.
    pub(crate) undone: f64,
    pub(crate) restarts: f64,
}

pub(crate) struct Sampler {
    faulty: Arc<AtomicBool>,
    stop: mpsc::Sender<()>,
    thread: JoinHandle<Samples>,
}

impl Sampler {
    pub(crate) fn start(run: &SoakRun) -> Self {
        let dir = run.dir().to_owned();
        let faulty = Arc::new(AtomicBool::new(false));
        let (stop, stopped) = mpsc::channel::<()>();
        let looks_faulty = faulty.clone();
        let thread = std::thread::spawn(move || {
            let mut look = Look::new(dir);
            while stopped.recv_timeout(PERIOD) == Err(mpsc::RecvTimeoutError::Timeout) {
                look.once(looks_faulty.load(Ordering::SeqCst));
            }
            look.samples()
        });
        Self { faulty, stop, thread }
    }

    pub(crate) fn fault_begins(&self) {
        self.faulty.store(true, Ordering::SeqCst);
    }

    pub(crate) fn fault_ends(&self) {
        self.faulty.store(false, Ordering::SeqCst);
    }

    pub(crate) fn finish(self) -> Samples {
        drop(self.stop);
        self.thread.join().unwrap_or_default()
    }
}

struct Look {
    dir: PathBuf,
    began: Instant,
    lives: BTreeMap<u32, Life>,
    /// Spans and retries that each process has counted.
    counted: BTreeMap<u32, (f64, f64)>,
    /// Undone steps and restarts that each coordinator has counted.
    coordinators: BTreeMap<u32, (f64, f64)>,
    spans: Spans,
    consumed: f64,
    trained_twice: f64,
}

impl Look {
    fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            began: Instant::now(),
            lives: BTreeMap::new(),
            counted: BTreeMap::new(),
            coordinators: BTreeMap::new(),
            spans: Spans::default(),
            consumed: 0.0,
            trained_twice: 0.0,
        }
    }

    fn once(&mut self, faulty: bool) {
        let seconds = self.began.elapsed().as_secs_f64();
        for process in processes(&self.dir) {
            let Some((mib, files)) = usage(process.pid) else { continue };
            let life = self.lives.entry(process.pid).or_default();
            life.name.clone_from(&process.name);
            life.points.push((seconds, mib, files));
            if process.name == "coordinator" || process.name.starts_with("actor") {
                self.scrape(&process, faulty);
            }
        }
    }

    fn scrape(&mut self, process: &Process, faulty: bool) {
        let Some(text) = tests::try_metrics(&process.admin) else { return };
        let sum = |name: &str| -> f64 {
            tests::samples(&text, name).iter().map(|(_, value)| value).sum()
        };
        if process.name == "coordinator" {
            self.consumed = sum("tandem_coordinator_consumed_groups_total");
            let twice = sum("tandem_coordinator_groups_trained_twice_total");
            self.trained_twice = self.trained_twice.max(twice);
            let counted = (
                sum("tandem_coordinator_rolled_back_steps_total"),
                sum("tandem_coordinator_restarts_total"),
            );
            self.coordinators.insert(process.pid, counted);
            return;
        }
        let now = (sum("tandem_actor_span_seconds_count"), sum("tandem_actor_span_retries_total"));
        let before = self.counted.insert(process.pid, now).unwrap_or_default();
        let (spans, retries) = (now.0 - before.0, now.1 - before.1);
        self.spans.all += spans;
        self.spans.all_retries += retries;
        if !faulty {
            self.spans.calm += spans;
            self.spans.calm_retries += retries;
        }
    }

    fn samples(self) -> Samples {
        Samples {
            lives: self.lives.into_values().collect(),
            spans: self.spans,
            consumed: self.consumed,
            trained_twice: self.trained_twice,
            undone: self.coordinators.values().map(|(undone, _)| undone).sum(),
            restarts: self.coordinators.values().map(|(_, restarts)| restarts).sum(),
        }
    }
}

/// Resident MiB and open files.
fn usage(pid: u32) -> Option<(f64, f64)> {
    let proc = Path::new("/proc").join(pid.to_string());
    let status = fs::read_to_string(proc.join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
    let files = fs::read_dir(proc.join("fd")).ok()?.count();
    Some((kib / 1024.0, files as f64))
}
