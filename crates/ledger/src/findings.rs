//! What a comparison with the chain needs from the journal: which authorizations were signed, which payments the chain
//! has already confirmed or disputed, and what left the wallet without an entry of ours.
//!
//! Read without a lock, as `read` does, and without replaying the book: other lines are only checked against the hash
//! chain.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use alloy_primitives::{Address, B256};
use jiff::Timestamp;

use super::book::Book;
use super::entry::{self, Arm, Body, Entry, Reserved};
use super::model::{Outflow, Source};
use super::payment::{NonceKey, Payment};
use super::read::{ReadError, read_entries};
use super::scan::Line;
use super::text::Decimal;
use bursar_core::account::Account;
use bursar_core::challenge::Rail;
use bursar_core::money::Atoms;
use bursar_core::payment_id::PaymentId;

/// The journal, as far as it concerns the chain.
#[derive(Debug, Default)]
pub struct Findings {
    /// Time of the first entry: nothing was signed before it.
    pub began: Option<Timestamp>,
    /// Every (network, address) that has signed; networks in CAIP-2.
    pub wallets: BTreeSet<(String, Address)>,
    /// Recorded transfers that no payment explains, oldest first.
    pub outflows: Vec<(Timestamp, Outflow)>,
    /// Payments that the chain contradicts.
    pub disputes: BTreeMap<PaymentId, Timestamp>,
    /// Settled at that time on the merchant's receipt, and not yet confirmed by the chain.
    pub awaiting_chain: BTreeMap<PaymentId, Timestamp>,
    signed: HashMap<NonceKey, Signed>,
    /// Nonces of payments that are taken through Permit2, whose transfers do not reveal the nonce.
    permits: HashMap<B256, NonceKey>,
    /// Networks (CAIP-2) with any of them.
    permitted: BTreeSet<String>,
    /// By payment, to forget those that an operator has declared dead.
    nonces: HashMap<PaymentId, NonceKey>,
    held: HashMap<PaymentId, Arc<Reserved>>,
    /// An external signer has them and has not reported the nonce.
    unissued: HashMap<PaymentId, (Arc<Reserved>, Arm)>,
}

#[derive(Debug)]
struct Signed {
    payee: Account,
    amount: Expected,
    /// Set if it is taken through Permit2.
    permit: Option<B256>,
}

/// What the chain may show of a payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Expected {
    Exactly(Atoms),
    UpTo(Atoms),
}

impl Expected {
    fn allows(self, amount: Atoms) -> bool {
        match self {
            Self::Exactly(signed) => amount == signed,
            Self::UpTo(most) => amount <= most,
        }
    }
}

impl Findings {
    /// Reads the journal in `dir` (the data directory). `searched` returns the Unix second up to which the transfers of
    /// a wallet on a network (CAIP-2) have been searched, 0 for not at all. A payment whose deadline was before that
    /// cannot explain a later transfer and is not kept. A journal that is not what was signed is an error.
    pub fn read(dir: &Path, searched: impl Fn(&str, Address) -> u64) -> Result<Self, ReadError> {
        let begin = |book: Book| Self::onto(&book, &searched);
        let compared = read_entries(dir, begin, |findings, line| findings.visit(line, &searched))?;
        Ok(compared.read)
    }

    /// What was open before the first entry that is still here may yet be cashed.
    fn onto(book: &Book, searched: &dyn Fn(&str, Address) -> u64) -> Self {
        let mut findings = Self::default();
        for payment in book.open_payments() {
            findings.enter(payment, searched);
        }
        findings
    }

    /// Whether the ledger counts a payment with this nonce, asset (CAIP-19), payee and amount.
    pub fn count(&self, asset: &str, from: &Address, nonce: &B256, payee: Address, amount: Atoms) -> bool {
        self.signed
            .get(&NonceKey::of(asset, &Account::Address(*from), nonce))
            .is_some_and(|signed| signed.allows(payee, amount))
    }

    /// Whether any payment on a network (CAIP-2) is taken through Permit2.
    pub fn has_permits_on(&self, network: &str) -> bool {
        self.permitted.contains(network)
    }

    /// The Permit2 payments whose nonces appear in the input of a transaction and which allow such a transfer, the one
    /// that allows least first.
    pub fn borne(&self, input: &[u8], asset: &str, from: &Address, payee: Address, amount: Atoms) -> Vec<B256> {
        let words = input.windows(32).filter_map(|word| {
            let nonce = B256::from_slice(word);
            let key = self.permits.get(&nonce)?;
            let is_from = *key == NonceKey::of(asset, &Account::Address(*from), &nonce);
            let signed = self.signed.get(key).filter(|_| is_from)?;
            signed.allows(payee, amount).then_some((signed.amount, nonce))
        });
        let found: BTreeSet<(Expected, B256)> = words.collect();
        found.into_iter().map(|(_, nonce)| nonce).collect()
    }

    /// Whether that transfer is recorded.
    pub fn has(&self, network: &str, tx: &B256, log_index: u64) -> bool {
        self.outflows
            .iter()
            .any(|(_, known)| known.network == network && known.tx == *tx && known.log_index == log_index)
    }

