//! What a GGUF file says beside its model: the chat template and the special tokens that it may
//! write, as the `tokenizer_config.json` of a model directory says them.

use serde_json::{Map, Value, json};

use super::file::GgufFile;
use super::tokenizer::Listed;
use crate::ModelError;
use crate::directory::{TOKENIZER_CONFIG, Texts};

const TEMPLATE: &str = "tokenizer.chat_template";

/// Special tokens, by `tokenizer.ggml.NAME_token_id` and by their names in a model directory.
const SPECIAL: [(&str, &str); 4] = [
    ("bos", "bos_token"),
    ("eos", "eos_token"),
    ("unknown", "unk_token"),
    ("padding", "pad_token"),
];

/// # Errors
/// A template that is no text, or a special token outside the vocabulary.
pub(crate) fn read_extras(file: &GgufFile) -> Result<Texts, ModelError> {
    let listed = Listed::read(file)?;
    let mut config = Map::new();
    if let Some(template) = file.text(TEMPLATE)? {
        config.insert("chat_template".to_owned(), json!(template));
    }
    for (name, field) in SPECIAL {
        if let Some(id) = listed.named(name)? {
            config.insert(field.to_owned(), json!(listed.tokens[id as usize]));
        }
    }
    Ok(Texts::from([(TOKENIZER_CONFIG.to_owned(), Value::Object(config).to_string())]))
}
