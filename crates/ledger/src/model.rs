//! The ledger's vocabulary: states and their transitions, what callers ask for, and what they get back.
//!
//! Nothing here touches a file. The arithmetic is in `book`, the bytes are in `entry`.

mod approvals;
mod signer;

use crate::reason::Reason;
use std::fmt;
use std::sync::Arc;

use alloy_primitives::{Address, B256};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::entry::{Other, Reserved};
use super::pauses::Pause;
pub use approvals::{ApprovalError, ApprovalRow, ApprovalState, ApprovalStep, Approvals, Denied, Requested, Vote};
use bursar_core::account::{Account, AccountMark};
use bursar_core::assets::Asset;
use bursar_core::challenge::{Clause, Rail};
use bursar_core::money::{Atoms, MicroUsd};
use bursar_core::payment_id::PaymentId;
use bursar_core::policy::Remaining;
use bursar_core::policy::budget::Charge;
pub use signer::{ArmedNonce, Issued, Signer};

/// The state of a payment (R48). Everything but `released` and `expired` counts against its limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Money is set aside; nothing was signed.
    Held,
    /// Nonce, payee, amount and deadline are on disk. From now on the seller is assumed to have the credential.
    Armed,
    /// Paid, according to `Source`. Final.
    Settled,
    /// Armed, the answer is no longer awaited, and the outcome is unknown. Counts in full.
    Unknown,
    /// Was held and was released. Final.
    Released,
    /// Proven never to be cashed. Final.
    Expired,
}

impl State {
    /// The state machine (R213). No transition leads from `armed` or `unknown` to `released`: signed money comes back
    /// only as `expired`, with proof (R11).
    pub fn may_become(self, next: Self) -> bool {
        use State::*;
        matches!(
            (self, next),
            (Held, Armed | Released) | (Armed, Settled | Unknown | Expired) | (Unknown, Settled | Expired)
        )
    }

    pub fn is_final(self) -> bool {
        matches!(self, Self::Settled | Self::Released | Self::Expired)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Held => "held",
            Self::Armed => "armed",
            Self::Settled => "settled",
            Self::Unknown => "unknown",
            Self::Released => "released",
            Self::Expired => "expired",
        })
    }
}

/// Who reported that a payment is settled or expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The seller's receipt (R10).
    Merchant,
    /// A person, by `payments resolve` (R11).
    Operator,
    /// A finalized block.
    Chain,
    /// Stripe, asked about its token.
    Stripe,
    /// The ledger itself, for a reservation that never left it.
    Us,
}

/// What is bought: our own asset table and the parsed offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    pub rail: Rail,
    pub asset: Asset,
    pub amount: Atoms,
    pub usd: MicroUsd,
    pub payee: Account,
    pub clause: Clause,
}

impl Terms {
    /// From an entry. `None`: this version no longer knows the asset or the rail.
    pub(super) fn recorded(reserved: &Reserved) -> Option<Self> {
        let rail = Rail::parse(&reserved.rail)?;
        Some(Self {
            rail,
            asset: Asset::parse(&reserved.asset).filter(|_| rail.scheme() == reserved.scheme)?,
            amount: Atoms::new(reserved.amount.0),
            usd: MicroUsd::new(reserved.usd_micros.0),
            payee: reserved.payee.clone(),
            clause: match (reserved.facilitator, reserved.fee) {
                (None, None) => Clause::None,
                (Some(facilitator), None) => Clause::Facilitator(facilitator),
                (None, Some(fee)) => Clause::FeeCap(Atoms::new(fee.0)),
                (Some(_), Some(_)) => return None,
            },
        })
    }
}

/// What the credential will contain besides the terms. Times are Unix seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arm {
    /// The wallet, or the payment method at Stripe.
    pub from: Account,
    /// The Stripe account that orders the token: an answer from another account proves nothing about it (R11).
    pub issuer: Option<AccountMark>,
    /// The nonce of an authorization, of a permit or, as its memo, of a transfer; with Stripe it only keeps a challenge
    /// from being answered twice.
    pub nonce: ArmedNonce,
    /// The external signer; absent if our own key signs.
    pub signer: Option<Signer>,
    pub valid_after: u64,
    /// If the signer chooses the deadline: the latest one that is accepted.
    pub valid_before: u64,
}

/// One purchase to put on record: hold and arm in one step (R61).
#[derive(Clone, Debug)]
pub struct Reserve {
    pub hold: Hold,
    pub arm: Arm,
}

/// Money to set aside for one purchase, before anything is fixed that a signature would cover.
#[derive(Clone, Debug)]
pub struct Hold {
    pub rid: PaymentId,
    pub agent: String,
    pub group: Option<String>,
    /// Lower-case A-label, no port.
    pub host: String,
    /// Such as `http://host:8080`, where it is not `https://` and `host`. Like `path`.
    pub origin: Option<String>,
    /// Goes into a disclosure; the entry holds only a commitment.
    pub path: String,
    /// Like `path`.
    pub query: Option<String>,
    pub terms: Terms,
    /// In the order of limits.toml: the first charge that does not fit is the one reported.
    pub charges: Vec<Charge>,
    /// The generation of limits.toml that allowed it; below 2^53.
    pub policy_gen: u64,
    pub fingerprint: [u8; 32],
    /// The hash of the agent's `Idempotency-Key`.
    pub idempotency: Option<[u8; 32]>,
    pub offer_sha256: [u8; 32],
    /// The other offers of the same 402, and why they were not taken.
    pub others: Vec<Other>,
}

