//! The learner as a member of a run: loads the model, opens its files and port, joins, and hands
//! everything to the training thread.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use member::{Membership, Process};
use model::{ModelFiles, ModelSource};
use runtime::look_again;
use settings::{Objective, Settings};
use store::Store;
use task::{Compute, Task, shared_stops};
use telemetry::DiskWatch;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use types::{PolicyVersion, TokenId};

use crate::admission::Admission;
use crate::checkpoint::{CheckpointStore, Checkpoints, Remote};
use crate::examples::{ExampleFeed, ExampleSource};
use crate::generations::Generations;
use crate::inbox::{Inbox, return_groups};
use crate::ingest::Ingest;
use crate::metrics;
use crate::publisher::{CoordinatorOutlet, Places, SharedDisk, StoredVersions};
use crate::rank_watch::RankWatch;
use crate::refill::Refill;
use crate::rollout_log::RolloutLog;
use crate::seat::Seat;
use crate::train_loop::{RunFiles, Source, TrainLoop};

/// Batches of examples that are fetched ahead.
const EXAMPLES_AHEAD: usize = 1;

/// Trains until the last step, then waits for the stop.
///
/// # Errors
/// A model or directory that cannot be used, a port in use, no coordinator.
pub async fn run(process: Process) -> anyhow::Result<()> {
    let settings = Arc::clone(&process.settings);
    let compute = Compute::open(&settings)?;
    tracing::info!(device = compute.device_name(), why = compute.why, "computing");
    let start = load_start(&settings, &compute)?;
    let stops = stops(&settings, &start)?;
    let task = Task::new(&settings, start.tokenizer.clone(), stops.clone())?;
    let files = open_files(&process, &start)?;
    spawn_disk_watch(&process);
    let (vocab, positions) = (start.config.ids, start.config.max_position_embeddings);
    process.readiness.set("model");

    let seat = Seat::new(&settings, process.rank(), compute.device().clone(), &process.guard)?;
    let listener = process.listen(&settings.learner.listen, "learner.listen").await?;
    let address = listener.address();
    let (returns, returned) = mpsc::channel(settings.learner.inbox_groups as usize);
    let inbox = match settings.train.objective {
        Objective::Sft => None,
        Objective::Grpo | Objective::Reinforce => {
            let admission = Admission::new(&settings, task.clone(), vocab)?;
            Some(Inbox::new(admission, Refill::new(&settings), returns))
        }
    };
    let message_bytes = process.channel_settings().message_bytes_max;
    let ingest = Ingest::new(inbox.clone());
    let serving = ingest.serve(listener, message_bytes, process.shutdown.clone());
    process.tasks.spawn("ingest", serving);
    tracing::info!(%address, "taking groups");

    let membership = process.join(address.to_string(), seat.address()?).await?;
    spawn_returns(&process, &membership, returned);
    let source = match inbox {
        Some(inbox) => Source::Groups(inbox),
        None => spawn_examples(&process, &membership, (task, positions)),
    };
    let generations = Generations {
        train: train_loop(&process, membership, source, files)?,
        seat,
        start: Some(start),
        reload: Box::new(move || load_start(&settings, &compute)),
        stops,
        hand: None,
    };
    process.tasks.spawn_thread("train", move || generations.run())?;
    process.shutdown.wait().await;
    Ok(())
}

fn train_loop(
    process: &Process,
    membership: Membership,
    source: Source,
    files: RunFiles,
) -> anyhow::Result<TrainLoop> {
    let Membership { tie, directives, .. } = membership;
    let (runtime, shutdown) = (Handle::current(), process.shutdown.clone());
    let places = Places {
        shared: SharedDisk::new(&process.settings),
        stored: StoredVersions::open(&process.settings, directives.clone())?,
    };
    let outlet = CoordinatorOutlet::new(runtime.clone(), tie, shutdown.clone(), places);
    Ok(TrainLoop {
        source,
        outlet: Box::new(outlet),
        settings: Arc::clone(&process.settings),
        files,
        version: PolicyVersion::default(),
        run: 0,
        ranks: RankWatch::new(directives),
        runtime,
        shutdown,
        readiness: process.readiness.clone(),
        health: process.health.clone(),
    })
}

