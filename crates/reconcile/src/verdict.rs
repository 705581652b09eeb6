//! From evidence to a verdict. Pure: no clock, no sockets.
//!
//! The two possible mistakes are not equally bad. Money that is wrongly called settled stays counted, as it was; money
//! that is wrongly called dead can be spent twice. So one node's proof is enough to settle, while a release needs a
//! fresh head past the deadline and the agreement of every configured node (R81, threat 1.18). With anything less, the
//! payment stays as it is. Giving back the part that an `upto` did not take is a release as well.

use std::fmt;

use alloy_primitives::B256;
use thiserror::Error;

use super::testimony::{ClaimState, Evidence, Facts, Head, Moved, Nonce, Proof, Taking};
use bursar_core::money::Atoms;
use bursar_rails::rpc::Block;

/// A finalized head that lags by more than this says nothing about now: the node hangs, or keeps us in the past.
const OLDEST_HEAD_S: u64 = 60 * 60;
/// Final blocks are old; one from the future means that the node's clock or ours is wrong.
const FUTURE_HEAD_S: u64 = 120;
/// The shortest wait before asking again.
const SOON_S: u64 = 5;

const UPTO: Proof = Proof::Permit2(Taking::UpTo);

/// What to do about a payment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Paid: the nonce was used, and the same transaction moved the whole amount to the payee. For an `upto`: paid, but
    /// how much was taken cannot be determined, so all of it counts.
    Settled {
        tx: B256,
        block: u64,
        amount: Atoms,
        receipt: Named,
    },
    /// This much of an `upto` was taken, and no more ever can be. Without a transaction, nothing was taken.
    Taken {
        tx: Option<B256>,
        block: u64,
        taken: Atoms,
        receipt: Named,
    },
    /// It can never be cashed: unused at a finalized head past its deadline.
    Expired { head: Block },
    /// It can never be cashed: the wallet cancelled it.
    Cancelled { tx: B256, block: u64 },
    /// The ledger and the chain disagree, and a person must look at it. The payment stays counted.
    Disputed { why: Dispute },
    /// Nothing can be decided before this Unix second.
    Wait { until: u64 },
    /// The evidence is not enough for a verdict.
    Unclear { why: Unproven },
}

/// The transaction that the receipt named, compared with the one that moved the money.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    Nothing,
    ThisTransaction,
    /// Another one. Worth a note in the ledger: the seller's claim was wrong, the payment was not.
    Otherwise(String),
}

/// How the chain contradicts the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Dispute {
    #[error("the receipt says paid, but the authorization was not used before its deadline and never can be")]
    NeverCashed,
    #[error("the receipt says paid, but the authorization was cancelled in transaction {tx}")]
    Cancelled { tx: B256 },
    #[error(
        "transaction {tx} used the authorization, but moved {moved}, not the {amount} atoms to the payee",
        amount = amount.get()
    )]
    OtherTransfer { tx: B256, amount: Atoms, moved: Moves },
    #[error("its transaction {tx} failed: the fee has left the wallet, the amount has not and never will")]
    Failed { tx: B256 },
}

/// What a transaction moved out of the wallet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moves(pub Vec<Moved>);

/// Why there is no verdict.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Unproven {
    #[error("no node answered")]
    NoAnswer,
    #[error(
        "only {answers} of {configured} nodes answered; money is given back only when every configured node agrees, so \
         mend the others, or remove them from `rpc` in bursar.toml"
    )]
    TooFewAnswers { answers: usize, configured: usize },
    #[error("the nodes disagree about block {block}: one of them follows another chain")]
    Forked { block: u64 },
    #[error("the nodes disagree about the nonce")]
    Contradiction,
    #[error("the nonce was or may have been used, and no node shows all the events that would tell how")]
    Unexplained,
    #[error("not every node shows how much was taken")]
    PartDoubted,
    #[error("the finalized head is {seconds} s old")]
    OldHead { seconds: u64 },
    #[error("the finalized head is {seconds} s ahead of this machine's clock")]
    FutureHead { seconds: u64 },
}

