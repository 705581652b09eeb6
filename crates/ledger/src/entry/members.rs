//! The members of each event, in JCS order.

use alloy_primitives::{Address, B256};
use serde::{Deserialize, Serialize};

use crate::model::{self, Signer, Source};
use crate::payment::Payment;
use crate::text::{Decimal, Digest, Moment};
use bursar_core::account::{Account, AccountMark};
use bursar_core::approval::EvidenceKind;
use bursar_core::payment_id::PaymentId;
use bursar_core::policy::budget::Unit;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// Program and version.
    pub sw: String,
    /// Length of a torn tail that was moved away before this entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub torn_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub torn_sha256: Option<Digest>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyLoaded {
    pub policy_gen: u64,
    pub sha256: Digest,
    pub who: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRejected {
    pub reason: String,
    pub sha256: Digest,
    pub who: String,
}

/// A reservation with all its charges: one op is one line, so a torn batch is still a whole number of ops.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reserved {
    pub agent: String,
    /// Atoms.
    pub amount: Decimal<u128>,
    /// Present: reserved and armed at once (R61). Absent: held, `pay.armed` may follow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arm: Option<Arm>,
    /// CAIP-19, lower case.
    pub asset: String,
    pub decimals: u8,
    /// Who alone may take the money of an `upto`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub facilitator: Option<Address>,
    /// The most that a network's fee can be, in atoms; counted in `usd_micros`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fee: Option<Decimal<u128>>,
    pub fp: Digest,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    pub host: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idem: Option<Digest>,
    /// CAIP-2.
    pub network: String,
    pub offer_sha256: Digest,
    /// What else the same 402 offered, and why it was not taken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<Other>,
    pub payee: Account,
    pub policy_gen: u64,
    pub rail: String,
    pub rid: PaymentId,
    pub scheme: String,
    /// Commitments to path and query, sorted as text so that their order tells nothing.
    pub sd: Vec<String>,
    pub symbol: String,
    pub usd_micros: Decimal<u128>,
    pub windows: Vec<WindowCharge>,
}

/// An offer that was not taken. Nothing in it is the merchant's text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Other {
    /// Protocol and place in the challenge, `x402 1` or `mpp 0`; the protocol alone if its challenge did not read.
    pub at: String,
    /// Absent where it was not understood.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rail: Option<String>,
    /// Path in limits.toml, where a rule of finance's stood against it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usd_micros: Option<Decimal<u128>>,
    /// A stable code.
    pub why: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arm {
    pub from: Account,
    /// Of a payment through Stripe; older entries have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<AccountMark>,
    /// Absent: `signer` chooses it, and may have. Nothing can be proven then; `pay.issued` names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<B256>,
    /// Absent: we, with a key of ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<Signer>,
    pub valid_after: Decimal<u64>,
    pub valid_before: Decimal<u64>,
}

/// What a signer elsewhere has chosen. From here on the payment is as one that we have signed ourselves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// What the signer calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorization: Option<String>,
    pub nonce: B256,
    pub rid: PaymentId,
    pub valid_after: Decimal<u64>,
    pub valid_before: Decimal<u64>,
}

/// `[scope, window, start, amount, cap]`: enough to recompute the limit decision from the log alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowCharge(pub String, pub String, pub String, pub Decimal<u128>, pub Decimal<u128>);

impl WindowCharge {
    pub fn scope(&self) -> &str {
        &self.0
    }

    pub fn window(&self) -> &str {
        &self.1
    }

    pub fn start(&self) -> &str {
        &self.2
    }

    pub fn amount(&self) -> u128 {
        self.3.0
    }

    pub fn unit(&self) -> Unit {
        Unit::of_window(&self.1)
    }

    /// Of its counter: scope, window, start.
    pub fn names(&self) -> [&str; 3] {
        [&self.0, &self.1, &self.2]
    }
}

