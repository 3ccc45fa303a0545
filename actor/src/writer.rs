//! Writes rollouts: owns the strong model's caches and every group in hand, advances all slots
//! whose turn it is by one token a tick, and says what it wants from the weak model. No channels,
//! no clocks, no waiting: those are the engine's thread.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use model::{Decoder, Draw, Pick, RaggedEngine, RowInput, Rows, SampleError, Sampled, Want};
use proto::{ReturnReason, WorkItem};
use settings::CacheOnSwap;
use tandem::{Turn, WeakSpan};
use tracing::warn;
use types::{Author, LeaseId, PolicyVersion};

use crate::feeding;
use crate::groups::{Group, Rules, failed};
use crate::handover::{Ended, RolloutId, SpanAsk, SpanOutcome, SpanTaken};
use crate::metrics;
use crate::slots::{Slot, Slots, Waiting, WeakSide};

pub struct Writer {
    rules: Rules,
    slots: Slots,
    groups: BTreeMap<LeaseId, Group>,
    device: Option<Device>,
    admitted: u64,
    output: Output,
}

/// The strong model as it samples now.
struct Device {
    engine: RaggedEngine,
    version: PolicyVersion,
}

/// What has come up since it was last taken.
#[derive(Debug, Default)]
pub struct Output {
    pub asks: Vec<SpanAsk>,
    /// Rollouts whose weak sessions are not needed any more.
    pub closed: Vec<RolloutId>,
    pub ended: Vec<Ended>,
}

/// The size of one strong forward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tick {
    pub rows: usize,
    pub tokens: usize,
}

impl Writer {
    /// `slots` is `actor.slots`. Nothing is computed before the first [`Self::set_weights`].
    #[must_use]
    pub fn new(rules: Rules, slots: usize) -> Self {
        Self {
            rules,
            slots: Slots::new(slots),
            groups: BTreeMap::new(),
            device: None,
            admitted: 0,
            output: Output::default(),
        }
    }

    #[must_use]
    pub fn version(&self) -> Option<PolicyVersion> {
        self.device.as_ref().map(|device| device.version)
    }

    #[must_use]
    pub fn waiting(&self) -> Waiting {
        self.slots.waiting()
    }

    /// Rollouts taken in so far, refused ones included.
    #[must_use]
    pub fn admitted(&self) -> u64 {
        self.admitted
    }

    pub fn take_output(&mut self) -> Output {
        std::mem::take(&mut self.output)
    }

    /// Puts weights in place. Caches are emptied, so that each slot's next token is sampled after
    /// its whole text was read again, or kept, as `actor.cache_on_swap` says.
    ///
    /// # Errors
    /// A cache that the model's positions do not cover, or weights of another configuration.
    pub fn set_weights(&mut self, decoder: Decoder, version: PolicyVersion) -> anyhow::Result<()> {
        match &mut self.device {
            Some(device) => {
                let rows = match self.rules.cache_on_swap {
                    CacheOnSwap::Recompute => Rows::Cleared,
                    CacheOnSwap::Keep => Rows::Kept,
                };
                device.engine.set_decoder(decoder, rows)?;
                device.version = version;
            }
            None => {
                let (slots, tokens) = (self.slots.count(), self.rules.slot_tokens);
                let engine = RaggedEngine::new(decoder, slots, tokens).with_context(|| {
                    format!("cannot hold actor.slots = {slots} of actor.slot_tokens = {tokens}")
                })?;
                self.device = Some(Device { engine, version });
            }
        }
        Ok(())
    }

    /// Takes a leased group into free slots, or gives it up at once.
    /// `granted` is not later than its lease.
    pub fn admit(&mut self, item: WorkItem, granted: Instant) {
        self.admitted += u64::from(item.samples);
        let opened = match self.slots.free() < item.samples as usize {
            false => Group::open(item.clone(), granted, &self.rules)
                .map_err(|error| (ReturnReason::Impossible, format!("{error:#}"))),
            true => {
                let free = self.slots.free();
                let detail = format!("no room: {free} of its samples' slots are free");
                Err((ReturnReason::Failed, detail))
            }
        };
        let (group, sessions) = match opened {
            Ok(opened) => opened,
            Err((reason, detail)) => {
                for _ in 0..item.samples {
                    metrics::count_failed(item.purpose, false);
                }
                return self.give_up(&item, reason, detail);
            }
        };
        let lease = group.lease();
        self.groups.insert(lease, group);
        let rows: Vec<usize> =
            sessions.into_iter().filter_map(|session| self.slots.take(lease, session)).collect();
        for row in rows {
            self.settle(row);
        }
    }

