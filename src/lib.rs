//! bursar: a forward proxy that pays `402 Payment Required` for agents, within limits, and keeps a ledger.
//!
//! `payment::exchange` tells the story of one request. What it calls is in crates of its own, which do not depend on this one.
#![cfg_attr(
    not(test),
    warn(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::float_arithmetic,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss
    )
)]

// What starts it: commands, files, identities.
mod admin;
mod agents;
pub mod alerts;
pub mod backup;
pub mod cli;
mod config;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod rules;
mod serve;
mod store;
mod trial;
mod view;

// A request, from the socket to the answer.
mod answer;
mod listen;
mod payment;
