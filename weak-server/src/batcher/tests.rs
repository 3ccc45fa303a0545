//! The batcher with the miniature's shape, ticked by hand.

use std::time::Duration;

use proto::SpanWritten;
use types::SpanEnd;

use super::*;
use crate::fixtures::{Bench, END, LIMITS, Player, open, reference};

fn written(answer: &Answer) -> &SpanWritten {
    answer.reply.result.as_ref().expect("the request is served")
}

fn failure(answer: &Answer) -> (SpanFault, &str) {
    let failure = answer.reply.result.as_ref().expect_err("the request is refused");
    (failure.fault, &failure.reason)
}

/// Plays all rollouts to their ends, one stream each; a lost session is resent.
fn play(bench: &mut Bench, players: &mut [Player]) {
    while players.iter().any(|player| !player.done()) {
        let unfinished = players.iter_mut().enumerate().filter(|(_, player)| !player.done());
        for (stream, player) in unfinished {
            bench.batcher.enqueue(StreamId(stream as u64), player.request(), bench.now);
        }
        for answer in bench.until_idle() {
            let player = &mut players[answer.stream.0 as usize];
            assert_eq!(answer.reply.session, player.session);
            match &answer.reply.result {
                Ok(written) => player.take(written),
                Err(lost) => {
                    assert_eq!(lost.fault, SpanFault::UnknownSession, "{}", lost.reason);
                    let again = bench.ask(answer.stream.0, player.resend());
                    player.take(written(&again));
                }
            }
        }
    }
}

fn assert_reference(player: &Player) {
    let expected = reference(&player.open);
    assert_eq!(player.response, expected.response);
    for (found, expected) in player.logprobs.iter().zip(&expected.logprobs) {
        assert!((found - expected).abs() < 2e-5, "{found} instead of {expected}");
    }
    assert_eq!(player.logprobs.len(), expected.logprobs.len());
}

#[test]
fn streams_share_batches_and_each_writes_what_the_plain_decoder_writes() {
    let mut bench = Bench::new(LIMITS);
    let schedules = ["token:0.5", "word:0.25", "token:1", "line:0.5", "takeover:0.5"];
    let mut players: Vec<Player> =
        (0..).zip(schedules).map(|(i, s)| Player::new(7, open(s, i))).collect();
    play(&mut bench, &mut players);
    players.iter().for_each(assert_reference);
    assert!(bench.forwards.iter().max() >= Some(&4), "{:?}", bench.forwards);
}

#[test]
fn every_token_is_computed_once() {
    let mut bench = Bench::new(LIMITS);
    let mut players = [Player::new(1, open("token:0.5", 1)), Player::new(1, open("token:1", 2))];
    play(&mut bench, &mut players);
    let Computed { prompt, ingest, sample } = bench.batcher.counts().computed;
    let said: usize = players.iter().map(|p| p.open.prompt.len() + p.response.len()).sum();
    assert_eq!(prompt, 12);
    // The last token of a response is never asked about.
    assert_eq!(prompt + ingest + sample, said as u64 - 2);
    assert!(ingest > 0 && sample > 0);
}

#[test]
fn one_row_for_two_sessions_changes_no_token() {
    let mut bench = Bench::new(BatchLimits { sessions: 1, ..LIMITS });
    let mut players = [Player::new(1, open("token:0.5", 3)), Player::new(2, open("token:0.5", 4))];
    play(&mut bench, &mut players);
    players.iter().for_each(assert_reference);
    assert!(bench.batcher.counts().evictions >= 2, "{:?}", bench.batcher.counts());
    assert_eq!(bench.batcher.sessions(), 1);
}

