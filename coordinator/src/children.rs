//! The processes that this one started: found beside it, started, watched, started again, ended.
//! Which of them are started again is decided outside.

use std::ffi::OsString;
use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::task::Poll;
use std::time::Duration;

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
    pub process: ProcessPlan,
    pub status: ExitStatus,
    log_path: PathBuf,
    last_lines: Vec<String>,
}

impl Exit {
    /// In words, with the end of its log.
    #[must_use]
    pub fn report(&self) -> String {
        let mut text = format!("{} {}", self.process.name(), describe_exit(self.status));
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

/// Running children, and those that are to run again. Dropping them kills what still runs.
#[derive(Debug)]
pub struct Children<'a> {
    running: Vec<Running>,
    /// When each is started.
    waiting: Vec<(Instant, ProcessPlan)>,
    launcher: Launcher<'a>,
    /// Where the programs lie.
    beside: PathBuf,
}

#[derive(Debug)]
struct Running {
    child: Child,
    process: ProcessPlan,
}

impl<'a> Children<'a> {
    /// # Errors
    /// A program that is missing beside this one, or cannot be started. What was started by then
    /// is killed.
    pub fn start(plan: &Plan, launcher: Launcher<'a>) -> Result<Self, ChildrenError> {
        let own = std::env::current_exe().map_err(ChildrenError::Own)?;
        let beside = own.parent().unwrap_or(Path::new(".")).to_owned();
        // All are looked for before any is started.
        for process in &plan.processes {
            program(process, &beside)?;
        }
        let mut children = Self { running: Vec::new(), waiting: Vec::new(), launcher, beside };
        for process in &plan.processes {
            children.spawn(process.clone())?;
        }
        Ok(children)
    }

    /// Starts a process that has ended once more, when `delay` has passed.
    pub fn start_again(&mut self, process: ProcessPlan, delay: Duration) {
        self.waiting.push((Instant::now() + delay, process));
    }

    fn spawn(&mut self, process: ProcessPlan) -> Result<(), ChildrenError> {
        let program = program(&process, &self.beside)?;
        let child = Child::spawn(&self.launcher.spec(&process, program))?;
        self.running.push(Running { child, process });
        Ok(())
    }

    fn spawn_due(&mut self) -> Result<(), ChildrenError> {
        let now = Instant::now();
        let due = self.waiting.extract_if(.., |(at, _)| *at <= now);
        let due: Vec<_> = due.map(|(_, process)| process).collect();
        due.into_iter().try_for_each(|process| self.spawn(process))
    }

    /// Name and process id of each.
    #[must_use]
    pub fn ids(&self) -> Vec<(String, Option<u32>)> {
        self.running.iter().map(|one| (one.child.name().to_owned(), one.child.id())).collect()
    }

    /// The next child to end; never, where none is left. Starts those whose time has come.
    /// Cancel-safe.
    ///
    /// # Errors
    /// A child that cannot be started or waited for.
    pub async fn next_exit(&mut self) -> Result<Exit, ChildrenError> {
        loop {
            self.spawn_due()?;
            let due = self.waiting.iter().map(|(at, _)| *at).min();
            let Some(due) = due else { return self.next_of_running().await };
            if let Ok(exit) = tokio::time::timeout_at(due, self.next_of_running()).await {
                return exit;
            }
        }
    }

