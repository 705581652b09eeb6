//! How bursar pays.
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

pub mod balances;
pub mod bkey;
pub mod outstanding;
pub mod pay;
pub mod rpc;
pub mod stripe;
