//! The two files: `bursar.toml` of the operator and `limits.toml` of finance.
//!
//! Each file is read completely into types that cannot hold invalid values, or rejected as a whole: then
//! [`ConfigError`] lists every mistake with its place, and the old values stay in use. Unknown keys are mistakes.

pub(crate) mod alerts;
pub(crate) mod approval;
#[cfg(test)]
mod golden;
pub(crate) mod limits_file;
pub(crate) mod operator;
pub(crate) mod people;
pub(crate) mod secret;

pub(crate) use bursar_config::diagnose::ConfigError;
#[cfg(test)]
pub(crate) use bursar_config::limits;
pub(crate) use limits_file::LimitsFile;
pub(crate) use operator::Config;
pub(crate) use secret::{SecretError, SecretSource};
