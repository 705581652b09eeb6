//! bursar: a forward proxy that pays `402 Payment Required` for agents, within limits, and keeps the books.
//!
//! The modules stand in the order in which a request meets them; [`exchange`] tells the whole story of one request.
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    warn(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::float_arithmetic,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss,
        clippy::dbg_macro,
        clippy::todo
    )
)]

// What starts it: commands, files, identities.
pub mod admin;
pub mod agents;
pub mod alerts;
pub mod cli;
pub mod clock;
pub mod config;
pub mod home;
pub mod keep;
pub mod logins;
pub mod rules;
pub mod serve;
pub mod store;

// Rim: sockets in.
pub mod idle;
pub mod proxy;
pub mod tunnel;

// One request.
pub mod consider;
pub mod doubts;
pub mod exchange;
pub mod idempotency;
pub mod presentation;
pub mod purchase;
pub mod repeat;

// Rim: sockets out.
pub mod answer;
pub mod body;
pub mod dial;
pub mod timeouts;
pub mod tls;
pub mod upstream;
pub mod via;

// Core: pure, no sockets, no clock, no Tokio.
pub mod account;
pub mod agent_name;
pub mod approval;
pub mod assets;
pub mod challenge;
pub mod decode;
pub mod hop;
pub mod host;
pub mod money;
pub mod payment_id;
pub mod policy;
pub mod prefer;

// The books.
pub mod ledger;

// Rim: acts.
pub mod approve;
pub mod balances;
pub mod bkey;
pub mod dossier;
pub mod oauth;
pub mod pay;
pub mod post;
pub mod questions;
pub mod reconcile;
pub mod rpc;
pub mod stripe;

// What the demo and `bursar sandbox` buy from; shares no payment code with the rest.
pub mod sandbox;
