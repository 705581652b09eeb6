//! What is known about one payment: from the ledger, and from the nodes.

use alloy_primitives::{Address, B256, U256};

use bursar_core::assets::Network;
use bursar_core::challenge::Rail;
use bursar_core::challenge::permit2::{EXACT_PROXY, UPTO_PROXY};
use bursar_core::money::Atoms;
use bursar_ledger::{Payment, State};
use bursar_rails::rpc::Block;

/// Nodes answer a search in blocks that they have not seen, or not completely, with an empty result. This long after
/// the deadline, even a slow node has them.
const MEMO_SETTLES_S: u64 = 600;

/// A signed payment, as the ledger has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub network: Network,
    pub token: Address,
    pub from: Address,
    pub payee: Address,
    pub amount: Atoms,
    pub nonce: B256,
    pub proof: Proof,
    /// Unix second at which it was signed, by our clock. The search for its events starts a little earlier.
    pub armed_at: u64,
    /// Unix second. Only a block before it can include the payment; with Permit2, also a block of that second.
    pub valid_before: u64,
    pub claim_state: ClaimState,
    /// The transaction named by a receipt, whether or not it has the form of one.
    pub claimed_tx: Option<String>,
}

/// How the chain proves a payment, which depends on the rail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// EIP-3009: the token stores the nonce, and logs its use.
    Authorization,
    /// Permit2 stores one bit for the nonce and logs nothing; the token logs what moved.
    Permit2(Taking),
    /// Tempo: the nonce is the memo that the token logs with the transfer.
    Memo,
}

/// How much a signature for Permit2 allows the seller to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taking {
    /// The amount.
    Whole,
    /// Any part of the amount.
    UpTo,
}

/// The state in the ledger before the chain is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimState {
    /// Armed or unknown: counted, and nobody has claimed that it was paid.
    Open,
    /// Settled, because the merchant said so.
    Claimed,
}

/// All answers about one payment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// Our clock, in Unix seconds, when the head was asked for.
    pub now: u64,
    /// How many different nodes bursar.toml has for the network.
    pub configured: usize,
    pub head: Head,
    /// One for each node that answered every question.
    pub testimonies: Vec<Testimony>,
    pub silent: Vec<Silent>,
}

/// The block as of which the nodes testify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// No node returned one.
    Unknown,
    /// Two nodes have different final blocks with this number: at least one of them follows another chain.
    Forked(u64),
    /// The lowest finalized block of all nodes that answered; each of them has it.
    Agreed(Block),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Testimony {
    /// Its URL, without its key.
    pub node: String,
    pub nonce: Nonce,
}

/// What a node says about the payment's nonce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Nonce {
    /// Neither used nor cancelled at the head.
    Unused,
    /// The payment was cashed in this transaction, at or below the head. `moved` is what the token moved out of the
    /// wallet there; on Tempo, what it moved with the payment's memo.
    Cashed { tx: B256, block: u64, moved: Vec<Moved> },
    /// The wallet cancelled it, at or below the head.
    Cancelled { tx: B256, block: u64 },
    /// Permit2 used it in this block, but it is unclear which of the wallet's transfers there belongs to it. `tx` is a
    /// transaction that contains the nonce.
    Shared { tx: B256, block: u64 },
    /// It was used or cancelled in a block above the head.
    NotFinal,
    /// On Tempo: the payment's transaction was mined and failed. Its fee left the wallet; the amount did not and never
    /// will.
    Failed { tx: B256, block: u64 },
    /// The node says that the nonce is used but shows no event for it, does not show all that was logged, or
    /// contradicts itself.
    Unexplained,
}

/// One `Transfer` out of the wallet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    pub to: Address,
    /// Atoms.
    pub amount: U256,
}

/// A node without testimony, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Silent {
    pub node: String,
    pub why: String,
}

impl Facts {
    /// The facts that the ledger has about a payment. `None` if nothing was signed, if a remote signer has not reported
    /// its nonce, if the network or token is not known, or if the rail leaves no proof on a chain.
    pub fn of(payment: &Payment) -> Option<Self> {
        let (reserved, arm) = (&payment.reserved, payment.arm.as_ref()?);
        let token = reserved.asset.rsplit_once("/erc20:")?.1;
        Some(Self {
            network: Network::parse(&reserved.network)?,
            token: token.parse().ok()?,
            from: arm.from.address()?,
            payee: reserved.payee.address()?,
            amount: Atoms::new(reserved.amount.0),
            nonce: arm.nonce?,
            proof: Proof::of(Rail::parse(&reserved.rail)?)?,
            // A held payment is armed later; then the search only starts earlier than needed.
            armed_at: u64::try_from(payment.created_at.timestamp().as_second()).unwrap_or(0),
            valid_before: arm.valid_before.0,
            claim_state: match payment.state {
                State::Settled => ClaimState::Claimed,
                State::Held | State::Armed | State::Unknown | State::Released | State::Expired => ClaimState::Open,
            },
            claimed_tx: payment.tx.clone(),
        })
    }

    /// The Unix second that a final head must have passed before an unused nonce means that it never will be used.
    pub(crate) fn final_after(&self) -> u64 {
        match self.proof {
            Proof::Authorization | Proof::Permit2(_) => self.valid_before,
            // No contract stores it: its absence shows only in logs.
            Proof::Memo => self.valid_before.saturating_add(MEMO_SETTLES_S),
        }
    }

    /// What must have moved, if the whole amount is due.
    pub fn whole(&self) -> Moved {
        Moved {
            to: self.payee,
            amount: U256::from(self.amount.get()),
        }
    }

    /// The receipt's transaction, if it has the form of one.
    pub(crate) fn claimed_hash(&self) -> Option<B256> {
        // The prefix is required, and only one is stripped.
        let digits = self.claimed_tx.as_deref()?.strip_prefix("0x")?;
        digits.parse().ok().filter(|_| digits.len() == 64)
    }
}

impl Proof {
    /// `None` if payments by that rail are not on a chain.
    pub const fn of(rail: Rail) -> Option<Self> {
        match rail {
            Rail::X402 | Rail::MppEvm => Some(Self::Authorization),
            Rail::X402Permit2 => Some(Self::Permit2(Taking::Whole)),
            Rail::X402UpTo => Some(Self::Permit2(Taking::UpTo)),
            Rail::MppTempo => Some(Self::Memo),
            Rail::MppStripe => None,
        }
    }
}

impl Taking {
    /// The contract that presents the signature to Permit2; no other caller can.
    pub const fn proxy(self) -> Address {
        match self {
            Self::Whole => EXACT_PROXY,
            Self::UpTo => UPTO_PROXY,
        }
    }
}
