//! A small miniature run for this crate's tests: settings, model, and groups written by hand.

use std::sync::Arc;

use candle_core::{DType, Tensor};
use model::{Decoder, ModelFiles, ModelSource, Placement};
use security::{Guard, Listener, Protocol};
use settings::Settings;
use tandem::{RandomKey, Session, SessionPlan, Turn, WeakSpan};
use task::Task;
use types::{
    Author, Epoch, GroupId, LeaseId, PolicyVersion, Problem, Purpose, Rollout, RolloutGroup,
    RolloutParts, SampleIndex, Span, SpanEnd, TokenId,
};

use crate::admission::Admission;
use crate::assembler::Window;

/// A free port on this machine.
pub(crate) async fn listen() -> Listener {
    Listener::bind("127.0.0.1:0", "learner.listen", Protocol::Grpc, &Guard::default())
        .await
        .unwrap()
}

/// Two groups of four samples make a step.
pub(crate) struct Miniature {
    pub(crate) settings: Arc<Settings>,
    pub(crate) files: ModelFiles,
    pub(crate) task: Task,
}

impl Miniature {
    pub(crate) fn small() -> Self {
        Self::with(|_| ())
    }

    /// The weights are fresh; without warm-up the first step already moves them.
    pub(crate) fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings { seed: 11, ..Settings::default() };
        settings.strong.model = "fresh:miniature-strong".to_owned();
        settings.train.problems_per_step = 2;
        settings.train.samples_per_problem = 4;
        settings.train.steps = 3;
        settings.train.warmup_steps = 0;
        change(&mut settings);
        let source = ModelSource::parse(&settings.strong.model).unwrap();
        let files = source.load(settings.seed, &Placement::cpu(DType::F32)).unwrap();
        let task =
            Task::new(&settings, files.tokenizer.clone(), files.config.stops.clone()).unwrap();
        Self { settings: Arc::new(settings), files, task }
    }

    pub(crate) fn admission(&self) -> Admission {
        let vocab = self.files.config.ids;
        Admission::new(&self.settings, self.task.clone(), vocab).unwrap()
    }

    pub(crate) fn window(&self) -> Window {
        Window::new(&self.settings, 0, 1).unwrap()
    }

    /// Groups with strong tokens of this step belong to the first generation.
    pub(crate) fn version(step: u32) -> PolicyVersion {
        PolicyVersion::new(1, step)
    }

    pub(crate) fn problem(&self, id: u64) -> Problem {
        miniature::draw(miniature::Split::Train, self.settings.seed, id, miniature::Style::Plain)
    }

    /// An honest group whose strong tokens have the given step; even samples are correct, odd ones
    /// state a wrong answer. Log-probabilities are made up.
    pub(crate) fn group(&self, id: u64, step: u32) -> RolloutGroup {
        self.group_drawn_as(GroupId(id), GroupId(id), step)
    }

    /// The same under the number of another random key.
    pub(crate) fn group_drawn_as(&self, id: GroupId, key: GroupId, step: u32) -> RolloutGroup {
        let problem = self.problem(key.0);
        let right = self.task.solution(&problem).unwrap();
        let samples = 0..self.settings.train.samples_per_problem;
        RolloutGroup {
            group: id,
            epoch: Epoch(1),
            lease: LeaseId(id.0),
            purpose: Purpose::Train,
            schedule: self.settings.train_schedule().unwrap().to_string(),
            key_group: key,
            samples: samples
                .map(|sample| {
                    let mut tokens = right.clone();
                    let answer = tokens.len() - 2;
                    let other = if problem.answer == "7" { "8" } else { "7" };
                    if sample % 2 == 1 {
                        tokens[answer] = self.task.tokenizer().id_of(other).unwrap();
                    }
                    self.rollout(&problem, (key, SampleIndex(sample)), &tokens, step)
                })
                .collect(),
            problem,
        }
    }

    /// All groups of a step, sampled from `policy` as far as log-probabilities tell.
    pub(crate) fn step_groups(&self, step: u32, policy: &Decoder) -> Vec<RolloutGroup> {
        let first = u64::from(step) * self.settings.groups_per_step();
        let ids = first..first + self.settings.groups_per_step();
        ids.map(|id| self.as_sampled(self.group(id, step), policy)).collect()
    }

    /// Strong tokens get the log-probabilities that `policy` gives them.
    pub(crate) fn as_sampled(&self, group: RolloutGroup, policy: &Decoder) -> RolloutGroup {
        let mut changed = group.clone();
        for sample in 0..group.samples.len() {
            let logprobs = self.logprobs(policy, &group.samples[sample]);
            changed = with_parts(changed, sample, |parts| {
                for (index, logprob) in logprobs.into_iter().enumerate() {
                    if parts.authors[index] == Author::Strong {
                        parts.logprobs[index] = logprob;
                    }
                }
            });
        }
        changed
    }

    /// Of every token but the first under `policy`; 0 for that.
    pub(crate) fn logprobs(&self, policy: &Decoder, rollout: &Rollout) -> Vec<f32> {
        let tokens = &rollout.parts().tokens;
        let device = policy.device();
        let read = Tensor::new(&tokens[..tokens.len() - 1], device).unwrap();
        let read = read.unsqueeze(0).unwrap(); // [1,T]
        let select = Tensor::arange(0, tokens.len() as u32 - 1, device).unwrap();
        let targets = Tensor::new(&tokens[1..], device).unwrap();
        let logits = policy.logits(&read, &select).unwrap();
        let logprobs = model::logprobs(&logits, &targets, 1.0, self.task.stops()).unwrap();
        [vec![0.0], logprobs.to_vec1::<f32>().unwrap()].concat()
    }

    fn rollout(
        &self,
        problem: &Problem,
        (group, sample): (GroupId, SampleIndex),
        tokens: &[TokenId],
        step: u32,
    ) -> Rollout {
        let schedule = self.settings.train_schedule().unwrap();
        let sampling = self.settings.train_sampling();
        let mut session = Session::new(SessionPlan {
            rule: self.task.rule(Purpose::Train, schedule, sampling.max_tokens),
            key: RandomKey::new(self.settings.seed, Purpose::Train, &schedule, group, sample),
            prompt: self.task.strong_prompt(problem).unwrap(),
            sampling,
            stops: self.task.stops().to_vec(),
            weak_may_end: true,
            sample,
        })
        .unwrap();
        for token in tokens {
            match session.turn() {
                Turn::Strong { .. } => {
                    session.push_strong(*token, -1.0, PolicyVersion::new(1, step)).unwrap();
                }
                Turn::Weak { .. } => {
                    let (tokens, logprobs) = (&[*token], &[-0.5]);
                    let span = WeakSpan { tokens, logprobs, latency_us: 1, retries: 0 };
                    session.push_weak_span(span).unwrap();
                }
                Turn::Finished => break,
            }
        }
        let verdict = self.task.verdict(&session, problem).unwrap();
        session.finish(verdict).unwrap()
    }
}

