//! Whole pages of run directories that are written here.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;
use settings::Settings;
use tempfile::TempDir;

use super::page::page;
use super::record::Record;
use crate::eval_plan::EvalResult;
use crate::journal::JournalFile;
use crate::summary::{GroupSummary, Summary, TokenSummary};

fn result(tandem: f64, handoff: f64, jargon: f64) -> EvalResult {
    let mut result = EvalResult {
        problems: 100,
        solo_accuracy: Some(0.98),
        jargon_rate: Some(jargon),
        weak_solo_accuracy: Some(0.91),
        ..EvalResult::default()
    };
    result.tandem_accuracy.push("token:0.25", Some(tandem));
    result.handoff_success_rate.push("token:0.25", Some(handoff));
    result
}

/// A directory with a run of four steps that is neither done nor under way.
fn stopped(root: &Path, name: &str, probability: f64) -> PathBuf {
    let dir = root.join(name);
    fs::create_dir_all(dir.join("rollouts")).unwrap();
    let mut settings = Settings::default();
    settings.handoff.probability = probability;
    settings.run.dir = dir.to_string_lossy().into_owned();
    fs::write(dir.join("config.toml"), settings.to_toml()).unwrap();
    let line = |step: u32| {
        let values = json!({
            "jargon_rate": 0.8 - 0.2 * f64::from(step - 1),
            "reward_mean": 0.5,
            "seconds_wait": 0.25,
            "seconds_forward": 0.5,
        });
        let tokens = json!({ "strong": 1000, "weak": 250 });
        json!({ "step": step, "wall_seconds": 2 * step, "tokens": tokens, "values": values })
    };
    let text: String = (1..=4).map(|step| format!("{}\n", line(step))).collect();
    // What a crash left of a line is no line.
    fs::write(dir.join("metrics.jsonl"), text + "{\"step\":5,\"wall").unwrap();
    let mut during = serde_json::to_value(result(0.6, 0.55, 0.5)).unwrap();
    during["step"] = json!(2);
    during["wall_seconds"] = json!(4.0);
    fs::write(dir.join("evaluations.jsonl"), format!("{during}\n")).unwrap();
    dir
}

fn finish(dir: &Path) {
    let summary = Summary {
        steps: 4,
        seed: 0,
        before: Some(result(0.401, 0.392, 0.75)),
        after: Some(result(0.964, 0.961, 0.02)),
        wall_seconds: 17.94,
        cpu_seconds: 20.5,
        tokens: TokenSummary { strong: 4000, weak: 1000 },
        groups: GroupSummary::default(),
    };
    summary.write(&dir.join("summary.json")).unwrap();
}

fn read(dir: &Path) -> Result<Record, super::record::RecordError> {
    Record::read(dir, dir.file_name().unwrap().to_string_lossy().into_owned())
}

fn root() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn the_numbers_of_known_runs_are_on_the_page() {
    let root = root();
    let tandem = stopped(root.path(), "tandem-1", 0.25);
    let control = stopped(root.path(), "control-1", 0.0);
    finish(&tandem);
    let page = page(&[read(&tandem).unwrap(), read(&control).unwrap()]).unwrap();
    let cell = |name: &str, cells: [&str; 2]| {
        let row = format!("<tr><td>{name}</td><td>{}</td><td>{}</td></tr>", cells[0], cells[1]);
        assert!(page.contains(&row), "no {row}");
    };
    cell("handoff.probability", ["0.25", "0.0"]);
    cell("strong alone, sampled", ["0.980 → 0.980", "– → 0.980"]);
    cell("tandem, token:0.25", ["0.401 → 0.964", "– → 0.600"]);
    cell("handoff success, token:0.25", ["0.392 → 0.961", "– → 0.550"]);
    cell("jargon", ["0.750 → 0.020", "– → 0.500"]);
    cell("steps", ["4 of 80", "4 of 80"]);
    cell("wall", ["17.9 s", "8.0 s so far"]);
    cell("tokens of the strong model", ["4\u{202f}000", "4\u{202f}000"]);
    cell("share of the weak model", ["20.0%", "20.0%"]);
    assert!(!page.contains("run.dir"), "every run has another");
    // Handoff success over solo accuracy.
    assert!(page.contains("<td>0.400</td><td>0.981</td>"), "{page}");
    assert!(page.contains("done, 4 steps") && page.contains("stopped after step 4 of 80"));
    // Forward 0.5 s and wait 0.25 s.
    assert!(page.contains("750 ms a step") && page.contains("width:66.67%"));
    assert!(page.contains("tandem-1, step 2: 0.600") || page.contains("step 2: 0.550 of 100"));
    assert!(page.contains("tandem-1, before training, token:0.25: 0.401"));
    assert!(page.contains("control-1, after step 2, token:0.25: 0.600"));
    // From the strong model alone over a quarter of the tokens to the weak one, of the first run.
    let curve = "points=\"52.0,16.2 150.5,19.5 446.0,30.7\"";
    assert!(page.contains(curve), "{page}");
}

