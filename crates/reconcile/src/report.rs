//! What a comparison found, for people and programs: one line per payment and per transfer, and the conclusion.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use bursar_core::assets;
use bursar_core::money::Atoms;
use bursar_ledger::{Outflow, Payment, PaymentId, State};

/// The complete result of one comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub payments: Vec<PaymentLine>,
    pub outflows: Vec<OutflowLine>,
    /// Networks on which the wallets' transfers could not be searched up to the final block, and why.
    pub unsearched: Vec<Unsearched>,
}

/// What was found out about one payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Finding {
    /// Its outcome was unknown; it is proven that it was paid as signed.
    Settled,
    /// Its outcome was unknown; it can never be cashed and is no longer counted.
    Expired,
    /// The evidence confirms the ledger.
    Confirmed,
    /// The evidence contradicts the ledger.
    Disputed,
    /// It cannot be decided yet; `until` says when to ask again.
    Pending,
    /// Nothing was proven.
    Undecided,
}

/// The result for one payment. Amounts are strings, times RFC 3339 UTC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentLine {
    pub id: PaymentId,
    pub finding: Finding,
    pub before: State,
    pub after: State,
    pub agent: String,
    pub merchant: String,
    pub network: String,
    pub symbol: String,
    /// Atoms.
    pub amount: String,
    pub amount_decimal: String,
    /// Atoms that an `upto` cost, if that is proven; `amount` is the maximum.
    pub taken: Option<String>,
    pub tx: Option<String>,
    pub block: Option<u64>,
    pub until: Option<Timestamp>,
    pub why: Option<String>,
    pub created_at: Timestamp,
}

/// Money that left the wallet and is not in the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutflowLine {
    pub network: String,
    /// CAIP-19.
    pub asset: String,
    pub symbol: String,
    /// Atoms.
    pub amount: String,
    pub amount_decimal: Option<String>,
    /// Lower-case hex.
    pub payee: String,
    pub tx: String,
    pub log_index: u64,
    pub block: u64,
    /// When it was recorded in the ledger.
    pub recorded_at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsearched {
    pub network: String,
    pub why: String,
}

/// The report in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Payments about which the ledger and the evidence agree now.
    pub matched: usize,
    pub disputed: usize,
    pub pending: usize,
    pub undecided: usize,
    pub outflows: usize,
    pub unsearched: usize,
    /// When the last of the pending payments can be decided.
    pub until: Option<Timestamp>,
}

/// The conclusion of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conclusion {
    Matched,
    Mismatch,
    /// Nothing contradicts the ledger, but not everything could be decided.
    Open,
}

impl Finding {
    pub fn word(self) -> &'static str {
        match self {
            Self::Settled => "settled",
            Self::Expired => "expired",
            Self::Confirmed => "confirmed",
            Self::Disputed => "disputed",
            Self::Pending => "pending",
            Self::Undecided => "undecided",
        }
    }
}

impl Report {
    pub fn summary(&self) -> Summary {
        let count = |any: &[Finding]| {
            let of_them = |line: &&PaymentLine| any.contains(&line.finding);
            self.payments.iter().filter(of_them).count()
        };
        let pending = |line: &&PaymentLine| line.finding == Finding::Pending;
        Summary {
            matched: count(&[Finding::Settled, Finding::Expired, Finding::Confirmed]),
            disputed: count(&[Finding::Disputed]),
            pending: count(&[Finding::Pending]),
            undecided: count(&[Finding::Undecided]),
            outflows: self.outflows.len(),
            unsearched: self.unsearched.len(),
            until: self.payments.iter().filter(pending).filter_map(|line| line.until).max(),
        }
    }

    pub fn conclusion(&self) -> Conclusion {
        let summary = self.summary();
        if summary.disputed + summary.outflows > 0 {
            Conclusion::Mismatch
        } else if summary.pending + summary.undecided + summary.unsearched > 0 {
            Conclusion::Open
        } else {
            Conclusion::Matched
        }
    }
}

impl PaymentLine {
    /// The line of a payment in its current state, without further findings.
    pub fn of(payment: &Payment, finding: Finding) -> Self {
        let (reserved, amount) = (&payment.reserved, Atoms::new(payment.reserved.amount.0));
        Self {
            id: payment.rid(),
            finding,
            before: payment.state,
            after: payment.state,
            agent: reserved.agent.clone(),
            merchant: reserved.host.clone(),
            network: reserved.network.clone(),
            symbol: reserved.symbol.clone(),
            amount: amount.get().to_string(),
            amount_decimal: amount.decimal(reserved.decimals),
            taken: payment.taken.map(|taken| taken.0.to_string()),
            tx: payment.tx.clone(),
            block: None,
            until: None,
            why: None,
            created_at: payment.created_at.timestamp(),
        }
    }

    pub fn why(mut self, why: impl ToString) -> Self {
        self.why = Some(why.to_string());
        self
    }
}

impl OutflowLine {
    pub fn of(outflow: &Outflow, recorded_at: Timestamp) -> Self {
        let asset = assets::Asset::parse(&outflow.asset);
        Self {
            network: outflow.network.clone(),
            asset: outflow.asset.clone(),
            symbol: outflow.symbol.clone(),
            amount: outflow.amount.get().to_string(),
            amount_decimal: asset.map(|asset| outflow.amount.decimal(asset.decimals())),
            payee: format!("{:#x}", outflow.payee),
            tx: outflow.tx.to_string(),
            log_index: outflow.log_index,
            block: outflow.block,
            recorded_at,
        }
    }
}
