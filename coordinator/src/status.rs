//! `coordinator status`: where a run under way stands, and who waits for what. It asks the run's
//! coordinator and changes nothing.

use std::fmt::Write;
use std::fs;
use std::time::Duration;

use anyhow::{Context, bail};
use proto::{ChannelSettings, CoordinatorClient, Inspection, MemberView, Wait};
use security::Guard;
use serde_json::Value;
use settings::{Layers, Settings};

use crate::cli::LiveRunArgs;
use crate::output::say;
use crate::run_dir::RunDir;

/// Returns the exit code.
///
/// # Errors
/// No run there, or one whose coordinator does not answer.
pub fn status(args: &LiveRunArgs) -> anyhow::Result<u8> {
    let target = Target::new(args)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the async runtime")?;
    say(&describe(&runtime.block_on(target.inspect())?));
    Ok(0)
}

/// The coordinator that is asked.
pub(crate) struct Target {
    settings: Settings,
    address: String,
}

impl Target {
    /// Of the run in a directory, or at an address.
    ///
    /// # Errors
    /// No run there, or none that is under way.
    pub(crate) fn new(args: &LiveRunArgs) -> anyhow::Result<Self> {
        match (&args.run, &args.coordinator) {
            (Some(path), _) => {
                let run_dir = RunDir::open(path)?;
                if !RunDir::is_live(path)? {
                    let shown = run_dir.shown();
                    bail!(
                        "no run is under way in {shown}: see it with `coordinator report {shown}`"
                    );
                }
                let file = Some(run_dir.config().to_string_lossy().into_owned());
                let settings = Layers { file, ..Layers::default() }.load()?;
                Ok(Self { settings, address: address(&run_dir)? })
            }
            (None, Some(address)) => {
                Ok(Self { settings: args.config.settings()?, address: address.clone() })
            }
            (None, None) => bail!("name a run directory or --coordinator"),
        }
    }

    /// # Errors
    /// A coordinator that cannot be reached.
    pub(crate) async fn connect(&self) -> anyhow::Result<CoordinatorClient> {
        let channel_settings = ChannelSettings::new(&Guard::open(&self.settings)?);
        let channel = proto::connect(&self.address, &channel_settings).await?;
        Ok(CoordinatorClient::new(channel, &channel_settings))
    }

    async fn inspect(&self) -> anyhow::Result<Inspection> {
        Ok(self.connect().await?.inspect().await?)
    }
}

/// Where the run's coordinator listens, as it has written down.
fn address(run_dir: &RunDir) -> anyhow::Result<String> {
    let path = run_dir.processes("");
    let text = fs::read_to_string(&path);
    let text = text.with_context(|| format!("cannot read {}", path.display()))?;
    let list: Value = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    let address = list.pointer("/0/address").and_then(Value::as_str);
    address.map(str::to_owned).with_context(|| format!("{} names no coordinator", path.display()))
}

fn describe(run: &Inspection) -> String {
    let mut text = run.phase.clone();
    if run.steps > 0 {
        text.push_str(&format!(", step {} of {} committed", run.committed, run.steps));
    }
    if let Some(version) = run.version {
        text.push_str(&format!(", weights {version}"));
    }
    text.push_str(&format!(", last progress {} ago\n", seconds(run.idle)));
    if !run.waits.is_empty() {
        text.push_str(&format!("the run waits for {}\n", run.waits.join("; ")));
    }
    let width = run.members.iter().map(|member| member.name.len()).max().unwrap_or_default();
    for member in &run.members {
        let line = member_line(member);
        write!(text, "\n{:width$}  {line}", member.name).expect("a string takes what is written");
    }
    text
}

fn member_line(member: &MemberView) -> String {
    let Some(silent) = member.silent else { return "not heard of yet".to_owned() };
    let mut parts = vec![format!("heard {} ago", seconds(silent))];
    parts.push(format!("got on {} ago", seconds(member.idle)));
    if member.leases > 0 {
        let groups = if member.leases == 1 { "group" } else { "groups" };
        parts.push(format!("has {} {groups}", member.leases));
    }
    if !member.waits.is_empty() {
        let waits: Vec<String> = member.waits.iter().map(wait).collect();
        parts.push(format!("waits for {}", waits.join("; ")));
    }
    parts.join(", ")
}

pub(crate) fn wait(wait: &Wait) -> String {
    let mut text = format!("{} since {}", wait.what, seconds(wait.since));
    if let Some(limit) = wait.limit {
        text.push_str(&format!(" of at most {}", seconds(limit)));
    }
    text
}

pub(crate) fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use types::PolicyVersion;

    use super::*;

    #[test]
    fn a_person_reads_who_waits_for_what() {
        let millis = Duration::from_millis;
        let sum = Wait {
            what: "a sum with rank 1".to_owned(),
            since: millis(12_340),
            limit: Some(millis(30_000)),
        };
        let learner = MemberView {
            name: "learner-0".to_owned(),
            silent: Some(millis(400)),
            idle: millis(200),
            waits: vec![sum],
            ..MemberView::default()
        };
        let actor = MemberView {
            name: "actor-0".to_owned(),
            silent: Some(millis(100)),
            idle: millis(50),
            leases: 1,
            ..MemberView::default()
        };
        let server = MemberView { name: "weak-server-0".to_owned(), ..MemberView::default() };
        let run = Inspection {
            phase: "training".to_owned(),
            committed: 3,
            steps: 80,
            version: Some(PolicyVersion::new(1, 3)),
            idle: millis(1_500),
            waits: vec!["the learner to commit step 4".to_owned()],
            members: vec![actor, server, learner],
            ..Inspection::default()
        };
        let version = PolicyVersion::new(1, 3);
        let expected = format!(
            "training, step 3 of 80 committed, weights {version}, last progress 1.5 s ago\n\
             the run waits for the learner to commit step 4\n\
             \n\
             actor-0        heard 0.1 s ago, got on 0.1 s ago, has 1 group\n\
             weak-server-0  not heard of yet\n\
             learner-0      heard 0.4 s ago, got on 0.2 s ago, waits for a sum with rank 1 since \
             12.3 s of at most 30.0 s"
        );
        assert_eq!(describe(&run), expected);
    }
}