#[test]
fn replies_of_one_tick_leave_together_and_newcomers_join_the_next() {
    let mut bench = Bench::new(LIMITS);
    let mut turns = |i: u8| Player::new(u64::from(i), open("alternate:token", i)).request();
    let requests: Vec<SpanRequest> = (0..3).map(&mut turns).collect();
    bench.batcher.enqueue(StreamId(0), requests[0].clone(), bench.now);
    bench.batcher.enqueue(StreamId(0), requests[1].clone(), bench.now);
    // The prompt goes in first, then the strong token with the draw.
    assert_eq!(bench.tick(), []);
    bench.batcher.enqueue(StreamId(1), requests[2].clone(), bench.now);
    let first: Vec<_> = bench.tick().iter().map(|a| a.reply.session).collect();
    assert_eq!(first, [SessionId(0), SessionId(1)]);
    let second = bench.tick();
    assert_eq!((second.len(), second[0].stream), (1, StreamId(1)));
    assert_eq!(second[0].stop, Some(SpanStop::Ended(SpanEnd::Boundary)));
    assert_eq!(bench.forwards, [2, 3, 1]);
}

#[test]
fn the_batch_has_its_bound_and_the_rest_waits() {
    let mut bench = Bench::new(BatchLimits { batch_rows: 2, ..LIMITS });
    for i in 0..5 {
        let request = Player::new(i, open("token:1", i as u8)).request();
        bench.batcher.enqueue(StreamId(0), request, bench.now);
    }
    assert_eq!(bench.until_idle().len(), 5);
    assert_eq!(bench.forwards.iter().max(), Some(&2));
}

#[test]
fn a_full_queue_answers_overloaded() {
    let mut bench = Bench::new(BatchLimits { queue_requests: 2, ..LIMITS });
    for i in 0..3 {
        let request = Player::new(i, open("token:1", 1)).request();
        bench.batcher.enqueue(StreamId(0), request, bench.now);
    }
    let answers = bench.batcher.take_answers();
    assert_eq!(answers.len(), 1);
    let (fault, reason) = failure(&answers[0]);
    assert_eq!((fault, answers[0].reply.session), (SpanFault::Overloaded, SessionId(2)));
    assert!(reason.contains("weak_server.queue_requests"), "{reason}");
    assert_eq!(bench.until_idle().len(), 2);
}

#[test]
fn a_span_that_is_cut_short_by_its_deadline_goes_on_with_the_next_request() {
    let mut bench = Bench::new(LIMITS);
    let mut player = Player::new(1, open("token:1", 5));
    let (whole, mut pieces) = (reference(&player.open).response.len(), Vec::new());
    while !player.done() {
        let mut request = player.request();
        request.deadline = Duration::from_millis(4);
        let answer = bench.ask(0, request);
        pieces.push((written(&answer).tokens.len(), answer.stop.unwrap()));
        player.take(written(&answer));
    }
    assert_reference(&player);
    let (last, cut) = pieces.split_last().unwrap();
    assert!(cut.len() >= 2 && cut.iter().all(|piece| *piece == (3, SpanStop::Deadline)), "{cut:?}");
    assert!(matches!(last.1, SpanStop::Ended(SpanEnd::End | SpanEnd::Limit)), "{last:?}");
    // Nothing was computed twice.
    let Computed { prompt, ingest, sample } = bench.batcher.counts().computed;
    assert_eq!((prompt, ingest + sample), (6, whole as u64 - 1));
}

#[test]
fn a_request_that_is_late_before_its_first_word_leaves_the_session_as_it_was() {
    let mut bench = Bench::new(LIMITS);
    let mut player = Player::new(1, open("alternate:token", 5));
    let mut request = player.request();
    // The prompt takes the first forward, the strong token with the draw would take the second.
    request.deadline = Duration::from_millis(2);
    let answer = bench.ask(0, request);
    let (fault, reason) = failure(&answer);
    assert_eq!((fault, bench.forwards.len()), (SpanFault::Deadline, 1));
    assert!(reason.contains("2 ms") && reason.contains("computed"), "{reason}");
    let mut again = player.request();
    again.open = None;
    player.take(written(&bench.ask(0, again)));
    assert_eq!(bench.batcher.counts().computed.prompt, 6);
    while !player.done() {
        let answer = bench.ask(0, player.request());
        player.take(written(&answer));
    }
    assert_reference(&player);
}

