//! Laws of every schedule, over made-up texts; nothing of sessions or models.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;

/// Ten words in a twenty-token vocabulary: even ids begin a word, 4 ends a line, 6 a sentence.
fn boundaries() -> Arc<Boundaries> {
    let pieces = (0..20).map(|id| match id {
        4 => " end\n".to_owned(),
        6 => " stop\n\n".to_owned(),
        id if id % 2 == 0 => " w".to_owned(),
        _ => "x".to_owned(),
    });
    Arc::new(Boundaries::from_pieces(pieces))
}

fn rule(schedule: &str, max_gap: u32, max_tokens: u32) -> Arc<AuthorRule> {
    let schedule = schedule.parse().unwrap();
    Arc::new(AuthorRule { schedule, max_gap, max_tokens, boundaries: boundaries() })
}

fn key(number: u64) -> RandomKey {
    RandomKey::from_bytes(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

/// A text of `len` tokens, a function of its number.
fn text(number: u64, len: usize) -> Vec<TokenId> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes.into_iter().map(|byte| u32::from(byte) % 20).collect()
}

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 64,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(20),
        ..ProptestConfig::default()
    }
}

/// Authors drawn at boundaries over many texts: (weak, all).
fn draws(schedule: &str, seed: u64, want: usize) -> (usize, usize) {
    let rule = rule(schedule, 32, 400);
    let (mut weak, mut all) = (0, 0);
    for number in seed * 1_000.. {
        let mut authors = Authors::new(Arc::clone(&rule), key(number));
        for token in text(number, 400) {
            if let Some(boundary) = authors.push(token) {
                assert!(!boundary.forced);
                all += 1;
                weak += usize::from(authors.author() == Author::Weak);
            }
        }
        if all >= want {
            return (weak, all);
        }
    }
    unreachable!("texts do not run out")
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_realised_weak_share_is_binomial(
        seed in 0u64..1_000_000,
        unit in prop::sample::select(vec!["token", "word", "line", "sentence", "chunk:3"]),
        percent in prop::sample::select(vec![0u32, 5, 10, 25, 50, 75, 90, 100]),
    ) {
        let p = f64::from(percent) / 100.0;
        let (weak, all) = draws(&format!("{unit}:{p}"), seed, 2_000);
        let bound = 5.0 * (all as f64 * p * (1.0 - p)).sqrt();
        let off = (weak as f64 - all as f64 * p).abs();
        prop_assert!(off <= bound, "{weak} of {all} at {p}");
    }

    #[test]
    fn a_replay_gives_the_same_authors_and_any_change_is_refused(
        seed in 0u64..1_000_000,
        schedule in prop::sample::select(vec![
            "token:0.25", "word:0.5", "line:0.5", "sentence:0.5", "chunk:4:0.5",
            "markov:0.25:0.8", "alternate:word", "takeover:0.5",
        ]),
        len in 20usize..60,
        at in 0usize..20,
    ) {
        let (rule, key, tokens) = (rule(schedule, 8, 60), key(seed), text(seed, len));
        let authors = replay(&rule, key, &tokens);
        prop_assert_eq!(check_authors(&rule, key, &tokens, &authors), Ok(()));

        let mut flipped = authors.clone();
        flipped[at] = if authors[at] == Author::Weak { Author::Strong } else { Author::Weak };
        prop_assert_eq!(
            check_authors(&rule, key, &tokens, &flipped),
            Err(AuthorMismatch::Token { position: at, recorded: flipped[at], replayed: authors[at] })
        );
        let mut shifted = authors.clone();
        shifted.rotate_right(1);
        prop_assert_eq!(check_authors(&rule, key, &tokens, &shifted).is_ok(), shifted == authors);
        let dropped = AuthorMismatch::Lengths { tokens: len, authors: 0 };
        prop_assert_eq!(check_authors(&rule, key, &tokens, &[]), Err(dropped));
    }

    #[test]
    fn no_word_run_outlasts_max_gap(
        seed in 0u64..1_000_000,
        max_gap in 1u32..12,
        unit in prop::sample::select(vec!["word:0.5", "alternate:word", "takeover:0"]),
    ) {
        let mut authors = Authors::new(rule(unit, max_gap, 200), key(seed));
        let (mut gap, mut forced) = (0, 0);
        for token in text(seed, 200) {
            let before = authors.author();
            gap += 1;
            match authors.push(token) {
                Some(boundary) => {
                    prop_assert_eq!(boundary.forced, token % 2 == 1);
                    prop_assert!(!boundary.forced || gap == max_gap);
                    forced += u32::from(boundary.forced);
                    gap = 0;
                }
                None => prop_assert_eq!(before, authors.author()),
            }
            prop_assert!(gap < max_gap);
        }
        prop_assert_eq!(authors.forced_redraws(), forced);
    }
}

#[test]
fn only_words_are_forced_and_only_where_a_gap_is_set() {
    let tokens = [1; 40];
    for (schedule, max_gap, forced) in
        [("word:0.5", 8, 5), ("word:0.5", 0, 0), ("line:0.5", 8, 0), ("chunk:9:0.5", 8, 0)]
    {
        let mut authors = Authors::new(rule(schedule, max_gap, 40), key(3));
        for token in tokens {
            authors.push(token);
        }
        assert_eq!(authors.forced_redraws(), forced, "{schedule}");
    }
}

