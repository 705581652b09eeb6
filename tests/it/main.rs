//! Behaviour, through the real binary, with real clients and servers. Each file is a theme; `support` sets the stage.

mod support;

mod answers;
mod canary;
mod crash;
mod first_purchase;
mod funds;
mod hostile;
mod limits;
mod malformed;
mod replay;
