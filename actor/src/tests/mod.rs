//! Whole rollouts against a naive reference, with and without faults of the peers. The parts' own
//! tests are beside them.

mod coordinator;
mod counters;
mod faults;
mod harness;
mod pair;
mod reports;
mod rollouts;
mod served;
mod uplink;
mod weak;
mod weights;

use std::time::{Duration, Instant};

use candle_core::{DType, Tensor};
use miniature::{Split, Style};
use model::{Decoder, ModelSource, Placement};
use proto::WorkItem;
use security::{Guard, Listener, Protocol};
use settings::Settings;
use tandem::{RandomKey, Schedule, Session, Turn, WeakSpan};
use types::{
    Epoch, GroupId, LeaseId, PolicyVersion, Purpose, RolloutGroup, SampleIndex, Sampling, TokenId,
};

use self::weak::NaiveWeak;
use crate::groups::Group;
use crate::{Ended, Models, Rules, Writer};

const V0: PolicyVersion = PolicyVersion { generation: types::Generation(1), step: 0 };
const V1: PolicyVersion = PolicyVersion { generation: types::Generation(1), step: 1 };

/// A free port on this machine.
async fn listen() -> Listener {
    Listener::bind("127.0.0.1:0", "listen", Protocol::Grpc, &Guard::default()).await.unwrap()
}

fn rules() -> Rules {
    Models::read(&Settings { seed: 5, ..Settings::default() }).unwrap().rules
}

fn fresh(role: &str, seed: u64) -> Decoder {
    let source = ModelSource::parse(&format!("fresh:miniature-{role}")).unwrap();
    source.load(seed, &Placement::cpu(DType::F32)).unwrap().decoder().unwrap()
}

fn strong(seed: u64) -> Decoder {
    fresh("strong", seed)
}

/// Only some twenty tokens may be drawn, so that untrained models often end a line or the text.
fn item(schedule: &str, group: u64, samples: u32) -> WorkItem {
    WorkItem {
        lease: LeaseId(group + 100),
        group: GroupId(group),
        epoch: Epoch(1),
        deadline: Duration::from_secs(60),
        purpose: Purpose::Train,
        schedule: schedule.to_owned(),
        samples,
        key_group: GroupId(group),
        problem: miniature::draw(Split::Train, 3, group, Style::Plain),
        sampling: Sampling {
            temperature: 1.0,
            top_p: 1.0,
            max_tokens: 30,
            banned: (20..142).collect(),
        },
    }
}

fn next_logits(decoder: &Decoder, text: &[TokenId]) -> Vec<f32> {
    let tokens = Tensor::new(text, decoder.device()).unwrap().unsqueeze(0).unwrap();
    let last = Tensor::new(&[text.len() as u32 - 1], decoder.device()).unwrap();
    decoder.logits(&tokens, &last).unwrap().to_vec2().unwrap().remove(0)
}

/// One sample of a group, written by one sequence at a time through plain forward passes. The
/// policy of a position is `policy(position)`.
fn reference<'a>(
    item: &WorkItem,
    sample: usize,
    weak: &NaiveWeak,
    policy: impl Fn(u32) -> (&'a Decoder, PolicyVersion),
) -> Session {
    let (group, mut sessions) = Group::open(item.clone(), Instant::now(), &rules()).unwrap();
    let mut session = sessions.remove(sample);
    let mut known = 0;
    loop {
        match session.turn() {
            Turn::Finished => return session,
            Turn::Strong { position } => {
                let (decoder, version) = policy(position);
                let text = [&session.plan().prompt, session.response()].concat();
                let u = session.plan().key.uniform(u64::from(position));
                let logits = next_logits(decoder, &text);
                let sampled = model::sample(&logits, &group.sampler, u).unwrap();
                session.push_strong(sampled.token, sampled.logprob, version).unwrap();
            }
            Turn::Weak { .. } => {
                let open = group.weak_open(&session);
                let written = weak.write(&open, session.response(), known);
                session.set_weak_logprobs(known, &written.append_logprobs).unwrap();
                let (tokens, logprobs) = (&written.tokens, &written.logprobs);
                let span = WeakSpan { tokens, logprobs, latency_us: 0, retries: 0 };
                session.push_weak_span(span).unwrap();
                known = session.response().len() as u32;
            }
        }
    }
}

/// What the writer made of one sample must be what the reference made of it.
fn assert_same(group: &RolloutGroup, sample: usize, reference: Session) {
    let verdict = rules().task.verdict(&reference, &group.problem).unwrap();
    let expected = reference.finish(verdict).unwrap().into_parts();
    let found = group.samples[sample].parts();
    assert_eq!(found.tokens, expected.tokens, "{} sample {sample}", group.schedule);
    assert_eq!(found.authors, expected.authors);
    assert_eq!(found.versions, expected.versions);
    assert_eq!((found.finish, &found.verdict), (expected.finish, &expected.verdict));
    assert_close(&found.logprobs, &expected.logprobs);
    assert_close(&found.weak_logprobs, &expected.weak_logprobs);
}

fn assert_close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    for (index, (a, b)) in found.iter().zip(expected).enumerate() {
        let same = (a - b).abs() < 1e-4 || (a.is_nan() && b.is_nan());
        assert!(same, "token {index}: {a} instead of {b}");
    }
}

/// The replay that the learner makes before it trains on a group.
fn assert_replays(group: &RolloutGroup) {
    let rules = rules();
    let schedule: Schedule = group.schedule.parse().unwrap();
    for (sample, rollout) in (0..).zip(&group.samples) {
        let rule = rules.task.rule(group.purpose, schedule, rollout.parts().sampling.max_tokens);
        let sample = SampleIndex(sample);
        let key = RandomKey::new(rules.seed, group.purpose, &schedule, group.group, sample);
        assert_eq!(rollout.parts().sample, sample);
        assert_eq!(tandem::check_rollout(&rule, key, rollout), Ok(()));
    }
}

/// Ticks and answers until nothing is left to do; `between` runs before every tick.
fn drive(
    writer: &mut Writer,
    weak: &NaiveWeak,
    mut between: impl FnMut(&mut Writer, usize),
) -> Vec<Ended> {
    let mut ended = Vec::new();
    for tick in 0..1000 {
        between(writer, tick);
        let output = writer.take_output();
        ended.extend(output.ended);
        writer.tick().unwrap();
        for ask in output.asks {
            writer.answer(weak.outcome(&ask));
        }
        let waiting = writer.waiting();
        if waiting.strong + waiting.weak == 0 {
            ended.extend(writer.take_output().ended);
            return ended;
        }
    }
    panic!("the rollouts did not end");
}

/// A whole group without any strong token.
pub(crate) fn weak_alone(number: u64, samples: u32) -> RolloutGroup {
    let mut writer = Writer::new(rules(), samples as usize);
    writer.admit(item("token:1", number, samples), Instant::now());
    only_group(drive(&mut writer, &NaiveWeak::new(2), |_, _| {}))
}

fn only_group(mut ended: Vec<Ended>) -> RolloutGroup {
    assert_eq!(ended.len(), 1);
    match ended.remove(0) {
        Ended::Complete(group) => group,
        Ended::Failed(failed) => panic!("{}", failed.detail),
    }
}
