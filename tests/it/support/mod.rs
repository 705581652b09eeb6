//! Set-up for the tests in this folder: the real binary, scripted sites, an agent, a chain.

pub mod agent;
pub mod bkey;
pub mod bursar;
pub mod buyer;
pub mod faults;
pub mod lab;
pub mod mpp;
pub mod node;
pub mod origin;
pub mod seller;
pub mod stripe;
pub mod wire;