/// What is needed to arm held money, so that it may be signed for.
#[derive(Clone, Debug)]
pub struct Arming {
    pub arm: Arm,
    /// The charges under the current limits: windows and caps may have changed since the hold.
    pub charges: Vec<Charge>,
    /// The id of the approval that this uses up. A payment that waits for an approval is not armed without one.
    pub approval: Option<String>,
}

/// Permission to sign exactly these terms, once. Only the ledger creates one, after its record is on disk; it cannot be
/// copied. Its holder must `finish` it: until then it counts, and a restart makes it `unknown`.
#[derive(Debug)]
pub struct Reservation {
    rid: PaymentId,
    terms: Terms,
    arm: Arm,
    /// Boxed, because a reservation is moved around in results.
    remaining: Option<Box<Remaining>>,
}

impl Reservation {
    pub(super) fn new(rid: PaymentId, terms: Terms, arm: Arm, remaining: Option<Remaining>) -> Self {
        Self {
            rid,
            terms,
            arm,
            remaining: remaining.map(Box::new),
        }
    }

    /// The limit that the agent reaches first after this payment, as it stood when the payment was reserved.
    pub fn remaining(&self) -> Option<&Remaining> {
        self.remaining.as_deref()
    }

    pub fn rid(&self) -> PaymentId {
        self.rid
    }

    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    pub fn arm(&self) -> &Arm {
        &self.arm
    }

    /// With the signer's choice, now that it is on record.
    pub(super) fn with(self, issued: &Issued) -> Self {
        let arm = Arm {
            nonce: ArmedNonce::Known(issued.nonce),
            valid_after: issued.valid_after,
            valid_before: issued.valid_before,
            ..self.arm
        };
        Self { arm, ..self }
    }
}

/// Why nothing was reserved. After any of these errors nothing may be signed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReserveError {
    /// `charges[charge]` does not fit: `settled` and `open` are what its window holds already.
    #[error("the limit of charge {charge} is reached: {settled} settled and {open} open")]
    Denied { charge: usize, settled: u128, open: u128 },
    /// The window of `charges[charge]` ended so long ago that its counter is gone: the clock went back.
    #[error("the window of charge {charge} is over and its counter is closed")]
    WindowClosed { charge: usize },
    #[error("this payment id is already in use")]
    RidTaken,
    /// A payment was made under this `Idempotency-Key` within 24 h, and it is not proven unusable (R6).
    #[error("payment {0} was already made under this Idempotency-Key")]
    KeyTaken(PaymentId),
    #[error("this nonce was already used for a payment")]
    NonceTaken,
    /// Only a payment that this ledger still holds can be armed.
    #[error("payment {0} is not held")]
    NotHeld(PaymentId),
    #[error(transparent)]
    Approval(#[from] ApprovalError),
    /// A person stopped such payments.
    #[error("{} are paused", .0.scope.words())]
    Paused(Box<Pause>),
    #[error("the disk that holds the ledger is almost full")]
    LowSpace,
    /// What is not signed can be cut off unnoticed.
    #[error("the ledger's journal could not be signed for {for_s} s")]
    Unsigned { for_s: u64 },
    /// A jump forward would open windows that have not begun (R63).
    #[error(
        "the system clock has jumped ahead by {ahead_s} s; correct it, or accept it with `bursar clock accept --why \
         TEXT`"
    )]
    ClockJumped { ahead_s: u64 },
    /// Another proxy on the same ledger has newer limits.
    #[error("newer limits are in force: generation {need}, and this proxy has {have}")]
    StalePolicy { have: u64, need: u64 },
    /// The commit was sent and its outcome is unknown. The reservation may exist; it must not be signed for.
    #[error("it is unknown whether payment {0} was recorded")]
    Unclear(PaymentId),
    #[error("the sum of the amounts is too large to count")]
    Overflow,
    #[error("the ledger cannot record: {0}")]
    Failed(String),
}

/// Why the ledger did not carry out a request.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LedgerError {
    #[error("no open payment has the id {0}")]
    NotOpen(PaymentId),
    #[error("payment {rid} is {from} and cannot become {to}")]
    Unlawful { rid: PaymentId, from: State, to: State },
    /// An operator can resolve only payments in state `unknown`.
    #[error("payment {0} is armed and becomes settled or unknown by itself; try again then")]
    UnderWay(PaymentId),
    /// Only a payment that is unknown, or settled on a merchant's receipt, can be confirmed or disputed, and only once.
    #[error("payment {0} is not waiting for confirmation by the chain")]
    NotUnconfirmed(PaymentId),
    #[error("payment {0} was signed for less than that")]
    MoreThanSigned(PaymentId),
    /// An external signer's choice is recorded once, while the payment is armed for that signer.
    #[error("payment {0} is not waiting for a signer")]
    NotWithSigner(PaymentId),
    #[error("the nonce that the signer chose for payment {0} was already used for a payment")]
    NonceTaken(PaymentId),
    #[error("the credential that the signer made for payment {0} can never be valid")]
    NeverValid(PaymentId),
    #[error(transparent)]
    Approval(#[from] ApprovalError),
    /// A write or sync failed; nothing is recorded any more until a restart finds out what the disk holds.
    #[error("the ledger cannot record: {0}")]
    Failed(String),
}

