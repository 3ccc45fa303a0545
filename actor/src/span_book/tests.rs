//! The book against a clock that only the tests move.

use std::sync::Arc;

use proto::{Open, SpanFailure};
use types::Sampling;

use super::*;

const LIMITS: SpanLimits = SpanLimits { deadline: Duration::from_secs(8), retries_max: 2 };

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn ask(rollout: u64, known: u32, response: &[u32]) -> SpanAsk {
    let sampling = Sampling { temperature: 1.0, top_p: 1.0, max_tokens: 30, banned: vec![] };
    let open = Open {
        prompt: vec![1],
        schedule: "word:0.25".to_owned(),
        key: [0; 32],
        sampling,
        stops: vec![2],
        weak_may_end: true,
        max_gap: 32,
    };
    let rollout = RolloutId(rollout);
    let (open, until) = (Arc::new(open), Instant::now() + seconds(1000));
    SpanAsk { rollout, open, known, response: response.to_vec(), until }
}

fn written(session: SessionId, appended: usize) -> SpanReply {
    let append_logprobs = vec![-1.0; appended];
    let (tokens, logprobs) = (vec![9], vec![-0.5]);
    let result = Ok(SpanWritten { tokens, logprobs, append_logprobs, ..SpanWritten::default() });
    SpanReply { session, result }
}

fn fault(session: SessionId, fault: SpanFault) -> SpanReply {
    SpanReply { session, result: Err(SpanFailure { fault, reason: String::new() }) }
}

fn only(mut requests: Vec<SpanRequest>) -> SpanRequest {
    assert_eq!(requests.len(), 1);
    requests.remove(0)
}

#[test]
fn a_session_opens_once_and_then_carries_only_news() {
    let (mut book, now) = (SpanBook::new(LIMITS), Instant::now());
    book.ask(ask(7, 0, &[3, 4]), now);
    let first = only(book.due(now));
    assert!(first.open.is_some() && first.from == 0 && first.append == [3, 4]);
    assert_eq!(first.prefix_hash, SpanRequest::hash_prefix(&[1], &[]));
    assert!(book.due(now).is_empty());
    let outcome = book.reply(written(first.session, 2), now + seconds(1)).unwrap();
    let taken = outcome.result.unwrap();
    assert_eq!((taken.from, taken.retries, taken.latency), (0, 0, seconds(1)));
    // A copy of the answer settles nothing.
    assert!(book.reply(written(first.session, 2), now).is_none() && book.is_idle());

    book.ask(ask(7, 3, &[3, 4, 9, 5]), now);
    let second = only(book.due(now));
    assert_eq!((second.session, &second.open, second.from), (first.session, &None, 3));
    assert_eq!(second.append, [5]);
    assert_eq!(second.prefix_hash, SpanRequest::hash_prefix(&[1], &[3, 4, 9]));

    book.close(RolloutId(7));
    assert_eq!(book.take_closing(), [first.session]);
    assert!(book.reply(written(first.session, 1), now).is_none());
}

#[test]
fn an_overloaded_server_gets_the_same_request_later_a_confused_one_the_whole_text() {
    let (mut book, now) = (SpanBook::new(LIMITS), Instant::now());
    book.ask(ask(1, 0, &[]), now);
    let session = only(book.due(now)).session;
    book.reply(written(session, 0), now).unwrap();
    book.ask(ask(1, 1, &[9, 4]), now);
    let request = only(book.due(now));
    assert!(book.reply(fault(session, SpanFault::Overloaded), now).is_none());
    assert!(book.due(now).is_empty(), "a busy server is left alone for a while");
    let mut later = book.next_event(true).unwrap();
    assert!(later > now);
    assert_eq!(only(book.due(later)), request);
    for _ in 0..2 {
        assert!(book.reply(fault(session, SpanFault::Prefix), later).is_none());
        later = book.next_event(true).unwrap();
        let whole = only(book.due(later));
        assert_eq!((whole.from, whole.append, whole.session), (0, vec![9, 4], session));
        assert!(whole.open.is_some());
    }
    // The third fault is one too many.
    let outcome = book.reply(fault(session, SpanFault::UnknownSession), later).unwrap();
    assert!(outcome.result.unwrap_err().contains("after 2 retries, last: unknown_session"));
    assert!(book.is_idle());
}

