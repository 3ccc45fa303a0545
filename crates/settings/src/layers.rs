//! Layering: defaults, then a file or preset, then the environment, then flags.

use std::path::Path;

use config::{Config, Environment, File, FileFormat, Value, ValueKind};

use crate::preset::{PRESETS, preset};
use crate::schema::Settings;
use crate::validate::faults;

/// Where settings come from, lowest layer first.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// A path, or the name of a preset.
    pub file: Option<String>,
    /// `KEY=VALUE`, as `--set` takes them.
    pub set: Vec<String>,
    /// Variables to read instead of the process environment (for tests).
    pub environment: Option<Vec<(String, String)>>,
}

#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("no settings file `{name}`: give a path, or one of the presets {presets}")]
    NoFile { name: String, presets: String },
    #[error("settings: {0}")]
    Syntax(String),
    #[error("--set {0}: write KEY=VALUE, for instance --set train.steps=20")]
    Set(String),
    #[error("settings have {} fault(s):\n{}", .0.len(), .0.iter().map(|f| format!("  - {f}")).collect::<Vec<_>>().join("\n"))]
    Faults(Vec<String>),
}

const PREFIX: &str = "TANDEM";

impl Layers {
    /// # Errors
    /// A missing file, bad syntax, or all faults together: unknown keys, wrong types, broken rules.
    pub fn load(&self) -> Result<Settings, SettingsError> {
        let merged = self.merge()?;
        let known = Value::from(tree(&Settings::default().to_toml())?);
        let mut found = Vec::new();
        unknown_keys(&merged, &known, "", &mut found);
        let kind = ValueKind::Table(found.is_empty().then(|| merged.clone()).map_or_else(
            || strip_unknown(&merged, &known),
            |value| value.into_table().unwrap_or_default(),
        ));
        let cleaned = Value::new(None, kind);
        match cleaned.try_deserialize::<Settings>() {
            Ok(settings) => {
                found.extend(faults(&settings));
                if found.is_empty() { Ok(settings) } else { Err(SettingsError::Faults(found)) }
            }
            Err(error) => {
                found.push(error.to_string());
                Err(SettingsError::Faults(found))
            }
        }
    }

    fn merge(&self) -> Result<Value, SettingsError> {
        let mut environment = Environment::with_prefix(PREFIX)
            .prefix_separator("__")
            .separator("__")
            .try_parsing(true)
            .list_separator(",")
            .with_list_parse_key("eval.schedules");
        if let Some(variables) = &self.environment {
            environment = environment.source(Some(variables.iter().cloned().collect()));
        }
        let defaults = File::from_str(&Settings::default().to_toml(), FileFormat::Toml);
        let mut builder = Config::builder().add_source(defaults);
        if let Some(name) = &self.file {
            builder = builder.add_source(File::from_str(&read(name)?, FileFormat::Toml));
        }
        builder = builder.add_source(environment);
        for pair in &self.set {
            let (key, text) =
                pair.split_once('=').ok_or_else(|| SettingsError::Set(pair.clone()))?;
            let value = parse_value(text);
            builder = builder
                .set_override(key.trim(), value)
                .map_err(|_| SettingsError::Set(pair.clone()))?;
        }
        let config = builder.build().map_err(|e| SettingsError::Syntax(e.to_string()))?;
        Ok(Value::new(None, ValueKind::Table(config.cache.into_table().unwrap_or_default())))
    }
}

fn read(name: &str) -> Result<String, SettingsError> {
    if let Ok(text) = std::fs::read_to_string(Path::new(name)) {
        return Ok(text);
    }
    let presets = || PRESETS.map(|(known, _)| known).join(", ");
    let missing = || SettingsError::NoFile { name: name.to_owned(), presets: presets() };
    preset(name).map(str::to_owned).ok_or_else(missing)
}

fn tree(toml: &str) -> Result<config::Map<String, Value>, SettingsError> {
    let config = Config::builder()
        .add_source(File::from_str(toml, FileFormat::Toml))
        .build()
        .map_err(|e| SettingsError::Syntax(e.to_string()))?;
    Ok(config.cache.into_table().unwrap_or_default())
}

/// A flag's text as TOML would read it, and as a plain string where it is no TOML value.
fn parse_value(text: &str) -> Value {
    let line = format!("v = {text}");
    let parsed = tree(&line).ok().and_then(|mut table| table.remove("v"));
    parsed.unwrap_or_else(|| Value::new(None, ValueKind::String(text.to_owned())))
}

fn unknown_keys(value: &Value, known: &Value, path: &str, found: &mut Vec<String>) {
    let (ValueKind::Table(table), ValueKind::Table(schema)) = (&value.kind, &known.kind) else {
        return;
    };
    let mut keys: Vec<_> = table.keys().collect();
    keys.sort();
    for key in keys {
        let full = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match schema.get(key) {
            Some(below) => unknown_keys(&table[key], below, &full, found),
            None => found.push(format!("unknown key `{full}`{}", suggestion(key, schema.keys()))),
        }
    }
}