    fn visit(&mut self, line: &Line<'_>, searched: &dyn Fn(&str, Address) -> u64) -> Result<(), String> {
        let ts = line.head.ts.timestamp();
        self.began.get_or_insert(ts);
        if !concerns_the_chain(&line.head.ev) {
            return Ok(());
        }
        let (entry, _) = Entry::parse(line.bytes).map_err(|error| error.to_string())?;
        match entry.body {
            Body::Reserved(reserved) => self.reserve(&reserved, reserved.arm.as_ref(), searched),
            Body::Armed(armed) => {
                if let Some(reserved) = self.held.remove(&armed.rid) {
                    self.sign(&reserved, &armed.arm, searched);
                }
            }
            Body::Issued(issued) => {
                if let Some((reserved, mut arm)) = self.unissued.remove(&issued.rid) {
                    arm.issue(&issued);
                    self.sign(&reserved, &arm, searched);
                }
            }
            Body::Adopted(adopted) => self.enter(&adopted.payment, searched),
            Body::Released(released) => {
                self.held.remove(&released.rid);
            }
            // It no longer counts: if it is cashed all the same, money leaves that the ledger does not count.
            Body::Expired(expired) => {
                self.forget(&expired.rid);
            }
            Body::Settled(settled) => {
                if settled.by == Source::Merchant {
                    self.awaiting_chain.insert(settled.rid, ts);
                }
                self.took(&settled.rid, settled.taken);
            }
            Body::Confirmed(confirmed) => {
                self.awaiting_chain.remove(&confirmed.rid);
                self.took(&confirmed.rid, confirmed.taken);
            }
            Body::Disputed(disputed) => {
                self.awaiting_chain.remove(&disputed.rid);
                self.disputes.insert(disputed.rid, ts);
            }
            Body::Outflow(outflow) => self.outflows.push((ts, recorded(outflow))),
            _ => {}
        }
        Ok(())
    }

    fn enter(&mut self, payment: &Payment, searched: &dyn Fn(&str, Address) -> u64) {
        self.reserve(&payment.reserved, payment.arm.as_ref(), searched);
    }

    fn reserve(&mut self, reserved: &Arc<Reserved>, arm: Option<&Arm>, searched: &dyn Fn(&str, Address) -> u64) {
        match arm {
            Some(arm) => self.sign(reserved, arm, searched),
            None => {
                self.held.insert(reserved.rid, reserved.clone());
            }
        }
    }

    fn sign(&mut self, reserved: &Arc<Reserved>, arm: &Arm, searched: &dyn Fn(&str, Address) -> u64) {
        // What Stripe moves does not leave a wallet.
        let Account::Address(from) = arm.from else { return };
        self.wallets.insert((reserved.network.clone(), from));
        if arm.valid_before.0 < searched(&reserved.network, from) {
            return;
        }
        let Some(nonce) = arm.nonce else {
            self.unissued.insert(reserved.rid, (reserved.clone(), arm.clone()));
            return;
        };
        let key = NonceKey::of(&reserved.asset, &arm.from, &nonce);
        let (rail, amount) = (Rail::parse(&reserved.rail), Atoms::new(reserved.amount.0));
        let permit = match rail {
            Some(Rail::X402Permit2 | Rail::X402UpTo) => Some(nonce),
            Some(Rail::X402 | Rail::MppEvm | Rail::MppTempo | Rail::MppStripe) | None => None,
        };
        let signed = Signed {
            payee: reserved.payee.clone(),
            amount: match rail {
                Some(Rail::X402UpTo) => Expected::UpTo(amount),
                Some(Rail::X402 | Rail::X402Permit2 | Rail::MppEvm | Rail::MppTempo | Rail::MppStripe) | None => {
                    Expected::Exactly(amount)
                }
            },
            permit,
        };
        if let Some(nonce) = permit {
            self.permits.insert(nonce, key);
            self.permitted.insert(reserved.network.clone());
        }
        self.signed.insert(key, signed);
        self.nonces.insert(reserved.rid, key);
    }

    /// The rest no longer counts, so the rest must not leave either.
    fn took(&mut self, rid: &PaymentId, taken: Option<Decimal<u128>>) {
        match (taken, self.nonces.get(rid)) {
            (Some(Decimal(0)), _) => self.forget(rid),
            (Some(Decimal(taken)), Some(key)) => {
                if let Some(signed) = self.signed.get_mut(key) {
                    signed.amount = Expected::Exactly(Atoms::new(taken));
                }
            }
            _ => {}
        }
    }

    fn forget(&mut self, rid: &PaymentId) {
        self.unissued.remove(rid);
        let key = self.nonces.remove(rid);
        if let Some(Signed {
            permit: Some(nonce), ..
        }) = key.and_then(|key| self.signed.remove(&key))
        {
            self.permits.remove(&nonce);
        }
    }
}

impl Signed {
    fn allows(&self, payee: Address, amount: Atoms) -> bool {
        self.payee == Account::Address(payee) && self.amount.allows(amount)
    }
}

fn concerns_the_chain(ev: &str) -> bool {
    matches!(
        ev,
        "pay.reserved"
            | "pay.armed"
            | "pay.issued"
            | "pay.adopted"
            | "pay.released"
            | "pay.expired"
            | "pay.settled"
            | "pay.confirmed"
            | "pay.dispute"
            | "wallet.outflow"
    )
}

fn recorded(outflow: entry::Outflow) -> Outflow {
    Outflow {
        asset: outflow.asset,
        network: outflow.network,
        symbol: outflow.symbol,
        amount: Atoms::new(outflow.amount.0),
        payee: outflow.payee,
        tx: outflow.tx,
        log_index: outflow.log_index,
        block: outflow.block,
    }
}
