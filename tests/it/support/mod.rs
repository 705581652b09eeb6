//! Set-up for the tests in this folder: the real binary, scripted sites, an agent, a chain.

pub(crate) mod agent;
pub(crate) mod bkey;
pub(crate) mod bursar;
pub(crate) mod buyer;
pub(crate) mod corporate;
pub(crate) mod credentials;
pub(crate) mod faults;
pub(crate) mod frames;
pub(crate) mod lab;
pub(crate) mod mpp;
pub(crate) mod node;
pub(crate) mod origin;
pub(crate) mod seller;
pub(crate) mod stripe;
pub(crate) mod wire;
