//! The weak model as a function of a session's text: no cache, no batch, one forward per token.

use std::sync::Arc;

use model::{Decoder, SamplerSettings, logprob_of, sample};
use proto::{Open, SpanWritten};
use tandem::{AuthorRule, Authors, RandomKey};
use types::{Author, Purpose, TokenId};

use super::{fresh, next_logits, rules};
use crate::{Rules, SpanAsk, SpanOutcome, SpanTaken};

#[derive(Clone)]
pub(super) struct NaiveWeak {
    decoder: Decoder,
    rules: Rules,
}

impl NaiveWeak {
    pub(super) fn new(seed: u64) -> Self {
        Self { decoder: fresh("weak", seed), rules: rules() }
    }

    /// The next span after `response`, and the log-probabilities of the response from `from` on.
    pub(super) fn write(&self, open: &Open, response: &[TokenId], from: u32) -> SpanWritten {
        let settings = SamplerSettings {
            temperature: f64::from(open.sampling.temperature),
            top_p: f64::from(open.sampling.top_p),
            banned: open.sampling.banned.clone(),
            stops: open.stops.clone(),
        };
        let mut drawing = settings.clone();
        if !open.weak_may_end {
            drawing.banned.extend(&open.stops);
        }
        let key = RandomKey::from_bytes(open.key);
        let schedule = open.schedule.parse().unwrap();
        let rule = self.rules.task.rule(Purpose::Train, schedule, open.sampling.max_tokens);
        let rule = AuthorRule { max_gap: open.max_gap, ..(*rule).clone() };
        let mut authors = Authors::new(Arc::new(rule), key);
        let mut text = open.prompt.clone();
        let mut written = SpanWritten::default();
        for (index, token) in response.iter().enumerate() {
            if index >= from as usize {
                let logits = next_logits(&self.decoder, &text);
                written.append_logprobs.push(logprob_of(&logits, &settings, *token).unwrap());
            }
            authors.push(*token);
            text.push(*token);
        }
        while authors.author() == Author::Weak && authors.position() < open.sampling.max_tokens {
            let u = key.uniform(u64::from(authors.position()));
            let drawn = sample(&next_logits(&self.decoder, &text), &drawing, u).unwrap();
            written.tokens.push(drawn.token);
            written.logprobs.push(drawn.logprob);
            authors.push(drawn.token);
            text.push(drawn.token);
            if open.stops.contains(&drawn.token) {
                break;
            }
        }
        written
    }

    pub(super) fn outcome(&self, ask: &SpanAsk) -> SpanOutcome {
        let written = self.write(&ask.open, &ask.response, ask.known);
        let latency = std::time::Duration::from_millis(1);
        let taken = SpanTaken { from: ask.known, written, latency, retries: 0 };
        SpanOutcome { rollout: ask.rollout, result: Ok(taken) }
    }
}