#[test]
fn a_bound_of_tokens_changes_no_token_and_is_never_exceeded() {
    for batch_tokens in [1, 3, 5] {
        let mut bench = Bench::new(BatchLimits { batch_tokens, sessions: 2, ..LIMITS });
        let schedules = ["token:0.5", "takeover:0.5", "token:1"];
        let mut players: Vec<Player> =
            (0..).zip(schedules).map(|(i, s)| Player::new(7, open(s, i))).collect();
        play(&mut bench, &mut players);
        players.iter().for_each(assert_reference);
        assert!(bench.batcher.counts().evictions > 0, "no text was read again");
        assert_eq!(bench.tokens.iter().max(), Some(&batch_tokens));
    }
}

#[test]
fn a_long_text_does_not_hold_up_the_spans_beside_it() {
    let mut bench = Bench::new(BatchLimits { batch_tokens: 3, ..LIMITS });
    let mut long = Player::new(1, open("token:1", 1));
    long.open.prompt = vec![20; 60];
    bench.batcher.enqueue(StreamId(0), long.request(), bench.now);
    let mut short = Player::new(2, open("token:1", 2));
    short.open.prompt.truncate(1);
    bench.batcher.enqueue(StreamId(1), short.request(), bench.now);
    let answers = bench.tick_until_answer();
    assert_eq!(answers[0].stream, StreamId(1), "the short text with one token a tick is first");
    assert!(bench.tokens.len() <= 30, "{:?}", bench.tokens);
}

#[test]
fn a_slow_server_reads_in_pieces_so_that_no_late_answer_looks_like_silence() {
    let mut bench = Bench::new(LIMITS);
    bench.per_token = Duration::from_millis(8);
    let deadline = Duration::from_secs(2);
    let mut asked = Vec::new();
    for i in 0..8u8 {
        let mut player = Player::new(i.into(), open("token:1", i));
        player.open.prompt = vec![20; 60];
        let request = SpanRequest { deadline, ..player.request() };
        asked.push((bench.now, request.session));
        bench.batcher.enqueue(StreamId(0), request, bench.now);
    }
    // All prompts at once would take 3.8 s, and even the first forward is more than may be.
    while !bench.batcher.is_idle() {
        for answer in bench.tick() {
            let (at, _) = asked.iter().find(|(_, of)| *of == answer.reply.session).unwrap();
            assert!(bench.now - *at <= deadline * 5 / 4, "{:?}: {:?}", answer, bench.now - *at);
        }
    }
    let (first, rest) = bench.tokens.split_first().unwrap();
    assert_eq!(*first, 256, "nothing is known yet");
    assert!(rest.iter().all(|tokens| (1..=31).contains(tokens)), "{rest:?}");
}

#[test]
fn a_request_that_is_late_before_it_starts_is_not_started() {
    let mut bench = Bench::new(LIMITS);
    let mut request = Player::new(1, open("token:1", 5)).request();
    request.deadline = Duration::ZERO;
    let answer = bench.ask(0, request);
    assert!(failure(&answer).1.contains("waiting"));
    assert_eq!((failure(&answer).0, bench.batcher.sessions()), (SpanFault::Deadline, 0));
}

#[test]
fn another_prefix_is_refused_and_healed_by_resending() {
    let mut bench = Bench::new(LIMITS);
    let mut player = Player::new(1, open("token:0.5", 6));
    let first = bench.ask(0, player.request());
    player.take(written(&first));
    for change in
        [(|r: &mut SpanRequest| r.prefix_hash ^= 1) as fn(&mut SpanRequest), |r| r.from += 1]
    {
        let mut request = player.request();
        change(&mut request);
        assert_eq!(failure(&bench.ask(0, request)).0, SpanFault::Prefix);
    }
    let computed = bench.batcher.counts().computed.prompt;
    let resent = bench.ask(0, player.resend());
    player.take(written(&resent));
    // All of the cached prompt but its last token is kept.
    assert_eq!(bench.batcher.counts().computed.prompt, computed + 1);
    while !player.done() {
        let answer = bench.ask(0, player.request());
        player.take(written(&answer));
    }
    assert_reference(&player);
}

