//! Who may talk to this process, and how many at once: the run's credentials, the check of every
//! call's token, listeners and connections that encrypt. What is said on a connection belongs to `proto` and
//! `telemetry`.

mod blocking;
mod connection;
mod files;
mod guard;
mod incoming;
mod listener;
#[cfg(test)]
mod tests;
mod token;

pub use blocking::Blocking;
pub use connection::{Connection, Proof};
pub use files::CredentialError;
pub use guard::{ClientTls, Guard};
pub use incoming::Incoming;
pub use listener::{ListenError, Listener, Protocol};
pub use token::{Denied, TOKEN_CHARS_MIN};
