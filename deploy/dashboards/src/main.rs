//! Writes the dashboards and rules into `deploy/`, over those that are there.

use anyhow::Context;

fn main() -> anyhow::Result<()> {
    for (path, text) in dashboards::files() {
        let whole = dashboards::deploy_dir().join(&path);
        std::fs::write(&whole, text)
            .with_context(|| format!("cannot write {}", whole.display()))?;
        println!("deploy/{}", path.display());
    }
    Ok(())
}
