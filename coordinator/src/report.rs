//! `coordinator report`: runs side by side as one HTML file that needs nothing else. It reads run
//! directories and changes nothing in them; what the page shows is put together by its parts.

mod chart;
mod curves;
mod decode;
mod heldout;
mod page;
mod phases;
mod record;
mod robustness;
mod samples;
mod tables;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::cli::{ReportArgs, UsageError};
use crate::output::say;
use record::Record;

/// As many as there are colours that can be told apart.
const RUNS_MAX: usize = 8;

/// Returns the exit code.
///
/// # Errors
/// A directory without a run, a damaged line in one of its files, or a page that cannot be written.
pub fn report(args: &ReportArgs) -> anyhow::Result<u8> {
    if args.runs.len() > RUNS_MAX {
        let text = format!(
            "{} runs are more than one report can tell apart: name at most {RUNS_MAX}",
            args.runs.len()
        );
        return Err(UsageError(text).into());
    }
    let names = names(&args.runs);
    let records = args.runs.iter().zip(names).map(|(path, name)| Record::read(path, name));
    let records: Vec<Record> = records.collect::<Result<_, _>>()?;
    let page = page::page(&records)?;
    let out = args.out.clone().unwrap_or_else(|| default_out(&args.runs));
    write(&out, &page).with_context(|| format!("cannot write {}", out.display()))?;
    say(&format!("the report is {}", out.display()));
    Ok(0)
}

/// Beside what it tells of, or in the working directory where that is several runs.
fn default_out(runs: &[PathBuf]) -> PathBuf {
    match runs {
        [run] => run.join("report.html"),
        _ => PathBuf::from("report.html"),
    }
}

/// The last parts of the paths; the paths themselves where those are not enough.
fn names(runs: &[PathBuf]) -> Vec<String> {
    let last = |path: &Path| {
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    };
    let short: Vec<String> = runs.iter().map(|run| last(run)).collect();
    let unique = short.iter().all(|name| short.iter().filter(|other| *other == name).count() == 1);
    if unique { short } else { runs.iter().map(|run| run.display().to_string()).collect() }
}

/// Beside the file and renamed, so that no reader meets half of it.
fn write(path: &Path, page: &str) -> std::io::Result<()> {
    let partial = path.with_extension("html.partial");
    fs::write(&partial, page)?;
    fs::rename(&partial, path)
}
