//! Connections over simulated links: gRPC's, and lists of numbers between models.

use std::future::Future;
use std::io;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use hyper_util::rt::TokioIo;
use proto::{
    ChannelSettings, CoordinatorClient, Directive, ErrorCode, Pulse, Registration, RpcError,
};
use runtime::within;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::watch;
use tokio_stream::Stream;
use tonic::transport::server::Connected;
use tonic::transport::{Endpoint, Uri};
use tower_service::Service;
use turmoil::net::{TcpListener, TcpStream};

use super::host;
use super::world::World;

pub(super) const CONNECT: Duration = Duration::from_millis(400);
pub(super) const CALL: Duration = Duration::from_millis(600);
/// How often both sides of a connection look whether the other is there, and for how long.
pub(super) const PING: Duration = Duration::from_millis(300);
/// Of one message.
const NUMBERS_MAX: u64 = 1 << 10;
/// A coordinator that is gone for longer is not waited for.
const ATTEMPTS: u32 = 30;
/// A watch that says nothing for so long is broken.
const SILENCE: Duration = Duration::from_millis(700);

/// An accepted connection, as tonic takes it.
pub(super) struct Accepted(TcpStream);

impl Connected for Accepted {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

pub(super) async fn listen(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await
}

pub(super) fn incoming(listener: TcpListener) -> impl Stream<Item = io::Result<Accepted>> {
    futures_util::stream::unfold(listener, async |listener| {
        let accepted = listener.accept().await;
        Some((accepted.map(|(stream, _)| Accepted(stream)), listener))
    })
}

#[derive(Clone)]
struct Dial;

impl Service<Uri> for Dial {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        Box::pin(async { TcpStream::connect((host::NAME, host::PORT)).await.map(TokioIo::new) })
    }
}

/// A connection of its own to the coordinator.
pub(super) async fn coordinator() -> anyhow::Result<CoordinatorClient> {
    let settings = ChannelSettings {
        connect_timeout: CONNECT,
        call_timeout: CALL,
        ..ChannelSettings::default()
    };
    let endpoint = Endpoint::from_static("http://coordinator")
        .connect_timeout(CONNECT)
        .keep_alive_while_idle(true)
        .http2_keep_alive_interval(PING)
        .keep_alive_timeout(PING);
    let channel = endpoint.connect_with_connector(Dial).await?;
    Ok(CoordinatorClient::new(proto::line(channel, &settings), &settings))
}

/// Repeats a call while its error may pass; whoever follows the directives registers again
/// meanwhile.
pub(super) async fn insist<T>(
    world: &World,
    mut call: impl AsyncFnMut() -> Result<T, RpcError>,
) -> Result<T, RpcError> {
    let mut attempt = 1;
    loop {
        match call().await {
            Err(error) if may_pass(error.code) && attempt < ATTEMPTS => {
                attempt += 1;
                world.pause(10..200).await;
            }
            answer => return answer,
        }
    }
}

pub(super) fn may_pass(code: ErrorCode) -> bool {
    code.retryable() || code == ErrorCode::UnknownMember
}

/// Registers and then passes directives on, and gives signs of life; a coordinator that is gone is
/// waited for, and the next one told who this is.
pub(super) async fn follow(
    world: &World,
    coordinator: CoordinatorClient,
    registration: Registration,
    known: watch::Sender<Directive>,
) -> anyhow::Result<()> {
    let member = registration.member;
    let mut beating = coordinator.clone();
    let beat = async {
        loop {
            tokio::time::sleep(host::KEEPALIVE).await;
            let pulse = Pulse { member, idle: Duration::ZERO, waits: Vec::new() };
            // Whoever follows the directives notices.
            let _ = beating.heartbeat(pulse).await;
        }
    };
    tokio::select! {
        biased;
        over = directives(world, coordinator, registration, known) => over,
        never = beat => never,
    }
}

async fn directives(
    world: &World,
    coordinator: CoordinatorClient,
    mut registration: Registration,
    known: watch::Sender<Directive>,
) -> anyhow::Result<()> {
    let member = registration.member;
    loop {
        let watch = insist(world, async || {
            let mut coordinator = coordinator.clone();
            match coordinator.watch(member).await {
                Err(error) if error.code == ErrorCode::UnknownMember => {
                    coordinator.register(registration.clone()).await?;
                    coordinator.watch(member).await
                }
                stream => stream,
            }
        });
        let mut stream = watch.await?;
        let mut newest = None;
        while let Ok(Ok(Some(directive))) = within("a directive", SILENCE, stream.next()).await {
            assert!(newest <= directive.version, "{newest:?} and then {:?}", directive.version);
            newest = directive.version;
            if let Some(formation) = &directive.formation {
                registration.generation = registration.generation.max(formation.generation);
            }
            known.send_replace(directive);
        }
    }
}

pub(super) async fn dial(address: &str) -> anyhow::Result<TcpStream> {
    let (host, port) = address.split_once(':').context("an address has a port")?;
    let connected = TcpStream::connect((host, port.parse::<u16>()?));
    Ok(within("a connection", CONNECT, connected).await??)
}

/// One segment.
pub(super) async fn send(stream: &mut TcpStream, numbers: &[u64]) -> anyhow::Result<()> {
    let mut bytes = (numbers.len() as u64).to_be_bytes().to_vec();
    bytes.extend(numbers.iter().flat_map(|number| number.to_be_bytes()));
    Ok(stream.write_all(&bytes).await?)
}

pub(super) async fn receive(stream: &mut TcpStream) -> anyhow::Result<Vec<u64>> {
    let count = stream.read_u64().await?;
    anyhow::ensure!(count <= NUMBERS_MAX, "{count} numbers are no message");
    let mut numbers = Vec::new();
    for _ in 0..count {
        numbers.push(stream.read_u64().await?);
    }
    Ok(numbers)
}
