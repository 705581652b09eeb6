//! Two files.
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
pub mod examples;
#[cfg(test)]
mod golden;
pub mod level;
pub mod limits;
pub mod secret;
pub mod section;
