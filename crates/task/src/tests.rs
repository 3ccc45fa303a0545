//! The tasks of both sources, on sessions written by hand.

use settings::Data;
use tandem::{RandomKey, SessionPlan, Turn, WeakSpan};
use types::{GroupId, PolicyVersion, SampleIndex, Sampling};

use super::*;

fn task() -> Task {
    let tokenizer = Tokenizer::from_json(&miniature::tokenizer_json(), "miniature").unwrap();
    let end = tokenizer.id_of("<eos>").unwrap();
    Task::new(&Settings::default(), tokenizer, vec![end]).unwrap()
}

fn problem() -> Problem {
    miniature::draw(miniature::Split::Train, 3, 5, miniature::Style::Plain)
}

/// GSM8K with a byte-level tokenizer of single characters.
fn gsm8k_task() -> Task {
    let characters = "Ġ\u{10a}0123456789#<>*=abcdefghijklmnopqrstuvwxyz";
    let mut vocab: serde_json::Map<String, serde_json::Value> =
        characters.chars().enumerate().map(|(id, c)| (c.to_string(), id.into())).collect();
    let end = vocab.len() as TokenId;
    vocab.insert("<end>".to_owned(), end.into());
    let byte_level = serde_json::json!({"type": "ByteLevel", "add_prefix_space": false,
                                        "trim_offsets": true, "use_regex": false});
    let json = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": [{"id": end, "content": "<end>", "single_word": false, "lstrip": false,
                          "rstrip": false, "normalized": false, "special": true}],
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    });
    let tokenizer = Tokenizer::from_json(&json.to_string(), "characters").unwrap();
    let data = Data { source: DataSource::Gsm8k, ..Data::default() };
    Task::new(&Settings { data, ..Settings::default() }, tokenizer, vec![end]).unwrap()
}

/// Writes `tokens`, each by whoever's turn it is.
fn written(task: &Task, schedule: &str, tokens: &[TokenId]) -> Session {
    written_for(task, &problem(), schedule, tokens)
}

fn written_for(task: &Task, problem: &Problem, schedule: &str, tokens: &[TokenId]) -> Session {
    let schedule: Schedule = schedule.parse().unwrap();
    let sampling = Sampling { temperature: 1.0, top_p: 1.0, max_tokens: 80, banned: vec![] };
    let plan = SessionPlan {
        rule: task.rule(Purpose::Train, schedule, sampling.max_tokens),
        key: RandomKey::new(1, Purpose::Train, &schedule, GroupId(2), SampleIndex(0)),
        prompt: task.strong_prompt(problem).unwrap(),
        sampling,
        stops: task.stops().to_vec(),
        weak_may_end: true,
        sample: SampleIndex(0),
    };
    let mut session = Session::new(plan).unwrap();
    for token in tokens {
        match session.turn() {
            Turn::Strong { .. } => {
                session.push_strong(*token, -0.1, PolicyVersion::new(1, 0)).unwrap();
            }
            Turn::Weak { .. } => {
                let (tokens, logprobs) = (&[*token], &[-0.1]);
                let span = WeakSpan { tokens, logprobs, latency_us: 1, retries: 0 };
                session.push_weak_span(span).unwrap();
            }
            Turn::Finished => panic!("ended early"),
        }
    }
    session
}

#[test]
fn the_worked_solution_is_correct_and_plain() {
    let (task, problem) = (task(), problem());
    let tokens = task.solution(&problem).unwrap();
    let verdict = task.verdict(&written(&task, "token:0", &tokens), &problem).unwrap();
    assert_eq!(verdict.text, problem.solution.clone().unwrap());
    assert_eq!(verdict.extracted.as_deref(), Some(problem.answer.as_str()));
    assert_eq!((verdict.correct, verdict.reward), (true, 1.0));
    assert_eq!(verdict.answered_by, Some(Author::Strong));
    let lines = verdict.text.matches(';').count() as u32;
    assert_eq!(verdict.jargon, Share { count: 0, of: 6 * lines });
}

#[test]
fn the_weak_models_words_are_not_the_strong_models_jargon() {
    let (task, problem) = (task(), problem());
    let jargon = task.tokenizer().encode("zix q4 vop q2 ruk q6 ; #### 6").unwrap();
    let tokens = [jargon.as_slice(), task.stops()].concat();
    let by_weak = task.verdict(&written(&task, "token:1", &tokens), &problem).unwrap();
    assert_eq!(by_weak.jargon, Share { count: 0, of: 0 });
    assert_eq!(by_weak.answered_by, Some(Author::Weak));
    let by_strong = task.verdict(&written(&task, "token:0", &tokens), &problem).unwrap();
    assert_eq!(by_strong.jargon, Share { count: 6, of: 6 });
    assert_eq!(by_strong.extracted.as_deref(), Some("6"));
}

