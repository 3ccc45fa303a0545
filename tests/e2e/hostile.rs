//! Callers that mean harm, and what the others notice of them: messages over the bound, bombs,
//! floods of connections and of calls that are taken back.

use std::time::{Duration, Instant};

use proto::wire::coordinator as wire;
use proto::wire::coordinator::coordinator_client::CoordinatorClient;
use proto::{ChannelSettings, Line};
use tests::Run;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tonic::Code;

use crate::raw::Raw;
use crate::security::{address_of, rpcs};
use crate::{LIMIT, small};

/// The smallest that settings allow.
const MESSAGE_BYTES: usize = 2 << 20;
const LEASE: &str = "/tandem.coordinator.v1.Coordinator/Lease";
const OUT_OF_RANGE: u32 = Code::OutOfRange as u32;
const UNIMPLEMENTED: u32 = Code::Unimplemented as u32;

/// Resident memory of a process and its children, MiB.
pub(crate) fn memory_mib(run: &Run) -> u64 {
    let pids = run.children().into_iter().chain([run.pid()]);
    let kib = pids.map(|pid| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
    });
    kib.sum::<u64>() >> 10
}

/// A message of so many bytes, framed.
fn framed(compressed: bool, bytes: usize) -> Vec<u8> {
    let mut frame = vec![u8::from(compressed)];
    frame.extend((bytes as u32).to_be_bytes());
    frame.resize(5 + bytes, 0);
    frame
}

#[test]
fn row_19_messages_over_the_bound_and_bombs_are_refused_by_every_rpc_and_cost_no_memory() {
    let bound = format!("limits.message_bytes={MESSAGE_BYTES}");
    let endless = ["--steps", "500", "--set", "eval.enabled=false", "--set", &bound];
    let run = Run::start(&small(&endless));
    run.wait_for_steps(2, LIMIT);
    let before = memory_mib(&run);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut sent = 0;
    runtime.block_on(async {
        for (service, path) in rpcs() {
            let address = address_of(&run, &service);
            for _ in 0..8 {
                let mut raw = Raw::connect(&address).await;
                let over = raw.call(&path, &[], framed(false, MESSAGE_BYTES + 1)).await.unwrap();
                assert_eq!(over, OUT_OF_RANGE, "{path}");
                // Zeros are no message, but they are read.
                let most = raw.call(&path, &[], framed(false, MESSAGE_BYTES)).await.unwrap();
                assert_ne!(most, OUT_OF_RANGE, "{path}");
                // A claim of four gigabytes, with nothing behind it.
                let mut claim = framed(false, 0);
                claim[1..5].copy_from_slice(&u32::MAX.to_be_bytes());
                let claimed = raw.call(&path, &[], claim).await.unwrap();
                assert_eq!(claimed, OUT_OF_RANGE, "{path}");
                let gzip = [("grpc-encoding", "gzip".to_owned())];
                let bomb = raw.call(&path, &gzip, framed(true, 1 << 20)).await.unwrap();
                assert_eq!(bomb, UNIMPLEMENTED, "{path}: nothing is ever decompressed");
                sent += 4;
            }
        }
    });
    let after = memory_mib(&run);
    println!("{sent} messages, memory of all processes {before} MiB before, {after} MiB after");
    assert!(after <= before + 64, "{before} MiB before, {after} MiB after");
    run.wait_for_steps(run.steps() + 1, LIMIT);
}

/// A caller in order, of which the bad ones are to take nothing.
struct Healthy {
    client: CoordinatorClient<Line>,
    seconds: Vec<f64>,
}

impl Healthy {
    async fn connect(address: &str) -> Self {
        let line = proto::connect(address, &ChannelSettings::default()).await.unwrap();
        Self { client: CoordinatorClient::new(line), seconds: Vec::new() }
    }

    async fn beat(&mut self) {
        let started = Instant::now();
        let ask = wire::LeaseRequest { member: u64::MAX, ..Default::default() };
        let asked = tokio::time::timeout(Duration::from_secs(30), self.client.lease(ask));
        let refused = asked.await.expect("an answer").unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        self.seconds.push(started.elapsed().as_secs_f64());
    }

    fn p99(&mut self) -> f64 {
        self.seconds.sort_by(f64::total_cmp);
        self.seconds[self.seconds.len() * 99 / 100]
    }
}

#[test]
fn row_23_floods_of_connections_and_resets_leave_healthy_callers_alone() {
    let bounds = ["--set", "limits.connections=256", "--set", "limits.handshake_timeout_ms=3000"];
    let endless = ["--steps", "5000", "--set", "eval.enabled=false"];
    let run = Run::start(&small(&[&endless[..], &bounds].concat()));
    run.wait_for_steps(1, LIMIT);
    let address = address_of(&run, "tandem.coordinator.v1.Coordinator");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut healthy = Healthy::connect(&address).await;
        healthy.beat().await;
        let steps = run.steps();

        let mut idle = Vec::new();
        for _ in 0..1000 {
            idle.push(TcpStream::connect(&address).await.unwrap());
            if idle.len() % 10 == 0 {
                healthy.beat().await;
            }
        }
        let mut shed = 0;
        for connection in &mut idle {
            let mut byte = [0; 1];
            let read = tokio::time::timeout(Duration::from_millis(1), connection.read(&mut byte));
            shed += usize::from(matches!(read.await, Ok(Ok(0) | Err(_))));
        }
        assert!((700..1000).contains(&shed), "{shed} of 1000 were closed at once");
        // The others make no call, and give their places back.
        let started = Instant::now();
        let settings = ChannelSettings::default();
        while proto::connect(&address, &settings).await.is_err() {
            healthy.beat().await;
            assert!(started.elapsed() < LIMIT, "no place comes back");
        }
        let connections = healthy.p99();
        drop(idle);
        let mut settled = Raw::connect(&address).await;
        while settled.call(LEASE, &[], framed(false, 0)).await.is_err() {
            assert!(started.elapsed() < LIMIT, "no room for new connections");
            settled = Raw::connect(&address).await;
        }

        let (mut resets, mut closed) = (0, 0);
        for _ in 0..10 {
            let mut raw = Raw::connect(&address).await;
            for at in 0..1000 {
                if raw.reset(LEASE).await.is_err() {
                    break;
                }
                resets += 1;
                if at % 100 == 0 {
                    healthy.beat().await;
                }
            }
            let ended = tokio::time::timeout(Duration::from_secs(1), raw.end()).await;
            closed += usize::from(ended.is_ok_and(|ended| ended.is_err()));
        }
        let all = healthy.p99();
        println!(
            "{shed} of 1000 connections shed, {resets} resets on 10 connections of which {closed} \
             were closed; p99 of {} beats: {connections:.3} s with connections, {all:.3} s in all",
            healthy.seconds.len()
        );
        assert!(all < 1.0, "p99 of {all} s");
        run.wait_for_steps(steps + 1, LIMIT);
    });
}
