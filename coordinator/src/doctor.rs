//! `coordinator doctor`: whether this machine can run what is asked of it, before anything is
//! started; and the `.env` by which compose runs it here. What it finds it leaves as it is.

mod env_file;
mod machine;

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;

use crate::FAILED;
use crate::cli::DoctorArgs;
use crate::credentials::{secret, write};
use crate::output::say;
use env_file::Choice;
use machine::{Finding, Machine, Verdict};

/// Each program and host that is asked must have answered by then.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Returns the exit code: 0 unless something stands in the way.
///
/// # Errors
/// Settings at fault, or a file that cannot be written.
pub fn doctor(args: &DoctorArgs) -> anyhow::Result<u8> {
    let settings = args.config.settings()?;
    let machine = Machine::look(&settings, &args.ports, ANSWER_MAX);
    say(&describe(&machine.findings));
    if let Some(path) = &args.write_env {
        let choice = Choice::of(&machine);
        let kept = write_env(path, &choice, secret)?;
        let kept = if kept { "; what it said before stays" } else { "" };
        say(&format!("\nwrote {}{kept}: {}", path.display(), choice.describe()));
    }
    let bad = machine.findings.iter().any(|finding| finding.verdict == Verdict::Bad);
    Ok(if bad { FAILED } else { 0 })
}

fn describe(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.what.len()).max().unwrap_or_default();
    let line = |finding: &Finding| {
        format!("{:4} {:width$}  {}", finding.verdict.name(), finding.what, finding.detail)
    };
    findings.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Adds what the file does not say yet; true if it was there. Only its owner may read it.
fn write_env(
    path: &Path,
    choice: &Choice,
    password: impl FnOnce() -> anyhow::Result<String>,
) -> anyhow::Result<bool> {
    let before = match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        read => Some(read.with_context(|| format!("cannot read {}", path.display()))?),
    };
    let text = env_file::completed(before.as_deref().unwrap_or_default(), choice, &password()?);
    let partial = path.with_extension("partial");
    let _ = fs::remove_file(&partial);
    write(&partial, &text, 0o600)?;
    fs::rename(&partial, path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(before.is_some())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_file_is_its_owners_and_keeps_what_it_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".env");
        let choice = Choice::of(&Machine::default());
        let written = |password: &str| {
            let kept = write_env(&path, &choice, || Ok(password.to_owned())).unwrap();
            (kept, fs::read_to_string(&path).unwrap())
        };
        let (kept, first) = written("one");
        assert!(!kept && first.contains("GRAFANA_PASSWORD=one\n"), "{first}");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, first.replace("TANDEM_PRESET=miniature", "TANDEM_PRESET=mine")).unwrap();
        let (kept, second) = written("two");
        assert!(kept && second.contains("GRAFANA_PASSWORD=one\n"), "{second}");
        assert!(second.contains("TANDEM_PRESET=mine\n") && !second.contains("miniature"));
    }

    #[test]
    fn findings_are_lines_in_columns() {
        let good = Finding::new("disk", Verdict::Good, "9 GB free".to_owned());
        let bad = Finding::new("port 9090", Verdict::Bad, "in use".to_owned());
        assert_eq!(describe(&[good, bad]), "ok   disk       9 GB free\nBAD  port 9090  in use");
    }
}