    /// Takes what the weak source says of an ask. Rollouts that are gone are passed over.
    pub fn answer(&mut self, outcome: SpanOutcome) {
        let Some(row) = self.slots.row_of(outcome.rollout) else { return };
        let slot = self.slots.get_mut(row).expect("a rollout's row is taken");
        let lease = slot.lease;
        let pushed = outcome.result.and_then(|taken| push_span(slot, &taken));
        match pushed {
            Ok(()) => self.settle(row),
            Err(detail) => {
                let problem = self.groups[&lease].item().problem.id;
                self.fail(lease, &format!("problem {problem}: {detail}"));
            }
        }
    }

    /// Gives up every group whose lease has ended: it is dealt again, and this copy would only hold
    /// slots.
    pub fn expire(&mut self, now: Instant) {
        let late = self.groups.values().filter(|group| group.deadline() <= now);
        let late: Vec<LeaseId> = late.map(Group::lease).collect();
        for lease in late {
            let group = &self.groups[&lease];
            let WorkItem { deadline, samples, .. } = group.item();
            let detail = format!(
                "its lease of {} ms ended with {} of {samples} samples written: raise \
                 coordinator.lease_deadline_ms, or lower actor.slots",
                deadline.as_millis(),
                group.finished().count()
            );
            self.fail(lease, &detail);
        }
    }

    /// One token for every slot whose turn is the strong model's and whose text is read so far.
    ///
    /// # Errors
    /// The device failed. A rollout that cannot be sampled only fails its group.
    pub fn tick(&mut self) -> anyhow::Result<Tick> {
        let Some(Device { engine, version }) = &mut self.device else {
            return Ok(Tick::default());
        };
        let version = *version;
        let feeds = feeding::plan(engine, &self.slots, self.rules.batch_tokens)?;
        if feeds.is_empty() {
            return Ok(Tick::default());
        }
        let inputs: Vec<RowInput<'_>> = feeds
            .iter()
            .map(|feed| RowInput { row: feed.row, tokens: &feed.tokens, want: feed.want() })
            .collect();
        let failed = "the strong model's forward failed";
        let output = engine.step(&inputs).context(failed)?;
        let read = feeds.iter().filter(|feed| feed.want() == Want::Last).enumerate();
        let drawing: Vec<(usize, usize)> =
            read.flat_map(|(at, feed)| feed.readers.iter().map(move |row| (at, *row))).collect();
        let draws: Vec<Draw<'_>> = drawing.iter().map(|(at, row)| self.pick(*at, *row)).collect();
        let drawn = output.draw(&draws).context(failed)?;
        for ((_, row), outcome) in drawing.into_iter().zip(drawn) {
            self.write(row, outcome, version);
        }
        let tokens = feeds.iter().map(|feed| feed.tokens.len()).sum();
        Ok(Tick { rows: feeds.len(), tokens })
    }

