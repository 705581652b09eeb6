//! Traffic that costs nothing passes as it is.

mod apart;
mod drain;
mod guard;
mod kept;
mod listener;
mod networks;
mod networks_names;
mod passthrough;
mod readings;
mod smuggling;
mod streaming;
mod tls;
mod uploads;
