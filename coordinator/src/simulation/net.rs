//! Connections over simulated links: gRPC's, and lists of numbers between models.

use std::future::Future;
use std::io;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use hyper_util::rt::TokioIo;
use proto::{ChannelSettings, CoordinatorClient, Directive, RpcError};
use runtime::within;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::watch;
use tokio_stream::Stream;
use tonic::transport::server::Connected;
use tonic::transport::{Endpoint, Uri};
use tower_service::Service;
use turmoil::net::{TcpListener, TcpStream};
use types::MemberId;

use super::host;
use super::world::World;

pub(super) const CONNECT: Duration = Duration::from_millis(400);
pub(super) const CALL: Duration = Duration::from_millis(600);
/// How often both sides of a connection look whether the other is there, and for how long.
pub(super) const PING: Duration = Duration::from_millis(300);
/// Of one message.
const NUMBERS_MAX: u64 = 1 << 10;
const ATTEMPTS: u32 = 6;
/// A watch that says nothing for so long is broken.
const SILENCE: Duration = Duration::from_millis(1_000);
const REOPENED_MAX: u32 = 8;

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

/// Calls until there is an answer that another call would not change.
pub(super) async fn insist<T>(
    world: &World,
    mut call: impl AsyncFnMut() -> Result<T, RpcError>,
) -> anyhow::Result<T> {
    let mut attempt = 1;
    loop {
        match call().await {
            Err(error) if error.code.retryable() && attempt < ATTEMPTS => {
                attempt += 1;
                world.pause(10..150).await;
            }
            answer => return Ok(answer?),
        }
    }
}

/// Passes directives on until the coordinator is lost for good; a broken stream is reopened.
pub(super) async fn follow(
    coordinator: CoordinatorClient,
    member: MemberId,
    known: watch::Sender<Directive>,
) -> anyhow::Result<()> {
    let mut newest = None;
    for _ in 0..REOPENED_MAX {
        let mut coordinator = coordinator.clone();
        let mut stream = match coordinator.watch(member).await {
            Err(error) if error.code.retryable() => continue,
            stream => stream?,
        };
        while let Ok(Ok(Some(directive))) = within("a directive", SILENCE, stream.next()).await {
            assert!(newest <= directive.version, "{newest:?} and then {:?}", directive.version);
            newest = directive.version;
            known.send_replace(directive);
        }
    }
    anyhow::bail!("lost the coordinator")
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