    /// What is drawn for `row` from row `at` of the logits.
    fn pick(&self, at: usize, row: usize) -> Draw<'_> {
        let slot = self.slots.get(row).expect("a reader's slot is taken");
        let session = &slot.session;
        let u = session.plan().key.uniform(session.response().len() as u64);
        Draw { row: at, settings: &self.groups[&slot.lease].sampler, pick: Pick::Draw(u) }
    }

    fn write(&mut self, row: usize, drawn: Result<Sampled, SampleError>, version: PolicyVersion) {
        // A sibling that failed in this tick has taken the whole group with it.
        let Some(slot) = self.slots.get_mut(row) else { return };
        let lease = slot.lease;
        let pushed = drawn
            .map_err(anyhow::Error::from)
            .and_then(|drawn| Ok(slot.session.push_strong(drawn.token, drawn.logprob, version)?));
        match pushed {
            Ok(()) => self.settle(row),
            Err(error) => self.fail(lease, &format!("{error:#}")),
        }
    }

    /// Acts on whose turn it has become.
    fn settle(&mut self, row: usize) {
        let Some(slot) = self.slots.get_mut(row) else { return };
        match slot.session.turn() {
            Turn::Strong { .. } => {}
            Turn::Weak { .. } => {
                let group = &self.groups[&slot.lease];
                let weak = slot.weak.get_or_insert_with(|| WeakSide {
                    open: Arc::new(group.weak_open(&slot.session)),
                    known: 0,
                });
                self.output.asks.push(SpanAsk {
                    rollout: slot.rollout,
                    open: Arc::clone(&weak.open),
                    known: weak.known,
                    response: slot.session.response().to_vec(),
                    until: group.deadline(),
                });
            }
            Turn::Finished => self.finish(row),
        }
    }

    fn finish(&mut self, row: usize) {
        let Some(slot) = self.slots.get(row) else { return };
        let lease = slot.lease;
        let Some(group) = self.groups.get_mut(&lease) else { return };
        // A rollout that cannot be graded stays in its slot, to be counted with the others there.
        let verdict = self.rules.task.verdict(&slot.session, &group.item().problem);
        let rollout = verdict.and_then(|verdict| Ok(slot.session.clone().finish(verdict)?));
        match rollout.map(|rollout| group.deliver(rollout)) {
            Ok(last) => {
                self.release(row);
                if last {
                    self.complete(lease);
                }
            }
            Err(error) => self.fail(lease, &format!("{error:#}")),
        }
    }

    fn complete(&mut self, lease: LeaseId) {
        let Some(group) = self.groups.remove(&lease) else { return };
        let group = group.complete();
        let purpose = group.purpose;
        group.samples.iter().for_each(|rollout| metrics::count_rollout(purpose, rollout));
        let labels = [("purpose", purpose.name()), ("outcome", "complete")];
        metrics::GROUPS.increment(1, &labels);
        self.output.ended.push(Ended::Complete(group));
    }

    /// Gives a group up with all its samples.
    fn fail(&mut self, lease: LeaseId, detail: &str) {
        let Some(group) = self.groups.remove(&lease) else { return };
        let item = group.item();
        for rollout in group.finished() {
            metrics::count_failed(item.purpose, rollout.has_handoff());
        }
        let rows: Vec<usize> = self.slots.rows_of(lease).collect();
        for slot in rows.into_iter().filter_map(|row| self.release(row)) {
            let handoff = slot.session.authors().contains(&Author::Weak);
            metrics::count_failed(item.purpose, handoff);
        }
        self.give_up(item, ReturnReason::Failed, detail.to_owned());
    }

    fn give_up(&mut self, item: &WorkItem, reason: ReturnReason, detail: String) {
        warn!(group = %item.group, epoch = %item.epoch, detail, "group given up");
        let labels = [("purpose", item.purpose.name()), ("outcome", "failed")];
        metrics::GROUPS.increment(1, &labels);
        self.output.ended.push(Ended::Failed(failed(item, reason, detail)));
    }

    /// Frees a slot and forgets its cache, here and at the weak server.
    fn release(&mut self, row: usize) -> Option<Slot> {
        let slot = self.slots.release(row)?;
        if let Some(device) = &mut self.device {
            device.engine.clear(row).expect("every slot is a row of the engine");
        }
        if slot.weak.is_some() {
            self.output.closed.push(slot.rollout);
        }
        Some(slot)
    }
}

fn push_span(slot: &mut Slot, taken: &SpanTaken) -> Result<(), String> {
    let written = &taken.written;
    let span = WeakSpan {
        tokens: &written.tokens,
        logprobs: &written.logprobs,
        latency_us: u32::try_from(taken.latency.as_micros()).unwrap_or(u32::MAX),
        retries: taken.retries,
    };
    let session = &mut slot.session;
    session
        .set_weak_logprobs(taken.from, &written.append_logprobs)
        .and_then(|()| session.push_weak_span(span))
        .map_err(|error| format!("the weak server's span does not fit: {error}"))?;
    metrics::SPAN_SECONDS.record(taken.latency.as_secs_f64(), &[]);
    if let Some(weak) = &mut slot.weak {
        weak.known = slot.session.response().len() as u32;
    }
    Ok(())
}
