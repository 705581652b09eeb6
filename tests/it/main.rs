//! Behaviour, through the real binary, with real clients and servers. Each file is a theme; `support` sets the stage.

mod support;

// Free traffic.
mod drain;
mod guard;
mod kept;
mod listener;
mod passthrough;
mod smuggling;
mod streaming;
mod tls;
mod uploads;

// Money.
mod answers;
mod canary;
mod chain;
mod crash;
mod evidence;
mod first_purchase;
mod funds;
mod hostile;
mod idempotency;
mod limits;
mod malformed;
mod mpp;
mod mpp_chain;
mod mpp_hostile;
mod receipts;
mod repeats;
mod replay;

// People and programs.
mod cli;
mod clients;
