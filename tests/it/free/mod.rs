//! Traffic that costs nothing passes as it is.

mod drain;
mod guard;
mod kept;
mod listener;
mod passthrough;
mod smuggling;
mod streaming;
mod tls;
mod uploads;
