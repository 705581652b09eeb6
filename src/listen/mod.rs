//! Sockets in: who is asking, and what is inside a tunnel.

pub mod logins;
pub mod proxy;
pub mod tunnel;
