//! What is known about one payment: by the books, and by the nodes.

use alloy_primitives::{Address, B256, U256};

use bursar_core::assets::Network;
use bursar_core::challenge::Rail;
use bursar_core::challenge::permit2::{EXACT_PROXY, UPTO_PROXY};
use bursar_core::money::Atoms;
use bursar_ledger::{Payment, State};
use bursar_rails::rpc::Block;

/// Nodes answer a search in blocks that they have not seen yet, or not whole, with nothing found. So long after the deadline
/// even a slow one has them.
const MEMO_SETTLES_S: u64 = 600;

/// A signed payment, as the books have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub network: Network,
    pub token: Address,
    pub from: Address,
    pub payee: Address,
    pub amount: Atoms,
    pub nonce: B256,
    pub proof: Proof,
    /// Unix second at which it was signed, by our clock. The search for its events begins a little earlier.
    pub armed_at: u64,
    /// Unix second; only a block before it takes the payment, by Permit2 one of that very second as well.
    pub valid_before: u64,
    pub standing: ClaimState,
    /// What a receipt gave as the transaction, be it one or not.
    pub claimed_tx: Option<String>,
}

/// What the chain shows of a payment. The rail decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// EIP-3009: the token keeps the nonce, and logs its use.
    Authorization,
    /// Permit2 keeps one bit for the nonce and logs nothing; the token logs what moved.
    Permit2(Taking),
    /// Tempo: the nonce is the memo that the token logs with the transfer.
    Memo,
}

/// How much one signature for Permit2 lets the seller take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taking {
    /// The amount.
    Whole,
    /// Any part of the amount.
    UpTo,
}

/// Where the books stand before the chain is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimState {
    /// Armed or unknown: counted, and nobody has said that it was paid.
    Open,
    /// Settled by the merchant's word.
    Claimed,
}

/// Everything that was heard about one payment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// Unix second of our clock when the head was asked for.
    pub now: u64,
    /// How many different nodes bursar.toml names for the network.
    pub configured: usize,
    pub head: Head,
    /// One for each node that answered everything.
    pub testimonies: Vec<Testimony>,
    pub silent: Vec<Silent>,
}

/// The block as of which the nodes testify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// No node told.
    Unknown,
    /// Two nodes have different final blocks of that number: at least one of them follows another chain.
    Forked(u64),
    /// The lowest finalized block of all nodes that answered; each of them has it.
    Agreed(Block),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Testimony {
    /// Without its key.
    pub node: String,
    pub nonce: Nonce,
}

/// What a node says about the payment's nonce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Nonce {
    /// Neither used nor cancelled at the head.
    Unused,
    /// The payment was cashed in this transaction, at or below the head, and this is what the token moved out of the wallet
    /// there; on Tempo what it moved with the payment's memo.
    Cashed { tx: B256, block: u64, moved: Vec<Moved> },
    /// The wallet cancelled it, at or below the head.
    Cancelled { tx: B256, block: u64 },
    /// Permit2 took it in that block, and which of the wallet's transfers there is its own cannot be told. The transaction is
    /// one that bears the nonce.
    Shared { tx: B256, block: u64 },
    /// It is used up, or was cancelled, in a block above the head.
    NotFinal,
    /// On Tempo: the payment's transaction was mined and failed. Its fee left the wallet; the amount did not and never will.
    Failed { tx: B256, block: u64 },
    /// The node says that the nonce is used up and shows no event for it, does not show all that was logged, or
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

/// A node that did not help, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Silent {
    pub node: String,
    pub why: String,
}

impl Facts {
    /// What the books say of a payment. `None`: nothing was signed, or a signer elsewhere has not told its nonce, or not for a
    /// token of a network that we know, or in a way that no chain proves.
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
            // Armed later, a held payment only makes the search begin earlier.
            armed_at: u64::try_from(payment.created_at.timestamp().as_second()).unwrap_or(0),
            valid_before: arm.valid_before.0,
            standing: match payment.state {
                State::Settled => ClaimState::Claimed,
                State::Held | State::Armed | State::Unknown | State::Released | State::Expired => ClaimState::Open,
            },
            claimed_tx: payment.tx.clone(),
        })
    }

    /// Unix second that a final head has to be past before a nonce that was not used means that it never will be.
    pub fn final_after(&self) -> u64 {
        match self.proof {
            Proof::Authorization | Proof::Permit2(_) => self.valid_before,
            // No contract answers for it: what is missing is missing from logs.
            Proof::Memo => self.valid_before.saturating_add(MEMO_SETTLES_S),
        }
    }

    /// What has to have moved, where all of it has to.
    pub fn whole(&self) -> Moved {
        Moved {
            to: self.payee,
            amount: U256::from(self.amount.get()),
        }
    }

    /// The transaction of the receipt, where it has the form of one.
    pub fn claimed_hash(&self) -> Option<B256> {
        // The prefix is required, and only one is taken off.
        let digits = self.claimed_tx.as_deref()?.strip_prefix("0x")?;
        digits.parse().ok().filter(|_| digits.len() == 64)
    }
}

impl Proof {
    /// `None`: what is paid by that rail is on no chain.
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
    /// The contract that presents the signature to Permit2; nobody else can.
    pub const fn proxy(self) -> Address {
        match self {
            Self::Whole => EXACT_PROXY,
            Self::UpTo => UPTO_PROXY,
        }
    }
}
