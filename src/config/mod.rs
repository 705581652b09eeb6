//! The two files: `bursar.toml` of the operator and `limits.toml` of finance.
//!
//! Each is read whole into types that cannot be wrong, or not at all: [`ConfigError`] then lists every mistake with its
//! place, and whoever held the old values keeps them. Unknown keys are mistakes.

pub mod alerts;
pub mod approval;
mod asking;
mod diagnose;
#[cfg(test)]
mod examples;
#[cfg(test)]
mod golden;
mod level;
pub mod limits;
pub mod operator;
pub mod secret;
mod section;

pub use diagnose::{ConfigError, Problem};
pub use operator::Config;
pub use secret::{SecretError, SecretSource};
