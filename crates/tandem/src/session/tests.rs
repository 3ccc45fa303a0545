//! Sessions driven by made-up authors; nothing of the schedules' laws, which `authors` tests.

use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use types::Share;

use super::*;
use crate::{Boundaries, Schedule, StopTexts, check_rollout};

const STOP: TokenId = 19;
const OTHER_STOP: TokenId = 18;
const V3: PolicyVersion = PolicyVersion { generation: types::Generation(1), step: 3 };

fn plan(schedule: &str, seed: u8, max_tokens: u32) -> SessionPlan {
    let pieces: Vec<String> = (0..20)
        .map(|id| match id {
            4 => " end\n".to_owned(),
            id if id % 2 == 0 => " w".to_owned(),
            _ => "x".to_owned(),
        })
        .collect();
    let stop_texts = StopTexts::new(&["x end".to_owned()], pieces.iter().map(String::as_str));
    let boundaries = Arc::new(Boundaries::from_pieces(&pieces).with_stop_texts(stop_texts));
    let schedule: Schedule = schedule.parse().unwrap();
    SessionPlan {
        rule: Arc::new(AuthorRule { schedule, max_gap: 4, max_tokens, boundaries }),
        key: RandomKey::from_bytes([seed; 32]),
        prompt: vec![1, 2, 3],
        sampling: Sampling { temperature: 1.0, top_p: 1.0, max_tokens, banned: vec![] },
        stops: vec![STOP, OTHER_STOP],
        weak_may_end: true,
        sample: SampleIndex(2),
    }
}

fn verdict() -> Verdict {
    Verdict {
        text: String::new(),
        extracted: None,
        answered_by: None,
        correct: true,
        reward: 1.0,
        jargon: Share::default(),
    }
}

fn weak<'a>(tokens: &'a [TokenId], logprobs: &'a [f32]) -> WeakSpan<'a> {
    WeakSpan { tokens, logprobs, latency_us: 10, retries: 1 }
}

/// Alternating words, strong first: `0` is a whole word, `1` goes on.
fn alternating() -> Session {
    Session::new(plan("alternate:word", 0, 6)).unwrap()
}

/// The tokens the weak model would write: a whole turn, cut to `cap`.
fn weak_turn(session: &Session, text: &[TokenId], cap: usize) -> Vec<TokenId> {
    let mut state = session.state.clone();
    let mut tokens = Vec::new();
    let room = cap.min(session.room() as usize);
    while state.author() == Author::Weak && tokens.len() < room {
        let token = session.canonical(text[state.position() as usize]);
        state.push(token);
        tokens.push(token);
        if token == STOP || state.text_is_over() {
            break;
        }
    }
    tokens
}

