//! Connections of threads, encrypted where the process has credentials. Who may say what on them is
//! the caller's.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, ServerConnection, Stream};

use crate::Guard;

/// One connection. Deadlines are those of its socket; what a deadline cuts off may be tried again.
pub struct Blocking {
    socket: TcpStream,
    layer: Layer,
}

enum Layer {
    Plain,
    Client(Box<ClientConnection>),
    Server(Box<ServerConnection>),
}

impl Blocking {
    /// Without encryption.
    #[must_use]
    pub fn plain(socket: TcpStream) -> Self {
        Self { socket, layer: Layer::Plain }
    }

    /// This end called.
    ///
    /// # Errors
    /// No credentials to call with, or a peer without a name.
    pub fn calling(guard: &Guard, socket: TcpStream) -> io::Result<Self> {
        let config = guard.client_config().ok_or_else(|| missing("security.authority"))?;
        let name = match guard.peer_name() {
            Some(name) => ServerName::try_from(name.to_owned()).map_err(io::Error::other)?,
            None => ServerName::from(socket.peer_addr()?.ip()),
        };
        let client = ClientConnection::new(config, name).map_err(io::Error::other)?;
        Ok(Self { socket, layer: Layer::Client(Box::new(client)) })
    }

    /// This end was called.
    ///
    /// # Errors
    /// No credentials to answer with.
    pub fn answering(guard: &Guard, socket: TcpStream) -> io::Result<Self> {
        let config = guard.server_config().ok_or_else(|| missing("security.certificate"))?;
        let server = ServerConnection::new(config).map_err(io::Error::other)?;
        Ok(Self { socket, layer: Layer::Server(Box::new(server)) })
    }

    /// For its deadlines and addresses.
    #[must_use]
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }
}

impl Read for Blocking {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        match &mut self.layer {
            Layer::Plain => self.socket.read(to),
            Layer::Client(client) => Stream::new(&mut **client, &mut self.socket).read(to),
            Layer::Server(server) => Stream::new(&mut **server, &mut self.socket).read(to),
        }
    }
}

impl Write for Blocking {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.layer {
            Layer::Plain => self.socket.write(bytes),
            Layer::Client(client) => Stream::new(&mut **client, &mut self.socket).write(bytes),
            Layer::Server(server) => Stream::new(&mut **server, &mut self.socket).write(bytes),
        }
    }

    /// What was taken may still be here: only after this it is with the system.
    fn flush(&mut self) -> io::Result<()> {
        match &mut self.layer {
            Layer::Plain => self.socket.flush(),
            Layer::Client(client) => Stream::new(&mut **client, &mut self.socket).flush(),
            Layer::Server(server) => Stream::new(&mut **server, &mut self.socket).flush(),
        }
    }
}

impl fmt::Debug for Blocking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let encrypted = !matches!(self.layer, Layer::Plain);
        f.debug_struct("Blocking")
            .field("socket", &self.socket)
            .field("encrypted", &encrypted)
            .finish()
    }
}

fn missing(key: &str) -> io::Error {
    io::Error::other(format!("{key} is not set, and this connection is to be encrypted"))
}
