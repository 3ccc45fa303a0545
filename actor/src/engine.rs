//! The thread that owns the device: obeys commands, ticks the writer, hands over what has come up.
//! It never blocks on a full channel and never spins; what is written where is the writer's.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use runtime::Shutdown;
use telemetry::Health;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tracing::info;
use types::RolloutGroup;

use crate::handover::{Command, Ended, Report, Status, WeakWork};
use crate::metrics;
use crate::slots::Waiting;
use crate::writer::Writer;

/// Without news, the thread looks around this often.
const IDLE_MAX: Duration = Duration::from_millis(200);
/// While a channel is full.
const FULL_MAX: Duration = Duration::from_millis(5);

/// The engine's ends of its channels; all of them bounded.
pub struct Ports {
    pub commands: mpsc::Receiver<Command>,
    pub weak: mpsc::Sender<WeakWork>,
    pub learner: mpsc::Sender<RolloutGroup>,
    pub coordinator: mpsc::Sender<Report>,
    pub status: watch::Sender<Status>,
}

pub struct Engine {
    writer: Writer,
    ports: Ports,
    outgoing: Outgoing,
    shutdown: Shutdown,
    health: Health,
    /// When the last forward ended, and how long it took.
    last_tick: (Instant, Duration),
}

/// What does not fit into a channel yet. Rollouts in here keep their slots from being leased
/// again, which bounds it.
#[derive(Default)]
struct Outgoing {
    weak: VecDeque<WeakWork>,
    learner: VecDeque<RolloutGroup>,
    coordinator: VecDeque<Report>,
}

impl Engine {
    #[must_use]
    pub fn new(writer: Writer, ports: Ports, shutdown: Shutdown, health: Health) -> Self {
        let places = [
            ("spans", ports.weak.max_capacity()),
            ("learner", ports.learner.max_capacity()),
            ("coordinator", ports.coordinator.max_capacity()),
        ];
        for (queue, entries) in places {
            metrics::QUEUE_PLACES.set(entries as f64, &[("queue", queue)]);
        }
        let (outgoing, last_tick) = (Outgoing::default(), (Instant::now(), Duration::ZERO));
        Self { writer, ports, outgoing, shutdown, health, last_tick }
    }

    /// The body of the thread; ends at the shutdown, abandoning what is in hand.
    ///
    /// # Errors
    /// The device failed, or the caches do not fit on it.
    pub fn run(mut self, runtime: &Handle) -> anyhow::Result<()> {
        while !self.shutdown.requested() {
            while let Ok(command) = self.ports.commands.try_recv() {
                self.obey(command)?;
            }
            self.writer.expire(Instant::now());
            if self.pause().is_zero() {
                self.tick()?;
            }
            self.hand_over();
            self.publish();
            self.health.beat();
            let pause = self.pause();
            if !pause.is_zero() {
                match self.next_command(runtime, pause) {
                    Next::Command(command) => self.obey(command)?,
                    Next::Nothing => {}
                    Next::Closed => break,
                }
            }
        }
        Ok(())
    }

    /// How long to wait for news before the next tick; zero if it is due.
    fn pause(&self) -> Duration {
        let waiting = self.writer.waiting();
        let can_compute = waiting.strong > 0 && self.writer.version().is_some();
        let idle = if self.outgoing.is_empty() { IDLE_MAX } else { FULL_MAX };
        match can_compute {
            false => idle,
            true => gathering(waiting, self.last_tick, Instant::now()).min(idle),
        }
    }

    fn next_command(&mut self, runtime: &Handle, limit: Duration) -> Next {
        let stop = self.shutdown.wait();
        let commands = &mut self.ports.commands;
        runtime.block_on(async {
            tokio::select! {
                () = stop => Next::Nothing,
                () = tokio::time::sleep(limit) => Next::Nothing,
                command = commands.recv() => command.map_or(Next::Closed, Next::Command),
            }
        })
    }

    fn obey(&mut self, command: Command) -> anyhow::Result<()> {
        match command {
            Command::Weights { decoder, version } => {
                self.writer.set_weights(decoder, version)?;
                metrics::WEIGHT_SWAPS.increment(1, &[]);
                metrics::POLICY_GENERATION.set(f64::from(version.generation.0), &[]);
                metrics::POLICY_STEP.set(f64::from(version.step), &[]);
                info!(%version, "weights in place");
            }
            Command::Work { items, asked } => {
                items.into_iter().for_each(|item| self.writer.admit(item, asked));
            }
            Command::Spans(outcomes) => {
                outcomes.into_iter().for_each(|outcome| self.writer.answer(outcome));
            }
        }
        Ok(())
    }

