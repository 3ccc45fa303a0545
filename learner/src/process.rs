//! The learner as a member of a run: loads the model, opens its files and port, joins, and hands
//! everything to the training thread.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use member::{Membership, Process};
use model::{ModelFiles, ModelSource};
use settings::{Objective, Settings};
use task::{Compute, Task, shared_stops};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use types::{Generation, PolicyVersion, TokenId};

use crate::admission::Admission;
use crate::assembler::{Assembler, Window};
use crate::checkpoint::{CheckpointStore, load_checkpoint};
use crate::collective::Solo;
use crate::examples::ExampleSource;
use crate::inbox::{Inbox, return_groups};
use crate::ingest::Ingest;
use crate::publisher::CoordinatorOutlet;
use crate::refill::Refill;
use crate::rollout_log::RolloutLog;
use crate::step::Trainer;
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
    let files = open_files(&settings, &start)?;
    let generation = Generation(settings.learner.generation);
    let (vocab, positions) = (start.config.ids, start.config.max_position_embeddings);
    let mut trainer = Trainer::new(&settings, start, &stops, Box::new(Solo::new(generation)))?;
    resume(&mut trainer, &settings, &files.checkpoints)?;
    process.readiness.set("model");

    let listener = process.listen(&settings.learner.listen, "learner.listen").await?;
    let address = listener.address();
    let (returns, returned) = mpsc::channel(settings.learner.inbox_groups as usize);
    let inbox = match settings.train.objective {
        Objective::Sft => None,
        Objective::Grpo | Objective::Reinforce => {
            let collective = trainer.collective();
            let window = Window::new(&settings, collective.rank(), collective.world())?;
            let assembler = Assembler::new(window, trainer.steps_taken());
            let admission = Admission::new(&settings, task.clone(), vocab)?;
            Some(Inbox::new(admission, Refill::new(&settings), assembler, returns))
        }
    };
    let message_bytes = process.channel_settings().message_bytes_max;
    let ingest = Ingest::new(inbox.clone());
    let serving = ingest.serve(listener, message_bytes, process.shutdown.clone());
    process.tasks.spawn("ingest", serving);
    tracing::info!(%address, "taking groups");

    let membership = process.join(address.to_string()).await?;
    spawn_returns(&process, &membership, returned);
    let source = match inbox {
        Some(inbox) => Source::Groups(inbox),
        None => spawn_examples(&process, &membership, (task, positions), trainer.steps_taken()),
    };
    let Membership { member, coordinator, .. } = membership;
    let (runtime, shutdown) = (Handle::current(), process.shutdown.clone());
    let outlet = CoordinatorOutlet::new(runtime.clone(), coordinator, member, shutdown.clone());
    let (readiness, health) = (process.readiness.clone(), process.health.clone());
    let version = PolicyVersion { generation, step: trainer.steps_taken() };
    let train_loop = TrainLoop {
        trainer,
        source,
        outlet: Box::new(outlet),
        settings,
        files,
        version,
        runtime,
        shutdown,
        readiness,
        health,
    };
    process.tasks.spawn_thread("train", move || train_loop.run())?;
    process.shutdown.wait().await;
    Ok(())
}

