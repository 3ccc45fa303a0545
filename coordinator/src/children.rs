//! The processes that this one started: found beside it, started, watched, ended. None is
//! restarted.

use std::ffi::OsString;
use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::task::Poll;

use runtime::{Child, ChildError, ChildSpec, describe_exit};
use tokio::time::Instant;

use crate::plan::{Plan, ProcessPlan};
use crate::run_dir::RunDir;
use crate::stop_plan::{COLLECT_GRACE, StopPlan};

/// Lines of its log that a report of a death shows.
const LOG_LINES: usize = 20;

#[derive(Debug, thiserror::Error)]
pub enum ChildrenError {
    #[error("{0} is missing: `cargo build --release` builds all four programs side by side")]
    Missing(PathBuf),
    #[error("cannot tell where this program lies: {0}")]
    Own(std::io::Error),
    #[error(transparent)]
    Child(#[from] ChildError),
}

/// What all children of one command have in common.
#[derive(Clone, Debug)]
pub struct Launcher<'a> {
    pub run_dir: &'a RunDir,
    /// Of the coordinator, `host:port`.
    pub coordinator: String,
    /// `KEY=VALUE`, over the run's settings.
    pub overrides: &'a [String],
    /// Put before the names of logs.
    pub log_prefix: &'a str,
}

impl Launcher<'_> {
    fn spec(&self, process: &ProcessPlan, program: PathBuf) -> ChildSpec {
        let mut args: Vec<OsString> = vec!["--config".into(), self.run_dir.config().into()];
        for pair in self.overrides {
            args.extend(["--set".into(), pair.into()]);
        }
        args.extend(["--coordinator".into(), (&self.coordinator).into()]);
        args.extend(["--index".into(), process.index.to_string().into()]);
        args.push("--exit-with-parent".into());
        if process.publishes_only {
            args.push("--publish-only".into());
        }
        let name = process.name();
        let log_path = self.run_dir.log(&format!("{}{name}", self.log_prefix));
        let env = process.variables(|variable| std::env::var_os(variable).is_some());
        ChildSpec { name, program, args, env, log_path }
    }
}

/// A child that has ended.
#[derive(Debug)]
pub struct Exit {
    pub name: String,
    pub status: ExitStatus,
    log_path: PathBuf,
    last_lines: Vec<String>,
}

impl Exit {
    /// In words, with the end of its log.
    #[must_use]
    pub fn report(&self) -> String {
        let mut text = format!("{} {}", self.name, describe_exit(self.status));
        if self.last_lines.is_empty() {
            text.push_str(&format!("; its log {} is empty", self.log_path.display()));
        } else {
            text.push_str(&format!("; the end of {}:", self.log_path.display()));
            for line in &self.last_lines {
                text.push_str("\n  ");
                text.push_str(line);
            }
        }
        text
    }
}

/// Running children. Dropping them kills what still runs.
#[derive(Debug)]
pub struct Children {
    running: Vec<Child>,
}

impl Children {
    /// # Errors
    /// A program that is missing beside this one, or cannot be started. What was started by then
    /// is killed.
    pub fn start(plan: &Plan, launcher: &Launcher) -> Result<Self, ChildrenError> {
        let own = std::env::current_exe().map_err(ChildrenError::Own)?;
        let programs = programs(plan, own.parent().unwrap_or(Path::new(".")))?;
        let mut running = Vec::with_capacity(programs.len());
        for (process, program) in plan.processes.iter().zip(programs) {
            running.push(Child::spawn(&launcher.spec(process, program))?);
        }
        Ok(Self { running })
    }

    /// Name and process id of each.
    #[must_use]
    pub fn ids(&self) -> Vec<(String, Option<u32>)> {
        self.running.iter().map(|child| (child.name().to_owned(), child.id())).collect()
    }

    /// The next child to end; never, where none is left. Cancel-safe.
    ///
    /// # Errors
    /// A child that cannot be waited for.
    pub async fn next_exit(&mut self) -> Result<Exit, ChildrenError> {
        if self.running.is_empty() {
            return std::future::pending().await;
        }
        let (index, status) = {
            let mut waits: Vec<_> = self.running.iter_mut().map(|c| Box::pin(c.wait())).collect();
            poll_fn(|context| {
                for (index, wait) in waits.iter_mut().enumerate() {
                    if let Poll::Ready(status) = wait.as_mut().poll(context) {
                        return Poll::Ready((index, status));
                    }
                }
                Poll::Pending
            })
            .await
        };
        let child = self.running.remove(index);
        Ok(Exit {
            name: child.name().to_owned(),
            status: status?,
            log_path: child.log_path().to_owned(),
            last_lines: child.last_log_lines(LOG_LINES),
        })
    }

