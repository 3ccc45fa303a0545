//! Layering: defaults, then a file or preset, then the environment, then flags.

use std::io::ErrorKind;

use config::{Config, Value};

use crate::leaves::{default_tree, from_text, sift, tree};
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
    #[error("cannot read the settings file {name}: {cause}")]
    Read { name: String, cause: std::io::Error },
    #[error("settings of {origin}: {fault}")]
    Syntax { origin: String, fault: String },
    #[error("--set {0}: write KEY=VALUE, for instance --set train.steps=20")]
    Set(String),
    #[error("the environment has {0}: write TANDEM__SECTION__KEY=VALUE, in UTF-8")]
    Variable(String),
    #[error("settings have {} fault(s):\n{}", .0.len(), .0.iter().map(|f| format!("  - {f}")).collect::<Vec<_>>().join("\n"))]
    Faults(Vec<String>),
}

const PREFIX: &str = "TANDEM__";

impl Layers {
    /// # Errors
    /// A missing file, bad syntax, or all faults together: unknown keys, wrong types, broken rules.
    pub fn load(&self) -> Result<Settings, SettingsError> {
        let known = default_tree()?;
        let mut found = Vec::new();
        let sifted = sift(&self.merge(&known)?, &known, &mut found);
        // Each value was accepted by itself, so all of them are together.
        let settings = sifted.try_deserialize::<Settings>();
        let settings = settings.map_err(|e| SettingsError::Faults(vec![e.to_string()]))?;
        found.extend(faults(&settings));
        if found.is_empty() { Ok(settings) } else { Err(SettingsError::Faults(found)) }
    }

    fn merge(&self, known: &Value) -> Result<Value, SettingsError> {
        let mut builder = Config::builder().add_source(layer(known.clone()));
        if let Some(name) = &self.file {
            builder = builder.add_source(layer(tree(&read(name)?, name)?));
        }
        let mut environment = Config::builder();
        for (name, text) in self.variables()? {
            let key = name[PREFIX.len()..].to_lowercase().replace("__", ".");
            let value = from_text(&key, &text, &name, known);
            let set = environment.set_override(&key, value);
            environment = set.map_err(|_| SettingsError::Variable(name))?;
        }
        let environment = environment.build().map_err(|error| syntax("the environment", &error))?;
        builder = builder.add_source(environment);
        for pair in &self.set {
            let fault = || SettingsError::Set(pair.clone());
            let (key, text) = pair.split_once('=').ok_or_else(fault)?;
            let value = from_text(key.trim(), text, "--set", known);
            builder = builder.set_override(key.trim(), value).map_err(|_| fault())?;
        }
        let merged = builder.build().map_err(|error| syntax("all layers", &error))?;
        Ok(merged.cache)
    }

    /// Those that begin as ours do.
    fn variables(&self) -> Result<Vec<(String, String)>, SettingsError> {
        if let Some(given) = &self.environment {
            return Ok(given
                .iter()
                .filter(|(name, _)| name.starts_with(PREFIX))
                .cloned()
                .collect());
        }
        let named = std::env::vars_os().filter_map(|(name, text)| {
            let name = name.into_string().ok().filter(|name| name.starts_with(PREFIX))?;
            Some((name, text))
        });
        let read = named.map(|(name, text)| match text.into_string() {
            Ok(text) => Ok((name, text)),
            Err(_) => Err(SettingsError::Variable(name)),
        });
        read.collect()
    }
}

fn layer(tree: Value) -> Config {
    let mut layer = Config::default();
    layer.cache = tree;
    layer
}

fn syntax(origin: &str, error: &config::ConfigError) -> SettingsError {
    SettingsError::Syntax { origin: origin.to_owned(), fault: error.to_string() }
}

