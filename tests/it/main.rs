//! Behaviour of the real binary, with real clients and servers. One file per topic; `support` has the set-up.

#[path = "../../crates/approvals/tests/keyra_fake/mod.rs"]
mod keyra_fake;
#[cfg(feature = "postgres")]
#[path = "../../crates/ledger/tests/all/postgres_cluster.rs"]
mod postgres_cluster;
mod support;
#[path = "../../crates/ledger/tests/all/world.rs"]
mod world;

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

mod books;

// Money.
mod answers;
mod approvals;
mod approvals_canary;
mod approvals_ciba;
mod approvals_exported;
mod approvals_hold;
mod approvals_keyra;
mod approvals_killed;
mod approvals_late;
mod approvals_several;
mod approvals_spent;
mod bkey;
mod bkey_chain;
mod bkey_killed;
mod bkey_tokens;
mod canary;
mod chain;
mod crash;
mod evidence;
mod explain;
mod failing_disk;
mod first_purchase;
mod funds;
mod hostile;
mod idempotency;
mod killed;
mod limits;
mod malformed;
mod mpp;
mod mpp_chain;
mod mpp_hostile;
mod mpp_stripe;
mod mpp_tempo;
mod mpp_tempo_hostile;
mod permit2;
mod permit2_hostile;
mod proofs;
mod receipts;
mod reconcile;
mod repeats;
mod replay;
#[cfg(feature = "postgres")]
mod shared;
#[cfg(feature = "postgres")]
mod shared_approvals;
mod stripe;
mod stripe_offers;
mod windows;

// People and programs.
mod alerts;
mod cli;
mod clients;
mod keeping;