#[test]
fn what_is_wrong_with_a_request_is_said() {
    let mut bench = Bench::new(LIMITS);
    let mut refused = |schedule: &str, change: fn(&mut SpanRequest)| {
        let mut request = Player::new(1, open(schedule, 1)).request();
        change(&mut request);
        let answer = bench.ask(0, request);
        let (fault, reason) = failure(&answer);
        assert_eq!(fault, SpanFault::Invalid, "{reason}");
        reason.to_owned()
    };
    let schedule = |r: &mut SpanRequest| r.open.as_mut().unwrap().schedule = "word:2".into();
    assert!(refused("token:1", schedule).contains("word:2"));
    assert!(
        refused("token:0", |r| {
            r.append.truncate(2);
            r.want_span = true;
        })
        .contains("position 2 is not the weak model's turn")
    );
    assert!(refused("token:1", |r| r.append = vec![9999]).contains("token 9999"));
    assert!(refused("token:1", |r| r.append = vec![5; 31]).contains("limit of 30"));
    assert!(refused("token:1", |r| r.append = vec![END]).contains("ended after 1"));
    assert!(refused("token:1", |r| r.from = 3).contains("starts at 0, not at 3"));
    let everything = |r: &mut SpanRequest| {
        r.open.as_mut().unwrap().sampling.banned = (0..142).collect();
    };
    assert!(refused("token:1", everything).contains("no token is left"));
    assert_eq!(bench.batcher.sessions(), 1);
}

#[test]
fn an_unknown_session_is_named() {
    let mut bench = Bench::new(LIMITS);
    let mut player = Player::new(9, open("token:1", 1));
    let mut request = player.request();
    request.open = None;
    let answer = bench.ask(0, request);
    assert_eq!(failure(&answer).0, SpanFault::UnknownSession);
    assert!(failure(&answer).1.contains("session 9"));
}

#[test]
fn closed_sessions_and_streams_are_not_answered() {
    let mut bench = Bench::new(LIMITS);
    for stream in 0..2 {
        for i in 0..2 {
            let request = Player::new(i, open("token:1", i as u8)).request();
            bench.batcher.enqueue(StreamId(stream), request, bench.now);
        }
    }
    assert_eq!(bench.tick(), []);
    bench.batcher.close(StreamId(0), &[SessionId(0)]);
    bench.batcher.close_stream(StreamId(1));
    let answered: Vec<_> = bench.until_idle().iter().map(|a| (a.stream, a.reply.session)).collect();
    assert_eq!(answered, [(StreamId(0), SessionId(1))]);
    assert_eq!(bench.batcher.sessions(), 1);
}

#[test]
fn requests_of_one_session_are_served_in_order() {
    let mut bench = Bench::new(LIMITS);
    let mut player = Player::new(1, open("token:1", 5));
    let (first, again) = (player.request(), player.resend());
    bench.batcher.enqueue(StreamId(0), first, bench.now);
    bench.batcher.enqueue(StreamId(0), again, bench.now);
    let answers = bench.until_idle();
    assert_eq!(answers.len(), 2);
    assert_eq!(written(&answers[0]).tokens, written(&answers[1]).tokens);
    assert_eq!(bench.forwards.iter().max(), Some(&1));
}

#[test]
fn times_are_those_of_the_clock_given() {
    let mut bench = Bench::new(BatchLimits { batch_rows: 1, ..LIMITS });
    for i in 0..2 {
        let request = Player::new(i, open("alternate:token", i as u8)).request();
        bench.batcher.enqueue(StreamId(0), request, bench.now);
    }
    let answers = bench.until_idle();
    let times: Vec<_> = answers.iter().map(|a| (written(a).queued, written(a).computed)).collect();
    let ms = Duration::from_millis;
    assert_eq!(times, [(ms(1), ms(1)), (ms(3), ms(1))]);
}
