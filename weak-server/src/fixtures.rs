//! What the tests share: an opening, an actor that plays one rollout, the batcher with an engine
//! but without threads, and the same rollout written by the plain decoder.

use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use model::{Decoder, ModelSource, Placement, RaggedEngine, sample};
use proto::{Open, SpanRequest, SpanWritten};
use tandem::{AuthorRule, Authors, Boundaries, NamedBoundaries, RandomKey};
use types::{Author, Sampling, SessionId, TokenId};

use crate::batcher::{Answer, BatchLimits, Batcher};
use crate::engine::forward;
use crate::sessions::StreamId;
use crate::text::{Rulebook, SessionText};

pub(crate) const END: TokenId = 1;
pub(crate) const CAPACITY: usize = 128;
pub(crate) const LIMITS: BatchLimits =
    BatchLimits { sessions: 8, batch_rows: 8, batch_tokens: 1000, queue_requests: 16 };

pub(crate) fn decoder() -> Decoder {
    let source = ModelSource::parse("fresh:miniature-weak").unwrap();
    source.load(3, &Placement::cpu(DType::F32)).unwrap().decoder().unwrap()
}

pub(crate) fn rulebook() -> Rulebook {
    let boundaries = Arc::new(Boundaries::named(&NamedBoundaries {
        every_token_ends_a_word: true,
        line_ends: vec![3],
        sentence_ends: vec![],
    }));
    Rulebook { boundaries, vocab: 142, session_tokens: CAPACITY }
}

pub(crate) fn open(schedule: &str, key: u8) -> Open {
    Open {
        prompt: vec![4, 20, 80, 12, 30 + u32::from(key) % 8, 29],
        schedule: schedule.to_owned(),
        key: [key; 32],
        sampling: Sampling { temperature: 1.0, top_p: 1.0, max_tokens: 30, banned: vec![] },
        stops: vec![END],
        weak_may_end: true,
        max_gap: 32,
    }
}

/// Batcher and engine, one tick at a time, on a clock of their own.
pub(crate) struct Bench {
    pub(crate) batcher: Batcher,
    engine: RaggedEngine,
    pub(crate) now: Instant,
    /// Rows of every forward.
    pub(crate) forwards: Vec<usize>,
    /// Tokens of every forward.
    pub(crate) tokens: Vec<usize>,
    /// What a forward takes for each.
    pub(crate) per_token: Duration,
}

impl Bench {
    pub(crate) fn new(limits: BatchLimits) -> Self {
        Self {
            batcher: Batcher::new(limits, rulebook()),
            engine: RaggedEngine::new(decoder(), limits.sessions, CAPACITY).unwrap(),
            now: Instant::now(),
            forwards: Vec::new(),
            tokens: Vec::new(),
            per_token: Duration::ZERO,
        }
    }

    pub(crate) fn tick(&mut self) -> Vec<Answer> {
        self.now += Duration::from_millis(1);
        let steps = self.batcher.form(self.now);
        if !steps.is_empty() {
            self.forwards.push(steps.len());
            let tokens = steps.iter().map(|step| step.tokens.len()).sum();
            self.tokens.push(tokens);
            self.now += self.per_token * tokens as u32;
            let output = forward(&mut self.engine, &steps).unwrap();
            let drawn = output.draw(&self.batcher.picks()).unwrap();
            self.batcher.absorb(drawn, self.now).unwrap();
        }
        self.batcher.take_answers()
    }

    pub(crate) fn until_idle(&mut self) -> Vec<Answer> {
        let mut answers = self.batcher.take_answers();
        while !self.batcher.is_idle() {
            answers.extend(self.tick());
        }
        answers
    }

    pub(crate) fn tick_until_answer(&mut self) -> Vec<Answer> {
        loop {
            let answers = self.tick();
            if !answers.is_empty() {
                return answers;
            }
        }
    }

    pub(crate) fn ask(&mut self, stream: u64, request: SpanRequest) -> Answer {
        self.batcher.enqueue(StreamId(stream), request, self.now);
        let mut answers = self.until_idle();
        assert_eq!(answers.len(), 1);
        answers.remove(0)
    }
}

/// One rollout as an actor sees it; its strong tokens are a fixed function of key and position.
pub(crate) struct Player {
    pub(crate) session: SessionId,
    pub(crate) open: Open,
    authors: Authors,
    pub(crate) response: Vec<TokenId>,
    /// The weak model's, by position: of its own tokens and of the appended ones.
    pub(crate) logprobs: Vec<f32>,
    /// Tokens that the server has.
    sent: usize,
}