/// Drives a session to its end, weak turns cut to `cap` tokens at most.
fn drive(session: &mut Session, text: &[TokenId], cap: usize) {
    let mut seen_by_weak = 0;
    loop {
        match session.turn() {
            Turn::Finished => break,
            Turn::Strong { position } => {
                session.push_strong(text[position as usize], -0.5, V3).unwrap();
            }
            Turn::Weak { position, limit } => {
                let news = vec![-2.0; session.response().len() - seen_by_weak as usize];
                session.set_weak_logprobs(seen_by_weak, &news).unwrap();
                let tokens = weak_turn(session, text, cap.min(limit as usize));
                session.push_weak_span(weak(&tokens, &vec![-0.25; tokens.len()])).unwrap();
                seen_by_weak = position + tokens.len() as u32;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 256,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(21),
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_interleaving_yields_a_rollout_whose_authors_replay(
        seed in 0u8..255,
        schedule in prop::sample::select(vec![
            "token:0", "token:1", "token:0.25", "word:0.5", "line:0.5", "chunk:4:0.5",
            "markov:0.5:0.5", "alternate:word", "takeover:0.5",
        ]),
        text in prop::collection::vec(0u32..20, 40),
        cap in 1usize..40,
        max_tokens in 1u32..40,
    ) {
        let plan = plan(schedule, seed, max_tokens);
        let mut session = Session::new(plan.clone()).unwrap();
        drive(&mut session, &text, cap);
        let finish = session.finish_reason();
        let rollout = session.finish(verdict()).unwrap();
        prop_assert_eq!(check_rollout(&plan.rule, plan.key, &rollout), Ok(()));

        let parts = rollout.parts();
        let response = &parts.tokens[rollout.response()];
        let text_end = plan.rule.boundaries.stop_texts().first_end(response);
        prop_assert!(text_end.is_none_or(|at| at + 1 == response.len()));
        let ended = response.last() == Some(&STOP) || text_end.is_some();
        prop_assert_eq!(finish == Some(Finish::End), ended);
        prop_assert!(!response.contains(&OTHER_STOP));
        prop_assert!(!response[..response.len() - 1].contains(&STOP));
        // Spans are maximal, and each weak one was requested at least once.
        prop_assert!(parts.spans.windows(2).all(|pair| pair[0].author != pair[1].author));
        for span in &parts.spans {
            prop_assert_eq!(span.author == Author::Weak, span.retries > 0);
        }
        // The weak model has seen every strong token before its last turn.
        let last_weak = parts.authors.iter().rposition(|a| *a == Author::Weak);
        for (index, author) in parts.authors.iter().enumerate() {
            let known = *author == Author::Strong && Some(index) < last_weak;
            prop_assert_eq!(parts.weak_logprobs[index].is_nan(), !known);
            prop_assert_eq!(parts.versions[index] == V3, *author == Author::Strong);
        }
    }

    #[test]
    fn a_rollout_with_a_changed_author_is_refused(
        seed in 0u8..255,
        text in prop::collection::vec(0u32..18, 40),
        at in 0usize..30,
    ) {
        let plan = plan("word:0.5", seed, 30);
        let mut session = Session::new(plan.clone()).unwrap();
        drive(&mut session, &text, 40);
        let mut parts = session.finish(verdict()).unwrap().into_parts();
        let response = parts.authors.len() - 3;
        let author = &mut parts.authors[3 + at % response];
        *author = if *author == Author::Weak { Author::Strong } else { Author::Weak };
        // Spans that hide the change let the columns pass; the replay does not.
        parts.spans = parts.authors[3..].iter().zip(0..).map(|(author, start)| Span {
            author: *author, start, len: 1, end: SpanEnd::Boundary, latency_us: 0, retries: 0,
        }).collect();
        let rollout = Rollout::new(parts).unwrap();
        prop_assert!(check_rollout(&plan.rule, plan.key, &rollout).is_err());
    }
}

#[test]
fn columns_and_spans_say_what_happened() {
    let mut session = alternating();
    assert_eq!(session.turn(), Turn::Strong { position: 0 });
    session.push_strong(1, -0.5, V3).unwrap();
    session.push_strong(0, -0.75, V3).unwrap();
    assert_eq!(session.turn(), Turn::Weak { position: 2, limit: 4 });
    session.set_weak_logprobs(0, &[-1.0, -2.0]).unwrap();
    session.push_weak_span(weak(&[1], &[-0.1])).unwrap();
    assert_eq!(session.turn(), Turn::Weak { position: 3, limit: 3 });
    session.push_weak_span(weak(&[0], &[-0.2])).unwrap();
    session.push_strong(OTHER_STOP, -0.3, V3).unwrap();
    assert_eq!((session.turn(), session.finish_reason()), (Turn::Finished, Some(Finish::End)));
    assert_eq!(session.push_strong(0, -0.1, V3), Err(SessionError::Finished(5)));

    let parts = session.finish(verdict()).unwrap().into_parts();
    let (p, s, w) = (Author::Prompt, Author::Strong, Author::Weak);
    assert_eq!(parts.tokens, [1, 2, 3, 1, 0, 1, 0, STOP]);
    assert_eq!(parts.authors, [p, p, p, s, s, w, w, s]);
    assert_eq!(parts.logprobs, [0.0, 0.0, 0.0, -0.5, -0.75, -0.1, -0.2, -0.3]);
    assert_eq!(parts.weak_logprobs[3..5], [-1.0, -2.0]);
    let span = |author, start, len, end, latency_us, retries| Span {
        author,
        start,
        len,
        end,
        latency_us,
        retries,
    };
    assert_eq!(
        parts.spans,
        [
            span(s, 0, 2, SpanEnd::Boundary, 0, 0),
            span(w, 2, 2, SpanEnd::Boundary, 20, 2),
            span(s, 4, 1, SpanEnd::End, 0, 0),
        ]
    );
}

#[test]
fn limits_and_forced_boundaries_end_spans() {
    let mut session = alternating();
    for _ in 0..4 {
        session.push_strong(1, -0.5, V3).unwrap();
    }
    session.push_weak_span(weak(&[1, 1], &[-0.5, -0.5])).unwrap();
    assert_eq!(session.finish_reason(), Some(Finish::Truncated));
    let parts = session.finish(verdict()).unwrap().into_parts();
    assert_eq!(parts.forced_redraws, 1);
    let ends: Vec<_> = parts.spans.iter().map(|span| span.end).collect();
    assert_eq!(ends, [SpanEnd::MaxGap, SpanEnd::Limit]);
}

#[test]
fn what_is_out_of_turn_is_refused_and_changes_nothing() {
    let mut session = alternating();
    let refused = session.push_weak_span(weak(&[0], &[-0.1])).unwrap_err();
    assert!(refused.to_string().contains("recorded as weak, the schedule gives it to strong"));
    session.push_strong(0, -0.5, V3).unwrap();
    let refused = session.push_strong(0, -0.5, V3).unwrap_err();
    assert!(refused.to_string().contains("token 1 of the response is recorded as strong"));

    let before = format!("{session:?}");
    let cases: [(&[TokenId], &[f32], &str); 8] = [
        (&[], &[], "weak span of 0 tokens does not fit 5"),
        (&[1; 6], &[-0.1; 6], "weak span of 6 tokens does not fit 5"),
        (&[0, 0], &[-0.1; 2], "token 2 of the response is recorded as weak"),
        (&[1], &[], "0 log-probabilities for 1 tokens"),
        (&[1], &[0.5], "log-probability 0.5 at position 1"),
        (&[1], &[f32::NAN], "log-probability NaN at position 1"),
        (&[STOP, 1], &[-0.1; 2], "position 2: tokens follow the end"),
        (&[1, 1, 1, 1, 1], &[-0.1; 5], "token 5 of the response is recorded as weak"),
    ];
    for (tokens, logprobs, message) in cases {
        let error = session.push_weak_span(weak(tokens, logprobs)).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
    assert!(session.set_weak_logprobs(0, &[-1.0, -1.0]).is_err());
    assert!(session.set_weak_logprobs(0, &[1.0]).is_err());
    assert_eq!(format!("{session:?}"), before);
    assert_eq!(session.finish(verdict()), Err(SessionError::Unfinished(1)));
}

#[test]
fn the_weak_model_may_be_forbidden_to_end() {
    let mut plan = plan("token:1", 0, 6);
    plan.weak_may_end = false;
    let mut session = Session::new(plan).unwrap();
    let error = session.push_weak_span(weak(&[1, OTHER_STOP], &[-0.1; 2])).unwrap_err();
    assert_eq!(error, SessionError::WeakEnd { position: 1 });
    session.push_weak_span(weak(&[1; 6], &[-0.1; 6])).unwrap();
    assert_eq!(session.finish_reason(), Some(Finish::Truncated));
}

#[test]
fn impossible_plans_are_refused() {
    let refused = |change: fn(&mut SessionPlan)| {
        let mut plan = plan("token:0.5", 0, 6);
        change(&mut plan);
        Session::new(plan).map(drop).unwrap_err().to_string()
    };
    assert!(refused(|p| p.prompt.clear()).contains("prompt of at least one token"));
    assert!(refused(|p| p.stops.clear()).contains("at least one stop token"));
    assert!(refused(|p| p.sampling.max_tokens = 7).contains("limit of 6"));
}

#[test]
fn a_stop_text_ends_the_rollout_with_the_token_that_completes_it() {
    let mut session = Session::new(plan("token:0", 0, 6)).unwrap();
    for token in [4, 1, 4] {
        assert_eq!(session.finish_reason(), None);
        session.push_strong(token, -0.1, V3).unwrap();
    }
    assert_eq!((session.finish_reason(), session.turn()), (Some(Finish::End), Turn::Finished));
    assert!(matches!(session.push_strong(0, -0.1, V3), Err(SessionError::Finished(3))));
    let rollout = session.finish(verdict()).unwrap();
    assert_eq!(rollout.parts().tokens[3..], [4, 1, 4]);
    assert_eq!(rollout.parts().spans[0].end, SpanEnd::End);

    // Nothing may follow it in the weak model's span either.
    let mut alone = Session::new(plan("token:1", 0, 6)).unwrap();
    let late = alone.push_weak_span(weak(&[1, 4, 1], &[-0.1; 3]));
    assert_eq!(late, Err(SessionError::AfterEnd { position: 2 }));
    alone.push_weak_span(weak(&[1, 4], &[-0.1; 2])).unwrap();
    assert_eq!(alone.finish_reason(), Some(Finish::End));

    // One author may begin it and the other complete it.
    let mut session = Session::new(plan("alternate:token", 0, 6)).unwrap();
    session.push_strong(1, -0.1, V3).unwrap();
    session.push_weak_span(weak(&[4], &[-0.1])).unwrap();
    assert_eq!(session.finish_reason(), Some(Finish::End));
}
