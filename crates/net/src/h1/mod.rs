//! HTTP/1.1 on a socket, for both sides of a tunnel: [`bursar_core::h1`] reads and writes the bytes, this module moves
//! them. An exchange runs in the task of its connection: a body pulls from the wire when it is polled, and no task and
//! no channel stands between a socket and what reads it.

pub mod client;
mod incoming;
mod interims;
pub mod server;
pub mod upgrade;
mod wire;

pub use incoming::{BodyError, Incoming, TrailerLines};
pub use interims::Interims;
pub use wire::{Filled, Shared, Stream, Wire};

/// How the other side ended its stream of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// In order: with TLS's `close_notify`, or with a FIN where there is no TLS.
    Clean,
    /// With a FIN, and TLS did not say that this is the end.
    Bare,
    /// With a reset, or an error of the connection.
    Broken,
}

impl Ending {
    pub(crate) fn of(error: &std::io::Error) -> Self {
        match error.kind() {
            // What rustls says if `close_notify` is missing.
            std::io::ErrorKind::UnexpectedEof => Self::Bare,
            _ => Self::Broken,
        }
    }
}
