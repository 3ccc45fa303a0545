//! What a version of the weights costs from a learner's client over the coordinator's service to
//! several actors' clients, as streams and as a file: wall and processor seconds, three times each in
//! turn. Arguments: MiB of the version (512), actors (8), a directory for the file (the temporary one).
//! Making tensors of the bytes is not part of it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use coordinator::eval_plan::EvalPlan;
use coordinator::hub::{Hub, Records};
use coordinator::service::{ServiceLimits, service};
use coordinator::source::Source;
use coordinator::spec::RunSpec;
use coordinator::state::RunState;
use coordinator::weight_store::manifest_of;
use miniature::{TensorSpec, random_safetensors};
use proto::{ChannelSettings, CoordinatorClient, WeightFiles};
use runtime::{Shutdown, TaskGroup, cpu_seconds_self_and_children, off_workers};
use security::{Guard, Listener, Protocol};
use settings::Settings;
use types::{PolicyVersion, WeightManifest};

const ROUNDS: u32 = 3;
const GRACE: Duration = Duration::from_secs(10);
/// All of the machine: what the coordinator and its peers share otherwise.
const LIMIT: u64 = 64 << 30;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mib: usize = arguments.next().as_deref().unwrap_or("512").parse()?;
    let actors: usize = arguments.next().as_deref().unwrap_or("8").parse()?;
    let dir = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let files = WeightFiles::new(dir.join(format!("weight-handover-{}", std::process::id())));
    let spec = [TensorSpec::new("w", &[mib, 1 << 18], 0.0, 1.0)];
    let bytes = random_safetensors(&spec, 1)?;
    println!("{} MB for {actors} actors, file in {}", bytes.len() / 1_000_000, dir.display());
    let mut sums = [0.0; 2];
    for _ in 0..ROUNDS {
        for (way, sum) in [None, Some(files.clone())].into_iter().zip(&mut sums) {
            *sum += once(way, &bytes, actors).await?;
        }
    }
    files.retain([])?;
    println!("stream / file = {:.2}", sums[0] / sums[1]);
    Ok(())
}

/// Publishes one version and has every actor fetch it; wall seconds of both.
async fn once(files: Option<WeightFiles>, bytes: &[u8], actors: usize) -> anyhow::Result<f64> {
    let tasks = TaskGroup::new(Shutdown::new());
    let address = serve(&tasks, files.clone()).await?;
    let manifest = manifest_of(PolicyVersion::new(1, 0), bytes)?;
    let mut learner = client(&address).await?;
    let (started, cpu) = (Instant::now(), cpu_seconds_self_and_children()?);
    match &files {
        Some(files) => {
            files.offer(&manifest, bytes)?;
            learner.publish_filed(manifest.clone()).await?;
        }
        None => learner.publish_weights(manifest.clone(), bytes).await?,
    }
    let published = started.elapsed().as_secs_f64();
    let mut fetching = Vec::new();
    for _ in 0..actors {
        fetching.push(fetch(client(&address).await?, manifest.clone(), files.clone()));
    }
    futures_util::future::try_join_all(fetching).await?;
    let (all, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds_self_and_children()? - cpu);
    let way = if files.is_some() { "file" } else { "stream" };
    println!("{way}: published {published:.2} s, fetched by all {all:.2} s, processor {cpu:.2} s");
    tasks.shutdown().trigger("the round is over");
    tasks.join(GRACE).await?;
    Ok(all)
}

async fn fetch(
    mut actor: CoordinatorClient,
    expected: WeightManifest,
    files: Option<WeightFiles>,
) -> anyhow::Result<()> {
    let Some(files) = files else {
        return Ok(actor.fetch_weights(expected.version, LIMIT).await.map(drop)?);
    };
    let manifest = actor.weight_manifest(expected.version).await?;
    off_workers(move || files.take(&manifest).map(drop)).await.context("the file")
}

async fn serve(tasks: &TaskGroup, weight_files: Option<WeightFiles>) -> anyhow::Result<String> {
    let mut settings = Settings::default();
    settings.limits.weights_bytes = LIMIT;
    let source = Source::open(&settings)?;
    // Without a learner in it, any version may be published.
    let spec = RunSpec::evaluation(&settings, EvalPlan::full(&settings, 1), 1, 0);
    let records = Records { weight_files, ..Records::default() };
    let hub = Hub::new(RunState::new(spec, source), 1, records);
    let (guard, listen) = (Guard::default(), "coordinator.listen");
    let listener = Listener::bind("127.0.0.1:0", listen, Protocol::Grpc, &guard).await?;
    let address = listener.address().to_string();
    let (service, stop) = (service(hub, ServiceLimits::new(&settings)), tasks.shutdown().wait());
    tasks.spawn("service", async move {
        let (mut server, incoming) = proto::accept(listener);
        let server = server.add_service(service);
        Ok(server.serve_with_incoming_shutdown(incoming, stop).await?)
    });
    Ok(address)
}

async fn client(address: &str) -> anyhow::Result<CoordinatorClient> {
    let settings = ChannelSettings::default();
    let channel = proto::connect(address, &settings).await?;
    Ok(CoordinatorClient::new(channel, &settings))
}