fn strip_unknown(value: &Value, known: &Value) -> config::Map<String, Value> {
    let (ValueKind::Table(table), ValueKind::Table(schema)) = (&value.kind, &known.kind) else {
        return config::Map::new();
    };
    let kept = table.iter().filter_map(|(key, below)| {
        let schema = schema.get(key)?;
        let below = match (&below.kind, &schema.kind) {
            (ValueKind::Table(_), ValueKind::Table(_)) => {
                Value::new(None, ValueKind::Table(strip_unknown(below, schema)))
            }
            _ => below.clone(),
        };
        Some((key.clone(), below))
    });
    kept.collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sections::{DataSource, Objective};

    fn layers(set: &[&str], environment: &[(&str, &str)]) -> Layers {
        let own = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
        Layers {
            file: None,
            set: set.iter().map(|s| (*s).to_owned()).collect(),
            environment: Some(environment.iter().map(own).collect()),
        }
    }

    fn faults_of(layers: &Layers) -> Vec<String> {
        match layers.load() {
            Err(SettingsError::Faults(faults)) => faults,
            other => panic!("expected faults, got {other:?}"),
        }
    }

    #[test]
    fn defaults_are_the_miniature() {
        let settings = layers(&[], &[]).load().unwrap();
        assert_eq!(settings, Settings::default());
        assert_eq!(settings.train_schedule().unwrap().to_string(), "word:0.25");
    }

    #[test]
    fn later_layers_win() {
        let env = [("TANDEM__TRAIN__STEPS", "7"), ("TANDEM__SEED", "5")];
        let settings = layers(&["train.steps=9", "data.source=gsm8k", "data.path=x"], &env);
        let settings = settings.load().unwrap();
        assert_eq!((settings.train.steps, settings.seed), (9, 5));
        assert_eq!(settings.data.source, DataSource::Gsm8k);
    }

    #[test]
    fn lists_and_strings_come_through_the_environment_and_flags() {
        let env = [("TANDEM__EVAL__SCHEDULES", "token:0.5,line:0.25"), ("TANDEM__RUN__DIR", "a,b")];
        let settings = layers(&["strong.model=builtin:miniature-strong"], &env).load().unwrap();
        assert_eq!(settings.eval.schedules, ["token:0.5", "line:0.25"]);
        assert_eq!(settings.run.dir, "a,b");
        let settings = layers(&["eval.schedules=[\"token:0.1\"]"], &[]).load().unwrap();
        assert_eq!(settings.eval.schedules, ["token:0.1"]);
    }

    #[test]
    fn all_faults_are_reported_together_by_name() {
        let faults = faults_of(&layers(
            &["train.stepz=3", "handoff.probability=1.5", "train.kl=-1", "nonsense.x=1"],
            &[],
        ));
        let text = faults.join("\n");
        assert!(text.contains("unknown key `train.stepz` (did you mean `steps`?)"), "{text}");
        assert!(text.contains("unknown key `nonsense`"), "{text}");
        assert!(text.contains("handoff") && text.contains("1.5"), "{text}");
        assert!(text.contains("train.kl"), "{text}");
        assert_eq!(faults.len(), 4);
    }

    #[test]
    fn a_wrong_type_names_its_key() {
        let faults = faults_of(&layers(&["train.steps=many"], &[]));
        assert!(faults[0].contains("train.steps"), "{faults:?}");
    }

    #[test]
    fn the_miniature_preset_is_the_default() {
        let layers = Layers { file: Some("miniature".to_owned()), ..layers(&[], &[]) };
        assert_eq!(layers.load().unwrap(), Settings::default());
    }

    #[test]
    fn a_missing_file_lists_the_presets() {
        let layers = Layers { file: Some("absent.toml".into()), ..layers(&[], &[]) };
        let text = layers.load().unwrap_err().to_string();
        assert!(text.contains("absent.toml") && text.contains("sft-miniature-weak"), "{text}");
    }

    #[test]
    fn every_preset_loads_and_canonical_text_reads_back() {
        for (name, _) in PRESETS {
            let mut layers = layers(&["data.path=somewhere"], &[]);
            layers.file = Some(name.to_owned());
            if name == "gsm8k-smoke" {
                layers.set.push("strong.model=somewhere".to_owned());
            }
            let settings = layers.load().unwrap_or_else(|e| panic!("{name}: {e}"));
            let again: Settings = toml::from_str(&settings.to_toml()).unwrap();
            assert_eq!(again, settings, "{name}");
            assert_eq!(
                settings.train.objective == Objective::Sft,
                name.starts_with("sft-"),
                "{name}"
            );
        }
    }
}
