//! Every task and device thread of a process, by name. Nothing here is detached: a task that
//! fails or panics stops the group, and `join` names whoever holds the process up. What the
//! tasks do on a stop is theirs to decide.

use std::any::Any;
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use anyhow::anyhow;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tracing::error;

use crate::{Shutdown, StopReason};

/// A set of named tasks with one fate. Clones share one group.
#[derive(Clone)]
pub struct TaskGroup {
    inner: Arc<Inner>,
}

struct Inner {
    shutdown: Shutdown,
    state: Mutex<State>,
    /// How many members `join` still waits for.
    running: watch::Sender<usize>,
}

#[derive(Default)]
struct State {
    next_member: u64,
    members: BTreeMap<u64, String>,
    /// Tasks that may be aborted, watchers included; threads have no entry.
    aborts: BTreeMap<u64, AbortHandle>,
    threads: Vec<thread::JoinHandle<()>>,
    first_error: Option<anyhow::Error>,
}

impl TaskGroup {
    pub fn new(shutdown: Shutdown) -> Self {
        let (running, _) = watch::channel(0);
        Self { inner: Arc::new(Inner { shutdown, state: Mutex::default(), running }) }
    }

    /// The latch that a failing member triggers.
    pub fn shutdown(&self) -> &Shutdown {
        &self.inner.shutdown
    }

    /// Starts a task. Its error or panic triggers the shutdown and becomes the group's result.
    /// Must be called inside a tokio runtime.
    pub fn spawn<F>(&self, name: impl Into<String>, future: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let member = Member::enter(&self.inner, name.into());
        let id = member.id;
        let abort = start(async move {
            let outcome = catch_panics(future).await;
            member.finish(outcome);
        });
        self.keep_abort(id, abort);
    }

    /// Starts an OS thread, for the one that owns a device. Its error or panic triggers the
    /// shutdown like a task's. A thread cannot be aborted, so it must watch the shutdown.
    pub fn spawn_thread<F>(&self, name: impl Into<String>, body: F) -> io::Result<()>
    where
        F: FnOnce() -> anyhow::Result<()> + Send + 'static,
    {
        let name = name.into();
        let member = Member::enter(&self.inner, name.clone());
        let handle = thread::Builder::new().name(name).spawn(move || {
            let outcome = catch_unwind(AssertUnwindSafe(body))
                .unwrap_or_else(|panic| Err(anyhow!("panicked: {}", panic_text(panic.as_ref()))));
            member.finish(outcome);
        })?;
        self.inner.lock().threads.push(handle);
        Ok(())
    }

    /// Starts a task that `join` does not wait for and ends itself: it must outlive the stop
    /// (the second signal comes after the first) yet never hold it up.
    pub(crate) fn spawn_watcher<F>(&self, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let inner = Arc::downgrade(&self.inner);
        let abort = start(async move {
            let outcome = catch_panics(async {
                future.await;
                Ok(())
            })
            .await;
            if let (Err(error), Some(inner)) = (outcome, inner.upgrade()) {
                inner.fail(name, error);
            }
        });
        let mut state = self.inner.lock();
        let id = state.next_member;
        state.next_member += 1;
        state.aborts.insert(id, abort);
    }

    /// The names of the tasks and threads that have not ended.
    pub fn running(&self) -> Vec<String> {
        self.inner.lock().members.values().cloned().collect()
    }

    /// Waits for every task and thread. There is no limit until the shutdown is requested; from
    /// then on they have `grace`, after which tasks are aborted and the error names all that
    /// were still running. Otherwise the result is the first error of a member.
    pub async fn join(&self, grace: Duration) -> anyhow::Result<()> {
        let mut running = self.inner.running.subscribe();
        tokio::select! {
            () = self.inner.shutdown.wait() => {}
            () = all_ended(&mut running) => {}
        }
        let drained = tokio::time::timeout(grace, all_ended(&mut running)).await.is_ok();
        let late = if drained { Vec::new() } else { self.running() };

        let (aborts, threads, first_error) = {
            let mut state = self.inner.lock();
            let aborts = std::mem::take(&mut state.aborts);
            (aborts, std::mem::take(&mut state.threads), state.first_error.take())
        };
        for abort in aborts.into_values() {
            abort.abort();
        }
        if drained {
            for thread in threads {
                // The body has returned, and its panics were caught.
                thread.join().expect("a thread of the group catches its panics");
            }
        }
        result_of(first_error, &late, grace)
    }

    fn keep_abort(&self, id: u64, abort: AbortHandle) {
        let mut state = self.inner.lock();
        // A task can end before its handle arrives here; then there is nothing to keep.
        if state.members.contains_key(&id) {
            state.aborts.insert(id, abort);
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, name: &str, failure: anyhow::Error) {
        let failure = failure.context(format!("task {name} failed"));
        error!(task = name, error = format!("{failure:#}"), "task failed");
        let reason = StopReason::TaskFailed(format!("{failure:#}"));
        self.lock().first_error.get_or_insert(failure);
        self.shutdown.trigger(reason);
    }
}

/// The presence of one task or thread in its group. Dropping it, by whatever way the task ends,
/// takes the name out.
struct Member {
    inner: Arc<Inner>,
    id: u64,
    name: String,
}

impl Member {
    fn enter(inner: &Arc<Inner>, name: String) -> Self {
        let id = {
            let mut state = inner.lock();
            let id = state.next_member;
            state.next_member += 1;
            state.members.insert(id, name.clone());
            id
        };
        inner.running.send_modify(|count| *count += 1);
        Self { inner: Arc::clone(inner), id, name }
    }

