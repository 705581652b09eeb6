//! Behaviour of the real binary, with real clients and servers. One file per topic; `support` has the set-up.

#[path = "../../crates/approvals/tests/keyra_fake/mod.rs"]
mod keyra_fake;
#[cfg(feature = "postgres")]
#[path = "../../crates/ledger/tests/all/postgres_cluster.rs"]
mod postgres_cluster;
mod support;
#[path = "../../crates/ledger/tests/all/world.rs"]
mod world;

mod approvals;
mod bkey;
mod books;
mod direct;
mod free;
mod money;
mod mpp;
mod neighbour;

// People and programs.
mod alerts;
mod cli;
mod clients;
