//! Published templates against what `transformers` renders, and templates that cannot be used.

use serde_json::{Value as Json, json};

use super::*;

const GOLDEN: &str = include_str!("../../../../tests/parity/chat/golden.jsonl");
const TEMPLATES: [(&str, &str); 5] = [
    ("qwen2_5", include_str!("../../../../tests/parity/chat/qwen2_5.jinja")),
    ("qwen3", include_str!("../../../../tests/parity/chat/qwen3.jinja")),
    ("llama3_2", include_str!("../../../../tests/parity/chat/llama3_2.jinja")),
    ("gemma3", include_str!("../../../../tests/parity/chat/gemma3.jinja")),
    ("own", include_str!("../../../../tests/parity/chat/own.jinja")),
];

fn told() -> Told {
    Told { date: NaiveDate::from_ymd_opt(2024, 7, 26).unwrap(), thinking: true }
}

fn user(content: &str) -> Vec<Message> {
    vec![Message { role: "user", content: content.to_owned() }]
}

#[test]
fn templates_render_as_transformers_renders_them() {
    let mut seen = Vec::new();
    for line in GOLDEN.lines() {
        let golden: Json = serde_json::from_str(line).unwrap();
        let name = golden["template"].as_str().unwrap();
        let (_, template) = TEMPLATES.iter().find(|(known, _)| *known == name).unwrap();
        let thinking = golden["arguments"]["enable_thinking"] != false;
        let told = Told { thinking, ..told() };
        let chat = ChatTemplate::parse(template, &golden["tokens"], told).unwrap();
        let role = |role: &Json| {
            ["system", "user", "assistant"].into_iter().find(|known| role == known).unwrap()
        };
        let messages = golden["messages"].as_array().unwrap().iter();
        let messages: Vec<Message> = messages
            .map(|m| Message {
                role: role(&m["role"]),
                content: m["content"].as_str().unwrap().to_owned(),
            })
            .collect();
        assert_eq!(chat.render(&messages).unwrap(), golden["text"].as_str().unwrap(), "{name}");
        seen.push(name.to_owned());
    }
    seen.dedup();
    assert_eq!(seen, TEMPLATES.map(|(name, _)| name));
    assert_eq!(GOLDEN.lines().count(), 24);
}

#[test]
fn the_template_of_a_directory_is_the_one_that_transformers_takes() {
    let files = std::cell::RefCell::new(Texts::new());
    let write = |name: &str, text: &str| {
        files.borrow_mut().insert(name.to_owned(), text.to_owned());
    };
    let said = || {
        let chat = ChatTemplate::read(&files.borrow(), "M", told()).map_err(|e| format!("{e:#}"));
        chat.and_then(|chat| chat.render(&user("so")).map_err(|e| format!("{e:#}")))
    };
    let none = said().unwrap_err();
    assert!(none.contains("has no chat template") && none.contains("prompt.chat off"), "{none}");
    write(LEGACY, r#"{"chat_template": "legacy"}"#);
    assert_eq!(said().unwrap(), "legacy");
    let several =
        json!([{"name": "rag", "template": "rag"}, {"name": "default", "template": "first"}]);
    write(CONFIG, &json!({"chat_template": several}).to_string());
    assert_eq!(said().unwrap(), "first");
    let tokens = json!({"chat_template": "{{ bos_token }}{{ eos_token }}{{ messages[0].content }}",
                        "bos_token": {"content": "<s>", "lstrip": false}, "eos_token": "</s>",
                        "pad_token": null});
    write(CONFIG, &tokens.to_string());
    assert_eq!(said().unwrap(), "<s></s>so");
    write(JINJA, "{{ raise_exception('no ' ~ messages[0].role) }}");
    assert!(said().unwrap_err().contains("the template refuses: no user"), "{:?}", said());
    write(JINJA, "{% if %}");
    let broken = said().unwrap_err();
    assert!(broken.contains("the chat template of M") && broken.contains("syntax"), "{broken}");
    write(CONFIG, "{");
    assert!(
        said().unwrap_err().contains("of M: tokenizer_config.json is not JSON"),
        "{:?}",
        said()
    );
    write(CONFIG, "{}");
    write(JINJA, "{{ strftime_now('%Q') }}");
    assert!(said().unwrap_err().contains("strftime_now has the format"), "{:?}", said());
}
