//! Sockets in: which agent is asking, and what is inside a tunnel.

mod connection;
pub mod logins;
pub mod proxy;
mod tunnel;

pub use connection::http1;
