//! Reads bursar's two configuration files strictly, and reports every mistake at once, with its position and a way to
//! fix it.
//!
//! The crate holds all of `limits.toml`, which finance owns, and the tools for reading a file: the program reads
//! `bursar.toml`, which the operator owns, with the same tools.
//!
//! # Main types
//!
//! * [`limits::parse`]: `limits.toml` as [`bursar_core::policy::Limits`].
//! * [`diagnose::ConfigError`] and [`diagnose::Problem`]: the mistakes, each with line, column, an excerpt and a
//!   suggestion.
//! * [`section::Section`] and [`section::Entry`]: one table of a file, read key by key. A key that the code never asked
//!   for is reported as unknown.
//! * [`warnings::warnings`]: what is probably not meant in a file without mistakes.
//! * [`secret::SecretSource`]: where a secret is kept (`env:NAME` or `file:PATH`); the files never hold the secret
//!   itself.
//!
//! # Where to start reading
//!
//! [`limits`] reads the top level of the file, [`level`] the sections that share their keys (account, groups, agents),
//! and [`asking`] the keys about approvals. The tests in `golden.rs` show whole messages.
//!
//! ```
//! use bursar_config::limits;
//!
//! let file = limits::parse("limits.toml", "[agents.research]\ntotal = \"5.00\"\n")?;
//! assert_eq!(file.agents().collect::<Vec<_>>(), ["research"]);
//!
//! let mistyped = limits::parse("limits.toml", "[agents.research]\ntotl = \"5.00\"\n");
//! let message = mistyped.err().expect("`totl` is not a key").to_string();
//! assert!(message.starts_with("limits.toml:2:1: [agents.research] has no key `totl`"));
//! assert!(message.ends_with("Did you mean `total`?"));
//! # Ok::<(), bursar_config::diagnose::ConfigError>(())
//! ```
#![cfg_attr(
    not(test),
    warn(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::float_arithmetic,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss
    )
)]

pub mod asking;
pub mod diagnose;
#[cfg(any(test, feature = "testing"))]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation)] // only tests call it
pub mod examples;
#[cfg(test)]
mod golden;
pub mod level;
pub mod limits;
pub mod secret;
pub mod section;
pub mod warnings;
