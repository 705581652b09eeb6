//! Traffic that costs nothing passes as it is.

mod apart;
mod client_certificate;
mod drain;
mod foreign_tls;
mod guard;
mod kept;
mod listener;
mod networks;
mod networks_names;
mod passthrough;
mod readings;
mod smuggling;
mod splice;
mod streaming;
mod tls;
mod uploads;
