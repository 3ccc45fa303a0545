//! Prompts by hand, and beginning-of-text tokens.

use serde_json::json;
use types::Shot;

use super::*;

fn problem(shots: usize) -> Problem {
    let shot = |i: usize| Shot { question: format!("q{i}"), solution: format!("a{i}\n#### {i}") };
    Problem {
        id: 7,
        question: "How many?".into(),
        solution: None,
        answer: "3".into(),
        shots: (1..=shots).map(shot).collect(),
        lead: None,
    }
}

fn prompter(change: impl FnOnce(&mut Prompt)) -> Prompter {
    let mut prompt = Prompt::default();
    change(&mut prompt);
    Prompter::new("strong", "somewhere", &prompt).unwrap()
}

/// One token a byte, `<s>` before every text that is encoded with special tokens.
fn tokenizer() -> Tokenizer {
    let letters = "Ġ\u{10a}0123456789#?abcdefghijklmnopqrstuvwxyzHQA:.,'\"LT";
    let mut vocab: serde_json::Map<String, serde_json::Value> =
        letters.chars().enumerate().map(|(id, c)| (c.to_string(), id.into())).collect();
    let bos = vocab.len();
    vocab.insert("<s>".to_owned(), bos.into());
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                            "use_regex": false});
    let special = json!({"SpecialToken": {"id": "<s>", "type_id": 0}});
    let sequence = json!({"Sequence": {"id": "A", "type_id": 0}});
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": [{"id": bos, "content": "<s>", "single_word": false, "lstrip": false,
                          "rstrip": false, "normalized": false, "special": true}],
        "pre_tokenizer": byte_level, "decoder": byte_level,
        "post_processor": {"type": "TemplateProcessing", "single": [special, sequence],
                           "pair": [special, sequence, sequence],
                           "special_tokens": {"<s>": {"id": "<s>", "ids": [bos], "tokens": ["<s>"]}}},
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    });
    Tokenizer::from_json(&json.to_string(), "bytes").unwrap()
}

#[test]
fn named_templates_are_the_fields() {
    let shots = prompter(|p| p.template = "gsm8k-5shot".to_owned());
    let text = shots.text(&problem(5)).unwrap();
    assert!(text.starts_with("Question: q1\nAnswer: a1\n#### 1\n\nQuestion: q2\nAnswer: a2\n"));
    assert!(text.ends_with("Answer: a5\n#### 5\n\nQuestion: How many?\nAnswer:"), "{text}");
    assert_eq!((text.matches("Question:").count(), shots.gap()), (6, " "));
    let zero = prompter(|p| p.template = "gsm8k-zero-shot".to_owned());
    let text = "How many? Let's think step by step and output the final answer after \"####\".";
    assert_eq!(zero.text(&problem(5)).unwrap(), text);
    let two = prompter(|p| (p.template, p.few_shot) = ("Q {question} ".to_owned(), 2));
    let text = "Q q1 a1\n#### 1\n\nQ q2 a2\n#### 2\n\nQ How many? ";
    assert_eq!((two.text(&problem(5)).unwrap().as_str(), two.gap()), (text, ""));
    let error = shots.text(&problem(2)).unwrap_err().to_string();
    assert_eq!(error, "problem 7 came with 2 examples, the prompt shows 5");
}

#[test]
fn one_token_begins_a_text_and_never_two() {
    let tokenizer = tokenizer();
    let bos = tokenizer.id_of("<s>").unwrap();
    assert_eq!(tokenizer.prefix(), [bos]);
    let plain = prompter(|_| {}).tokens(&problem(0), &tokenizer).unwrap();
    assert_eq!(plain[0], bos);
    assert_eq!(plain[1..], tokenizer.encode("How many?").unwrap());
    let written = prompter(|p| p.template = "<s>{question}".to_owned());
    assert_eq!(written.tokens(&problem(0), &tokenizer).unwrap(), plain);
}

#[test]
fn a_chat_template_alone_says_how_a_text_begins() {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = tokenizer();
    let asked = |template: &str| {
        std::fs::write(dir.path().join("chat_template.jinja"), template).unwrap();
        let prompt = Prompt { chat: true, few_shot: 1, system: "so".into(), ..Prompt::default() };
        let prompter = Prompter::new("weak", dir.path().to_str().unwrap(), &prompt).unwrap();
        assert_eq!(prompter.gap(), "");
        tokenizer.decode(&prompter.tokens(&problem(1), &tokenizer).unwrap()).unwrap()
    };
    let turns = "{% for m in messages %}{{ m.role[0] }}: {{ m.content }}.{% endfor %}";
    let text = "s: so.u: q1.a: a1\n#### 1.u: How many?.";
    assert_eq!(asked(turns), text);
    assert_eq!(asked(&format!("<s>{turns}")), format!("<s>{text}"));
}

#[test]
fn what_cannot_be_rendered_is_named() {
    let refused = |model: &str, date: &str| {
        let prompt = Prompt { chat: true, date: date.to_owned(), ..Prompt::default() };
        format!("{:#}", Prompter::new("weak", model, &prompt).err().unwrap())
    };
    let day = "2024-07-26";
    let built_in = refused("builtin:miniature-weak", day);
    assert!(
        built_in.contains("weak.prompt.chat: builtin:miniature-weak has no chat"),
        "{built_in}"
    );
    assert!(refused("/no/such", day).contains("/no/such has no chat template"));
    assert!(refused("/no/such.gguf", day).contains("/no/such.gguf"));
    assert!(refused("/no/such", "26 July").contains("weak.prompt.date is `26 July`"));
}

#[test]
fn a_lead_follows_the_prompt_as_an_answer_would() {
    let led = |template: &str, lead: Option<&str>| {
        let prompter = prompter(|p| p.template = template.to_owned());
        let problem = Problem { lead: lead.map(str::to_owned), ..problem(0) };
        let tokenizer = tokenizer();
        tokenizer.decode(&prompter.tokens(&problem, &tokenizer).unwrap()).unwrap()
    };
    assert_eq!(led("{question} A:", Some("6\n")), "<s>How many? A: 6\n");
    assert_eq!(led("{question} A: ", Some("6\n")), "<s>How many? A: 6\n");
    assert_eq!(led("{question} A:", None), "<s>How many? A:");
}
