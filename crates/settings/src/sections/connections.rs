//! The sections about connections: who may open one, and how large anything on it may be. What is
//! done with them is the business of `security`, `proto` and `telemetry`.

use serde::{Deserialize, Serialize};

section! {
    /// Who may talk to whom. Paths and switches: no secret is a setting.
    Security {
        /// A file with the token that every call and every admin request carries; empty: none.
        token_file: String = String::new(),
        /// PEM: what this process shows to peers, with the names and addresses it is reached by.
        certificate: String = String::new(),
        /// PEM: the certificate's private key.
        key: String = String::new(),
        /// PEM: who must have signed the certificates of peers.
        authority: String = String::new(),
        /// Whoever connects must show a certificate too, also signed by `authority`.
        client_certificates: bool = false,
        /// The name that peers' certificates must have; empty: the host that is connected to.
        peer_name: String = String::new(),
    }
}

section! {
    /// Bounds of every connection.
    Limits {
        connect_timeout_ms: u32 = 10_000,
        call_timeout_ms: u32 = 30_000,
        message_bytes: u64 = 16 << 20,
        /// One set of weights.
        weights_bytes: u64 = 64 << 30,
        /// Connections of one port; more are closed as soon as they are opened.
        connections: u32 = 1024,
        /// The same of an admin port.
        admin_connections: u32 = 64,
        /// Until a new connection is encrypted and has brought a call that may be made.
        handshake_timeout_ms: u32 = 10_000,
        /// Calls under way on one connection; more wait at the caller.
        connection_calls: u32 = 256,
        /// Headers of one call.
        header_bytes: u32 = 16 << 10,
        /// Calls of one connection that were taken back before they were looked at; a connection
        /// with more is closed.
        pending_resets: u32 = 32,
    }
}

section! {
    /// How processes on different machines find each other.
    Network {
        /// The host name or address by which others reach those ports of this process that are
        /// bound to all of its interfaces (`0.0.0.0`); empty: its address towards the coordinator.
        advertise: String = String::new(),
    }
}

section! {
    /// `/metrics`, `/healthz`, `/readyz`.
    Admin {
        listen: String = "127.0.0.1:0".to_owned(),
        /// Without progress for so long, `/healthz` says no. Idle processes look around every
        /// second, which is progress.
        progress_limit_ms: u32 = 120_000,
    }
}