/// What all testimonies say together.
enum Joint<'a> {
    Unused,
    Cashed { tx: B256, block: u64, moved: &'a [Moved] },
    Shared { tx: B256, block: u64 },
    Cancelled { tx: B256, block: u64 },
    Failed { tx: B256 },
    NotFinal,
    Unexplained,
    Contradiction,
}

/// Decides about one payment.
pub fn verdict(facts: &Facts, evidence: &Evidence) -> Verdict {
    let head = match evidence.head {
        Head::Agreed(head) => head,
        Head::Forked(block) => return unclear(Unproven::Forked { block }),
        Head::Unknown => return unclear(Unproven::NoAnswer),
    };
    let Some(joint) = joint(evidence) else {
        return unclear(Unproven::NoAnswer);
    };
    match joint {
        Joint::Cashed { tx, block, moved } => match facts.proof {
            Proof::Permit2(Taking::UpTo) => taken(facts, evidence, &head, tx, block, moved),
            // Nothing else can have moved under this nonce.
            Proof::Permit2(Taking::Whole) if moved != [facts.whole()] => elsewhere(facts, tx, moved),
            Proof::Authorization | Proof::Memo if !moved.contains(&facts.whole()) => elsewhere(facts, tx, moved),
            Proof::Authorization | Proof::Memo | Proof::Permit2(Taking::Whole) => settled(facts, tx, block),
        },
        Joint::Shared { tx, block } => settled(facts, tx, block),
        // The ledger cannot count a fee without its amount, so both stay counted until a person has looked at it.
        Joint::Failed { tx } => disputed(Dispute::Failed { tx }),
        Joint::Contradiction => unclear(Unproven::Contradiction),
        Joint::Unexplained => unclear(Unproven::Unexplained),
        Joint::NotFinal => match fresh(evidence, &head) {
            Ok(lag) => wait(evidence, evidence.now.saturating_add(lag)),
            Err(why) => unclear(why),
        },
        Joint::Unused if head.timestamp <= facts.final_after() => match fresh(evidence, &head) {
            Ok(lag) => wait(evidence, facts.final_after().saturating_add(lag).saturating_add(1)),
            Err(why) => unclear(why),
        },
        Joint::Unused => match (releasable(evidence, &head), facts.claim_state) {
            (Err(why), _) => unclear(why),
            (Ok(()), ClaimState::Open) => Verdict::Expired { head },
            (Ok(()), ClaimState::Claimed) if facts.proof == UPTO => nothing_taken(facts, None, head.number),
            (Ok(()), ClaimState::Claimed) => disputed(Dispute::NeverCashed),
        },
        Joint::Cancelled { tx, block } => match (releasable(evidence, &head), facts.claim_state) {
            (Err(why), _) => unclear(why),
            (Ok(()), ClaimState::Open) => Verdict::Cancelled { tx, block },
            (Ok(()), ClaimState::Claimed) if facts.proof == UPTO => nothing_taken(facts, Some(tx), block),
            (Ok(()), ClaimState::Claimed) => disputed(Dispute::Cancelled { tx }),
        },
    }
}

/// `None` without testimonies. The order of the nodes does not matter, and "unused" needs all of them.
fn joint(evidence: &Evidence) -> Option<Joint<'_>> {
    let said = || evidence.testimonies.iter().map(|testimony| &testimony.nonce);
    let any = |nonce: &Nonce| said().any(|other| other == nonce);
    said().next()?;
    let is_proof = |nonce: &&Nonce| {
        matches!(
            nonce,
            Nonce::Cashed { .. } | Nonce::Shared { .. } | Nonce::Cancelled { .. } | Nonce::Failed { .. }
        )
    };
    let Some(proof) = said().find(is_proof) else {
        return Some(
            match (any(&Nonce::Unexplained), any(&Nonce::Unused), any(&Nonce::NotFinal)) {
                (true, true, _) => Joint::Contradiction,
                (true, false, _) => Joint::Unexplained,
                // Not every node has checked whether it was used above the head.
                (false, _, true) => Joint::NotFinal,
                (false, _, false) => Joint::Unused,
            },
        );
    };
    if said().any(|nonce| nonce != proof && !vague(nonce)) {
        return Some(Joint::Contradiction);
    }
    Some(match proof {
        Nonce::Cashed { tx, block, moved } => Joint::Cashed {
            tx: *tx,
            block: *block,
            moved,
        },
        Nonce::Shared { tx, block } => Joint::Shared { tx: *tx, block: *block },
        Nonce::Failed { tx, .. } => Joint::Failed { tx: *tx },
        // With a vague node, the evidence is enough to settle, but not to release.
        Nonce::Cancelled { tx, block } if !said().any(vague) => Joint::Cancelled { tx: *tx, block: *block },
        _ => Joint::Unexplained,
    })
}

