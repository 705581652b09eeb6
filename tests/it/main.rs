//! Behaviour, through the real binary, with real clients and servers. Each file is a theme; `support` sets the stage.

mod support;

mod chain;
mod cli;
mod clients;
mod first_purchase;
