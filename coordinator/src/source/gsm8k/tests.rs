//! Splits, orders, examples and styles of made-up files, and files that are broken.

use std::fmt::Write;

use super::*;

fn problems(count: usize) -> Vec<Problem> {
    let mut text = String::new();
    for i in 1..=count {
        let answer = format!("half of {} is <<{}/2={i}>>{i}\\n#### {i}", 2 * i, 2 * i);
        writeln!(text, "{{\"question\": \"what is {i}?\", \"answer\": \"{answer}\"}}").unwrap();
    }
    (1..).zip(text.lines()).map(|(id, line)| parse(id, line).unwrap()).collect()
}

/// A directory with so many training problems and so many test problems.
fn directory(train: usize, test: usize) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, count) in [(TRAIN, train), (TEST, test)] {
        let line = |problem: Problem| serde_json::json!({"question": problem.question, "answer": problem.solution});
        let text: String = problems(count).into_iter().map(|p| format!("{}\n", line(p))).collect();
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

fn settings(dir: &Path) -> Settings {
    let mut settings = Settings::default();
    settings.data.path = dir.to_str().unwrap().to_owned();
    settings
}

fn epoch(source: &mut Gsm8k, epoch: u64) -> Vec<u64> {
    let n = source.epoch_problems();
    (0..n).map(|i| source.train(epoch * n + i).id).collect()
}

#[test]
fn an_epoch_deals_all_7473_problems_each_once() {
    let mut settings = Settings::default();
    settings.eval.enabled = false;
    let mut source = Gsm8k::new(problems(7_473), &settings).unwrap();
    for number in 0..2 {
        let dealt = epoch(&mut source, number);
        let distinct: BTreeSet<u64> = dealt.iter().copied().collect();
        assert_eq!((dealt.len(), distinct.len()), (7_473, 7_473));
        assert_eq!((distinct.first(), distinct.last()), (Some(&1), Some(&7_473)));
    }
    assert_ne!(epoch(&mut source, 0), epoch(&mut source, 1));
}

#[test]
fn held_out_problems_are_never_dealt_and_do_not_follow_the_run_seed() {
    let mut settings = Settings::default();
    let mut source = Gsm8k::new(problems(1_000), &settings).unwrap();
    let dealt: BTreeSet<u64> = epoch(&mut source, 0).into_iter().collect();
    let held_out =
        |source: &Gsm8k| -> BTreeSet<u64> { (0..512).map(|i| source.held_out(i).id).collect() };
    let kept = held_out(&source);
    assert_eq!((dealt.len(), kept.len(), source.held_out_problems()), (488, 512, 512));
    assert!(dealt.is_disjoint(&kept));
    settings.seed = 9;
    assert_eq!(held_out(&Gsm8k::new(problems(1_000), &settings).unwrap()), kept);
    assert_eq!(Gsm8k::new(problems(512), &settings).unwrap_err(), 512);
}

#[test]
fn examples_of_prompts_are_neither_evaluated_nor_trained_on() {
    let dir = directory(600, 0);
    let mut settings = settings(dir.path());
    let before = Gsm8k::open(&settings).unwrap();
    assert_eq!((before.epoch_problems(), before.shots.len()), (88, 0));
    settings.weak.prompt.few_shot = 3;
    settings.strong.prompt.template = "gsm8k-5shot".to_owned();
    let mut source = Gsm8k::open(&settings).unwrap();
    let numbers = |source: &Gsm8k| -> Vec<u64> {
        let number = |shot: &Shot| shot.question[8..].trim_end_matches('?').parse().unwrap();
        source.shots.iter().map(number).collect()
    };
    let held_out: Vec<u64> = (0..512).map(|i| source.held_out(i).id).collect();
    assert_eq!(held_out, (0..512).map(|i| before.held_out(i).id).collect::<Vec<_>>());
    let first: Vec<u64> = (1..).filter(|id| !held_out.contains(id)).take(5).collect();
    assert_eq!(numbers(&source), first);
    assert_eq!(source.shots[0].solution.rsplit("#### ").next(), Some(&*first[0].to_string()));
    assert_eq!(source.held_out(0).shots, source.shots);
    let trained = epoch(&mut source, 0);
    assert_eq!(trained.len(), 83);
    assert!(trained.iter().all(|id| !first.contains(id) && !held_out.contains(id)));
    assert_eq!(source.train(0).shots, source.shots);
    settings.data.shots_seed = 4;
    let drawn = numbers(&Gsm8k::open(&settings).unwrap());
    assert!(drawn != first && drawn.iter().all(|id| !held_out.contains(id)), "{drawn:?}");
    settings.strong.prompt.few_shot = 88;
    let error = Gsm8k::open(&settings).unwrap_err().to_string();
    assert!(error.contains("has 88 problems to train on but prompts show 88 examples"), "{error}");
}

#[test]
fn the_test_file_is_opened_only_when_asked_for_by_name() {
    let dir = directory(600, 3);
    let mut settings = settings(dir.path());
    let source = Gsm8k::open_for_evaluation(&settings).unwrap();
    assert_eq!(source.held_out_problems(), 512);
    settings.eval.split = EvalSplit::Test;
    assert_eq!(Gsm8k::open(&settings).unwrap().held_out_problems(), 512);
    let source = Gsm8k::open_for_evaluation(&settings).unwrap();
    assert_eq!(source.held_out_problems(), 3);
    let ids: Vec<u64> = (0..3).map(|i| source.held_out(i).id).collect();
    assert_eq!((ids, source.held_out(2).solution), (vec![1, 2, 3], None));
    std::fs::remove_file(dir.path().join(TEST)).unwrap();
    assert!(Gsm8k::open(&settings).is_ok());
    let error = Gsm8k::open_for_evaluation(&settings).unwrap_err().to_string();
    assert!(error.contains("the directory that holds test.jsonl"), "{error}");
}

#[test]
fn a_share_of_the_solutions_keeps_its_annotations() {
    let mut settings = Settings::default();
    settings.eval.enabled = false;
    settings.train.objective = settings::Objective::Sft;
    let annotated = |settings: &Settings| -> Vec<bool> {
        let mut source = Gsm8k::new(problems(2_000), settings).unwrap();
        let mut all: Vec<Problem> = (0..2_000).map(|at| source.train(at)).collect();
        all.sort_by_key(|problem| problem.id);
        let marked = |problem: &Problem| {
            let (id, solution) = (problem.id, problem.solution.as_deref().unwrap());
            let twice = 2 * id;
            let plain = format!("half of {twice} is {id}\n#### {id}");
            if solution == plain {
                return false;
            }
            assert_eq!(solution, format!("half of {twice} is <<{twice}/2={id}>>{id}\n#### {id}"));
            true
        };
        all.iter().map(marked).collect()
    };
    assert!(annotated(&settings).iter().all(|kept| *kept));
    settings.data.annotated_share = 0.75;
    let most = annotated(&settings);
    let kept = most.iter().filter(|kept| **kept).count();
    // Three standard deviations of a binomial are 58.
    assert!((1_442..=1_558).contains(&kept), "{kept}");
    settings.seed = 5;
    assert_eq!(annotated(&settings), most, "the question decides");
    settings.data.annotated_share = 0.25;
    let few = annotated(&settings);
    assert!(few.iter().zip(&most).all(|(few, most)| *most || !few), "a smaller share is a part");
    settings.data.style = SolutionStyle::Plain;
    assert!(annotated(&settings).iter().all(|kept| !kept));
}

#[test]
fn annotations_are_cut_out_whole() {
    for (with, without) in [
        ("48/2 = <<48/2=24>>24 clips", "48/2 = 24 clips"),
        ("<<1+1=2>>2<<2*2=4>>4", "24"),
        ("1 < 2 and 3 > 2", "1 < 2 and 3 > 2"),
        ("so << that", "so  that"),
        ("none", "none"),
    ] {
        assert_eq!(without_annotations(with), without);
    }
}

#[test]
fn gold_answers_follow_the_last_mark() {
    let line = r##"{"question": "q #### 1", "answer": "one #### 2\n#### 1,000 "}"##;
    assert_eq!(parse(1, line).unwrap().answer, "1,000");
}

#[test]
fn a_malformed_line_is_named_by_file_and_number() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("train.jsonl");
    let good = r##"{"question": "q", "answer": "a\n#### 1"}"##;
    for (bad, fault) in [
        ("{\"question\": \"q\"", "EOF"),
        ("{\"question\": \"q\"}", "missing field `answer`"),
        (r#"{"question": "q", "answer": "1"}"#, "no `#### `"),
        (r#####"{"question": "q", "answer": "#### "}"#####, "nothing follows"),
        (r#####"{"question": " ", "answer": "#### 1"}"#####, "question is empty"),
        ("", "EOF"),
    ] {
        std::fs::write(&path, format!("{good}\n{good}\n{bad}\n{good}\n")).unwrap();
        let text = read_problems(&path).unwrap_err().to_string();
        assert!(text.contains("train.jsonl, line 3: "), "{text}");
        assert!(text.contains(fault), "{text}");
    }
    let text = read_problems(&directory.path().join("absent")).unwrap_err().to_string();
    assert!(text.contains("absent") && text.contains("data.path"), "{text}");
}
