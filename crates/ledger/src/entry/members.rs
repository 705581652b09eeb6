//! The members of each event, in JCS order.

use alloy_primitives::{Address, B256};
use serde::{Deserialize, Serialize};

use crate::model::{self, Signer, Source};
use crate::payment::Payment;
use crate::text::{Decimal, Digest, Moment};
use bursar_core::account::{Account, AccountMark};
use bursar_core::approval::EvidenceKind;
use bursar_core::payment_id::PaymentId;
use bursar_core::policy::PauseScope;
use bursar_core::policy::budget::Unit;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// Program name and version.
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

/// A reservation with all its charges: one operation is one line, so a torn batch still holds whole operations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reserved {
    pub agent: String,
    /// Atoms.
    pub amount: Decimal<u128>,
    /// Present: reserved and armed at once (R61). Absent: held; `pay.armed` may follow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arm: Option<Arm>,
    /// CAIP-19, lower case.
    pub asset: String,
    pub decimals: u8,
    /// The only address that may take the money of an `upto`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub facilitator: Option<Address>,
    /// The highest possible network fee, in atoms; counted in `usd_micros`.
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
    /// The other offers of the same 402, and why they were not taken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<Other>,
    pub payee: Account,
    pub policy_gen: u64,
    pub rail: String,
    pub rid: PaymentId,
    pub scheme: String,
    /// Commitments to path and query, sorted as text so that their order reveals nothing.
    pub sd: Vec<String>,
    pub symbol: String,
    pub usd_micros: Decimal<u128>,
    pub windows: Vec<WindowCharge>,
}

/// An offer that was not taken. It contains no text from the merchant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Other {
    /// Protocol and place in the challenge, `x402 1` or `mpp 0`; only the protocol if the challenge could not be read.
    pub at: String,
    /// Absent if it was not understood.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rail: Option<String>,
    /// Path in limits.toml, if a rule there excluded it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usd_micros: Option<Decimal<u128>>,
    /// A stable code.
    pub why: String,
}

/// In place of a reason: the entry had no room for the offers from here on.
pub const NOT_RECORDED: &str = "not-recorded";

/// The most bytes that all others take in an entry, which has a length limit. Even 64 offers usually need less.
const MOST_OTHERS: usize = 4 << 10;

impl Other {
    /// Of a long list with long rules only as much as an entry can hold. The last one then says how many are missing.
    pub fn that_fit(mut all: Vec<Self>) -> Vec<Self> {
        const CUT: usize = r#"{"at":"and 63 more","why":"not-recorded"},"#.len();
        let length = |other: &Self| serde_json::to_vec(other).map_or(MOST_OTHERS, |json| json.len() + 1);
        let (mut taken, mut room) = (0, MOST_OTHERS - CUT);
        for other in &all {
            let Some(left) = room.checked_sub(length(other)) else {
                break;
            };
            (taken, room) = (taken + 1, left);
        }
        let missing = all.len() - taken;
        if missing > 0 {
            all.truncate(taken);
            all.push(Self {
                at: format!("and {missing} more"),
                rail: None,
                rule: None,
                usd_micros: None,
                why: NOT_RECORDED.to_owned(),
            });
        }
        all
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arm {
    pub from: Account,
    /// For payments through Stripe; older entries have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<AccountMark>,
    /// Absent: `signer` chooses it, and may have done so. Nothing can be proven then; `pay.issued` names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<B256>,
    /// Absent: our own key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<Signer>,
    pub valid_after: Decimal<u64>,
    pub valid_before: Decimal<u64>,
}

/// What an external signer chose. From now on the payment is like one that we signed ourselves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// The signer's id for it.
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

    /// The key of its counter: scope, window, start.
    pub fn names(&self) -> [&str; 3] {
        [&self.0, &self.1, &self.2]
    }
}

/// A repeat is about to present the same credential again (R61). Changes no money and no state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presented {
    /// The number of the repeated presentation, from 1.
    pub number: u8,
    pub rid: PaymentId,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Armed {
    /// The approval that this uses up. A use has no entry of its own (R45): it is this member, in the one durable step
    /// that lets the payment be signed, so that a crash cannot come between the two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approval: Option<String>,
    pub arm: Arm,
    pub rid: PaymentId,
    /// The charges from now on, if they differ from those of `pay.reserved`: a window ended while a person decided, or
    /// the limits changed. This entry gives the old ones back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub windows: Option<Vec<WindowCharge>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    /// As in `pay.confirmed`: the charge for the part that was not taken leaves its windows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub back: Vec<WindowCharge>,
    pub by: Source,
    pub rid: PaymentId,
    /// Atoms that an `upto` is proven to have cost.
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
    /// A transaction that a failing receipt still names (R10): a proof can start from it.
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
    /// `*` for several hosts.
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

/// The chain confirms a merchant's receipt. Moves no money, except the part of an `upto` that was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmed {
    /// What leaves each window, in its unit; the payment itself is closed, so the entry has to state it. A window whose
    /// counter is gone gets nothing back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub back: Vec<WindowCharge>,
    /// The block, if a chain reported it.
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

/// The chain contradicts the ledger. Moves no money: the larger amount stays counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disputed {
    pub rid: PaymentId,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tx: Option<String>,
    pub why: String,
}

/// A payment of another proxy that is gone, taken over on a shared ledger. From now on it is in this log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopted {
    /// The proxy whose log has its beginning.
    pub node: u32,
    pub payment: Payment,
}

/// Another proxy has taken this payment over; that proxy's log has its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Yielded {
    pub node: u32,
    pub rid: PaymentId,
}

/// Money that left the wallet without an entry that explains it.
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

/// The system clock ran ahead of elapsed time. Nothing is reserved until it is correct again or accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockJumped {
    pub ahead_s: u64,
}

/// An operator accepted the clock: windows follow it from now on, even back (R63).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockAccepted {
    pub who: String,
    pub why: String,
}

/// A person stopped the payments of `scope`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseSet {
    pub scope: PauseScope,
    pub who: String,
    pub why: String,
}

/// A person let the payments of `scope` go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseLifted {
    pub scope: PauseScope,
    pub who: String,
    pub why: String,
}

/// A person is about to be asked about a held payment. Question and codes are in `private/approvals` (R46, R96).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalRequested {
    pub agent: String,
    pub approver: String,
    pub backend: String,
    pub id: PaymentId,
    /// Hash of the intent (R40).
    pub intent: Digest,
    /// How many people must approve.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub needed: u8,
    pub rid: PaymentId,
    /// Paths in limits.toml of the rules that the approval lifts (R82).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<String>,
    /// Commitments to the codes, one for each approver, sorted as text. Missing in entries of format 3 and before, whose
    /// codes follow from the intent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sd: Vec<String>,
    /// The approver's deadline.
    pub until: Moment,
}

/// The evidence was verified; this entry makes it single use (R45).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalGranted {
    pub by: String,
    pub evidence_sha256: Digest,
    pub id: PaymentId,
    pub kind: EvidenceKind,
    /// Hash of issuer and `jti`, or of their equivalent.
    pub replay: Digest,
    pub replay_until: Moment,
    pub use_by: Moment,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalDenied {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    pub id: PaymentId,
    /// The last moment at which the denial is remembered.
    pub until: Moment,
    pub why: String,
}

/// Timeouts, errors, and approvals that were not used.
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
    /// Whether it is clear who chooses the nonce: an external signature has none yet, everything else has one.
    pub fn is_plain(&self) -> bool {
        let by_signer = self.signer.is_some() && self.from.address().is_some();
        self.nonce.is_none() == by_signer
    }

    /// Adds what the signer chose.
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
