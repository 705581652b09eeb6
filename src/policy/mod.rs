//! Temporary stand-in, to be replaced by the real policy module.

pub mod budget;
