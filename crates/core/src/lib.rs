//! What a payment is, decided without I/O.
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

pub mod account;
pub mod agent_name;
pub mod approval;
pub mod assets;
pub mod challenge;
pub mod clock;
pub mod decode;
pub mod hop;
pub mod host;
pub mod money;
pub mod payment_id;
pub mod policy;
pub mod prefer;
