//! Following the announced weights through torn transfers and versions that do not fit.

use std::time::Duration;

use candle_core::Device;
use model::{Tensors, manifest, to_safetensors};
use proto::{Directive, Formation, WeightFiles};
use runtime::{Shutdown, TaskGroup, within};
use store::{Store, Versions, run_name};
use telemetry::Readiness;
use tokio::sync::{mpsc, watch};
use types::{Generation, Hash, WeightManifest};

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
        Self::with(None, None).await
    }

    async fn with(files: Option<WeightFiles>, store: Option<Store>) -> Self {
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
            files,
            store,
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
        let (manifest, bytes) = made(version, change, true);
        self.served.keep(manifest, bytes);
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

/// A version changed in some way; the manifest of one that is not honest hides how.
fn made(
    version: PolicyVersion,
    change: impl FnOnce(&mut Tensors),
    honest: bool,
) -> (WeightManifest, Vec<u8>) {
    let source = ModelSource::parse("fresh:miniature-strong").unwrap();
    let mut tensors = source.load(1, &Placement::cpu(DType::F32)).unwrap().tensors;
    let unchanged = manifest(version, &to_safetensors(&tensors).unwrap()).unwrap();
    change(&mut tensors);
    let bytes = to_safetensors(&tensors).unwrap();
    let manifest = match honest {
        true => manifest(version, &bytes).unwrap(),
        false => WeightManifest { bytes: bytes.len() as u64, hash: Hash::of(&bytes), ..unchanged },
    };
    (manifest, bytes)
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
async fn a_file_on_this_machine_spares_the_transfer_and_a_damaged_one_does_not() {
    let root = tempfile::tempdir().unwrap();
    let files = WeightFiles::new(root.path().join("weights"));
    let mut run = Following::with(Some(files.clone()), None).await;
    let (manifest, bytes) = made(V0, |_| {}, true);
    files.offer(&manifest, &bytes).unwrap();
    run.served.keep(manifest, bytes);
    run.announce(V0);
    assert_eq!(run.applied().await, V0);
    assert!(run.served.fetched().is_empty(), "only the manifest travelled");
    // One that is damaged, and one that is not there.
    let (manifest, mut bytes) = made(V1, |_| {}, true);
    run.served.keep(manifest.clone(), bytes.clone());
    *bytes.last_mut().unwrap() ^= 1;
    files.offer(&manifest, &bytes).unwrap();
    run.announce(V1);
    assert_eq!(run.applied().await, V1);
    let next = PolicyVersion::new(1, 2);
    run.publish(next, |_| {});
    assert_eq!(run.applied().await, next);
    assert_eq!(run.served.fetched(), [V1, next]);
    run.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_runs_store_spares_the_transfer_and_a_damaged_version_there_does_not() {
    let root = tempfile::tempdir().unwrap();
    let url = format!("file://{}", root.path().display());
    let settings = settings::Store { url, retries_max: 0, ..settings::Store::default() };
    let store = Store::open(&settings).unwrap().unwrap();
    let versions = Versions::new(store.clone(), &run_name(7));
    let mut run = Following::with(None, Some(store)).await;
    let formation =
        Formation { generation: Generation(1), committed: 0, run: 7, ranks: Vec::new() };
    run.directing.send_modify(|directive| directive.formation = Some(formation));
    let (first, bytes) = made(V0, |_| {}, true);
    versions.offer(&first, &bytes).await.unwrap();
    run.served.keep(first.clone(), bytes);
    run.announce(V0);
    assert_eq!(run.applied().await, V0);
    assert!(run.served.fetched().is_empty(), "only the manifest travelled");
    // One that is damaged, and one that is not there.
    let (second, mut bytes) = made(V1, |_| {}, true);
    run.served.keep(second.clone(), bytes.clone());
    *bytes.last_mut().unwrap() ^= 1;
    versions.offer(&second, &bytes).await.unwrap();
    run.announce(V1);
    assert_eq!(run.applied().await, V1);
    versions.retain(std::slice::from_ref(&first)).await.unwrap();
    assert!(versions.take(&second).await.is_err() && versions.take(&first).await.is_ok());
    let next = PolicyVersion::new(1, 2);
    run.publish(next, |_| {});
    assert_eq!(run.applied().await, next);
    assert_eq!(run.served.fetched(), [V1, next]);
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

/// Three of each kind are refused, then the whole one is taken; version after version.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_16_damaged_transfers_are_fetched_again_and_none_is_used() {
    let mut run = Following::start().await;
    run.publish(V0, |_| {});
    assert_eq!(run.applied().await, V0);
    let mut fetched = 1;
    for step in 1..=4 {
        let version = PolicyVersion::new(1, step);
        let at = step as usize * 199;
        let damages = [Transfer::Flipped(at), Transfer::Truncated(at), Transfer::Flipped(at + 100)];
        run.served.transfers(&damages);
        run.publish(version, |_| {});
        assert_eq!(run.applied().await, version, "the first that reached the engine");
        fetched += damages.len() + 1;
        assert_eq!(run.served.fetched().len(), fetched);
        assert!(run.commands.try_recv().is_err(), "nothing else reached the engine");
    }
    // One that never arrives whole leaves the old one in place.
    run.served.transfers(&[Transfer::Flipped(500); 16]);
    run.publish(PolicyVersion::new(1, 5), |_| {});
    let last = PolicyVersion::new(1, 4);
    let settled = async {
        run.wants.wait_for(|wanted| *wanted != Some(last)).await.unwrap();
        run.wants.wait_for(|wanted| *wanted == Some(last)).await.unwrap();
    };
    within("the old version to be wanted again", AMPLE, settled).await.unwrap();
    assert!(run.commands.try_recv().is_err(), "the engine was given damaged weights");
    run.end().await;
}

/// The words of a refusal, what a learner that is out of order publishes, and whether it says so.
type Fault = (&'static str, fn(&mut Tensors), bool);

const Q_PROJ: &str = "model.layers.1.self_attn.q_proj.weight";

fn fill(tensors: &mut Tensors, value: f32) {
    let name = "model.norm.weight";
    let filled = Tensor::full(value, tensors[name].dims(), &Device::Cpu).unwrap();
    tensors.insert(name.to_owned(), filled);
}

fn halve(tensors: &mut Tensors) {
    let half = tensors[Q_PROJ].narrow(0, 0, 48).unwrap().contiguous().unwrap();
    tensors.insert(Q_PROJ.to_owned(), half);
}

fn retype(tensors: &mut Tensors, dtype: DType) {
    let other = tensors[Q_PROJ].to_dtype(dtype).unwrap();
    tensors.insert(Q_PROJ.to_owned(), other);
}

const FAULTS: [Fault; 6] = [
    ("holds a NaN or infinity", |tensors| fill(tensors, f32::NAN), true),
    ("holds a NaN or infinity", |tensors| fill(tensors, f32::INFINITY), true),
    ("q_proj.weight has shape [48, 96], the strong model's has [96, 96]", halve, true),
    ("hold other tensors than they announce", halve, false),
    ("hold other tensors than they announce", |tensors| retype(tensors, DType::F16), false),
    ("q_proj.weight is f64", |tensors| retype(tensors, DType::F64), false),
];

#[tokio::test]
async fn row_17_weights_that_are_out_of_order_are_refused_and_counted_before_the_swap() {
    let (recorder, exporter) = telemetry::Exporter::build(&[]).unwrap();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let mut run = Following::start().await;
    run.publish(V0, |_| {});
    assert_eq!(run.applied().await, V0);
    let config = Models::read(&Settings::default()).unwrap().config;
    for (index, (words, change, honest)) in FAULTS.into_iter().enumerate() {
        let version = PolicyVersion::new(1, index as u32 + 1);
        let (manifest, bytes) = made(version, change, honest);
        let model = (&config, &Placement::cpu(DType::F32));
        let refused = crate::decoder(model, version, &manifest, &bytes);
        let text = format!("{:#}", refused.map(drop).unwrap_err());
        assert!(text.contains(words), "{words}: {text}");
        run.served.keep(manifest, bytes);
        run.announce(version);
        let settled = async {
            run.wants.wait_for(|wanted| *wanted == Some(version)).await.unwrap();
            run.wants.wait_for(|wanted| *wanted == Some(V0)).await.unwrap();
        };
        within("the old version to be wanted again", AMPLE, settled).await.unwrap();
        assert!(run.commands.try_recv().is_err(), "{words}: it reached the engine");
    }
    let refused = format!("tandem_actor_weights_refused_total {}", FAULTS.len());
    let text = exporter.render();
    assert!(text.lines().any(|line| line == refused), "no `{refused}` in {text}");
    run.end().await;
}
