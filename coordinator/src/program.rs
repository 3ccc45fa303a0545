//! Asking another program of this machine something, with a deadline. What the answer means is the
//! caller's.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// Between two looks at whether the program has answered.
const LOOK: Duration = Duration::from_millis(20);

/// What the program prints; `None` where there is none of that name. The answer must fit into a
/// pipe, so that it does not wait for a reader.
///
/// # Errors
/// It fails, or has not ended by then.
pub(crate) fn answer(
    program: &str,
    args: &[&str],
    limit: Duration,
) -> anyhow::Result<Option<String>> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let Ok(mut child) = command.spawn() else { return Ok(None) };
    let asked = Instant::now();
    let status = loop {
        match child.try_wait().with_context(|| format!("cannot wait for {program}"))? {
            Some(status) => break status,
            None if asked.elapsed() < limit => std::thread::sleep(LOOK),
            None => {
                let _ = child.kill();
                let _ = child.wait();
                bail!("{program} does not answer within {} s", limit.as_secs_f64());
            }
        }
    };
    if !status.success() {
        bail!("{program} ended with {status}");
    }
    let mut text = String::new();
    let mut out = child.stdout.take().context("it has no output")?;
    out.read_to_string(&mut text).with_context(|| format!("cannot read what {program} prints"))?;
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_answers_fails_is_silent_or_is_not_there() {
        let ample = Duration::from_secs(60);
        assert_eq!(answer("echo", &["a", "b"], ample).unwrap().as_deref(), Some("a b\n"));
        assert_eq!(answer("no-such-program-here", &[], ample).unwrap(), None);
        let failed = answer("false", &[], ample).unwrap_err().to_string();
        assert!(failed.starts_with("false ended with exit status: 1"), "{failed}");
        let silent = answer("sleep", &["60"], Duration::from_millis(40)).unwrap_err().to_string();
        assert_eq!(silent, "sleep does not answer within 0.04 s");
    }
}
