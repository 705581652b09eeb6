//! What the programs of this benchmark have in common: keys, the order that the load gets, and what `/proc` says of a
//! process.

pub mod keys;
pub mod order;
pub mod process;
pub mod sockets;

pub type Fault = Box<dyn std::error::Error + Send + Sync>;