/// Changes one sample's columns.
pub(crate) fn with_parts(
    mut group: RolloutGroup,
    sample: usize,
    change: impl FnOnce(&mut RolloutParts),
) -> RolloutGroup {
    let mut parts = group.samples[sample].parts().clone();
    change(&mut parts);
    group.samples[sample] = Rollout::new(parts).unwrap();
    group
}

/// The spans that the author column implies.
pub(crate) fn respan(parts: &mut RolloutParts) {
    parts.spans.clear();
    for (start, author) in (0..).zip(&parts.authors[parts.prompt_len..]) {
        match parts.spans.last_mut().filter(|span| span.author == *author) {
            Some(span) => span.len += 1,
            None => parts.spans.push(Span {
                author: *author,
                start,
                len: 1,
                end: SpanEnd::Boundary,
                latency_us: 0,
                retries: 0,
            }),
        }
    }
}

/// One weak token of some sample claims to be strong: the forgery that the mask must not let in.
pub(crate) fn flip_author(group: RolloutGroup) -> RolloutGroup {
    let has_weak = |rollout: &Rollout| rollout.has_handoff();
    let sample = group.samples.iter().position(has_weak).expect("some sample has a weak token");
    with_parts(group, sample, |parts| {
        let weak = parts.authors.iter().position(|author| *author == Author::Weak);
        let weak = weak.expect("the sample has a weak token");
        parts.authors[weak] = Author::Strong;
        parts.versions[weak] = PolicyVersion::new(1, 0);
        respan(parts);
    })
}