#[test]
fn nothing_may_stand_between_the_miniatures_answer_and_its_end() {
    let (task, problem) = (task(), problem());
    let pad = task.tokenizer().id_of("<pad>").unwrap();
    let mut tokens = task.solution(&problem).unwrap();
    tokens.insert(tokens.len() - 1, pad);
    let verdict = task.verdict(&written(&task, "token:0", &tokens), &problem).unwrap();
    assert!(!verdict.correct && verdict.text.ends_with("<pad>"), "{}", verdict.text);
}

#[test]
fn gsm8k_counts_each_models_annotations_as_its_own() {
    let task = gsm8k_task();
    let problem = Problem {
        id: 1,
        question: "so".into(),
        answer: "6".into(),
        solution: None,
        shots: vec![],
        lead: None,
    };
    let graded = |schedule: &str, text: &str| {
        let tokens = [&*task.tokenizer().encode(text).unwrap(), task.stops()].concat();
        let session = written_for(&task, &problem, schedule, &tokens);
        task.verdict(&session, &problem).unwrap()
    };
    // The strong model writes the first and the last line.
    let by_weak = graded("alternate:line", "it is\n2*3=<<2*3=6>>6\n#### 6");
    assert_eq!(by_weak.jargon, Share { count: 0, of: 1 });
    assert_eq!((by_weak.correct, by_weak.answered_by), (true, Some(Author::Strong)));
    let by_strong = graded("alternate:line", "2*3=<<2*3=6>>6\n#### 6");
    assert_eq!(by_strong.jargon, Share { count: 1, of: 1 });
    assert_eq!((by_strong.correct, by_strong.answered_by), (true, Some(Author::Weak)));
    assert_eq!(graded("token:1", "2*3=<<2*3=6>>6").jargon, Share { count: 0, of: 0 });
    // Strong spans put side by side would spell a mark that none of them holds.
    assert_eq!(graded("alternate:token", "<a<#### 6").jargon, Share { count: 0, of: 1 });
}

#[test]
fn a_text_is_graded_without_the_stop_text_that_ended_it() {
    let mut settings = Settings::default();
    settings.sampling.stop_texts = vec!["; so".to_owned(), "####".to_owned()];
    let tokenizer = Tokenizer::from_json(&miniature::tokenizer_json(), "miniature").unwrap();
    let end = tokenizer.id_of("<eos>").unwrap();
    let task = Task::new(&settings, tokenizer, vec![end]).unwrap();
    let said = |text: &str| {
        let tokens = task.tokenizer().encode(text).unwrap();
        let session = written(&task, "token:0", &tokens);
        (session.finish_reason(), task.verdict(&session, &problem()).unwrap().text)
    };
    let end = Some(types::Finish::End);
    assert_eq!(said("so 4 plus 2 is 6 ; so"), (end, "so 4 plus 2 is 6 ".to_owned()));
    assert_eq!(said("so 4 ; ####"), (end, "so 4 ; ".to_owned()), "a special token is one, too");
}

#[test]
fn the_miniature_needs_its_own_tokenizer() {
    let other = gsm8k_task().tokenizer().clone();
    let error = Task::new(&Settings::default(), other, vec![0]).err().unwrap().to_string();
    assert!(error.contains("data.source is miniature") && error.contains("142 tokens"), "{error}");
}

#[test]
fn a_problem_without_solution_is_named() {
    let problem = Problem { solution: None, ..problem() };
    let error = task().solution(&problem).unwrap_err().to_string();
    assert!(error.contains(&format!("problem {}", problem.id)), "{error}");
}

#[test]
fn evaluation_does_not_depend_on_the_handoffs_of_training() {
    let mut settings = Settings::default();
    (settings.handoff.max_gap, settings.handoff.weak_may_end) = (3, false);
    let tokenizer = Tokenizer::from_json(&miniature::tokenizer_json(), "miniature").unwrap();
    let task = Task::new(&settings, tokenizer, vec![1]).unwrap();
    let schedule: Schedule = "word:0.5".parse().unwrap();
    let terms = |purpose| (task.rule(purpose, schedule, 9).max_gap, task.weak_may_end(purpose));
    assert_eq!(terms(Purpose::Train), (3, false));
    assert_eq!(terms(Purpose::Eval), (32, true));
}