    fn tick(&mut self) -> anyhow::Result<()> {
        let start = Instant::now();
        let tick = self.writer.tick()?;
        if tick.rows > 0 {
            let end = Instant::now();
            self.last_tick = (end, end - start);
            metrics::BATCH_ROWS.record(tick.rows as f64, &[]);
            metrics::COMPUTED_TOKENS.increment(tick.tokens as u64, &[]);
            metrics::TICK_SECONDS.record(self.last_tick.1.as_secs_f64(), &[]);
        }
        Ok(())
    }

    fn hand_over(&mut self) {
        let output = self.writer.take_output();
        let Outgoing { weak, learner, coordinator } = &mut self.outgoing;
        if !output.asks.is_empty() {
            weak.push_back(WeakWork::Ask(output.asks));
        }
        if !output.closed.is_empty() {
            weak.push_back(WeakWork::Close(output.closed));
        }
        for ended in output.ended {
            match ended {
                Ended::Complete(group) if group.purpose == types::Purpose::Train => {
                    learner.push_back(group);
                }
                Ended::Complete(group) => coordinator.push_back(Report::Evaluated(group)),
                Ended::Failed(failed) => coordinator.push_back(Report::Failed(failed)),
            }
        }
        flush(weak, &self.ports.weak);
        flush(learner, &self.ports.learner);
        flush(coordinator, &self.ports.coordinator);
    }

    fn publish(&self) {
        let waiting = self.writer.waiting();
        for (state, slots) in
            [("free", waiting.free), ("strong", waiting.strong), ("weak", waiting.weak)]
        {
            metrics::SLOTS.set(slots as f64, &[("state", state)]);
        }
        let queues = [
            ("commands", self.ports.commands.len()),
            ("spans", self.outgoing.weak.len() + depth(&self.ports.weak)),
            ("learner", self.outgoing.learner.len() + depth(&self.ports.learner)),
            ("coordinator", self.outgoing.coordinator.len() + depth(&self.ports.coordinator)),
        ];
        for (queue, entries) in queues {
            metrics::QUEUED.set(entries as f64, &[("queue", queue)]);
        }
        let free = waiting.free.saturating_sub(self.outgoing.rollouts()) as u32;
        let (admitted, version) = (self.writer.admitted(), self.writer.version());
        let status = Status { free, admitted, version };
        self.ports.status.send_if_modified(|known| std::mem::replace(known, status) != status);
    }
}

/// How much longer the strong model waits for weak spans while more than a third of the slots in
/// use wait for them: a few larger batches cost both models less than many small ones. The wait is
/// no longer than the last forward took, so that it never takes more than half of the time from
/// slots that are ready.
fn gathering(waiting: Waiting, (end, took): (Instant, Duration), now: Instant) -> Duration {
    if waiting.strong >= 2 * waiting.weak {
        return Duration::ZERO;
    }
    took.saturating_sub(now.saturating_duration_since(end))
}

enum Next {
    Command(Command),
    Nothing,
    Closed,
}

impl Outgoing {
    fn is_empty(&self) -> bool {
        self.weak.is_empty() && self.learner.is_empty() && self.coordinator.is_empty()
    }

    fn rollouts(&self) -> usize {
        let evaluated = self.coordinator.iter().map(|report| match report {
            Report::Evaluated(group) => group.samples.len(),
            Report::Failed(_) => 1,
        });
        evaluated.sum::<usize>() + self.learner.iter().map(|g| g.samples.len()).sum::<usize>()
    }
}

/// Sends what fits. Where nobody listens any more the process is stopping, and it is dropped.
fn flush<T>(queue: &mut VecDeque<T>, to: &mpsc::Sender<T>) {
    while let Some(entry) = queue.pop_front() {
        if let Err(mpsc::error::TrySendError::Full(entry)) = to.try_send(entry) {
            queue.push_front(entry);
            return;
        }
    }
}

fn depth<T>(channel: &mpsc::Sender<T>) -> usize {
    channel.max_capacity() - channel.capacity()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_that_are_ready_wait_for_others_no_longer_than_a_forward_takes() {
        let (end, took) = (Instant::now(), Duration::from_millis(8));
        let left = |strong, weak, ms| {
            let now = end + Duration::from_millis(ms);
            gathering(Waiting { free: 0, strong, weak }, (end, took), now)
        };
        assert_eq!(left(20, 10, 0), Duration::ZERO);
        assert_eq!(left(19, 10, 0), took);
        assert_eq!(left(19, 10, 5), Duration::from_millis(3));
        assert_eq!(left(1, 60, 8), Duration::ZERO);
    }
}
