//! Problems, rollouts and groups. The author column is required: without it nothing converts.

use prost::Message;
use types::{
    Author, Epoch, Finish, GroupId, LeaseId, PolicyVersion, Problem, Purpose, Rollout,
    RolloutGroup, RolloutParts, SampleIndex, Sampling, Share, Shot, Span, SpanEnd, Verdict,
};

use super::{ConvertError, required, unknown};
use crate::wire::rollout as wire;

impl From<Problem> for wire::Problem {
    fn from(p: Problem) -> Self {
        let shot = |s: Shot| wire::Shot { question: s.question, solution: s.solution };
        let shots = p.shots.into_iter().map(shot).collect();
        Self {
            id: p.id,
            question: p.question,
            solution: p.solution,
            answer: p.answer,
            shots,
            lead: p.lead,
        }
    }
}

impl From<wire::Problem> for Problem {
    fn from(p: wire::Problem) -> Self {
        let shot = |s: wire::Shot| Shot { question: s.question, solution: s.solution };
        let shots = p.shots.into_iter().map(shot).collect();
        Self {
            id: p.id,
            question: p.question,
            solution: p.solution,
            answer: p.answer,
            shots,
            lead: p.lead,
        }
    }
}

impl From<Sampling> for wire::Sampling {
    fn from(s: Sampling) -> Self {
        Self {
            temperature: s.temperature,
            top_p: s.top_p,
            max_tokens: s.max_tokens,
            banned: s.banned,
        }
    }
}

impl TryFrom<wire::Sampling> for Sampling {
    type Error = ConvertError;

    fn try_from(s: wire::Sampling) -> Result<Self, ConvertError> {
        let wrong = |field, value, range| Err(ConvertError::Range { field, value, range });
        if !(s.temperature.is_finite() && s.temperature >= 0.0) {
            return wrong("temperature", s.temperature, "a finite number at least 0");
        }
        if !(s.top_p > 0.0 && s.top_p <= 1.0) {
            return wrong("top_p", s.top_p, "above 0 and at most 1");
        }
        Ok(Self {
            temperature: s.temperature,
            top_p: s.top_p,
            max_tokens: s.max_tokens,
            banned: s.banned,
        })
    }
}

pub(crate) fn purpose_to_wire(purpose: Purpose) -> wire::Purpose {
    match purpose {
        Purpose::Train => wire::Purpose::Train,
        Purpose::Eval => wire::Purpose::Eval,
    }
}

pub(crate) fn purpose_from_wire(value: i32) -> Result<Purpose, ConvertError> {
    match wire::Purpose::try_from(value) {
        Ok(wire::Purpose::Train) => Ok(Purpose::Train),
        Ok(wire::Purpose::Eval) => Ok(Purpose::Eval),
        _ => Err(unknown("purpose", value)),
    }
}

fn finish_from_wire(value: i32) -> Result<Finish, ConvertError> {
    match wire::Finish::try_from(value) {
        Ok(wire::Finish::End) => Ok(Finish::End),
        Ok(wire::Finish::Truncated) => Ok(Finish::Truncated),
        _ => Err(unknown("finish", value)),
    }
}

fn finish_to_wire(finish: Finish) -> wire::Finish {
    match finish {
        Finish::End => wire::Finish::End,
        Finish::Truncated => wire::Finish::Truncated,
    }
}

fn span_end_from_wire(value: i32) -> Result<SpanEnd, ConvertError> {
    match wire::SpanEnd::try_from(value) {
        Ok(wire::SpanEnd::Boundary) => Ok(SpanEnd::Boundary),
        Ok(wire::SpanEnd::MaxGap) => Ok(SpanEnd::MaxGap),
        Ok(wire::SpanEnd::End) => Ok(SpanEnd::End),
        Ok(wire::SpanEnd::Limit) => Ok(SpanEnd::Limit),
        _ => Err(unknown("span.end", value)),
    }
}

fn span_end_to_wire(end: SpanEnd) -> wire::SpanEnd {
    match end {
        SpanEnd::Boundary => wire::SpanEnd::Boundary,
        SpanEnd::MaxGap => wire::SpanEnd::MaxGap,
        SpanEnd::End => wire::SpanEnd::End,
        SpanEnd::Limit => wire::SpanEnd::Limit,
    }
}

