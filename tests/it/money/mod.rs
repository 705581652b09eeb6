//! Payments, asserted at the seller and on the chain.

mod answers;
pub(crate) mod canary;
pub(crate) mod chain;
mod crash;
mod delivered;
mod echoes;
mod explain;
mod failing_disk;
mod first_purchase;
mod funds;
mod hostile;
mod idempotency;
mod killed;
mod limits;
mod malformed;
mod one_merchant;
mod paused;
pub(crate) mod permit2;
mod permit2_hostile;
mod real_sellers;
mod receipts;
mod repeats;
mod replay;
mod streams;
mod windows;
