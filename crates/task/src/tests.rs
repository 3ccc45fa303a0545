//! The task of the miniature, on sessions written by hand.

use tandem::{RandomKey, SessionPlan, Turn, WeakSpan};
use types::{GroupId, PolicyVersion, Purpose, SampleIndex, Sampling};

use super::*;

fn task() -> Task {
    let tokenizer = Tokenizer::from_json(&miniature::tokenizer_json(), "miniature").unwrap();
    let end = tokenizer.id_of("<eos>").unwrap();
    Task::new(&Settings::default(), tokenizer, vec![end])
}

fn problem() -> Problem {
    miniature::draw(miniature::Split::Train, 3, 5, miniature::Style::Plain)
}

/// Writes `tokens`, each by whoever's turn it is.
fn written(task: &Task, schedule: &str, tokens: &[TokenId]) -> Session {
    let schedule: Schedule = schedule.parse().unwrap();
    let sampling = Sampling { temperature: 1.0, top_p: 1.0, max_tokens: 40, banned: vec![] };
    let plan = SessionPlan {
        rule: task.rule(schedule, sampling.max_tokens),
        key: RandomKey::new(1, Purpose::Train, &schedule, GroupId(2), SampleIndex(0)),
        prompt: task.strong_prompt(&problem()).unwrap(),
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
fn a_problem_without_solution_is_named() {
    let problem = Problem { solution: None, ..problem() };
    let error = task().solution(&problem).unwrap_err().to_string();
    assert!(error.contains(&format!("problem {}", problem.id)), "{error}");
}