/// How a payment ended, or that its outcome is unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Settled {
        by: Source,
        tx: Option<String>,
    },
    /// Settled, and proven that no more than `taken` will ever be taken: the rest no longer counts (R12).
    Taken {
        by: Source,
        tx: Option<String>,
        taken: Atoms,
    },
    Unknown {
        why: Reason,
        tx: Option<String>,
    },
    Expired {
        by: Source,
        why: Reason,
    },
    Released {
        why: Reason,
    },
}

impl Outcome {
    /// The state that it leads to.
    pub const fn state(&self) -> State {
        match self {
            Self::Settled { .. } | Self::Taken { .. } => State::Settled,
            Self::Unknown { .. } => State::Unknown,
            Self::Expired { .. } => State::Expired,
            Self::Released { .. } => State::Released,
        }
    }
}

/// An operator's statement about an open payment (R11).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolution {
    Settled { tx: Option<String> },
    Expired,
}

/// Money that left the wallet without an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outflow {
    /// CAIP-19.
    pub asset: String,
    pub network: String,
    pub symbol: String,
    pub amount: Atoms,
    pub payee: Address,
    pub tx: B256,
    pub log_index: u64,
    pub block: u64,
}

/// A refusal to record. Equal ones (agent, rule, host) become one entry per ten seconds; beyond some hosts a minute, the
/// rest of an agent's refusals become one entry for each rule (R62).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusalRecord {
    pub agent: String,
    pub group: Option<String>,
    pub host: String,
    /// Stable code, such as `over-limit`.
    pub reason: String,
    /// Path in limits.toml, such as `agents.research.day`.
    pub rule: String,
    /// What the cheapest payable offer would have counted, if there is one.
    pub asked: Option<MicroUsd>,
}

/// Events that are not about the state of a payment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    PolicyLoaded {
        generation: u64,
        sha256: [u8; 32],
        who: String,
    },
    PolicyRejected {
        sha256: [u8; 32],
        reason: String,
        who: String,
    },
    /// A repeat is about to present a credential again.
    Presented {
        rid: PaymentId,
        number: u8,
    },
    AdminAction {
        action: String,
        who: String,
        why: String,
    },
    Outflow(Outflow),
    /// An alert was raised.
    Alert {
        kind: &'static str,
        detail: String,
        rid: Option<PaymentId>,
    },
    /// An operator accepts the clock as it is (R63).
    ClockAccepted {
        who: String,
        why: String,
    },
}

/// What the ledger notices by itself and operators should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Alarm {
    /// A reservation has filled a budget to 80 %.
    BudgetNearlySpent {
        scope: String,
        window: String,
        start: String,
        rule: String,
        counted: u128,
        cap: u128,
    },
    LowSpace,
    /// Nothing is recorded any more.
    StoreFailed {
        why: String,
    },
    ClockJumped {
        ahead_s: u64,
    },
    IndexRebuilt {
        why: String,
    },
    TornWrite {
        bytes: u64,
    },
    /// The journal cannot be signed. It is tried again; payments stop once that has lasted for `max_s`.
    LogUnsigned {
        why: String,
        max_s: u64,
        payments_stopped: bool,
    },
    /// The journal's next segment cannot be opened. Entries go on into the old one, and it is tried again.
    SegmentOverdue {
        why: String,
    },
}

/// Receives alarms. Called between two batches: it must not block.
pub type Alarms = Arc<dyn Fn(Alarm) + Send + Sync>;

#[cfg(test)]
mod tests {
    use super::State::{self, *};

    #[test]
    fn only_the_moves_of_the_digest_are_lawful() {
        let all = [Held, Armed, Settled, Unknown, Released, Expired];
        let lawful = [
            (Held, Armed),
            (Held, Released),
            (Armed, Settled),
            (Armed, Unknown),
            (Armed, Expired),
            (Unknown, Settled),
            (Unknown, Expired),
        ];
        for from in all {
            for to in all {
                assert_eq!(from.may_become(to), lawful.contains(&(from, to)), "{from} to {to}");
            }
        }
    }

    #[test]
    fn nothing_leaves_a_final_state() {
        for from in [Held, Armed, Settled, Unknown, Released, Expired] {
            let stuck = [Held, Armed, Settled, Unknown, Released, Expired]
                .iter()
                .all(|to: &State| !from.may_become(*to));
            assert_eq!(from.is_final(), stuck);
        }
    }
}
