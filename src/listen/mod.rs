//! Sockets in: which agent is asking, and what is inside a tunnel.

mod connection;
pub(crate) mod logins;
pub(crate) mod proxy;
mod tunnel;

pub(crate) use connection::http1;
