//! Traffic that costs nothing passes as it is.

mod agents_end;
mod apart;
mod bound;
mod client_certificate;
mod drain;
mod foreign_tls;
mod guard;
mod kept;
mod listener;
mod networks;
mod networks_names;
mod own;
mod passthrough;
mod readings;
mod resent;
mod smuggling;
mod splice;
mod streaming;
mod tls;
mod uploads;