fn author_from_wire(code: u32) -> Result<Author, ConvertError> {
    let code = u8::try_from(code)
        .map_err(|_| ConvertError::Unknown { field: "author", value: i64::from(code) })?;
    Ok(Author::from_code(code)?)
}

impl From<Span> for wire::Span {
    fn from(s: Span) -> Self {
        Self {
            author: u32::from(s.author.code()),
            start: s.start,
            len: s.len,
            end: span_end_to_wire(s.end).into(),
            latency_us: s.latency_us,
            retries: s.retries,
        }
    }
}

impl TryFrom<wire::Span> for Span {
    type Error = ConvertError;

    fn try_from(s: wire::Span) -> Result<Self, ConvertError> {
        Ok(Self {
            author: author_from_wire(s.author)?,
            start: s.start,
            len: s.len,
            end: span_end_from_wire(s.end)?,
            latency_us: s.latency_us,
            retries: s.retries,
        })
    }
}

impl From<Verdict> for wire::Verdict {
    fn from(v: Verdict) -> Self {
        Self {
            text: v.text,
            extracted: v.extracted,
            answered_by: v.answered_by.map(|a| u32::from(a.code())),
            correct: v.correct,
            reward: v.reward,
            jargon_count: v.jargon.count,
            jargon_of: v.jargon.of,
        }
    }
}

impl TryFrom<wire::Verdict> for Verdict {
    type Error = ConvertError;

    fn try_from(v: wire::Verdict) -> Result<Self, ConvertError> {
        Ok(Self {
            text: v.text,
            extracted: v.extracted,
            answered_by: v.answered_by.map(author_from_wire).transpose()?,
            correct: v.correct,
            reward: v.reward,
            jargon: Share { count: v.jargon_count, of: v.jargon_of },
        })
    }
}

impl From<Rollout> for wire::Rollout {
    fn from(rollout: Rollout) -> Self {
        let p = rollout.into_parts();
        Self {
            sample: p.sample.0,
            prompt_len: p.prompt_len as u32,
            tokens: p.tokens,
            authors: p.authors.iter().map(|a| a.code()).collect(),
            logprobs: p.logprobs,
            versions: p.versions.iter().map(|v| v.packed()).collect(),
            weak_logprobs: p.weak_logprobs,
            spans: p.spans.into_iter().map(Into::into).collect(),
            finish: finish_to_wire(p.finish).into(),
            sampling: Some(p.sampling.into()),
            forced_redraws: p.forced_redraws,
            verdict: Some(p.verdict.into()),
        }
    }
}

impl TryFrom<wire::Rollout> for Rollout {
    type Error = ConvertError;

    fn try_from(r: wire::Rollout) -> Result<Self, ConvertError> {
        if r.authors.is_empty() {
            return Err(ConvertError::Missing("authors"));
        }
        let authors = r.authors.iter().map(|code| Author::from_code(*code));
        let spans = r.spans.into_iter().map(Span::try_from);
        let parts = RolloutParts {
            sample: SampleIndex(r.sample),
            prompt_len: r.prompt_len as usize,
            tokens: r.tokens,
            authors: authors.collect::<Result<_, _>>()?,
            logprobs: r.logprobs,
            versions: r.versions.into_iter().map(PolicyVersion::unpack).collect(),
            weak_logprobs: r.weak_logprobs,
            spans: spans.collect::<Result<_, _>>()?,
            finish: finish_from_wire(r.finish)?,
            sampling: required(r.sampling, "sampling")?.try_into()?,
            forced_redraws: r.forced_redraws,
            verdict: required(r.verdict, "verdict")?.try_into()?,
        };
        Ok(Self::new(parts)?)
    }
}

impl From<RolloutGroup> for wire::RolloutGroup {
    fn from(g: RolloutGroup) -> Self {
        Self {
            group: g.group.0,
            epoch: g.epoch.0,
            lease: g.lease.0,
            purpose: purpose_to_wire(g.purpose).into(),
            schedule: g.schedule,
            problem: Some(g.problem.into()),
            samples: g.samples.into_iter().map(Into::into).collect(),
            key_group: g.key_group.0,
        }
    }
}