#[test]
fn a_busy_server_is_asked_for_as_long_as_the_patience_lasts() {
    let (mut book, start) = (SpanBook::new(LIMITS), Instant::now());
    book.ask(ask(1, 0, &[]), start);
    let (mut now, mut requests) = (start, 0);
    let detail = loop {
        if let Some(outcome) = book.expire(now).pop() {
            break outcome.result.unwrap_err();
        }
        let request = only(book.due(now));
        requests += 1;
        assert!(book.reply(fault(request.session, SpanFault::Overloaded), now).is_none());
        let next = book.next_event(true).unwrap();
        assert!(next > now && next <= now + seconds(1), "a delay grows to a second at most");
        now = next;
    };
    assert!(requests > 20 && now >= start + seconds(24), "{requests} requests");
    assert!(detail.contains("weak span given up after 2") && detail.contains("overloaded"));
}

#[test]
fn nobody_waits_for_a_span_beyond_the_lease() {
    let (mut book, now) = (SpanBook::new(LIMITS), Instant::now());
    book.ask(SpanAsk { until: now + seconds(5), ..ask(1, 0, &[4]) }, now);
    assert_eq!(book.next_event(false), Some(now + seconds(5)));
    let later = now + seconds(2);
    assert_eq!(only(book.due(later)).deadline, seconds(3));
    assert!(book.stream_lost(later).is_empty());
    // Whoever keeps the leases gives the group up.
    assert!(book.due(now + seconds(5)).is_empty());
    assert!(book.expire(now + seconds(5)).is_empty());
    assert!(book.is_idle());
}

#[test]
fn silences_add_up_until_a_reply_or_another_stream() {
    let (mut book, start) =
        (SpanBook::new(SpanLimits { retries_max: 9, ..LIMITS }), Instant::now());
    // Requests that leave moments apart and fall silent moments apart are one silence.
    for rollout in 0..3 {
        let asked = start + Duration::from_millis(3 * rollout);
        book.ask(ask(rollout, 0, &[4]), asked);
        assert_eq!(book.due(asked).len(), 1);
    }
    let mut now = start;
    for _ in 0..3 {
        now = book.next_event(false).unwrap();
        assert!(book.expire(now).is_empty());
        assert_eq!(book.silences(), 1);
    }
    now += seconds(1);
    assert_eq!(book.due(now).len(), 3);
    now = book.next_event(false).unwrap();
    assert!(book.expire(now).is_empty());
    assert_eq!(book.silences(), 2);
    now += seconds(1);
    let session = book.due(now)[0].session;
    assert!(book.reply(fault(session, SpanFault::Deadline), now).is_none());
    assert_eq!(book.silences(), 0);
    now += seconds(10);
    book.expire(now);
    assert_eq!(book.silences(), 1);
    book.stream_lost(now);
    assert_eq!(book.silences(), 0);
}

#[test]
fn a_silent_server_is_asked_again_on_a_session_that_old_answers_cannot_reach() {
    let (mut book, now) = (SpanBook::new(LIMITS), Instant::now());
    book.ask(ask(1, 0, &[4]), now);
    let old = only(book.due(now)).session;
    let late = book.next_event(true).unwrap();
    assert_eq!(late, now + seconds(10));
    assert!(book.expire(late - seconds(1)).is_empty() && book.take_closing().is_empty());
    assert!(book.expire(late).is_empty());
    assert_eq!(book.take_closing(), [old]);
    let again = only(book.due(book.next_event(true).unwrap()));
    assert!(again.session != old && again.open.is_some());
    assert!(book.reply(written(old, 1), late).is_none());
    let outcome = book.reply(written(again.session, 1), late).unwrap();
    assert_eq!(outcome.result.unwrap().retries, 1);
}

#[test]
fn a_broken_stream_costs_sessions_and_too_long_a_break_the_group() {
    let (mut book, now) = (SpanBook::new(LIMITS), Instant::now());
    book.ask(ask(1, 0, &[4]), now);
    let first = only(book.due(now));
    assert!(book.stream_lost(now).is_empty());
    let again = only(book.due(now));
    assert!(again.open.is_some() && again.session != first.session);
    assert!(book.stream_lost(now).is_empty());
    // Without a server the patience for all tries together counts.
    let end = book.next_event(false).unwrap();
    assert_eq!(end, now + seconds(24));
    assert!(book.expire(end - seconds(1)).is_empty());
    let outcome = book.expire(end).remove(0);
    assert!(outcome.result.unwrap_err().contains("no weak server"));
}

#[test]
fn an_answer_that_does_not_match_its_request_fails_the_rollout() {
    let (mut book, now) = (SpanBook::new(LIMITS), Instant::now());
    book.ask(ask(1, 0, &[4, 5]), now);
    let session = only(book.due(now)).session;
    let outcome = book.reply(written(session, 1), now).unwrap();
    assert!(outcome.result.unwrap_err().contains("1 log-probabilities for 2 appended tokens"));
    assert!(book.reply(written(SessionId(99), 1), now).is_none());
}
