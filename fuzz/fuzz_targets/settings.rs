//! Settings from a file, flags and the environment, of any text. Whatever is accepted is accepted
//! again from the file that a run writes of it.

#![no_main]

use std::fs;
use std::path::PathBuf;

use libfuzzer_sys::fuzz_target;
use settings::{Layers, Settings};

const FLAG: &str = "--set ";
const VARIABLE: &str = "TANDEM__";

fuzz_target!(|text: &str| {
    let mut file = String::new();
    let (mut set, mut environment) = (Vec::new(), Vec::new());
    for line in text.lines() {
        if let Some(flag) = line.strip_prefix(FLAG) {
            set.push(flag.to_owned());
        } else if let (true, Some((name, value))) =
            (line.starts_with(VARIABLE), line.split_once('='))
        {
            environment.push((name.to_owned(), value.to_owned()));
        } else {
            file.push_str(line);
            file.push('\n');
        }
    }
    let Ok(settings) = load(&file, set, environment) else { return };
    settings.train_schedule().expect("the rules cover the schedule");
    let written = toml::to_string(&settings).expect("settings have a text");
    let again = load(&written, Vec::new(), Vec::new());
    assert_eq!(again.as_ref().map_err(ToString::to_string), Ok(&settings));
});

fn load(
    file: &str,
    set: Vec<String>,
    environment: Vec<(String, String)>,
) -> Result<Settings, settings::SettingsError> {
    let path = path();
    fs::write(&path, file).expect("the temporary directory takes a file");
    let name = path.to_str().expect("its name is text").to_owned();
    Layers { file: Some(name), set, environment: Some(environment) }.load()
}

/// One for each process.
fn path() -> PathBuf {
    std::env::temp_dir().join(format!("tandem-fuzz-{}.toml", std::process::id()))
}
