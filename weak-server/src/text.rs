//! What one session has said so far: prompt, response, whose turn it is, how much of it the cache
//! holds. Checks requests against it. Which cache row that is, and when to compute, is not known.

use std::sync::Arc;

use model::SamplerSettings;
use proto::{Open, SpanRequest};
use tandem::{AuthorRule, Authors, Boundaries, RandomKey, Schedule};
use types::{Author, SpanEnd, TokenId};

/// What sessions are held against.
#[derive(Clone)]
pub struct Rulebook {
    /// Of the data source.
    pub boundaries: Arc<Boundaries>,
    /// Tokens that the weak model knows.
    pub vocab: usize,
    /// Tokens that one cache row holds.
    pub session_tokens: usize,
}

/// The text of a session. After an error it is as it was before the call.
#[derive(Clone)]
pub struct SessionText {
    /// Prompt and response.
    tokens: Vec<TokenId>,
    prompt_len: usize,
    max_tokens: usize,
    vocab: usize,
    stops: Vec<TokenId>,
    authors: Authors,
    sampling: SamplerSettings,
    scoring: SamplerSettings,
    cached: usize,
}

/// A point to go back to.
#[derive(Clone)]
pub struct Mark {
    len: usize,
    authors: Authors,
}

/// Whose the appended tokens may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// The strong model's, every one.
    Strong,
    /// A whole response so far: authors follow from the tokens.
    Replay,
}

impl Mark {
    /// Tokens up to here, prompt included.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.len
    }
}

impl SessionText {
    /// An empty response.
    ///
    /// # Errors
    /// What cannot be served, in words.
    pub fn open(open: &Open, book: &Rulebook) -> Result<Self, String> {
        let schedule: Schedule = open.schedule.parse().map_err(|e| format!("{e}"))?;
        let max_tokens = open.sampling.max_tokens as usize;
        check_open(open, book, max_tokens)?;
        let mut banned = open.sampling.banned.clone();
        let sampler = |temperature: f32, banned: Vec<TokenId>| SamplerSettings {
            temperature: f64::from(temperature),
            top_p: f64::from(open.sampling.top_p),
            banned,
            stops: open.stops.clone(),
        };
        // Greedy has no log-probabilities worth having: those of the plain distribution then.
        let temperature = open.sampling.temperature;
        let scoring = sampler(if temperature == 0.0 { 1.0 } else { temperature }, banned.clone());
        if !open.weak_may_end {
            banned.extend(&open.stops);
        }
        let rule = Arc::new(AuthorRule {
            schedule,
            max_gap: open.max_gap,
            max_tokens: open.sampling.max_tokens,
            boundaries: Arc::clone(&book.boundaries),
        });
        Ok(Self {
            tokens: open.prompt.clone(),
            prompt_len: open.prompt.len(),
            max_tokens,
            vocab: book.vocab,
            stops: open.stops.clone(),
            authors: Authors::new(rule, RandomKey::from_bytes(open.key)),
            sampling: sampler(temperature, banned),
            scoring,
            cached: 0,
        })
    }

    /// Prompt and response.
    #[must_use]
    pub fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    #[must_use]
    pub fn prompt_len(&self) -> usize {
        self.prompt_len
    }

    fn prompt(&self) -> &[TokenId] {
        &self.tokens[..self.prompt_len]
    }

    #[must_use]
    pub fn response(&self) -> &[TokenId] {
        &self.tokens[self.prompt_len..]
    }

    /// Leading tokens whose keys and values the cache row holds. Never all of them: the last one
    /// is computed when what follows it is asked for.
    #[must_use]
    pub fn cached(&self) -> usize {
        self.cached
    }

    pub(crate) fn set_cached(&mut self, cached: usize) {
        debug_assert!(cached <= self.tokens.len(), "only what was said can be cached");
        self.cached = cached;
    }

    /// The distribution that the weak model writes from.
    #[must_use]
    pub fn sampling(&self) -> &SamplerSettings {
        &self.sampling
    }

    /// The distribution that appended tokens are scored under: the same, but the end is allowed
    /// and greedy counts as temperature 1.
    #[must_use]
    pub fn scoring(&self) -> &SamplerSettings {
        &self.scoring
    }

