//! Hand-made rollouts for the tests of this crate.

use std::sync::atomic::{AtomicU64, Ordering};

use types::{
    Author, Finish, Generation, MemberId, PolicyVersion, Rollout, RolloutGroup, RolloutParts,
    SampleIndex, Share, Span, SpanEnd, Verdict,
};

use proto::{Registration, Role, WorkItem};

/// Of a process that nobody was before.
pub(crate) fn registration(role: Role, index: u32, address: &str) -> Registration {
    static LAST: AtomicU64 = AtomicU64::new(0);
    Registration {
        member: MemberId(LAST.fetch_add(1, Ordering::Relaxed) + 1),
        role,
        index: Some(index),
        address: address.to_owned(),
        admin_address: String::new(),
        ring_address: String::new(),
        generation: Generation(0),
    }
}

/// What a made-up actor writes for an item.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Script {
    pub correct: bool,
    pub finish: Finish,
    pub jargon: Share,
    pub version: PolicyVersion,
}

impl Script {
    pub(crate) fn right(version: PolicyVersion) -> Self {
        Self { correct: true, finish: Finish::End, jargon: Share::default(), version }
    }
}

/// The item's group, one token by each author that its schedule has.
pub(crate) fn group(item: &WorkItem, script: Script) -> RolloutGroup {
    let schedule: tandem::Schedule = item.schedule.parse().unwrap();
    let mut writers = vec![Author::Strong, Author::Weak];
    if schedule.is_strong_alone() {
        writers = vec![Author::Strong];
    } else if schedule.is_weak_alone() {
        writers = vec![Author::Weak];
    }
    let samples = (0..item.samples).map(|sample| rollout(item, script, sample, &writers));
    RolloutGroup {
        group: item.group,
        epoch: item.epoch,
        lease: item.lease,
        purpose: item.purpose,
        schedule: item.schedule.clone(),
        key_group: item.key_group,
        problem: item.problem.clone(),
        samples: samples.collect(),
    }
}

fn rollout(item: &WorkItem, script: Script, sample: u32, writers: &[Author]) -> Rollout {
    let authors: Vec<Author> = std::iter::once(Author::Prompt).chain(writers.to_vec()).collect();
    let version = |author: &Author| match author {
        Author::Strong => script.version,
        _ => PolicyVersion::default(),
    };
    let span = |(start, author): (u32, &Author)| Span {
        author: *author,
        start,
        len: 1,
        end: SpanEnd::Boundary,
        latency_us: 0,
        retries: 0,
    };
    let parts = RolloutParts {
        sample: SampleIndex(sample),
        prompt_len: 1,
        tokens: vec![5; authors.len()],
        logprobs: vec![0.0; authors.len()],
        versions: authors.iter().map(version).collect(),
        weak_logprobs: vec![f32::NAN; authors.len()],
        spans: (0..).zip(writers).map(span).collect(),
        authors,
        finish: script.finish,
        sampling: item.sampling.clone(),
        forced_redraws: 0,
        verdict: Verdict {
            text: String::new(),
            extracted: None,
            answered_by: None,
            correct: script.correct,
            reward: f32::from(u8::from(script.correct)),
            jargon: script.jargon,
        },
    };
    Rollout::new(parts).unwrap()
}
