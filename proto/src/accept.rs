//! The server's end of every connection: windows, bounds, and the token that each call must carry,
//! in one place for all services. Who holds which token is the business of `security`.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use security::{Connection, Guard, Listener, Proof};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_stream::Stream;
use tonic::service::{Interceptor, InterceptorLayer};
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic::{Request, Status};
use tower_layer::{Identity, Stack};
use tracing::Span;

use crate::channel::PING_INTERVAL;
use crate::status::ErrorCode;

/// Bytes of one stream, and of one connection, that a server lets be on their way before it has
/// read them. hyper's own 1 MiB is less than one piece of a version, of which each then waits for
/// the one before.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// A server whose services nobody reaches without the run's token.
pub type AcceptingServer = Server<Stack<InterceptorLayer<Admit>, Identity>>;

/// The other end of [`connect`](crate::connect): a server, and what it takes its connections from.
pub fn accept(
    listener: Listener,
) -> (AcceptingServer, impl Stream<Item = Result<Peer, Infallible>>) {
    let guard = listener.guard().clone();
    let limits = guard.limits();
    let server = Server::builder()
        .http2_keepalive_interval(Some(PING_INTERVAL))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(limits.connection_calls)
        .http2_max_header_list_size(limits.header_bytes)
        .http2_max_pending_accept_reset_streams(Some(limits.pending_resets as usize))
        .trace_fn(answering(guard.clone()))
        .layer(InterceptorLayer::new(Admit(guard)));
    let incoming = futures_util::stream::unfold(listener.incoming(), async |mut incoming| {
        let peer = Peer(incoming.next().await);
        Some((Ok(peer), incoming))
    });
    (server, incoming)
}

/// The span of an answer. What strangers say of their traces is not listened to.
fn answering(guard: Guard) -> impl Fn(&http::Request<()>) -> Span + Clone {
    move |request| {
        let headers = request.headers();
        let token = headers.get("authorization").map(|value| value.as_bytes());
        match guard.authorize(token) {
            Ok(()) => trace::answering(request.uri().path(), headers),
            Err(_) => Span::none(),
        }
    }
}

/// Lets a call in, or answers it before a service or its body is looked at.
#[derive(Clone, Debug)]
pub struct Admit(Guard);

impl Interceptor for Admit {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let header = request.metadata().get("authorization").map(|value| value.as_bytes());
        let admitted = self.0.authorize(header);
        admitted.map_err(|denied| ErrorCode::Unauthenticated.status(denied.to_string()))?;
        if let Some(proof) = request.extensions().get::<Proof>() {
            proof.give();
        }
        Ok(request)
    }
}

/// An accepted connection, as tonic takes it.
pub struct Peer(Connection);

impl Connected for Peer {
    type ConnectInfo = Proof;

    fn connect_info(&self) -> Proof {
        self.0.proof()
    }
}

impl AsyncRead for Peer {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Peer {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