/// A file where there is one, otherwise a preset.
fn read(name: &str) -> Result<String, SettingsError> {
    let source = match std::fs::read_to_string(name) {
        Ok(text) => return Ok(text),
        Err(source) => source,
    };
    match (preset(name), source.kind()) {
        (Some(text), ErrorKind::NotFound | ErrorKind::IsADirectory) => Ok(text.to_owned()),
        (None, ErrorKind::NotFound) => {
            let presets = PRESETS.map(|(known, _)| known).join(", ");
            Err(SettingsError::NoFile { name: name.to_owned(), presets })
        }
        _ => Err(SettingsError::Read { name: name.to_owned(), cause: source }),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

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

    /// A settings file of its own, gone with the guard.
    struct Scratch(PathBuf);

    impl Scratch {
        fn file(name: &str, bytes: &[u8]) -> Self {
            let name = format!("tandem-settings-{}-{name}.toml", std::process::id());
            let path = std::env::temp_dir().join(name);
            std::fs::write(&path, bytes).unwrap();
            Self(path)
        }

        fn name(&self) -> String {
            self.0.to_str().unwrap().to_owned()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            std::fs::remove_file(&self.0).unwrap();
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
    fn wrong_types_are_never_bent_and_all_are_named_with_their_origin() {
        let env = [("TANDEM__EVAL__ENABLED", "yes"), ("TANDEM__TRAIN__KL", "much")];
        let mut layers = layers(
            &[
                "train.steps=-1.5",
                "train.warmup_steps=-1",
                "actor.slots=true",
                "handoff.max_gap=5000000000",
                "data.source=books",
                "sampling=3",
                "train.stepz=3",
                "handoff.probability=1.5",
            ],
            &env,
        );
        let file = Scratch::file("types", b"run.dir = 7\n[train]\nproblems_per_step = 8.5\n");
        let path = file.name();
        layers.file = Some(path.clone());
        let text = faults_of(&layers);
        let has = |fault: &str| assert!(text.iter().any(|f| f == fault), "{fault} in {text:#?}");
        let whole = "must be a whole number from 0 to 9223372036854775807";
        has(&format!("train.problems_per_step is 8.5 but {whole} (from {path})"));
        has(&format!("run.dir is 7 but must be text in quotes (from {path})"));
        has(&format!("train.steps is -1.5 but {whole} (from --set)"));
        has(&format!("train.warmup_steps is -1 but {whole} (from --set)"));
        has(&format!("actor.slots is true but {whole} (from --set)"));
        has("sampling is 3 but must be a section with keys of its own (from --set)");
        has("eval.enabled is \"yes\" but must be true or false (from TANDEM__EVAL__ENABLED)");
        has("train.kl is \"much\" but must be a number (from TANDEM__TRAIN__KL)");
        has("unknown key `train.stepz` (did you mean `steps`?)");
        let starts = |start: &str| assert!(text.iter().any(|f| f.starts_with(start)), "{text:#?}");
        starts("handoff.max_gap: ");
        starts("data.source: ");
        starts("handoff: ");
        assert_eq!(text.len(), 12, "{text:#?}");
    }

    #[test]
    fn whole_numbers_stand_for_others_and_text_stays_text() {
        let env = [("TANDEM__RUN__DIR", "1e3"), ("TANDEM__STRONG__MODEL", "007")];
        let settings = layers(&["train.kl=1", "weak.model=true"], &env).load().unwrap();
        assert_eq!((settings.train.kl, settings.weak.model.as_str()), (1.0, "true"));
        assert_eq!((settings.run.dir.as_str(), settings.strong.model.as_str()), ("1e3", "007"));
    }

    #[test]
    fn seeds_that_no_file_can_hold_are_named() {
        for (set, env) in [
            (&["seed=9223372036854775808"][..], &[][..]),
            (&[], &[("TANDEM__SEED", "18446744073709551615")]),
        ] {
            let faults = faults_of(&layers(set, env));
            assert!(faults[0].starts_with("seed is \""), "{faults:?}");
            assert!(faults[0].contains("to 9223372036854775807"), "{faults:?}");
        }
        let most = layers(&["seed=9223372036854775807"], &[]).load().unwrap();
        assert_eq!(toml::from_str::<Settings>(&most.to_toml()).unwrap(), most);
        let file = Scratch::file("seed", b"\nseed = 9223372036854775808\n");
        let path = file.name();
        let error = Layers { file: Some(path.clone()), ..layers(&[], &[]) }.load().unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&path) && text.contains("seed = 9223372036854775808"), "{text}");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_not_called_missing() {
        let latin = Scratch::file("latin", b"run.dir = \"\xe9t\xe9\"");
        let directory = std::env::temp_dir().to_str().unwrap().to_owned();
        for name in [latin.name(), directory] {
            let error = Layers { file: Some(name.clone()), ..layers(&[], &[]) }.load().unwrap_err();
            assert!(matches!(&error, SettingsError::Read { name: found, .. } if *found == name));
        }
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
