//! Programs of others that check what ours write: a Python with packages, a browser. Where they are
//! not there, it says loudly what is not checked.

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use crate::skip::say_skipped;

/// The Python that `TANDEM_TEST_PYTHON` names, with TensorBoard and MLflow.
///
/// # Panics
/// The variable names one without them.
#[must_use]
pub fn python(test: &str) -> Option<PathBuf> {
    let Some(python) = std::env::var_os("TANDEM_TEST_PYTHON").map(PathBuf::from) else {
        let way_out = "set TANDEM_TEST_PYTHON to a Python with tensorboard and mlflow";
        say_skipped(test, way_out);
        return None;
    };
    let check =
        "import importlib.util as u; assert all(map(u.find_spec, ['tensorboard', 'mlflow']))";
    let found = Command::new(&python).args(["-c", check]).output();
    let sound = found.is_ok_and(|output| output.status.success());
    assert!(sound, "{} has no tensorboard or no mlflow (TANDEM_TEST_PYTHON)", python.display());
    Some(python)
}

/// What headless Chromium says while it shows a page, and the page as it stands then.
#[must_use]
pub fn browse(test: &str, url: &str) -> Option<Output> {
    let profile = tempfile::tempdir().expect("a temporary directory");
    let shown = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--enable-logging=stderr", "--virtual-time-budget=3000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(url)
        .output();
    if shown.is_err() {
        say_skipped(test, "no `chromium`, install the Debian package of that name");
    }
    shown.ok()
}

/// A child that is killed when this is dropped.
pub struct Killed(Child);

impl Killed {
    /// # Panics
    /// The program cannot be started.
    #[must_use]
    pub fn start(command: &mut Command) -> Self {
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Self(child.expect("the program starts"))
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
