//! Connections.
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

pub mod body;
pub mod dial;
pub mod idle;
pub mod oauth;
pub mod post;
pub mod timeouts;
pub mod tls;
pub mod upstream;
pub mod via;
