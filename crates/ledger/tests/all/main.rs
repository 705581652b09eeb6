//! The ledger as its users call it: one suite for every engine, and for each engine its own failures and recoveries.

mod compared;
mod conformance;
mod crash;
mod index;
mod limits;
mod pauses;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "postgres")]
mod postgres_cluster;
mod previous_version;
mod read;
mod signed;
mod spend;
mod unsigned;
mod world;
