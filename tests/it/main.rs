//! Behaviour, through the real binary, with real clients and servers. Each file is a theme; `support` sets the stage.

mod support;

mod drain;
mod first_purchase;
mod guard;
mod kept;
mod listener;
mod passthrough;
mod smuggling;
mod streaming;
mod tls;
mod uploads;
