//! `coordinator.*`: what a run may wait for, and what is kept.

use serde::{Deserialize, Serialize};

section! {
    /// The coordinator, and how the others reach it.
    Coordinator {
        listen: String = "127.0.0.1:0".to_owned(),
        /// What the other programs connect to; `launch` sets it.
        address: String = String::new(),
        /// A group that is not delivered by then is dealt again: above the time that a whole group
        /// takes, and the longest wait for one span with its retries.
        lease_deadline_ms: u32 = 240_000,
        /// How often one group is dealt before the run fails.
        group_deals_max: u32 = 16,
        /// How often a process that ends unasked is started again before the run fails, without a
        /// step or an evaluation rollout in between.
        restarts_max: u32 = 5,
        /// With fewer actors no work is dealt and the run waits for more.
        actors_min: u32 = 1,
        /// Versions whose bytes are kept.
        weights_kept: u32 = 3,
        /// Directives are repeated at least so often, and so often members give a sign of life.
        keepalive_ms: u32 = 1_000,
        /// For so long members try to reach a coordinator that is gone, and keep what they have.
        return_timeout_ms: u32 = 120_000,
        /// Since another process came, until the run must begin. Whoever reads a large model comes late, and
        /// its first version takes a while to arrive.
        start_timeout_ms: u32 = 600_000,
        /// For so long `serve` waits for processes that others start.
        gather_timeout_ms: u32 = 3_600_000,
        /// A run fails when for so long no step is committed and no group or evaluation is done: more
        /// than the slowest of them takes. Members that are gone are noticed within seconds.
        stall_timeout_ms: u32 = 1_800_000,
        /// What is acknowledged must be in the journal, on disk, by then.
        journal_timeout_ms: u32 = 10_000,
        /// Journal entries that wait for the disk; whoever adds more waits too.
        journal_queue_bytes: u64 = 16 << 20,
    }
}