    /// What the next token is drawn with.
    #[must_use]
    pub fn uniform(&self) -> f64 {
        self.authors.key().uniform(self.response().len() as u64)
    }

    /// # Errors
    /// The caller speaks of another text.
    pub fn check_prefix(&self, from: u32, hash: u64) -> Result<(), String> {
        let here = self.response().len();
        if from as usize != here {
            return Err(format!(
                "the request continues a response of {from} tokens, here it has {here}: resend \
                 the whole response with the opening"
            ));
        }
        if hash != SpanRequest::hash_prefix(self.prompt(), self.response()) {
            return Err(format!(
                "prompt and first {from} tokens of the response are not the ones known here: \
                 resend the whole response with the opening"
            ));
        }
        Ok(())
    }

    /// # Errors
    /// Too many tokens, one outside the vocabulary or after the end, one out of turn.
    pub fn append(&mut self, tokens: &[TokenId], whose: Appended) -> Result<(), String> {
        let start = self.response().len();
        if start + tokens.len() > self.max_tokens {
            let (len, limit) = (start + tokens.len(), self.max_tokens);
            return Err(format!("a response of {len} tokens exceeds its limit of {limit}"));
        }
        let mut authors = self.authors.clone();
        let mut ended = self.ended();
        for (position, token) in (start..).zip(tokens) {
            if ended {
                return Err(format!("token {position} of the response follows the end"));
            }
            self.check_token(position, *token)?;
            if whose == Appended::Strong && authors.author() == Author::Weak {
                return Err(format!(
                    "token {position} of the response is the weak model's to write, not the \
                     strong one's"
                ));
            }
            authors.push(*token);
            ended = *token == self.end() || authors.text_is_over();
        }
        self.authors = authors;
        self.tokens.extend(tokens);
        Ok(())
    }

    /// # Errors
    /// It is not the weak model's turn.
    pub fn check_turn(&self) -> Result<(), String> {
        let position = self.response().len();
        if self.ended() {
            return Err(format!("the text ended after {position} tokens: no span can follow"));
        }
        if position >= self.max_tokens {
            let limit = self.max_tokens;
            return Err(format!("the response has all of its {limit} tokens: no span can follow"));
        }
        if self.authors.author() != Author::Weak {
            return Err(format!("position {position} is not the weak model's turn"));
        }
        Ok(())
    }

    /// Takes a token that the weak model wrote; says why its span ends with it, if it does.
    pub fn push_written(&mut self, token: TokenId) -> Option<SpanEnd> {
        let boundary = self.authors.push(token);
        self.tokens.push(token);
        if token == self.end() || self.authors.text_is_over() {
            return Some(SpanEnd::End);
        }
        if self.response().len() >= self.max_tokens {
            return Some(SpanEnd::Limit);
        }
        if self.authors.author() == Author::Weak {
            return None;
        }
        let forced = boundary.is_some_and(|boundary| boundary.forced);
        Some(if forced { SpanEnd::MaxGap } else { SpanEnd::Boundary })
    }

    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark { len: self.tokens.len(), authors: self.authors.clone() }
    }

    /// Forgets what came after the mark.
    pub fn rewind(&mut self, mark: Mark) {
        self.tokens.truncate(mark.len);
        self.authors = mark.authors;
        self.cached = self.cached.min(self.tokens.len() - 1);
    }

    /// Takes over the cached prompt of the session that this one replaces.
    pub fn reuse_prompt_of(&mut self, old: &Self) {
        let (prompt, old_prompt) = (&self.tokens[..self.prompt_len], &old.tokens[..old.prompt_len]);
        if prompt == old_prompt {
            // What follows the last prompt token may have to be scored, so that one is computed.
            self.cached = old.cached.min(self.prompt_len - 1);
        }
    }

    fn end(&self) -> TokenId {
        self.stops[0]
    }

    fn ended(&self) -> bool {
        self.response().last() == Some(&self.end()) || self.authors.text_is_over()
    }

    fn check_token(&self, position: usize, token: TokenId) -> Result<(), String> {
        if token as usize >= self.vocab {
            let vocab = self.vocab;
            return Err(format!("token {token} at position {position} is outside {vocab} tokens"));
        }
        let end = self.end();
        if token != end && self.stops.contains(&token) {
            return Err(format!(
                "token {token} at position {position} ends the text: write it as the canonical \
                 end {end}"
            ));
        }
        Ok(())
    }
}

