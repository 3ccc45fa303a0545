//! The service over a real connection, spoken to by the client that members use.

use std::net::SocketAddr;

use miniature::{TensorSpec, random_safetensors};
use proto::{ChannelSettings, Completion, CoordinatorClient, Role, WeightFiles};
use runtime::{Shutdown, TaskGroup};
use security::{Guard, Listener, Protocol};
use types::{Hash, LeaseId, WeightManifest};

use super::*;
use crate::fixtures::registration;
use crate::hub::Records;
use crate::source::Source;
use crate::spec::RunSpec;
use crate::state::RunState;
use crate::weight_store::manifest_of;

async fn serve(tasks: &TaskGroup) -> (SocketAddr, Hub) {
    serve_with(tasks, None).await
}

async fn serve_with(tasks: &TaskGroup, weight_files: Option<WeightFiles>) -> (SocketAddr, Hub) {
    let mut settings = Settings::default();
    settings.eval.enabled = false;
    let source = Source::open(&settings).unwrap();
    let spec = RunSpec::launch(&settings, &source, 1).unwrap();
    let records = Records { weight_files, ..Records::default() };
    let hub = Hub::new(RunState::new(spec, source), 2, records);
    let (guard, listen) = (Guard::default(), "coordinator.listen");
    let listener = Listener::bind("127.0.0.1:0", listen, Protocol::Grpc, &guard).await.unwrap();
    let address = listener.address();
    let service = service(hub.clone(), ServiceLimits::new(&settings));
    let stop = tasks.shutdown().wait();
    tasks.spawn("service", async move {
        let (mut server, incoming) = proto::accept(listener);
        let server = server.add_service(service);
        Ok(server.serve_with_incoming_shutdown(incoming, stop).await?)
    });
    (address, hub)
}

async fn client(address: SocketAddr) -> CoordinatorClient {
    let settings = ChannelSettings::default();
    let channel = proto::connect(&address.to_string(), &settings).await.unwrap();
    CoordinatorClient::new(channel, &settings)
}

async fn register(client: &mut CoordinatorClient, role: Role) -> MemberId {
    let registration = registration(role, 0, &format!("{}:1", role.name()));
    let member = registration.member;
    client.register(registration).await.unwrap();
    member
}

fn weights(step: u32) -> (WeightManifest, Vec<u8>) {
    // More than one chunk.
    let specs = [TensorSpec::new("w", &[1_000, 300], 0.0, 1.0)];
    let bytes = random_safetensors(&specs, u64::from(step)).unwrap();
    (manifest_of(PolicyVersion::new(1, step), &bytes).unwrap(), bytes)
}

#[tokio::test]
async fn weights_travel_and_work_follows_them() {
    let tasks = TaskGroup::new(Shutdown::new());
    let (address, _) = serve(&tasks).await;
    let mut actor = client(address).await;
    let mut learner = client(address).await;
    let member = register(&mut actor, Role::Actor).await;
    register(&mut learner, Role::Learner).await;
    register(&mut learner, Role::WeakServer).await;
    let mut directives = actor.watch(member).await.unwrap();

    let (manifest, bytes) = weights(0);
    let damaged = WeightManifest { hash: Hash::of(b"other"), ..manifest.clone() };
    let refusal = learner.publish_weights(damaged, &bytes).await.unwrap_err();
    assert!(refusal.message.contains("their manifest says"), "{refusal}");
    let version = manifest.version;
    let missing = actor.fetch_weights(version, 1 << 30).await.unwrap_err();
    assert_eq!(missing.code, ErrorCode::NotFound);

    let ask = LeaseAsk {
        member,
        max_rollouts: 64,
        applied_version: Some(version),
        completed: vec![Completion { lease: LeaseId(77), generation: Generation(1) }],
    };
    assert_eq!(actor.lease(ask.clone()).await.unwrap(), [], "no work before there are weights");
    learner.publish_weights(manifest.clone(), &bytes).await.unwrap();
    assert_eq!(actor.lease(ask).await.unwrap().len(), 8, "as many groups as fit");

    let mut seen = directives.next().await.unwrap().unwrap();
    while seen.version.is_none() {
        seen = directives.next().await.unwrap().unwrap();
    }
    assert_eq!((seen.version, seen.stop), (Some(version), false));
    let ranks = seen.formation.unwrap().ranks;
    assert_eq!((ranks.len(), ranks[0].address.as_str()), (1, "learner:1"));
    assert_eq!(seen.weak_servers.len(), 1);
    assert_eq!(actor.fetch_weights(version, 1 << 30).await.unwrap(), (manifest, bytes));

    let unknown = actor.watch(MemberId(99)).await.unwrap_err();
    assert_eq!(unknown.code, ErrorCode::UnknownMember);
    drop((directives, actor, learner));
    tasks.shutdown().trigger("the test is done");
    tasks.join(Duration::from_secs(10)).await.unwrap();
}

