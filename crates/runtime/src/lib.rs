//! Orchestration that knows nothing of ours: tasks that are never detached, one way to stop,
//! deadlines, retries, child processes, cores and disks. No transport, no metrics, no numerics.

mod attached;
mod backoff;
mod child;
mod cpu;
mod deadline;
mod disk;
mod off_workers;
mod parent;
mod shutdown;
mod task_group;
mod unique;
mod waits;

pub use attached::run_attached;
pub use backoff::{Attempt, GaveUp, RetryPolicy, retry};
pub use child::{Child, ChildError, ChildSpec, describe_exit};
pub use cpu::{available_cores, cpu_seconds_self_and_children, divide_cores};
pub use deadline::{DeadlineExceeded, within};
pub use disk::{free_bytes, look_again};
pub use off_workers::off_workers;
pub use parent::{exit_with_parent, terminate_with_parent};
pub use shutdown::{Shutdown, StopReason, listen_for_signals};
pub use task_group::TaskGroup;
pub use unique::unique_number;
pub use waits::{WaitInfo, Waiting, waiting, waits};
