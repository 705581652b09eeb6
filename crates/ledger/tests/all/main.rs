//! The ledger as others use it: every engine against one suite, and each engine's own way to break and to come back.

mod conformance;
mod crash;
mod index;
mod limits;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "postgres")]
mod postgres_cluster;
mod read;
mod signed;
mod world;
