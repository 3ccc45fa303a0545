//! A model's own chat template, rendered as `transformers` renders it. Which messages it gets is
//! `prompt`'s.

use std::fmt::Write as _;

use anyhow::{Context, bail};
use chrono::NaiveDate;
use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, Error, ErrorKind, context};
use model::Texts;
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter};

/// Template files in the order in which `transformers` prefers them.
const JINJA: &str = "chat_template.jinja";
const CONFIG: &str = "tokenizer_config.json";
const LEGACY: &str = "chat_template.json";

const NAME: &str = "chat";

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: &'static str,
    pub content: String,
}

/// What a template may ask for beside the conversation.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    /// Today.
    pub date: NaiveDate,
    /// Whether the model is to think before it answers; templates that ask assume so.
    pub thinking: bool,
}

/// A parsed template with the special tokens that it may write.
pub struct ChatTemplate {
    environment: Environment<'static>,
    variables: serde_json::Map<String, serde_json::Value>,
}

impl ChatTemplate {
    /// Reads the files of a model directory: `chat_template.jinja`, or the `chat_template` of
    /// `tokenizer_config.json` (of several, the one named `default`) or of `chat_template.json`.
    /// `model` is whose they are.
    ///
    /// # Errors
    /// No template, a file that is no JSON, or a template that does not parse.
    pub fn read(files: &Texts, model: &str, told: Told) -> anyhow::Result<Self> {
        let origin = || format!("the chat template of {model}");
        let config = json(files, CONFIG).with_context(origin)?;
        let template = match files.get(JINJA) {
            Some(template) => Some(template.clone()),
            None => {
                template_of(&config).or(template_of(&json(files, LEGACY).with_context(origin)?))
            }
        };
        let Some(template) = template else {
            bail!(
                "{model} has no chat template, neither {JINJA} nor `chat_template` in {CONFIG}: it \
                 may be a base model, so turn prompt.chat off or name an instruction-tuned one"
            );
        };
        Self::parse(&template, &config, told).with_context(origin)
    }

    /// `config` is `tokenizer_config.json`, of which the special tokens are read.
    ///
    /// # Errors
    /// A template that does not parse.
    pub fn parse(template: &str, config: &serde_json::Value, told: Told) -> anyhow::Result<Self> {
        let mut environment = Environment::new();
        // As `transformers` sets up Jinja.
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", to_json);
        environment.add_function("raise_exception", |text: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, format!("the template refuses: {text}")))
        });
        environment
            .add_function("strftime_now", move |format: String| strftime(told.date, &format));
        environment.add_template_owned(NAME, template.to_owned())?;
        let mut variables = special_tokens(config);
        if !told.thinking {
            variables.insert("enable_thinking".to_owned(), false.into());
        }
        Ok(Self { environment, variables })
    }

    /// The conversation up to where the model is to answer.
    ///
    /// # Errors
    /// A template that refuses it.
    pub fn render(&self, messages: &[Message]) -> anyhow::Result<String> {
        let template = self.environment.get_template(NAME).context("the template was added")?;
        let fixed = context! {
            messages, tools => (), documents => (), add_generation_prompt => true,
        };
        let all = context! { ..fixed, ..Value::from_serialize(&self.variables) };
        template.render(all).map_err(|error| anyhow::anyhow!("{error:#}"))
    }
}

/// `null` where there is no such file.
fn json(files: &Texts, name: &str) -> anyhow::Result<serde_json::Value> {
    let Some(text) = files.get(name) else { return Ok(serde_json::Value::Null) };
    serde_json::from_str(text).with_context(|| format!("{name} is not JSON"))
}

fn template_of(config: &serde_json::Value) -> Option<String> {
    let template = &config["chat_template"];
    let named = template.as_array().and_then(|all| all.iter().find(|t| t["name"] == "default"));
    named.map_or(template, |named| &named["template"]).as_str().map(str::to_owned)
}

/// `bos_token` and its like, written as text or as an object with `content`.
fn special_tokens(config: &serde_json::Value) -> serde_json::Map<String, serde_json::Value> {
    let fields = config.as_object().into_iter().flatten();
    let tokens = fields.filter(|(name, _)| name.ends_with("_token")).filter_map(|(name, value)| {
        let content = value.as_str().or_else(|| value["content"].as_str())?;
        Some((name.clone(), content.into()))
    });
    tokens.collect()
}

fn strftime(date: NaiveDate, format: &str) -> Result<String, Error> {
    let mut text = String::new();
    let midnight = date.and_time(chrono::NaiveTime::MIN);
    write!(text, "{}", midnight.format(format)).map_err(|_| {
        let fault = format!("strftime_now has the format {format:?}, which means nothing");
        Error::new(ErrorKind::InvalidOperation, fault)
    })?;
    Ok(text)
}

/// `json.dumps(value, ensure_ascii=False, indent=indent)`.
fn to_json(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    // Whatever else `json.dumps` takes changes nothing in a prompt's text.
    let fault = |error: serde_json::Error| {
        Error::new(ErrorKind::BadSerialization, "cannot be written as JSON").with_source(error)
    };
    let mut bytes = Vec::new();
    match indent {
        Some(width) => {
            let indent = " ".repeat(width);
            let formatter = PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, formatter))
        }
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, Spaced)),
    }
    .map_err(fault)?;
    Ok(Value::from_safe_string(String::from_utf8(bytes).expect("JSON is UTF-8")))
}

/// Python's separators: `, ` and `: `.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
    ) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
mod tests;
