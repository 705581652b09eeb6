//! Traffic that costs nothing passes as it is.

mod apart;
mod bound;
mod drain;
mod guard;
mod kept;
mod listener;
mod own;
mod passthrough;
mod readings;
mod resent;
mod smuggling;
mod streaming;
mod tls;
mod uploads;
