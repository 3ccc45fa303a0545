//! Small rollouts for this crate's tests.

use types::{
    Author, Finish, PolicyVersion, Rollout, RolloutParts, SampleIndex, Sampling, Share, Span,
    SpanEnd, Verdict,
};

/// Authors as letters (`p`, `s`, `w`), ids counted up from `first_token`, one policy step.
pub(crate) struct RolloutText<'a> {
    pub(crate) authors: &'a str,
    pub(crate) first_token: u32,
    pub(crate) step: u32,
}

/// Strong tokens have log-probabilities −0.25, −0.5, … in turn.
pub(crate) fn rollout(text: RolloutText<'_>) -> Rollout {
    let authors: Vec<Author> = text.authors.chars().map(author).collect();
    let prompt_len = authors.iter().filter(|a| **a == Author::Prompt).count();
    let mut strong = 0.0;
    let logprobs = authors.iter().map(|a| {
        strong += if *a == Author::Strong { 1.0 } else { 0.0 };
        if *a == Author::Strong { -0.25 * strong } else { 0.0 }
    });
    let versions = authors.iter().map(|a| match a {
        Author::Strong => PolicyVersion::new(1, text.step),
        _ => PolicyVersion::default(),
    });
    let parts = RolloutParts {
        sample: SampleIndex(0),
        prompt_len,
        tokens: (text.first_token..).take(authors.len()).collect(),
        logprobs: logprobs.collect(),
        versions: versions.collect(),
        weak_logprobs: vec![f32::NAN; authors.len()],
        spans: spans(&authors[prompt_len..]),
        finish: Finish::End,
        sampling: Sampling { temperature: 1.0, top_p: 1.0, max_tokens: 64, banned: vec![] },
        forced_redraws: 0,
        verdict: verdict(),
        authors,
    };
    Rollout::new(parts).expect("the fixture's columns agree")
}

fn author(letter: char) -> Author {
    match letter {
        'p' => Author::Prompt,
        's' => Author::Strong,
        'w' => Author::Weak,
        other => panic!("no author is written {other}"),
    }
}

fn spans(response: &[Author]) -> Vec<Span> {
    let span = |(start, author): (usize, &Author)| Span {
        author: *author,
        start: start as u32,
        len: 1,
        end: SpanEnd::Boundary,
        latency_us: 0,
        retries: 0,
    };
    response.iter().enumerate().map(span).collect()
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