/// The strong model as the run starts from it, in f32: masters are never rounded. Beside adapters
/// its matrices are frozen, and in what is computed in.
///
/// # Errors
/// Files missing, damaged, or at odds with each other.
pub fn load_start(settings: &Settings, compute: &Compute) -> anyhow::Result<ModelFiles> {
    let source = ModelSource::parse(&settings.strong.model).context("strong.model")?;
    let placement = match settings.train.lora.rank {
        0 => compute.masters(),
        _ => compute.frozen(),
    };
    source.load(settings.seed, &placement).context("strong.model")
}

/// Union of both models' ends, the strong model's canonical one first.
///
/// # Errors
/// A weak model that cannot be read, or whose tokens are not the strong model's.
pub fn stops(settings: &Settings, strong: &ModelFiles) -> anyhow::Result<Vec<TokenId>> {
    if settings.train.objective == Objective::Sft {
        return Ok(strong.config.stops.clone());
    }
    let weak = ModelSource::parse(settings.weak_model()).and_then(|source| source.outline());
    let weak = weak.context("weak.model")?;
    shared_stops(settings, (&strong.config, &strong.tokenizer), (&weak.config, &weak.tokenizer))
}

fn open_files(process: &Process, start: &ModelFiles) -> anyhow::Result<RunFiles> {
    let settings = &process.settings;
    if settings.run.dir.is_empty() {
        bail!("run.dir is empty: give --set run.dir=DIR (`coordinator launch` chooses one)");
    }
    let dir = PathBuf::from(&settings.run.dir);
    let sampled = settings.learner.sampled_rollouts;
    // Rank 0 writes; it may be doing so while another rank starts.
    let open = if process.rank() == 0 { CheckpointStore::open } else { CheckpointStore::beside };
    let store = open(dir.join("checkpoints"), settings.checkpoint.keep)?;
    let remote = Store::open(&settings.store)?.map(|remote| {
        Remote::start(remote, &store, settings, process.health.clone(), &process.tasks)
    });
    if process.rank() == 0 {
        store.check_room(settings, checkpoint_bytes(settings, start))?;
    }
    Ok(RunFiles {
        checkpoints: Checkpoints::start(
            (store, remote),
            settings,
            process.health.clone(),
            &process.tasks,
        )?,
        rollouts: RolloutLog::open(dir.join("rollouts"), start.tokenizer.clone(), sampled)?,
        texts: Arc::new(start.texts()?),
    })
}

/// Of the first checkpoint: f32 weights, and two moments of each that is trained; those of adapters
/// are few.
fn checkpoint_bytes(settings: &Settings, start: &ModelFiles) -> u64 {
    let shapes = start.config.tensors();
    let numbers: usize = shapes.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
    let of_each = if settings.train.lora.rank == 0 { 3 } else { 1 };
    (numbers * of_each * size_of::<f32>()) as u64
}

fn spawn_disk_watch(process: &Process) {
    let watch = DiskWatch {
        dir: PathBuf::from(&process.settings.run.dir),
        reserve_bytes: process.settings.checkpoint.free_bytes_min,
        gauge: &metrics::DISK_FREE,
        readiness: process.readiness.clone(),
        free_bytes: runtime::free_bytes,
    };
    let stop = process.shutdown.wait();
    process.tasks.spawn("disk", async move {
        tokio::select! {
            () = stop => {}
            () = look_again(DiskWatch::PERIOD, move || watch.look()) => {}
        }
        Ok(())
    });
}

fn spawn_returns(
    process: &Process,
    membership: &Membership,
    returned: mpsc::Receiver<crate::inbox::GivenBack>,
) {
    let stop = process.shutdown.wait();
    let returning = return_groups(returned, membership.tie.clone());
    process.tasks.spawn("returns", async move {
        tokio::select! {
            outcome = returning => outcome,
            () = stop => Ok(()),
        }
    });
}

fn spawn_examples(
    process: &Process,
    membership: &Membership,
    (task, positions): (Task, usize),
) -> Source {
    let train = &process.settings.train;
    let source = ExampleSource {
        tie: membership.tie.clone(),
        task,
        positions,
        per_step: train.problems_per_step,
        until: train.steps,
    };
    let (feed, wants, sender) = ExampleFeed::new(EXAMPLES_AHEAD);
    let stop = process.shutdown.wait();
    process.tasks.spawn("examples", async move {
        tokio::select! {
            outcome = source.feed(wants, sender) => outcome,
            () = stop => Ok(()),
        }
    });
    Source::Examples(feed)
}
