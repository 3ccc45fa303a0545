//! What a run's files of JSON lines say, read back: steps, evaluations, whatever else there is a line
//! for. Writing them is `metrics_log`'s.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::eval_plan::EvalResult;

#[derive(Debug, thiserror::Error)]
pub(crate) enum LinesError {
    #[error("cannot read {path}: {cause}")]
    Read { path: PathBuf, cause: io::Error },
    #[error("{path}:{line} is damaged: {cause}; mend or remove that line")]
    Line { path: PathBuf, line: usize, cause: serde_json::Error },
}

/// A line of `metrics.jsonl`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct StepLine {
    pub(crate) step: u32,
    pub(crate) wall_seconds: f64,
    pub(crate) tokens: Tokens,
    pub(crate) values: BTreeMap<String, f64>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Tokens {
    pub(crate) strong: u64,
    pub(crate) weak: u64,
}

/// A line of `evaluations.jsonl`: a result with its place in the run.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "Map<String, Value>")]
pub(crate) struct EvalLine {
    pub(crate) step: u32,
    pub(crate) wall_seconds: f64,
    pub(crate) result: EvalResult,
}

impl TryFrom<Map<String, Value>> for EvalLine {
    type Error = serde_json::Error;

    fn try_from(mut line: Map<String, Value>) -> Result<Self, Self::Error> {
        let mut take = |key: &str| line.remove(key).unwrap_or_default();
        let step = serde_json::from_value(take("step"))?;
        let wall_seconds = serde_json::from_value(take("wall_seconds"))?;
        Ok(Self { step, wall_seconds, result: serde_json::from_value(Value::Object(line))? })
    }
}

/// Each line of a file, which may not be there, as what it is to be. An end without a line break is
/// what a crash left, or what is being written now: no line yet.
///
/// # Errors
/// A file that cannot be read; a line that is something else, by its number.
pub(crate) fn lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, LinesError> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        other => other.map_err(|cause| LinesError::Read { path: path.to_owned(), cause })?,
    };
    let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
    let line = |(index, line)| {
        let fault = |cause| LinesError::Line { path: path.to_owned(), line: index + 1, cause };
        serde_json::from_str(line).map_err(fault)
    };
    whole.lines().enumerate().map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proto::StepRecord;

    use super::*;
    use crate::metrics_log::MetricsLog;

    #[test]
    fn lines_come_back_as_they_were_written() {
        let dir = tempfile::tempdir().unwrap();
        let (steps, evaluations) = (dir.path().join("steps"), dir.path().join("evaluations"));
        let record = StepRecord {
            step: 3,
            strong_tokens: 9,
            weak_tokens: 2,
            values: [("loss".to_owned(), 0.5)].into(),
            ..StepRecord::default()
        };
        let wall = Duration::from_millis(1_250);
        MetricsLog::create(&steps).unwrap().step(&record, wall).unwrap();
        let mut result = EvalResult { problems: 7, ..EvalResult::default() };
        result.tandem_accuracy.push("line:0.5", Some(0.25));
        MetricsLog::create(&evaluations).unwrap().evaluation(3, &result, wall).unwrap();

        let found: Vec<StepLine> = lines(&steps).unwrap();
        let [line] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((line.step, line.wall_seconds, line.values["loss"]), (3, 1.25, 0.5));
        assert_eq!((line.tokens.strong, line.tokens.weak), (9, 2));
        let found: Vec<EvalLine> = lines(&evaluations).unwrap();
        assert_eq!((found[0].step, found[0].wall_seconds), (3, 1.25));
        assert_eq!(found[0].result, result);
        assert!(lines::<StepLine>(&dir.path().join("none")).unwrap().is_empty());
    }

    #[test]
    fn a_damaged_line_is_named_and_a_torn_end_is_no_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lines");
        fs::write(&path, "1\n2\n3").unwrap();
        assert_eq!(lines::<u32>(&path).unwrap(), [1, 2]);
        fs::write(&path, "1\nx\n3\n").unwrap();
        let error = lines::<u32>(&path).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{}:2 is damaged: ", path.display())), "{error}");
    }
}
