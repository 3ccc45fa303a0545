//! Single values: read from text as what their key holds, and kept only where they are that. What
//! values mean together is `validate`'s.

use config::{Config, File, FileFormat, Map, Value, ValueKind};

use crate::layers::SettingsError;
use crate::schema::Settings;

/// All keys with their defaults; the defaults say what each key holds.
///
/// # Errors
/// None: the canonical text of the defaults is TOML.
pub(crate) fn default_tree() -> Result<Value, SettingsError> {
    tree(&Settings::default().to_toml(), "the defaults")
}

/// A TOML text whose values remember where they came from.
///
/// # Errors
/// Anything but TOML, with the place.
pub(crate) fn tree(text: &str, origin: &str) -> Result<Value, SettingsError> {
    let syntax = |fault: String| SettingsError::Syntax { origin: origin.to_owned(), fault };
    // Its errors show the line, also where a number is too large.
    toml::from_str::<toml::Table>(text).map_err(|error| syntax(error.to_string()))?;
    let source = File::from_str(text, FileFormat::Toml);
    let parsed = Config::builder().add_source(source).build();
    let parsed = parsed.map_err(|error| syntax(error.to_string()))?;
    Ok(labelled(parsed.cache, origin))
}

/// What a flag or a variable says: text where the key holds text, a list where it holds a list,
/// otherwise what TOML reads, or else the text itself.
pub(crate) fn from_text(key: &str, text: &str, origin: &str, known: &Value) -> Value {
    let plain = || ValueKind::String(text.to_owned());
    let read = tree(&format!("v = {text}"), origin).ok();
    let read = read.and_then(|value| value.into_table().ok()?.remove("v")).map(|v| v.kind);
    let kind = match (lookup(known, key).map(|leaf| &leaf.kind), read) {
        (Some(ValueKind::String(_)), Some(quoted @ ValueKind::String(_))) => quoted,
        (Some(ValueKind::String(_)), _) => plain(),
        (Some(ValueKind::Array(_)), Some(list @ ValueKind::Array(_))) => list,
        (Some(ValueKind::Array(known)), _) => {
            let parts = text.split(',').map(str::trim);
            ValueKind::Array(parts.map(|part| element(part, holds_numbers(known))).collect())
        }
        (_, read) => read.unwrap_or_else(plain),
    };
    labelled(Value::new(None, kind), origin)
}

/// The given values that are known and fit, over the defaults. The others are named.
pub(crate) fn sift(given: &Value, known: &Value, faults: &mut Vec<String>) -> Value {
    Sieve { defaults: known, faults }.table("", given, known)
}

struct Sieve<'a> {
    defaults: &'a Value,
    faults: &'a mut Vec<String>,
}

impl Sieve<'_> {
    fn table(&mut self, path: &str, given: &Value, known: &Value) -> Value {
        let (ValueKind::Table(values), ValueKind::Table(schema)) = (&given.kind, &known.kind)
        else {
            return self.leaf(path, given, known);
        };
        let mut kept = schema.clone();
        let mut keys: Vec<_> = values.keys().collect();
        keys.sort();
        for key in keys {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            match schema.get(key) {
                Some(below) => {
                    let value = self.table(&path, &values[key], below);
                    kept.insert(key.clone(), value);
                }
                None => {
                    let near = suggestion(key, schema.keys());
                    self.faults.push(format!("unknown key `{path}`{near}"));
                }
            }
        }
        Value::new(None, ValueKind::Table(kept))
    }

    fn leaf(&mut self, path: &str, given: &Value, known: &Value) -> Value {
        let fault = match wanted(&given.kind, &known.kind) {
            Some(wanted) => Some(format!("{path} is {} but must be {wanted}", shown(given))),
            None => self.trial(path, given).err().map(|error| format!("{path}: {error}")),
        };
        let Some(fault) = fault else { return given.clone() };
        let origin = given.origin().map(|origin| format!(" (from {origin})"));
        self.faults.push(format!("{fault}{}", origin.unwrap_or_default()));
        known.clone()
    }

    /// The schema itself judges what a kind cannot say: ranges of numbers, names of choices.
    fn trial(&self, path: &str, given: &Value) -> Result<(), config::ConfigError> {
        let mut config = Config::default();
        config.cache = self.defaults.clone();
        let unlabelled = Value::new(None, given.kind.clone());
        let config = Config::builder().add_source(config).set_override(path, unlabelled)?;
        config.build()?.try_deserialize::<Settings>().map(drop)
    }
}

/// What a key must hold, where the given kind is something else.
fn wanted(given: &ValueKind, known: &ValueKind) -> Option<&'static str> {
    use ValueKind::{Array, Boolean, Float, I64, String, Table};
    let (fits, wanted) = match known {
        Boolean(_) => (matches!(given, Boolean(_)), "true or false"),
        Float(_) => (matches!(given, Float(_) | I64(_)), "a number"),
        String(_) => (matches!(given, String(_)), "text in quotes"),
        Array(known) if holds_numbers(known) => {
            let whole = |list: &Vec<Value>| list.iter().all(|v| matches!(v.kind, I64(0..)));
            (matches!(given, Array(list) if whole(list)), "a list of whole numbers")
        }
        Array(_) => {
            let texts = |list: &Vec<Value>| list.iter().all(|v| matches!(v.kind, String(_)));
            (matches!(given, Array(list) if texts(list)), "a list of texts")
        }
        Table(_) => (matches!(given, Table(_)), "a section with keys of its own"),
        // No setting counts below 0, and TOML's whole numbers end where i64 does.
        _ => (matches!(given, I64(0..)), "a whole number from 0 to 9223372036854775807"),
    };
    (!fits).then_some(wanted)
}

/// Whether a list with this default holds whole numbers: none of them is empty.
fn holds_numbers(known: &[Value]) -> bool {
    known.first().is_some_and(|value| matches!(value.kind, ValueKind::I64(_)))
}

fn element(text: &str, number: bool) -> Value {
    match text.parse::<i64>() {
        Ok(whole) if number => Value::from(whole),
        _ => Value::from(text),
    }
}

fn shown(value: &Value) -> String {
    match &value.kind {
        ValueKind::String(text) => format!("{text:?}"),
        ValueKind::Table(_) => "a section".to_owned(),
        _ => value.to_string(),
    }
}

fn labelled(value: Value, origin: &str) -> Value {
    let kind = match value.kind {
        ValueKind::Table(table) => {
            let below = |(key, value)| (key, labelled(value, origin));
            ValueKind::Table(table.into_iter().map(below).collect::<Map<_, _>>())
        }
        other => other,
    };
    Value::new(Some(&origin.to_owned()), kind)
}

fn lookup<'a>(tree: &'a Value, key: &str) -> Option<&'a Value> {
    key.split('.').try_fold(tree, |value, part| match &value.kind {
        ValueKind::Table(table) => table.get(part),
        _ => None,
    })
}

fn suggestion<'a>(key: &str, known: impl Iterator<Item = &'a String>) -> String {
    let near = known.map(|k| (distance(key, k), k)).min();
    match near {
        Some((d, k)) if d <= 2.max(key.len() / 3) => format!(" (did you mean `{k}`?)"),
        _ => String::new(),
    }
}

/// Levenshtein distance, bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substitute = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
