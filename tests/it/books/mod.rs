//! A ledger and the parts of the program around it: alerts, backups, retention.

mod alerts_recorded;
mod approvals_restored;
mod retention;