#[test]
fn what_a_model_wrote_is_text_and_nothing_else() {
    let root = root();
    let dir = stopped(root.path(), "<b>&run", 0.25);
    let evil = "<script>alert(1)</script>";
    let mut settings = Settings::default();
    settings.data.source = settings::DataSource::Gsm8k;
    settings.data.path = "/data".to_owned();
    settings.strong.model = "/nowhere/\"><script>2</script>".to_owned();
    fs::write(dir.join("config.toml"), settings.to_toml()).unwrap();
    let line = json!({
        "prompt": evil, "text": evil, "tokens": [1], "authors": ["strong"],
        "extracted": evil, "gold": "<i>4</i>", "correct": false, "reward": 0.0,
    });
    fs::write(dir.join("rollouts/step-000001.jsonl"), format!("{line}\n")).unwrap();
    let page = page(&[read(&dir).unwrap()]).unwrap();
    assert!(!page.contains("<script") && !page.contains("<i>") && !page.contains("<b>"), "{page}");
    assert_eq!(page.matches("&lt;script&gt;alert(1)&lt;").count(), 3);
    assert!(page.contains("There is no tokenizer here any more"));
}

#[test]
fn words_have_the_colour_of_their_author() {
    let root = root();
    let dir = stopped(root.path(), "run", 0.25);
    let tokenizer: tokenizers::Tokenizer = miniature::tokenizer_json().parse().unwrap();
    let line = |text: &str, authors: &[&str]| {
        let tokens = tokenizer.encode(text, false).unwrap().get_ids().to_vec();
        json!({
            "prompt": "how many ?", "text": text, "tokens": tokens, "authors": authors,
            "extracted": "15", "gold": "15", "correct": true, "reward": 1.0,
        })
    };
    let write = |step: u32, lines: &[serde_json::Value]| {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        fs::write(dir.join(format!("rollouts/step-{step:06}.jsonl")), text).unwrap();
    };
    write(
        1,
        &[line("so 24", &["strong", "strong"]), line("so 24 is", &["strong", "weak", "weak"])],
    );
    write(3, &[line("is 15", &["weak", "strong"])]);
    // Undone: the run is at step 4.
    write(9, &[line("is 9", &["weak", "weak"])]);
    let page = page(&[read(&dir).unwrap()]).unwrap();
    let both = "<span class=\"strong\">so</span><span class=\"weak\"> 24 is</span>";
    let alone = "<span class=\"strong\">so 24</span>";
    assert!(page.find(both).unwrap() < page.find(alone).unwrap(), "both authors come first");
    assert!(page.contains("<span class=\"weak\">is</span><span class=\"strong\"> 15</span>"));
    assert!(page.contains("67% weak") && page.contains("<span class=\"right\">15</span>"));
    assert!(page.contains("step 3</div>") && !page.contains("step 9</div>"));
}

#[test]
fn a_damaged_line_is_named_and_so_is_a_directory_without_a_run() {
    let root = root();
    let dir = stopped(root.path(), "run", 0.25);
    let path = dir.join("metrics.jsonl");
    let text = fs::read_to_string(&path).unwrap().replacen("{\"step\":2", "{\"step\":two", 1);
    fs::write(&path, text).unwrap();
    let error = read(&dir).unwrap_err().to_string();
    assert!(error.contains("metrics.jsonl:2 is damaged: "), "{error}");
    assert!(error.ends_with("; mend or remove that line"), "{error}");
    let error = read(root.path()).unwrap_err().to_string();
    assert!(error.contains("is no run directory"), "{error}");
}

#[test]
fn a_run_without_a_summary_shows_what_its_journal_says_of_the_start() {
    let root = root();
    let dir = stopped(root.path(), "run", 0.25);
    let evaluated = proto::JournalEntry::Evaluated {
        stage: proto::EvalStage::Before,
        step: 0,
        result: serde_json::to_string(&result(0.401, 0.392, 0.75)).unwrap(),
    };
    let opened = proto::JournalEntry::Opened { run: 7, format: proto::JOURNAL_FORMAT };
    let (journal, _) = JournalFile::open(&dir.join("journal")).unwrap();
    journal.rewrite(&[opened, evaluated]).unwrap();
    let before = fs::read(dir.join("journal")).unwrap();
    let page = page(&[read(&dir).unwrap()]).unwrap();
    assert!(page.contains("<td>0.401 → 0.600</td>"), "{page}");
    assert!(page.contains("<th>before</th><th>step 2</th>"));
    assert_eq!(fs::read(dir.join("journal")).unwrap(), before, "it is read and not changed");
}