#[tokio::test]
async fn weights_may_come_as_a_file_and_old_files_go() {
    let root = tempfile::tempdir().unwrap();
    let files = WeightFiles::new(root.path().join("weights"));
    let tasks = TaskGroup::new(Shutdown::new());
    let (address, _) = serve_with(&tasks, Some(files.clone())).await;
    let mut learner = client(address).await;
    register(&mut learner, Role::Learner).await;

    // Nothing is stored for a file that is not there, is something else, or that nobody shares.
    let (manifest, bytes) = weights(0);
    let absent = learner.publish_filed(manifest.clone()).await.unwrap_err();
    assert_eq!(absent.code, ErrorCode::NotFound);
    files.offer(&manifest, b"something else").unwrap();
    let other = learner.publish_filed(manifest.clone()).await.unwrap_err();
    assert_eq!(
        (other.code, other.message.contains("is another file")),
        (ErrorCode::NotFound, true)
    );
    let (elsewhere, _) = serve(&tasks).await;
    let unshared = client(elsewhere).await.publish_filed(manifest.clone()).await.unwrap_err();
    assert_eq!(unshared.code, ErrorCode::NotFound);
    let missing = learner.fetch_weights(manifest.version, 1 << 30).await.unwrap_err();
    assert_eq!(missing.code, ErrorCode::NotFound);
    let missing = learner.weight_manifest(manifest.version).await.unwrap_err();
    assert_eq!(missing.code, ErrorCode::NotFound);

    files.offer(&manifest, &bytes).unwrap();
    learner.publish_filed(manifest.clone()).await.unwrap();
    assert_eq!(learner.weight_manifest(manifest.version).await.unwrap(), manifest);
    let version = manifest.version;
    assert_eq!(learner.fetch_weights(version, 1 << 30).await.unwrap(), (manifest.clone(), bytes));
    // Two versions are kept.
    for step in 1..=2 {
        let (manifest, bytes) = weights(step);
        files.offer(&manifest, &bytes).unwrap();
        learner.publish_filed(manifest).await.unwrap();
    }
    assert!(files.take(&manifest).is_err());
    assert!((1..=2).all(|step| files.take(&weights(step).0).is_ok()));
    drop(learner);
    tasks.shutdown().trigger("the test is done");
    tasks.join(Duration::from_secs(10)).await.unwrap();
}

#[tokio::test]
async fn one_that_leaves_is_no_member_any_more_and_is_told_so() {
    let tasks = TaskGroup::new(Shutdown::new());
    let (address, hub) = serve(&tasks).await;
    let mut actor = client(address).await;
    let member = register(&mut actor, Role::Actor).await;
    let mut directives = actor.watch(member).await.unwrap();
    actor.leave(member, Departure::NotFinite).await.unwrap();
    while directives.next().await.unwrap().is_some() {}
    let (members, left) = hub.with(|state| {
        let left = state.departures().of(Role::Actor, Some(Departure::NotFinite));
        (state.members().all().len(), left)
    });
    assert_eq!((members, left), (0, 1));
    let refusal = actor.leave(member, Departure::Ordered).await.unwrap_err();
    assert_eq!(refusal.code, ErrorCode::UnknownMember);
    drop((directives, actor));
    tasks.shutdown().trigger("the test is done");
    tasks.join(Duration::from_secs(10)).await.unwrap();
}

#[tokio::test]
async fn a_watch_ends_when_its_member_has_left() {
    let tasks = TaskGroup::new(Shutdown::new());
    let (address, hub) = serve(&tasks).await;
    let mut learner = client(address).await;
    let member = register(&mut learner, Role::Learner).await;
    let mut directives = learner.watch(member).await.unwrap();
    assert!(directives.next().await.unwrap().unwrap().formation.is_some());
    // It is taken for dead, and another comes in its place: those ranks are not its own.
    hub.change(|state| state.ended(Role::Learner, 0, Duration::ZERO));
    let other = register(&mut client(address).await, Role::Learner).await;
    assert_ne!(member, other);
    while let Some(directive) = directives.next().await.unwrap() {
        // On its way before.
        let generation = directive.formation.map(|formation| formation.generation);
        assert!(generation.is_none_or(|generation| generation == Generation(1)), "{generation:?}");
    }
    drop((directives, learner));
    tasks.shutdown().trigger("the test is done");
    tasks.join(Duration::from_secs(10)).await.unwrap();
}
