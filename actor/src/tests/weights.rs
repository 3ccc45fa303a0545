//! Following the announced weights through torn transfers and versions that do not fit.

use std::time::Duration;

use model::{Tensors, manifest, to_safetensors};
use proto::Directive;
use runtime::{Shutdown, TaskGroup, within};
use telemetry::Readiness;
use tokio::sync::{mpsc, watch};

use super::coordinator::{ServedCoordinator, Transfer};
use super::*;
use crate::{Command, WeightSync};

const AMPLE: Duration = Duration::from_secs(60);

/// A run of the weights' task against a scripted coordinator.
struct Following {
    served: ServedCoordinator,
    directing: watch::Sender<Directive>,
    commands: mpsc::Receiver<Command>,
    wants: watch::Receiver<Option<PolicyVersion>>,
    tasks: TaskGroup,
    ended: tokio::sync::oneshot::Receiver<anyhow::Result<()>>,
}

impl Following {
    async fn start() -> Self {
        let served = ServedCoordinator::default();
        let tasks = TaskGroup::new(Shutdown::new());
        let coordinator = served.start(&tasks).await;
        let (directing, directives) = watch::channel(Directive::default());
        let (engine, commands) = mpsc::channel(4);
        let (wanted, wants) = watch::channel(None);
        let config = Models::read(&Settings::default()).unwrap().config;
        let readiness = Readiness::new(&["weights"]);
        let sync = WeightSync {
            coordinator,
            directives,
            engine,
            wanted,
            config,
            placement: Placement::cpu(DType::F32),
            bytes_max: 1 << 30,
            readiness,
        };
        let (end, ended) = tokio::sync::oneshot::channel();
        let shutdown = tasks.shutdown().clone();
        tasks.spawn("weights", async move {
            let _ = end.send(sync.run(shutdown).await);
            Ok(())
        });
        Self { served, directing, commands, wants, tasks, ended }
    }

    fn announce(&self, version: PolicyVersion) {
        self.directing.send_modify(|directive| directive.version = Some(version));
    }

    /// Stores a version, changed in some way, and announces it.
    fn publish(&self, version: PolicyVersion, change: impl FnOnce(&mut Tensors)) {
        self.keep(version, change);
        self.announce(version);
    }

    fn keep(&self, version: PolicyVersion, change: impl FnOnce(&mut Tensors)) {
        let source = ModelSource::parse("fresh:miniature-strong").unwrap();
        let mut tensors = source.load(1, &Placement::cpu(DType::F32)).unwrap().tensors;
        change(&mut tensors);
        let bytes = to_safetensors(&tensors).unwrap();
        self.served.keep(manifest(version, &bytes).unwrap(), bytes);
    }

    async fn applied(&mut self) -> PolicyVersion {
        match within("weights", AMPLE, self.commands.recv()).await.unwrap() {
            Some(Command::Weights { version, .. }) => version,
            _ => panic!("something else than weights, or the end"),
        }
    }

    async fn fetched(&self, transfers: usize) {
        let fetching = async {
            while self.served.fetched().len() < transfers {
                tokio::task::yield_now().await;
            }
        };
        within("the transfers", AMPLE, fetching).await.unwrap();
    }

    async fn end(self) {
        self.tasks.shutdown().trigger("the test is over");
        self.tasks.join(AMPLE).await.unwrap();
    }
}

fn other_model(tensors: &mut Tensors) {
    drop(tensors.remove("model.norm.weight"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_version_leaves_the_old_one_in_place_and_wanted() {
    let mut run = Following::start().await;
    run.publish(V0, |_| {});
    assert_eq!(run.applied().await, V0);
    run.publish(V1, other_model);
    // It is wanted before it is fetched, so that no work is asked for meanwhile; then the old one
    // is again.
    run.fetched(2).await;
    let settled = run.wants.wait_for(|wanted| *wanted == Some(V0));
    within("the old version to be wanted again", AMPLE, settled).await.unwrap().unwrap();
    assert!(run.commands.try_recv().is_err(), "the engine was given a refused version");
    // The refused one is not fetched again, the next one is.
    let next = PolicyVersion::new(1, 2);
    run.publish(next, |_| {});
    assert_eq!(run.applied().await, next);
    assert_eq!(*run.wants.borrow(), Some(next));
    assert_eq!(run.served.fetched(), [V0, V1, next]);
    run.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torn_transfer_is_fetched_again() {
    let mut run = Following::start().await;
    run.served.transfers(&[Transfer::Cut, Transfer::Torn, Transfer::Broken]);
    run.publish(V0, |_| {});
    assert_eq!(run.applied().await, V0);
    assert_eq!(run.served.fetched(), [V0; 4]);
    run.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_usable_weights_the_process_ends_and_says_why() {
    let run = Following::start().await;
    run.publish(V0, other_model);
    let outcome = within("the end", AMPLE, run.ended).await.unwrap().unwrap();
    let error = format!("{:#}", outcome.unwrap_err());
    assert!(error.contains("announce 29 tensors, the strong model has 30"), "{error}");
    assert!(error.contains("there are none from before") && error.contains("strong.model"));
    assert_eq!(run.served.fetched(), [V0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_version_that_is_gone_gives_way_to_the_next() {
    let mut run = Following::start().await;
    run.keep(V1, |_| {});
    // The next version is announced while cut transfers of this one are repeated.
    run.served.transfers(&[Transfer::Cut; 5]);
    run.publish(V0, other_model);
    run.fetched(1).await;
    run.announce(V1);
    assert_eq!(run.applied().await, V1);
    run.end().await;
}
