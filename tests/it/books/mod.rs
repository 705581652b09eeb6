//! The ledger in use: alerts, backups, retention, reconciling, shared ledgers.

mod alerts_recorded;
mod approvals_restored;
mod compared;
pub(crate) mod evidence;
mod keeping;
mod proofs;
mod reconcile;
mod retention;
#[cfg(feature = "postgres")]
mod shared;
#[cfg(feature = "postgres")]
mod shared_approvals;
mod unsigned;
