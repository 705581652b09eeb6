//! The two files: `bursar.toml` of the operator and `limits.toml` of finance.
//!
//! Each is read whole into types that cannot be wrong, or not at all: [`ConfigError`] then lists every mistake with its
//! place, and whoever held the old values keeps them. Unknown keys are mistakes.

pub mod alerts;
pub mod approval;
#[cfg(test)]
mod golden;
pub mod operator;

pub use bursar_config::diagnose::{ConfigError, Problem};
pub use bursar_config::limits;
pub use bursar_config::secret::{SecretError, SecretSource};
pub use operator::Config;
