//! A ledger and what belongs to the program around it: alerts, backups, retention.

mod alerts_recorded;
mod approvals_restored;
mod retention;
