//! What became of money that was signed away: the books against the chain (R11, threats 1.16 to 1.20).
//!
//! `evidence` asks every configured node of a network the same questions about one payment, as of one finalized block.
//! `verdict` decides from the answers alone: settled, dead, disputed, or not to be told yet. `outflow` finds what left the
//! wallet without a payment of ours. These write nothing.
//!
//! `pass` brings verdicts to the books, `wallet` what left them, up to a `cursor`. `comparison` is what `bursar reconcile`
//! asks for and `report` what it gets; `keeper` goes on by itself in the server, when a payment is `due`.
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
pub use pass::{Notice, Notices, Progress, Reconciler};
pub use report::{Conclusion, Report};
pub use testimony::{ClaimState, Evidence, Facts, Head, Moved, Nonce, Proof, Silent, Taking, Testimony};
pub use verdict::{Dispute, Named, Unproven, Verdict, verdict};
