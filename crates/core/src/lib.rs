//! Everything about a payment that can be decided without I/O: what a 402 offers, whether an agent may buy it, and what
//! an approval of it is worth.
//!
//! This crate is the bottom layer of the workspace. It has no async runtime, no network and no files; the time is read
//! through a trait that tests replace ([`clock`]). So everything here can be tested with plain values, and the other
//! crates depend on it, never the other way round.
//!
//! # Main types
//!
//! * [`challenge::Offer`]: one offer of a 402, whichever protocol and rail it came by, with every field checked.
//! * [`policy::Limits`], [`policy::decide`]: `limits.toml` once it has been read, and the decision that it leads to: a
//!   [`policy::Plan`] to pay or a [`policy::Refusal`].
//! * [`challenge::Credential`], [`challenge::Receipt`]: the header that pays, and the header that the seller answers
//!   with.
//! * [`approval::ApprovalIntent`], [`approval::Evidence`]: what a person is asked to approve, and the proof of the
//!   answer.
//! * [`payment_id::PaymentId`], [`host::Host`], [`money::Atoms`], [`money::MicroUsd`], [`assets::Asset`],
//!   [`account::Account`], [`agent_name::AgentName`]: values, each with a single spelling.
//!
//! [`hop`], [`decode`] and [`prefer`] are the parts of HTTP that need no connection: which headers a proxy forwards,
//! how a body is decompressed, and how long an agent is willing to wait.
//!
//! # Where to start reading
//!
//! Follow one 402: [`challenge::look`] and [`challenge::with_mpp`] turn it into offers, [`challenge::payable`] checks
//! an offer against the payer, [`policy::decide`] chooses one, and [`challenge::credential::credential`] builds the
//! header that pays.
//!
//! ```
//! use bursar_core::host::Host;
//! use bursar_core::money::{Atoms, MicroUsd};
//!
//! // A price as a challenge writes it, in atoms of a token with six decimals, and what it counts against a budget.
//! let price = Atoms::parse("10000")?;
//! assert_eq!(MicroUsd::of(price, 6)?.to_string(), "0.01");
//! assert!(Atoms::parse("1e4").is_err());
//!
//! // Two spellings of a host are one value, so a denied host cannot slip through under another spelling.
//! assert_eq!(Host::parse("API.Example.com.")?, Host::parse("api.example.com")?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
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

pub mod account;
pub mod agent_name;
pub mod approval;
pub mod assets;
pub mod challenge;
pub mod clock;
pub mod decode;
pub mod h1;
pub mod hop;
pub mod host;
pub mod money;
pub mod payment_id;
pub mod plain;
pub mod policy;
pub mod prefer;