fn check_open(open: &Open, book: &Rulebook, max_tokens: usize) -> Result<(), String> {
    if open.prompt.is_empty() {
        return Err("the weak model's prompt is empty".to_owned());
    }
    if open.stops.is_empty() {
        return Err("no token ends the text: name at least one".to_owned());
    }
    if max_tokens == 0 {
        return Err("sampling.max_tokens is 0 but must be at least 1".to_owned());
    }
    let (temperature, top_p) = (open.sampling.temperature, open.sampling.top_p);
    if !(temperature >= 0.0 && temperature.is_finite() && top_p > 0.0 && top_p <= 1.0) {
        return Err(format!("temperature {temperature} with top_p {top_p} cannot be sampled"));
    }
    let lists =
        [("prompt", &open.prompt), ("ban", &open.sampling.banned), ("set of ends", &open.stops)];
    for (what, ids) in lists {
        if let Some(id) = ids.iter().find(|id| **id as usize >= book.vocab) {
            return Err(format!("token {id} of the {what} is outside {} tokens", book.vocab));
        }
    }
    let (prompt, room) = (open.prompt.len(), book.session_tokens);
    // The last token of a response is never computed.
    if prompt + max_tokens > room + 1 {
        return Err(format!(
            "a prompt of {prompt} tokens and a response of up to {max_tokens} do not fit \
             weak_server.session_tokens = {room}: raise it or lower sampling.max_tokens"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tandem::StopTexts;

    use super::*;
    use crate::fixtures::{open, rulebook};

    fn text(schedule: &str) -> SessionText {
        SessionText::open(&open(schedule, 1), &rulebook()).unwrap()
    }

    fn refused(change: impl FnOnce(&mut Open)) -> String {
        let mut open = open("token:0.5", 1);
        change(&mut open);
        SessionText::open(&open, &rulebook()).err().expect("must be refused")
    }

    #[test]
    fn what_cannot_be_opened_is_named() {
        assert!(refused(|o| o.schedule = "words:1".into()).contains("words:1"));
        assert!(refused(|o| o.prompt.clear()).contains("prompt is empty"));
        assert!(refused(|o| o.prompt.push(142)).contains("token 142 of the prompt"));
        assert!(refused(|o| o.stops.clear()).contains("no token ends"));
        assert!(refused(|o| o.stops.push(500)).contains("token 500 of the set of ends"));
        assert!(refused(|o| o.sampling.banned.push(999)).contains("token 999 of the ban"));
        assert!(refused(|o| o.sampling.temperature = f32::NAN).contains("NaN"));
        assert!(refused(|o| o.sampling.max_tokens = 0).contains("max_tokens is 0"));
        let long = refused(|o| o.prompt = vec![5; 100]);
        assert!(long.contains("100 tokens") && long.contains("session_tokens = 128"), "{long}");
        assert_eq!(text("token:0.5").response(), [0; 0]);
    }

    #[test]
    fn tokens_out_of_place_change_nothing() {
        let mut text = text("token:0");
        text.append(&[5, 6], Appended::Strong).unwrap();
        for (tokens, reason) in [
            (vec![7, 142], "token 142 at position 3"),
            (vec![1, 7], "token 3 of the response follows the end"),
            (vec![7; 30], "32 tokens exceeds its limit of 30"),
        ] {
            let error = text.append(&tokens, Appended::Strong).unwrap_err();
            assert!(error.contains(reason), "{error}");
            assert_eq!(text.response(), [5, 6]);
        }
        assert!(text.check_turn().unwrap_err().contains("position 2 is not the weak model's"));
    }

    #[test]
    fn weak_positions_are_appended_on_a_replay_only() {
        let mut text = text("token:1");
        let error = text.append(&[5], Appended::Strong).unwrap_err();
        assert!(error.contains("token 0 of the response is the weak model's"), "{error}");
        text.append(&[5], Appended::Replay).unwrap();
        text.check_turn().unwrap();
        text.append(&[1], Appended::Replay).unwrap();
        assert!(text.check_turn().unwrap_err().contains("ended after 2"));
    }

    #[test]
    fn prefixes_are_told_apart_by_length_and_hash() {
        let mut text = text("token:0");
        text.append(&[5, 6], Appended::Strong).unwrap();
        let prompt = open("token:0", 1).prompt;
        let hash_of = |response: &[TokenId]| SpanRequest::hash_prefix(&prompt, response);
        text.check_prefix(2, hash_of(&[5, 6])).unwrap();
        let length = text.check_prefix(1, hash_of(&[5])).unwrap_err();
        assert!(length.contains("of 1 tokens, here it has 2"), "{length}");
        let hash = text.check_prefix(2, hash_of(&[5, 7])).unwrap_err();
        assert!(hash.contains("first 2 tokens"), "{hash}");
        let other = SpanRequest::hash_prefix(&prompt[1..], &[5, 6]);
        assert!(text.check_prefix(2, other).unwrap_err().contains("prompt"));
    }

    #[test]
    fn spans_end_where_the_schedule_says() {
        let mut weak = text("token:1");
        assert_eq!(weak.push_written(5), None);
        assert_eq!(weak.push_written(1), Some(SpanEnd::End));
        let mut weak = text("token:1");
        let ends: Vec<_> = (0..30).map(|_| weak.push_written(5)).collect();
        assert_eq!(ends.iter().position(Option::is_some), Some(29));
        assert_eq!(ends[29], Some(SpanEnd::Limit));
        let mut turns = text("alternate:token");
        turns.append(&[5], Appended::Strong).unwrap();
        assert_eq!(turns.push_written(6), Some(SpanEnd::Boundary));
    }

    #[test]
    fn the_opening_says_how_long_a_word_may_be() {
        let open = Open { max_gap: 2, ..open("alternate:word", 1) };
        let words = Boundaries::from_pieces(["</s>", " a", "b"]);
        let book = Rulebook { boundaries: Arc::new(words), ..rulebook() };
        let mut turns = SessionText::open(&Open { stops: vec![0], ..open }, &book).unwrap();
        turns.append(&[1], Appended::Strong).unwrap();
        assert_eq!(turns.push_written(2), None);
        assert_eq!(turns.push_written(2), Some(SpanEnd::MaxGap));
    }

    #[test]
    fn a_stop_text_ends_the_span_and_a_rewind_takes_it_back() {
        let pieces = ["</s>", "so", "stop", "p"].map(str::to_owned);
        let stops = StopTexts::new(&["sostop".to_owned()], pieces.iter().map(String::as_str));
        let words = Boundaries::from_pieces(&pieces).with_stop_texts(stops);
        let book = Rulebook { boundaries: Arc::new(words), ..rulebook() };
        let open = Open { stops: vec![0], ..open("token:1", 1) };
        let mut text = SessionText::open(&open, &book).unwrap();
        assert_eq!(text.push_written(1), None);
        let mark = text.mark();
        assert_eq!(text.push_written(2), Some(SpanEnd::End));
        assert!(text.check_turn().unwrap_err().contains("ended after 2"));
        text.rewind(mark);
        text.check_turn().unwrap();
        let error = text.append(&[2, 3], Appended::Replay).unwrap_err();
        assert!(error.contains("token 2 of the response follows the end"), "{error}");
        text.append(&[3], Appended::Replay).unwrap();
    }

    #[test]
    fn a_rewound_text_is_what_it_was() {
        let mut text = text("token:1");
        text.append(&[5, 6], Appended::Replay).unwrap();
        let mark = text.mark();
        text.push_written(7);
        text.set_cached(9);
        let before = text.uniform();
        text.rewind(mark);
        assert_eq!(text.response(), [5, 6]);
        assert!(text.uniform() != before);
        assert_eq!((text.cached(), text.tokens().len()), (7, 8));
    }

    #[test]
    fn the_ban_on_weak_ends_does_not_touch_scoring() {
        let open = Open { weak_may_end: false, ..open("token:1", 1) };
        let text = SessionText::open(&open, &rulebook()).unwrap();
        assert_eq!((text.sampling().banned.as_slice(), text.scoring().banned.len()), (&[1][..], 0));
    }
}