    async fn next_of_running(&mut self) -> Result<Exit, ChildrenError> {
        if self.running.is_empty() {
            return std::future::pending().await;
        }
        let (index, status) = {
            let running = self.running.iter_mut();
            let mut waits: Vec<_> = running.map(|one| Box::pin(one.child.wait())).collect();
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
        let Running { child, process } = self.running.remove(index);
        Ok(Exit {
            process,
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
        self.waiting.clear();
        let mut ended = Ended::default();
        self.gather(wished + plan.terminate, &mut ended).await?;
        ended.forced = self.running.iter().map(|one| one.child.name().to_owned()).collect();
        for one in &mut self.running {
            one.child.terminate()?;
        }
        self.gather(wished + plan.kill, &mut ended).await?;
        for one in &mut self.running {
            one.child.kill()?;
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

fn program(process: &ProcessPlan, beside: &Path) -> Result<PathBuf, ChildrenError> {
    let path = beside.join(process.program());
    if path.is_file() { Ok(path) } else { Err(ChildrenError::Missing(path)) }
}

#[cfg(test)]
mod tests {
    use proto::Role;

    use super::*;

    fn process(index: u32) -> ProcessPlan {
        ProcessPlan { role: Role::Actor, index, cores: 1, gpu: None, publishes_only: false }
    }

    fn children(run_dir: &RunDir, running: Vec<Child>) -> Children<'_> {
        let launcher =
            Launcher { run_dir, coordinator: String::new(), overrides: &[], log_prefix: "" };
        let running = (0..).zip(running);
        let running = running.map(|(index, child)| Running { child, process: process(index) });
        let beside = run_dir.path().to_owned();
        Children { running: running.collect(), waiting: Vec::new(), launcher, beside }
    }

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
        let run_dir = RunDir::create(Some(&dir.path().join("run")), "test").unwrap();
        let running = vec![
            child(dir.path(), "sleeper", "read line"),
            child(
                dir.path(),
                "victim",
                "i=0; while [ $i -lt 30 ]; do i=$((i+1)); echo line $i; done; exit 7",
            ),
        ];
        let mut children = children(&run_dir, running);
        let exit = children.next_exit().await.unwrap();
        let report = exit.report();
        assert!(report.starts_with("actor-1 exited with code 7; the end of "), "{report}");
        assert!(
            report.ends_with("line 29\n  line 30") && !report.contains("line 10\n"),
            "{report}"
        );
        assert_eq!(children.ids().len(), 1);
        children.running[0].child.close_lifeline();
        let ended = children.end(&StopPlan::new(Duration::from_secs(20))).await.unwrap();
        assert_eq!((ended.exits.len(), ended.forced.len()), (1, 0));
    }

    #[tokio::test]
    async fn those_that_do_not_end_are_forced() {
        let dir = tempfile::tempdir().unwrap();
        let run_dir = RunDir::create(Some(&dir.path().join("run")), "test").unwrap();
        let deaf = child(
            dir.path(),
            "deaf",
            "trap '' TERM; echo ready; while :; do read l || sleep 1; done",
        );
        let mut children = children(&run_dir, vec![deaf]);
        let ended = children.end(&StopPlan::new(Duration::from_millis(1))).await.unwrap();
        assert_eq!(ended.forced, ["deaf"]);
        assert_eq!(ended.exits.len(), 1);
        assert!(!ended.exits[0].status.success());
    }

    #[tokio::test]
    async fn what_is_started_again_runs_when_its_time_has_come_and_not_while_all_end() {
        let dir = tempfile::tempdir().unwrap();
        let run_dir = RunDir::create(Some(&dir.path().join("run")), "test").unwrap();
        let program = run_dir.path().join("actor");
        std::os::unix::fs::symlink("/bin/false", program).unwrap();
        let mut children = children(&run_dir, Vec::new());
        children.start_again(process(3), Duration::from_millis(1));
        let exit = children.next_exit().await.unwrap();
        assert_eq!((exit.process, exit.status.code()), (process(3), Some(1)));
        children.start_again(process(4), Duration::from_millis(1));
        let ended = children.end(&StopPlan::new(Duration::from_millis(50))).await.unwrap();
        assert_eq!(ended.exits.len(), 0);
        assert!(!run_dir.log("actor-4").exists());
    }

    #[test]
    fn a_missing_program_is_named_with_the_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let text = program(&process(0), dir.path()).unwrap_err().to_string();
        assert!(
            text.contains("/actor is missing") && text.contains("cargo build --release"),
            "{text}"
        );
    }
}