    fn finish(self, outcome: anyhow::Result<()>) {
        if let Err(failure) = outcome {
            self.inner.fail(&self.name, failure);
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        {
            let mut state = self.inner.lock();
            state.members.remove(&self.id);
            state.aborts.remove(&self.id);
        }
        self.inner.running.send_modify(|count| *count -= 1);
    }
}

#[allow(clippy::disallowed_methods, reason = "the one place where tasks are started")]
fn start<F>(future: F) -> AbortHandle
where
    F: Future<Output = ()> + Send + 'static,
{
    tokio::spawn(future).abort_handle()
}

async fn catch_panics<F>(future: F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let mut future = pin!(future);
    poll_fn(|cx| {
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx)));
        polled.unwrap_or_else(|panic| {
            Poll::Ready(Err(anyhow!("panicked: {}", panic_text(panic.as_ref()))))
        })
    })
    .await
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    owned.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

async fn all_ended(running: &mut watch::Receiver<usize>) {
    // The sender lives in the group that is being joined, so this cannot be a closed channel.
    let _ = running.wait_for(|count| *count == 0).await;
}

fn result_of(
    first_error: Option<anyhow::Error>,
    late: &[String],
    grace: Duration,
) -> anyhow::Result<()> {
    let lateness = format!(
        "still running {} ms after the stop was requested: {}",
        grace.as_millis(),
        late.join(", ")
    );
    match (first_error, late.is_empty()) {
        (None, true) => Ok(()),
        (None, false) => Err(anyhow!(lateness)),
        (Some(failure), true) => Err(failure),
        (Some(failure), false) => Err(failure.context(lateness)),
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    const AMPLE: Duration = Duration::from_secs(30);
    const NONE: Duration = Duration::ZERO;

    fn group() -> TaskGroup {
        TaskGroup::new(Shutdown::new())
    }

    fn waits_for_stop(group: &TaskGroup, name: &str) {
        let stop = group.shutdown().wait();
        group.spawn(name, async move {
            stop.await;
            Ok(())
        });
    }

    #[tokio::test]
    async fn tasks_that_end_well_need_no_shutdown() {
        let group = group();
        group.spawn("one", async { Ok(()) });
        group.spawn(String::from("two"), async { Ok(()) });
        group.join(NONE).await.expect("both tasks end well");
        assert!(!group.shutdown().requested());
        assert_eq!(group.running(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn a_failing_task_stops_the_group_and_is_its_result() {
        let group = group();
        waits_for_stop(&group, "patient");
        group.spawn("uplink", async { Err(anyhow!("connection refused")) });
        let failure = group.join(AMPLE).await.expect_err("uplink failed");
        assert_eq!(format!("{failure:#}"), "task uplink failed: connection refused");
        assert_eq!(
            group.shutdown().reason(),
            Some(StopReason::TaskFailed("task uplink failed: connection refused".to_owned()))
        );
    }

    #[tokio::test]
    async fn a_panicking_task_stops_the_group() {
        let group = group();
        waits_for_stop(&group, "patient");
        group.spawn("decoder", async { panic!("row {} is empty", 3) });
        let failure = group.join(AMPLE).await.expect_err("decoder panicked");
        assert_eq!(format!("{failure:#}"), "task decoder failed: panicked: row 3 is empty");
    }

    #[tokio::test]
    async fn a_failing_or_panicking_thread_stops_the_group() {
        let group = group();
        waits_for_stop(&group, "patient");
        group.spawn_thread("device", || panic!("out of memory")).expect("thread starts");
        let failure = group.join(AMPLE).await.expect_err("device panicked");
        assert_eq!(format!("{failure:#}"), "task device failed: panicked: out of memory");
    }

    #[tokio::test]
    async fn join_aborts_and_names_the_hanging_task_only() {
        let group = group();
        waits_for_stop(&group, "patient");
        let (dropped, is_dropped) = tokio::sync::oneshot::channel::<()>();
        group.spawn("hanging", async move {
            let _dropped = dropped;
            pending::<()>().await;
            Ok(())
        });
        group.shutdown().trigger("test");
        let failure = group.join(Duration::from_millis(200)).await.expect_err("one task hangs");
        assert_eq!(
            failure.to_string(),
            "still running 200 ms after the stop was requested: hanging"
        );
        is_dropped.await.expect_err("the aborted task drops what it holds");
    }

    #[tokio::test]
    async fn the_first_error_survives_a_late_task() {
        let group = group();
        group.spawn("hanging", pending());
        group.spawn("broken", async { Err(anyhow!("bad frame")) });
        let failure = group.join(NONE).await.expect_err("both faults");
        assert_eq!(
            format!("{failure:#}"),
            "still running 0 ms after the stop was requested: hanging: \
             task broken failed: bad frame"
        );
    }

    #[tokio::test]
    async fn join_waits_for_threads_and_for_tasks_spawned_meanwhile() {
        let group = group();
        let (send, receive) = tokio::sync::oneshot::channel();
        group
            .spawn_thread("device", move || {
                send.send(17).expect("the consumer waits");
                Ok(())
            })
            .expect("thread starts");
        let (result, got) = tokio::sync::oneshot::channel();
        let nested = group.clone();
        group.spawn("consumer", async move {
            let value = receive.await?;
            nested.spawn("nested", async move {
                result.send(value).expect("the test waits");
                Ok(())
            });
            Ok(())
        });
        group.join(AMPLE).await.expect("all end well");
        assert_eq!(got.await.expect("nested ran before join returned"), 17);
    }

    #[tokio::test]
    async fn watchers_do_not_hold_the_join_up() {
        let group = group();
        group.spawn_watcher("signals", pending());
        group.join(AMPLE).await.expect("a watcher is not waited for");
    }
}