#[test]
fn boundaries_are_numbered_and_their_coins_decide() {
    let key = key(5);
    let mut authors = Authors::new(rule("word:0.5", 32, 60), key);
    let by_coin = |index| if key.coin(index) < 0.5 { Author::Weak } else { Author::Strong };
    assert_eq!(authors.author(), by_coin(0));
    let mut expected = 1;
    for token in text(5, 60) {
        if let Some(boundary) = authors.push(token) {
            assert_eq!(boundary, Boundary { index: expected, forced: false });
            assert_eq!(authors.author(), by_coin(expected));
            expected += 1;
        }
    }
    assert!(expected > 20);
}

#[test]
fn chunks_keep_their_author_for_n_tokens() {
    let rule = rule("chunk:8:0.5", 32, 400);
    for number in 0..20 {
        let authors = replay(&rule, key(number), &text(number, 400));
        for chunk in authors.chunks(8) {
            assert!(chunk.iter().all(|author| *author == chunk[0]));
        }
    }
}

#[test]
fn markov_starts_with_p_and_changes_as_often_as_stay_and_p_say() {
    let (p, stay, rule) = (0.25, 0.8, rule("markov:0.25:0.8", 32, 100));
    let (mut first, mut weak, mut to_weak, mut to_strong, mut pairs) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for number in 0..2_000 {
        let authors = replay(&rule, key(number), &text(number, 100));
        first += f64::from(u8::from(authors[0] == Author::Weak));
        for pair in authors.windows(2) {
            pairs += 1.0;
            weak += f64::from(u8::from(pair[0] == Author::Weak));
            to_weak += f64::from(u8::from(pair == [Author::Strong, Author::Weak]));
            to_strong += f64::from(u8::from(pair == [Author::Weak, Author::Strong]));
        }
    }
    assert!((first / 2_000.0 - p).abs() < 0.05, "start {first}");
    assert!((weak / pairs - p).abs() < 0.01, "share {}", weak / pairs);
    let leave_strong = to_weak / (pairs - weak);
    assert!((leave_strong - (1.0 - stay) * p).abs() < 0.005, "strong to weak {leave_strong}");
    let leave_weak = to_strong / weak;
    assert!((leave_weak - (1.0 - stay) * (1.0 - p)).abs() < 0.01, "weak to strong {leave_weak}");
}

#[test]
fn markov_at_its_edges() {
    let stuck = replay(&rule("markov:0.5:1", 32, 100), key(1), &text(1, 100));
    assert!(stuck.iter().all(|author| *author == stuck[0]));
    let free = replay(&rule("markov:0.5:0", 32, 100), key(1), &text(1, 100));
    assert_eq!(free, replay(&rule("token:0.5", 32, 100), key(1), &text(1, 100)));
}

#[test]
fn alternate_takes_strict_turns_strong_first() {
    let rule = rule("alternate:line", 32, 400);
    for number in 0..20 {
        let tokens = text(number, 400);
        let mut expected = Author::Strong;
        for (token, author) in tokens.iter().zip(replay(&rule, key(number), &tokens)) {
            assert_eq!(author, expected);
            if matches!(token, 4 | 6) {
                expected = if author == Author::Strong { Author::Weak } else { Author::Strong };
            }
        }
    }
}

#[test]
fn alternating_chunks_have_n_tokens_each() {
    let authors = replay(&rule("alternate:chunk:3", 32, 40), key(1), &text(1, 40));
    for (at, author) in authors.iter().enumerate() {
        let expected = if at / 3 % 2 == 0 { Author::Strong } else { Author::Weak };
        assert_eq!(*author, expected, "token {at}");
    }
}

#[test]
fn takeover_hands_over_once_at_the_first_word_boundary_after_the_fraction() {
    let rule = rule("takeover:0.5", 32, 100);
    for number in 0..50 {
        let tokens = text(number, 100);
        let authors = replay(&rule, key(number), &tokens);
        let weak_from = authors.iter().position(|a| *a == Author::Weak).expect("it hands over");
        let boundary = (50..).find(|at| tokens[at - 1].is_multiple_of(2)).expect("some word ends");
        assert_eq!(weak_from, boundary);
        assert!(authors[weak_from..].iter().all(|author| *author == Author::Weak));
    }
    let at_once = replay(&self::rule("takeover:0", 32, 100), key(1), &text(1, 100));
    assert!(at_once.iter().all(|author| *author == Author::Weak));
}

#[test]
fn solo_schedules_have_one_author() {
    for (schedule, author) in [("token:0", Author::Strong), ("token:1", Author::Weak)] {
        let authors = replay(&rule(schedule, 32, 400), key(8), &text(8, 400));
        assert!(authors.iter().all(|a| *a == author), "{schedule}");
    }
}

#[test]
fn more_tokens_than_the_limit_are_refused() {
    let (rule, tokens) = (rule("token:0.5", 32, 10), text(1, 11));
    let authors = replay(&rule, key(1), &tokens);
    let error = check_authors(&rule, key(1), &tokens, &authors).unwrap_err();
    assert_eq!(error, AuthorMismatch::TooLong { tokens: 11, max_tokens: 10 });
}