/// The strong model as the run starts from it, in f32: masters are never rounded.
///
/// # Errors
/// Files missing, damaged, or at odds with each other.
pub fn load_start(settings: &Settings, compute: &Compute) -> anyhow::Result<ModelFiles> {
    let source = ModelSource::parse(&settings.strong.model).context("strong.model")?;
    source.load(settings.seed, &compute.masters()).context("strong.model")
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

fn open_files(settings: &Settings, start: &ModelFiles) -> anyhow::Result<RunFiles> {
    if settings.run.dir.is_empty() {
        bail!("run.dir is empty: give --set run.dir=DIR (`coordinator launch` chooses one)");
    }
    let dir = PathBuf::from(&settings.run.dir);
    let sampled = settings.learner.sampled_rollouts;
    Ok(RunFiles {
        checkpoints: CheckpointStore::open(dir.join("checkpoints"), settings.checkpoint.keep)?,
        rollouts: RolloutLog::open(dir.join("rollouts"), start.tokenizer.clone(), sampled)?,
        texts: start.texts(),
    })
}

/// A later generation goes on from the newest checkpoint, where there is one. The first starts
/// afresh, and only where there is none: two runs in one directory would delete each other's.
fn resume(
    trainer: &mut Trainer,
    settings: &Settings,
    checkpoints: &CheckpointStore,
) -> anyhow::Result<()> {
    let Some(path) = checkpoints.newest()? else { return Ok(()) };
    let generation = settings.learner.generation;
    if generation <= 1 {
        bail!(
            "{} is of an earlier run: choose another run.dir, or go on from it with \
             learner.generation={}",
            path.display(),
            generation + 1
        );
    }
    let went_on = || format!("cannot go on from {}", path.display());
    let checkpoint = load_checkpoint(&path).with_context(went_on)?;
    checkpoint.state.check(settings).with_context(went_on)?;
    trainer.restore(&checkpoint).with_context(went_on)?;
    tracing::info!(step = trainer.steps_taken(), "goes on from its newest checkpoint");
    Ok(())
}

fn spawn_returns(
    process: &Process,
    membership: &Membership,
    returned: mpsc::Receiver<crate::inbox::GivenBack>,
) {
    let (coordinator, stop) = (membership.coordinator.clone(), process.shutdown.wait());
    let returning = return_groups(returned, coordinator, membership.member);
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
    from: u32,
) -> Source {
    let train = &process.settings.train;
    let source = ExampleSource {
        coordinator: membership.coordinator.clone(),
        member: membership.member,
        task,
        positions,
        per_step: train.problems_per_step,
        from,
        until: train.steps,
    };
    let (sender, batches) = mpsc::channel(EXAMPLES_AHEAD);
    let stop = process.shutdown.wait();
    process.tasks.spawn("examples", async move {
        tokio::select! {
            outcome = source.feed(sender) => outcome,
            () = stop => Ok(()),
        }
    });
    Source::Examples(batches)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::checkpoint::{Contents, State};
    use crate::fixtures::Miniature;

    fn trainer(world: &Miniature) -> Trainer {
        let solo = Box::new(Solo::new(Generation(1)));
        Trainer::new(&world.settings, world.files.clone(), world.task.stops(), solo).unwrap()
    }

    /// A directory with a checkpoint of two steps.
    fn left_behind(dir: &Path) -> CheckpointStore {
        let world = Miniature::small();
        let store = CheckpointStore::open(dir.to_owned(), 1).unwrap();
        let trainer = trainer(&world);
        let version = PolicyVersion::new(1, 2);
        let groups = world.settings.groups_per_step();
        let contents = Contents {
            state: State::new(version, groups, world.settings.seed),
            texts: &world.files.texts(),
            weights: &trainer.weights().unwrap(),
            optimizer: &trainer.optimizer().state().unwrap(),
            adapters: trainer.policy().adapters(),
        };
        store.write(contents).unwrap();
        store
    }

    #[test]
    fn only_a_later_generation_goes_on_and_only_with_the_same_settings() {
        let dir = tempfile::tempdir().unwrap();
        let store = left_behind(dir.path());
        let resumed = |change: fn(&mut Settings)| {
            let world = Miniature::with(change);
            let mut trainer = trainer(&world);
            let outcome = resume(&mut trainer, &world.settings, &store);
            outcome.map(|()| trainer.steps_taken()).map_err(|error| format!("{error:#}"))
        };
        let first = resumed(|_| ()).unwrap_err();
        assert!(first.contains("step-000002 is of an earlier run"), "{first}");
        assert!(first.contains("run.dir") && first.contains("learner.generation=2"), "{first}");
        assert_eq!(resumed(|s| s.learner.generation = 2), Ok(2));
        let other_seed = resumed(|s| (s.learner.generation, s.seed) = (2, 12)).unwrap_err();
        assert!(other_seed.contains("seed is 12 but the checkpoint was made with 11"));
        let other_groups =
            resumed(|s| (s.learner.generation, s.train.problems_per_step) = (2, 3)).unwrap_err();
        let named = "train.problems_per_step is 3 but the 2 steps of the checkpoint took 4 groups";
        assert!(other_groups.contains(named), "{other_groups}");
    }

    #[test]
    fn any_generation_starts_in_an_empty_directory() {
        let dir = tempfile::tempdir().unwrap();
        let store = CheckpointStore::open(dir.path().to_owned(), 1).unwrap();
        let world = Miniature::with(|s| s.learner.generation = 2);
        let mut trainer = trainer(&world);
        resume(&mut trainer, &world.settings, &store).unwrap();
        assert_eq!(trainer.steps_taken(), 0);
    }
}