impl Player {
    pub(crate) fn new(session: u64, open: Open) -> Self {
        let authors = authors(&open);
        let (session, response) = (SessionId(session), Vec::new());
        Self { session, open, authors, response, logprobs: Vec::new(), sent: 0 }
    }

    pub(crate) fn finished(&self) -> bool {
        let limit = self.open.sampling.max_tokens as usize;
        self.response.len() >= limit || self.response.last() == Some(&END)
    }

    /// Writes as the strong model up to the next handoff, or to the end.
    pub(crate) fn write(&mut self) {
        while !self.finished() && self.authors.author() == Author::Strong {
            let token = strong_token(&self.open, self.response.len());
            self.authors.push(token);
            self.response.push(token);
        }
    }

    /// The next request; at the end, one for the log-probabilities of the tail.
    pub(crate) fn request(&mut self) -> SpanRequest {
        self.write();
        SpanRequest {
            session: self.session,
            open: (self.sent == 0).then(|| self.open.clone()),
            from: self.sent as u32,
            prefix_hash: SpanRequest::hash_prefix(&self.open.prompt, &self.response[..self.sent]),
            append: self.response[self.sent..].to_vec(),
            want_span: !self.finished(),
            deadline: Duration::from_secs(10),
        }
    }

    /// The request again, as after a session was lost.
    pub(crate) fn resend(&mut self) -> SpanRequest {
        self.sent = 0;
        self.request()
    }

    pub(crate) fn take(&mut self, written: &SpanWritten) {
        self.logprobs.truncate(self.sent);
        self.logprobs.extend(&written.append_logprobs);
        assert_eq!(self.logprobs.len(), self.response.len());
        for token in &written.tokens {
            assert_eq!(self.authors.author(), Author::Weak);
            self.authors.push(*token);
        }
        self.response.extend(&written.tokens);
        self.logprobs.extend(&written.logprobs);
        self.sent = self.response.len();
    }

    /// Nothing more to ask.
    pub(crate) fn done(&self) -> bool {
        self.finished() && self.sent == self.response.len()
    }
}

/// A whole response with the weak model's log-probability of every token.
pub(crate) struct Reference {
    pub(crate) response: Vec<TokenId>,
    pub(crate) logprobs: Vec<f32>,
}

/// The rollout by one training forward per weak token, without any cache.
pub(crate) fn reference(open: &Open) -> Reference {
    let decoder = decoder();
    let text = SessionText::open(open, &rulebook()).unwrap();
    let (mut authors, mut tokens) = (authors(open), open.prompt.clone());
    let start = tokens.len();
    while tokens.len() < start + 30 && tokens[start..].last() != Some(&END) {
        let position = tokens.len() - start;
        let token = match authors.author() {
            Author::Weak => {
                let logits = all_logits(&decoder, &tokens).pop().unwrap();
                let u = RandomKey::from_bytes(open.key).uniform(position as u64);
                sample(&logits, text.sampling(), u).unwrap().token
            }
            _ => strong_token(open, position),
        };
        authors.push(token);
        tokens.push(token);
    }
    let (last, logits) = (tokens.len() - 1, logits_tensor(&decoder, &tokens));
    let scored = logits.narrow(0, start - 1, last - start + 1).unwrap();
    let response = tokens.split_off(start);
    let targets = Tensor::new(response.as_slice(), &Device::Cpu).unwrap();
    let temperature = f64::from(open.sampling.temperature);
    let logprobs = model::logprobs(&scored, &targets, temperature, &open.stops).unwrap();
    Reference { response, logprobs: logprobs.to_vec1().unwrap() }
}

fn logits_tensor(decoder: &Decoder, tokens: &[TokenId]) -> Tensor {
    let select: Vec<u32> = (0..tokens.len() as u32).collect();
    let rows = Tensor::new(tokens, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
    decoder.logits(&rows, &Tensor::new(select, &Device::Cpu).unwrap()).unwrap()
}

fn all_logits(decoder: &Decoder, tokens: &[TokenId]) -> Vec<Vec<f32>> {
    logits_tensor(decoder, tokens).to_vec2().unwrap()
}

fn authors(open: &Open) -> Authors {
    let rule = AuthorRule {
        schedule: open.schedule.parse().unwrap(),
        max_gap: open.max_gap,
        max_tokens: open.sampling.max_tokens,
        boundaries: rulebook().boundaries,
    };
    Authors::new(Arc::new(rule), RandomKey::from_bytes(open.key))
}

fn strong_token(open: &Open, position: usize) -> TokenId {
    let draw = RandomKey::from_bytes(open.key).uniform(1_000_000 + position as u64);
    4 + (draw * 100.0) as TokenId
}
