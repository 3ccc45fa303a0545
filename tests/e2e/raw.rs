//! HTTP/2 by hand: what no client of ours would send.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use h2::client::SendRequest;
use h2::{Reason, RecvStream};
use tokio::net::{TcpListener, TcpStream};
use tonic::codegen::Bytes;
use tonic::codegen::http::{HeaderMap, Request, Response};

const LIMIT: Duration = Duration::from_secs(30);

type Driver = Pin<Box<dyn Future<Output = Result<(), h2::Error>> + Send>>;

/// One connection. It gets on while a call waits, or [`Raw::end`].
pub(crate) struct Raw {
    sender: SendRequest<Bytes>,
    /// None once it has ended.
    driver: Option<Driver>,
}

impl Raw {
    pub(crate) async fn connect(address: &str) -> Self {
        let tcp = TcpStream::connect(address).await.unwrap();
        let (sender, connection) = h2::client::handshake(tcp).await.unwrap();
        Self { sender, driver: Some(Box::pin(connection)) }
    }

    /// How the connection ends.
    pub(crate) async fn end(&mut self) -> Result<(), h2::Error> {
        let Some(driver) = &mut self.driver else { return Err(Reason::CANCEL.into()) };
        let ended = driver.await;
        self.driver = None;
        ended
    }

    /// Gets on until the call is done or the connection is over.
    async fn drive<T>(
        &mut self,
        call: impl Future<Output = Result<T, h2::Error>>,
    ) -> Result<T, h2::Error> {
        tokio::select! {
            biased;
            ended = self.end() => Err(ended.err().unwrap_or(Reason::NO_ERROR.into())),
            done = call => done,
        }
    }

    fn request(path: &str, headers: &[(&'static str, String)]) -> Request<()> {
        let mut request = Request::post(format!("http://run{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        request.body(()).unwrap()
    }

    /// Opens a call and takes it back at once.
    pub(crate) async fn reset(&mut self, path: &str) -> Result<(), h2::Error> {
        let sender = self.sender.clone();
        let request = Self::request(path, &[]);
        self.drive(async {
            let (_answer, mut body) = sender.ready().await?.send_request(request, false)?;
            body.send_reset(Reason::CANCEL);
            Ok(())
        })
        .await
    }

    /// The `grpc-status` of a call with these headers and this body.
    pub(crate) async fn call(
        &mut self,
        path: &str,
        headers: &[(&'static str, String)],
        body: Vec<u8>,
    ) -> Result<u32, h2::Error> {
        let sender = self.sender.clone();
        let request = Self::request(path, headers);
        let answered = self.drive(async {
            let (answer, mut out) = sender.ready().await?.send_request(request, false)?;
            // Whoever has answered already takes no more; the answer counts.
            let _ = out.send_data(Bytes::from(body), true);
            let (head, body) = answer.await?.into_parts();
            match status(&head.headers) {
                Some(status) => Ok(status),
                None => Ok(status(&trailers(body).await?).expect("trailers have the status")),
            }
        });
        tokio::time::timeout(LIMIT, answered).await.expect("an answer")
    }
}

async fn trailers(mut body: RecvStream) -> Result<HeaderMap, h2::Error> {
    while let Some(data) = body.data().await {
        body.flow_control().release_capacity(data?.len())?;
    }
    Ok(body.trailers().await?.unwrap_or_default())
}

fn status(headers: &HeaderMap) -> Option<u32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// Answers every call of whoever connects first with one message; never ends by itself.
pub(crate) async fn answer_always(listener: TcpListener, message: Vec<u8>) {
    let (tcp, _) = listener.accept().await.unwrap();
    let mut connection = h2::server::handshake(tcp).await.unwrap();
    let frame = [&[0], &(message.len() as u32).to_be_bytes()[..], &message].concat();
    let frame = Bytes::from(frame);
    while let Some(request) = connection.accept().await {
        let (_request, mut respond) = request.unwrap();
        let head = Response::builder().header("content-type", "application/grpc");
        let mut body = respond.send_response(head.body(()).unwrap(), false).unwrap();
        body.send_data(frame.clone(), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        body.send_trailers(trailers).unwrap();
    }
    std::future::pending().await
}
