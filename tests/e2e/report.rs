//! `coordinator report` of real runs, and the page in a browser; `top` where there is no terminal.

use std::path::Path;

use tests::Run;

use crate::{LIMIT, small};

/// What a page logs to the console.
fn console(output: &std::process::Output) -> Vec<String> {
    let text = String::from_utf8_lossy(&output.stderr);
    text.lines().filter(|line| line.contains("CONSOLE")).map(str::to_owned).collect()
}

fn url(path: &Path) -> String {
    format!("file://{}", path.display())
}

#[test]
fn a_report_of_a_run_and_of_one_that_was_stopped_opens_in_a_browser_without_a_word() {
    let more = ["--steps", "4", "--set", "eval.every_steps=2", "--set", "eval.every_problems=8"];
    let (mut run, ended) = Run::to_end(&small(&more), LIMIT);
    ended.expect_code(0);
    let reported = run.then(&["report", "{dir}"], LIMIT);
    reported.expect_code(0);
    let path = run.dir().join("report.html");
    let page = std::fs::read_to_string(&path).unwrap();
    let jargon = run.summary().number("after/jargon_rate");
    for part in
        ["done, 4 steps", &format!("{jargon:.3}"), "Robustness", "class=\"weak\">", "step 4</div>"]
    {
        assert!(page.contains(part), "no {part}");
    }

    // Without its summary the run is one that was stopped, and what it wrote may be hostile.
    std::fs::remove_file(run.dir().join("summary.json")).unwrap();
    let evil = "<script>console.error('it ran')</script><img src=x onerror=\"console.error('so did it')\">";
    let line = serde_json::json!({
        "prompt": evil, "text": evil, "tokens": [], "authors": ["strong"], "extracted": evil,
        "gold": evil, "correct": false, "reward": 0.0,
    });
    std::fs::write(run.dir().join("rollouts/step-000004.jsonl"), format!("{line}\n")).unwrap();
    run.then(&["report", "{dir}", "--out", "{dir}/stopped.html"], LIMIT).expect_code(0);
    let stopped = run.dir().join("stopped.html");
    assert!(std::fs::read_to_string(&stopped).unwrap().contains("stopped after step 4 of 4"));

    for page in [&path, &stopped] {
        let Some(shown) = tests::browse("the report in a browser", &url(page)) else { return };
        assert_eq!(console(&shown), Vec::<String>::new());
        let dom = String::from_utf8_lossy(&shown.stdout);
        assert!(dom.contains("<svg") && dom.contains("Robustness"), "{dom}");
    }
    // The browser would have told of it.
    let loud = run.dir().join("loud.html");
    std::fs::write(&loud, evil).unwrap();
    let shown = tests::browse("the report in a browser", &url(&loud)).unwrap();
    assert!(!console(&shown).is_empty(), "{}", String::from_utf8_lossy(&shown.stderr));

    std::fs::write(run.dir().join("metrics.jsonl"), "{\"step\": 1}\n").unwrap();
    let damaged = run.then(&["report", "{dir}"], LIMIT);
    damaged.expect_code(1);
    assert!(damaged.stderr.contains("metrics.jsonl:1 is damaged"), "{}", damaged.stderr);
}

#[test]
fn top_without_a_terminal_names_the_command_for_that() {
    let (_run, ended) = Run::to_end(&["top", "{dir}"], LIMIT);
    ended.expect_code(2);
    assert!(ended.stderr.contains("use `coordinator status`"), "{}", ended.stderr);
}
