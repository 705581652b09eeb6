//! Traffic that costs nothing passes as it is.

mod agents_end;
mod apart;
mod drain;
mod guard;
mod kept;
mod listener;
mod passthrough;
mod readings;
mod smuggling;
mod streaming;
mod tls;
mod uploads;
