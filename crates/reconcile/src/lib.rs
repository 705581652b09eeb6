//! Compares the ledger with the chains and with Stripe (R11, threats 1.16 to 1.20): what became of payments whose
//! outcome is unknown, whether payments that a merchant reported as paid were paid, and what left the wallet without a
//! payment.
//!
//! A comparison has three steps:
//!
//! 1. [`evidence`] asks every configured node of a network the same questions about one payment, as of one finalized
//!    block ([`Finality`]). The answers are an [`Evidence`].
//! 2. [`verdict()`] decides from the [`Facts`] of the ledger and that evidence alone: settled, dead, disputed, or not
//!    decidable yet ([`Verdict`]). It is pure.
//! 3. [`pass`] records verdicts in the ledger ([`Reconciler`]).
//!
//! Payments through Stripe are decided by the state of their token instead. [`outflow`] finds transfers out of the
//! wallet that no payment explains; how far a wallet has been searched is remembered between runs.
//!
//! `bursar reconcile` asks a [`Question`] and gets a [`Report`] ([`comparison`], [`report`]). In a running server the
//! [`Keeper`] compares by itself, whenever a payment is due.
//!
//! Start reading at [`verdict`](mod@verdict), which states what it takes to release money, and then at [`testimony`]
//! for the types that it decides on. `docs/reconcile.md` describes the command.
//!
//! # Example
//!
//! ```
//! use alloy_primitives::{Address, B256};
//! use bursar_core::assets::Network;
//! use bursar_core::money::Atoms;
//! use bursar_rails::rpc::Block;
//! use bursar_reconcile::{ClaimState, Evidence, Facts, Head, Nonce, Proof, Testimony, Verdict, verdict};
//!
//! let facts = Facts {
//!     network: Network::Eip155(84_532),
//!     token: Address::repeat_byte(1),
//!     from: Address::repeat_byte(2),
//!     payee: Address::repeat_byte(3),
//!     amount: Atoms::new(10_000),
//!     nonce: B256::repeat_byte(4),
//!     proof: Proof::Authorization,
//!     armed_at: 1_000,
//!     valid_before: 1_300,
//!     claim_state: ClaimState::Open,
//!     claimed_tx: None,
//! };
//! let head = Block { number: 50, hash: B256::ZERO, timestamp: 1_310 };
//! let evidence = Evidence {
//!     now: 1_320,
//!     configured: 1,
//!     head: Head::Agreed(head),
//!     testimonies: vec![Testimony { node: "https://node.example".to_owned(), nonce: Nonce::Unused }],
//!     silent: Vec::new(),
//! };
//! // Unused at a final block past the deadline, according to every node: it can never be cashed.
//! assert_eq!(verdict(&facts, &evidence), Verdict::Expired { head });
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

pub mod comparison;
mod cursor;
mod due;
pub mod evidence;
pub mod keeper;
pub mod outflow;
pub mod pass;
mod reconciler;
pub mod report;
mod stripe;
pub mod testimony;
pub mod verdict;
mod wallet;
#[cfg(test)]
mod world;

pub use comparison::{Question, Unable};
pub use evidence::Finality;
pub use keeper::Keeper;
pub use outflow::{Outflow, Outflows, outflows};
pub use pass::Progress;
pub use reconciler::{Notice, Notices, Reconciler};
pub use report::{Conclusion, Report};
pub use testimony::{ClaimState, Evidence, Facts, Head, Moved, Nonce, Proof, Silent, Taking, Testimony};
pub use verdict::{Dispute, Named, Unproven, Verdict, verdict};