/// A node that keeps no logs or no states still agrees that the nonce is gone.
fn vague(nonce: &Nonce) -> bool {
    matches!(nonce, Nonce::Unexplained | Nonce::NotFinal)
}

fn settled(facts: &Facts, tx: B256, block: u64) -> Verdict {
    Verdict::Settled {
        tx,
        block,
        amount: facts.amount,
        receipt: named(facts, Some(tx)),
    }
}

/// How much of an `upto` was taken. Less than the amount frees the rest, which needs what a release needs.
fn taken(facts: &Facts, evidence: &Evidence, head: &Block, tx: B256, block: u64, moved: &[Moved]) -> Verdict {
    let most = facts.whole();
    let &[Moved { to, amount }] = moved else {
        return elsewhere(facts, tx, moved);
    };
    let (true, Ok(taken)) = (to == most.to && amount <= most.amount, u128::try_from(amount)) else {
        return elsewhere(facts, tx, moved);
    };
    if amount < most.amount {
        if evidence.testimonies.iter().any(|testimony| vague(&testimony.nonce)) {
            return unclear(Unproven::PartDoubted);
        }
        if let Err(why) = releasable(evidence, head) {
            return unclear(why);
        }
    }
    Verdict::Taken {
        tx: Some(tx),
        block,
        taken: Atoms::new(taken),
        receipt: named(facts, Some(tx)),
    }
}

/// A receipt for an `upto` does not say that anything was taken, so a dead nonce does not contradict it.
fn nothing_taken(facts: &Facts, tx: Option<B256>, block: u64) -> Verdict {
    Verdict::Taken {
        tx,
        block,
        taken: Atoms::new(0),
        receipt: named(facts, tx),
    }
}

fn named(facts: &Facts, tx: Option<B256>) -> Named {
    match &facts.claimed_tx {
        None => Named::Nothing,
        Some(_) if tx.is_some() && facts.claimed_hash() == tx => Named::ThisTransaction,
        Some(other) => Named::Otherwise(other.clone()),
    }
}

fn elsewhere(facts: &Facts, tx: B256, moved: &[Moved]) -> Verdict {
    disputed(Dispute::OtherTransfer {
        tx,
        amount: facts.amount,
        moved: Moves(moved.to_vec()),
    })
}

/// Whether the answers of these nodes, at this head, are enough to free money.
fn releasable(evidence: &Evidence, head: &Block) -> Result<(), Unproven> {
    let answers = evidence.testimonies.len();
    let configured = evidence.configured.max(answers + evidence.silent.len());
    if answers < configured {
        return Err(Unproven::TooFewAnswers { answers, configured });
    }
    fresh(evidence, head).map(|_| ())
}

/// How many seconds the head lags behind our clock.
fn fresh(evidence: &Evidence, head: &Block) -> Result<u64, Unproven> {
    let ahead = head.timestamp.saturating_sub(evidence.now);
    if ahead > FUTURE_HEAD_S {
        return Err(Unproven::FutureHead { seconds: ahead });
    }
    let lag = evidence.now.saturating_sub(head.timestamp);
    match lag > OLDEST_HEAD_S {
        true => Err(Unproven::OldHead { seconds: lag }),
        false => Ok(lag),
    }
}

fn wait(evidence: &Evidence, until: u64) -> Verdict {
    Verdict::Wait {
        until: until.max(evidence.now.saturating_add(SOON_S)),
    }
}

fn disputed(why: Dispute) -> Verdict {
    Verdict::Disputed { why }
}

fn unclear(why: Unproven) -> Verdict {
    Verdict::Unclear { why }
}

impl fmt::Display for Moves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("nothing out of the wallet");
        }
        for (at, moved) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{} atoms to {}", moved.amount, moved.to)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