    /// Waits for all to end by themselves, then asks them to, then kills them, each when the plan
    /// says so. Returns how each ended; those that had to be ended are named in `forced`.
    ///
    /// # Errors
    /// A child that cannot be waited for or signalled.
    pub async fn end(&mut self, plan: &StopPlan) -> Result<Ended, ChildrenError> {
        let wished = Instant::now();
        let mut ended = Ended::default();
        self.gather(wished + plan.terminate, &mut ended).await?;
        ended.forced = self.running.iter().map(|child| child.name().to_owned()).collect();
        for child in &mut self.running {
            child.terminate()?;
        }
        self.gather(wished + plan.kill, &mut ended).await?;
        for child in &mut self.running {
            child.kill()?;
        }
        self.gather(Instant::now() + COLLECT_GRACE, &mut ended).await?;
        Ok(ended)
    }

    async fn gather(&mut self, until: Instant, ended: &mut Ended) -> Result<(), ChildrenError> {
        while !self.running.is_empty() {
            match tokio::time::timeout_at(until, self.next_exit()).await {
                Ok(exit) => ended.exits.push(exit?),
                Err(_) => break,
            }
        }
        Ok(())
    }
}

/// How the children ended.
#[derive(Debug, Default)]
pub struct Ended {
    pub exits: Vec<Exit>,
    /// Did not end by themselves in time.
    pub forced: Vec<String>,
}

fn programs(plan: &Plan, beside: &Path) -> Result<Vec<PathBuf>, ChildrenError> {
    let found = plan.processes.iter().map(|process| {
        let path = beside.join(process.program());
        if path.is_file() { Ok(path) } else { Err(ChildrenError::Missing(path)) }
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::membership::MemberCounts;

    fn child(dir: &Path, name: &str, script: &str) -> Child {
        let spec = ChildSpec {
            name: name.to_owned(),
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            env: Vec::new(),
            log_path: dir.join(format!("{name}.log")),
        };
        Child::spawn(&spec).unwrap()
    }

    #[tokio::test]
    async fn a_death_is_reported_with_the_end_of_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let running = vec![
            child(dir.path(), "sleeper", "read line"),
            child(
                dir.path(),
                "victim",
                "i=0; while [ $i -lt 30 ]; do i=$((i+1)); echo line $i; done; exit 7",
            ),
        ];
        let mut children = Children { running };
        let exit = children.next_exit().await.unwrap();
        let report = exit.report();
        assert!(report.starts_with("victim exited with code 7; the end of "), "{report}");
        assert!(
            report.ends_with("line 29\n  line 30") && !report.contains("line 10\n"),
            "{report}"
        );
        assert_eq!(children.ids().len(), 1);
        children.running[0].close_lifeline();
        let ended = children.end(&StopPlan::new(Duration::from_secs(20))).await.unwrap();
        assert_eq!((ended.exits.len(), ended.forced.len()), (1, 0));
    }

    #[tokio::test]
    async fn those_that_do_not_end_are_forced() {
        let dir = tempfile::tempdir().unwrap();
        let deaf = child(
            dir.path(),
            "deaf",
            "trap '' TERM; echo ready; while :; do read l || sleep 1; done",
        );
        let mut children = Children { running: vec![deaf] };
        let ended = children.end(&StopPlan::new(Duration::from_millis(1))).await.unwrap();
        assert_eq!(ended.forced, ["deaf"]);
        assert_eq!(ended.exits.len(), 1);
        assert!(!ended.exits[0].status.success());
    }

    #[test]
    fn a_missing_program_is_named_with_the_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let counts = MemberCounts { actors: 1, weak_servers: 0, learners: 0 };
        let text = programs(&Plan::new(counts, 1, true), dir.path()).unwrap_err().to_string();
        assert!(
            text.contains("/actor is missing") && text.contains("cargo build --release"),
            "{text}"
        );
    }
}
