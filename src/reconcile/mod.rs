//! What became of money that was signed away: the books against the chain (Ruling 11, threats 1.16 to 1.20).
//!
//! `evidence` asks every configured node of a network the same questions about one payment, as of one finalized block.
//! `verdict` decides from the answers alone: settled, dead, disputed, or not to be told yet. `outflow` finds what left the
//! wallet without a payment of ours. Nothing here writes: the caller brings verdicts to the ledger.

pub mod evidence;
pub mod outflow;
pub mod testimony;
pub mod verdict;

pub use evidence::Finality;
pub use outflow::{Outflow, Outflows, outflows};
pub use testimony::{Evidence, Facts, Head, Moved, Nonce, Silent, Standing, Testimony};
pub use verdict::{Dispute, Named, Unproven, Verdict, verdict};