/// A repeat is about to send the same credential again (R61). Moves no money and no state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presented {
    /// Which presentation by a repeat, from 1.
    pub number: u8,
    pub rid: PaymentId,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Armed {
    /// The approval that is used up by this. A use has no entry of its own (R45): it is this member, in the one durable
    /// step that lets the payment be signed, so that a crash cannot come between the two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approval: Option<String>,
    pub arm: Arm,
    pub rid: PaymentId,
    /// The charges from here on, where they are not those of `pay.reserved`: a window ended while a person decided, or the
    /// limits were changed. The old ones are given back by this entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub windows: Option<Vec<WindowCharge>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    /// As in `pay.confirmed`: what was charged for the part that was not taken leaves its windows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub back: Vec<WindowCharge>,
    pub by: Source,
    pub rid: PaymentId,
    /// Atoms that an `upto` was shown to have cost, where that is proven.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub taken: Option<Decimal<u128>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tx: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unknown {
    pub rid: PaymentId,
    /// A transaction that a failing receipt names all the same (R10): where a proof can begin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tx: Option<String>,
    pub why: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Released {
    pub rid: PaymentId,
    pub why: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expired {
    pub by: Source,
    pub rid: PaymentId,
    pub why: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    pub agent: String,
    /// How many equal refusals this entry stands for.
    pub count: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    pub host: String,
    pub reason: String,
    pub rule: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usd_micros: Option<Decimal<u128>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admin {
    pub action: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rid: Option<PaymentId>,
    pub who: String,
    pub why: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rebuilt {
    /// Entries replayed.
    pub entries: u64,
    pub why: String,
}

/// The chain bears out what a merchant's receipt said. Moves no money, but for what an `upto` did not take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmed {
    /// What leaves each window, in its unit; the payment itself is closed, so that the entry has to say it. A window whose
    /// counter is gone gets nothing back, and needs nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub back: Vec<WindowCharge>,
    /// Of a chain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block: Option<u64>,
    pub by: Source,
    pub rid: PaymentId,
    /// As in `pay.settled`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub taken: Option<Decimal<u128>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tx: Option<String>,
}

/// The chain says something else than the books. Moves no money: the larger amount stays counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disputed {
    pub rid: PaymentId,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tx: Option<String>,
    pub why: String,
}

/// A payment of a proxy that is gone, taken over on books that several share. From here on it is in this log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopted {
    /// Whose log tells its beginning.
    pub node: u32,
    pub payment: Payment,
}

/// Another proxy has taken this payment over; its log tells the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Yielded {
    pub node: u32,
    pub rid: PaymentId,
}

/// Money that left the wallet and that no entry explains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outflow {
    /// Atoms.
    pub amount: Decimal<u128>,
    /// CAIP-19, lower case.
    pub asset: String,
    pub block: u64,
    pub log_index: u64,
    /// CAIP-2.
    pub network: String,
    pub payee: Address,
    pub symbol: String,
    pub tx: B256,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    pub detail: String,
    pub kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rid: Option<PaymentId>,
}

/// The system clock ran ahead of the time that passed. Nothing is reserved until it is right again or accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockJumped {
    pub ahead_s: u64,
}

/// An operator's word that the clock is right: windows follow it from here on, even back (R63).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockAccepted {
    pub who: String,
    pub why: String,
}

/// A person is about to be asked about a held payment. What they are asked is a disclosure (R46); its code stands
/// nowhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalRequested {
    pub agent: String,
    pub approver: String,
    pub backend: String,
    pub id: PaymentId,
    /// Hash of the intent (R40).
    pub intent: Digest,
    /// So many people must grant it.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub needed: u8,
    pub rid: PaymentId,
    /// When the approver's time is over.
    pub until: Moment,
}

/// The evidence was verified, and what makes it single use is taken by this (R45).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalGranted {
    pub by: String,
    pub evidence_sha256: Digest,
    pub id: PaymentId,
    pub kind: EvidenceKind,
    /// Hash of issuer and `jti`, or of what stands for them.
    pub replay: Digest,
    pub replay_until: Moment,
    pub use_by: Moment,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalDenied {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    pub id: PaymentId,
    /// The last moment in which the refusal is remembered.
    pub until: Moment,
    pub why: String,
}

/// Timeouts, errors, and what was granted and not used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalExpired {
    pub id: PaymentId,
    pub why: String,
}

impl From<&model::Arm> for Arm {
    fn from(arm: &model::Arm) -> Self {
        Self {
            from: arm.from.clone(),
            issuer: arm.issuer,
            nonce: arm.nonce.known(),
            signer: arm.signer,
            valid_after: Decimal(arm.valid_after),
            valid_before: Decimal(arm.valid_before),
        }
    }
}

impl Arm {
    /// Whether it says plainly who chooses the nonce: a signature of somebody else has none yet, everything else has one.
    pub fn is_plain(&self) -> bool {
        let by_signer = self.signer.is_some() && self.from.address().is_some();
        self.nonce.is_none() == by_signer
    }

    /// Takes in what the signer has chosen.
    pub fn issue(&mut self, issued: &Issued) {
        self.nonce = Some(issued.nonce);
        self.valid_after = issued.valid_after;
        self.valid_before = issued.valid_before;
    }
}

const fn one() -> u8 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
const fn is_one(count: &u8) -> bool {
    *count == 1
}