/// The size of a group's message. One over `limits.message_bytes` cannot be sent.
#[must_use]
pub fn group_bytes(group: &RolloutGroup) -> usize {
    wire::RolloutGroup::from(group.clone()).encoded_len()
}

impl TryFrom<wire::RolloutGroup> for RolloutGroup {
    type Error = ConvertError;

    fn try_from(g: wire::RolloutGroup) -> Result<Self, ConvertError> {
        if g.samples.is_empty() {
            return Err(ConvertError::Missing("samples"));
        }
        let samples = g.samples.into_iter().map(Rollout::try_from);
        Ok(Self {
            group: GroupId(g.group),
            epoch: Epoch(g.epoch),
            lease: LeaseId(g.lease),
            purpose: purpose_from_wire(g.purpose)?,
            schedule: g.schedule,
            key_group: GroupId(g.key_group),
            problem: required(g.problem, "problem")?.into(),
            samples: samples.collect::<Result<_, _>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group() -> RolloutGroup {
        let span = |author, start, len| Span {
            author,
            start,
            len,
            end: SpanEnd::Boundary,
            latency_us: 7,
            retries: 1,
        };
        let parts = RolloutParts {
            sample: SampleIndex(3),
            prompt_len: 1,
            tokens: vec![1, 2, 3, 4],
            authors: vec![Author::Prompt, Author::Strong, Author::Weak, Author::Weak],
            logprobs: vec![0.0, -0.5, -1.5, -2.5],
            versions: vec![PolicyVersion::new(1, 2); 4],
            weak_logprobs: vec![0.0, -0.25, -1.5, -2.5],
            spans: vec![span(Author::Strong, 0, 1), span(Author::Weak, 1, 2)],
            finish: Finish::Truncated,
            sampling: Sampling { temperature: 0.5, top_p: 0.9, max_tokens: 3, banned: vec![9] },
            forced_redraws: 2,
            verdict: Verdict {
                text: "a b".into(),
                extracted: Some("b".into()),
                answered_by: Some(Author::Weak),
                correct: true,
                reward: 1.0,
                jargon: Share { count: 1, of: 2 },
            },
        };
        let shot = Shot { question: "p".into(), solution: "a".into() };
        let (question, answer) = ("q".into(), "b".into());
        let problem = Problem {
            id: 4,
            question,
            solution: None,
            answer,
            shots: vec![shot],
            lead: Some("so".into()),
        };
        RolloutGroup {
            group: GroupId(11),
            epoch: Epoch(1),
            lease: LeaseId(5),
            purpose: Purpose::Eval,
            schedule: "word:0.25".into(),
            key_group: GroupId(3),
            problem,
            samples: vec![Rollout::new(parts).unwrap()],
        }
    }

    fn refused(change: impl FnOnce(&mut wire::Rollout)) -> ConvertError {
        let mut wire: wire::RolloutGroup = group().into();
        change(&mut wire.samples[0]);
        RolloutGroup::try_from(wire).expect_err("must be refused")
    }

    #[test]
    fn what_cannot_be_sampled_is_refused_with_its_value() {
        let text = |change: fn(&mut wire::Sampling)| {
            refused(|r| change(r.sampling.as_mut().unwrap())).to_string()
        };
        assert_eq!(text(|s| s.top_p = 1.5), "`top_p` is 1.5 but must be above 0 and at most 1");
        assert!(text(|s| s.temperature = f32::NAN).contains("`temperature` is NaN"));
    }

    #[test]
    fn a_group_survives_the_wire() {
        let wire: wire::RolloutGroup = group().into();
        assert_eq!(RolloutGroup::try_from(wire).unwrap(), group());
    }

    #[test]
    fn a_rollout_without_or_with_a_damaged_author_column_is_refused() {
        assert_eq!(refused(|r| r.authors.clear()), ConvertError::Missing("authors"));
        assert!(refused(|r| r.authors.truncate(3)).to_string().contains("3 authors"));
        assert!(refused(|r| r.authors[1] = 7).to_string().contains("author code 7"));
        assert!(refused(|r| r.authors[1] = 2).to_string().contains("span 0 is by strong"));
        assert!(refused(|r| r.finish = 9).to_string().contains("`finish`"));
        assert!(refused(|r| r.verdict = None).to_string().contains("no `verdict`"));
    }
}
