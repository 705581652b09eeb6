//! Which payments and refusals `bursar payments list` shows, and in which order.

use clap::ValueEnum;
use jiff::Timestamp;

use bursar_core::money::MicroUsd;
use bursar_core::policy::HostPattern;
use bursar_ledger::{ANY_HOST, PaymentRecord, Refused};

/// What lines are listed by, smallest first; equal ones by time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Order {
    /// Oldest first
    #[default]
    Time,
    /// By US dollars, smallest first
    Amount,
    Merchant,
    Agent,
}

/// What a payment or a refusal must be to be listed.
#[derive(Debug, Default)]
pub(super) struct Choice {
    pub since: Option<Timestamp>,
    /// The first instant that is no longer meant.
    pub until: Option<Timestamp>,
    pub agent: Option<String>,
    pub merchant: Option<HostPattern>,
    pub state: Option<String>,
    pub with_refusals: bool,
}

/// One line of the list.
#[derive(Clone, Copy, Debug)]
pub(super) enum Row<'a> {
    Payment(&'a PaymentRecord),
    Refusal(&'a Refused),
}

impl Choice {
    pub(super) fn wants(&self, payment: &PaymentRecord) -> bool {
        self.covers(payment.created_at, &payment.agent)
            && self.is_of_merchant(&payment.merchant)
            && self
                .state
                .as_ref()
                .is_none_or(|state| payment.state.to_string() == *state)
    }

    pub(super) fn wants_refusal(&self, refusal: &Refused) -> bool {
        self.may_want(refusal) && self.is_of_merchant(&refusal.merchant)
    }

    /// It stands for refusals at several hosts, and nobody knows any more whether the wanted one is among them.
    pub(super) fn is_unclear(&self, refusal: &Refused) -> bool {
        self.merchant.is_some() && refusal.merchant == ANY_HOST && self.may_want(refusal)
    }

    fn may_want(&self, refusal: &Refused) -> bool {
        self.with_refusals && self.state.is_none() && self.covers(refusal.at, &refusal.agent)
    }

    fn covers(&self, at: Timestamp, agent: &str) -> bool {
        self.since.is_none_or(|since| at >= since)
            && self.until.is_none_or(|until| at < until)
            && self.agent.as_ref().is_none_or(|wanted| agent == wanted)
    }

    fn is_of_merchant(&self, host: &str) -> bool {
        self.merchant.as_ref().is_none_or(|pattern| pattern.matches(host))
    }
}

impl<'a> Row<'a> {
    /// Payments and refusals in one order. Both come in the order of the journal and keep it among themselves, even where
    /// the clock went back.
    pub(super) fn ordered(payments: &'a [PaymentRecord], refusals: &'a [Refused], order: Order) -> Vec<Self> {
        let mut rows = Vec::with_capacity(payments.len() + refusals.len());
        let mut refusals = refusals.iter().map(Self::Refusal).peekable();
        for payment in payments.iter().map(Self::Payment) {
            while let Some(refusal) = refusals.next_if(|refusal| refusal.at() < payment.at()) {
                rows.push(refusal);
            }
            rows.push(payment);
        }
        rows.extend(refusals);
        match order {
            Order::Time => {}
            Order::Amount => rows.sort_by_cached_key(Self::dollars),
            Order::Merchant => rows.sort_by_key(|row| row.merchant()),
            Order::Agent => rows.sort_by_key(|row| row.agent()),
        }
        rows
    }

    pub(super) const fn at(&self) -> Timestamp {
        match self {
            Self::Payment(payment) => payment.created_at,
            Self::Refusal(refusal) => refusal.at,
        }
    }

    fn merchant(&self) -> &'a str {
        match self {
            Self::Payment(payment) => &payment.merchant,
            Self::Refusal(refusal) => &refusal.merchant,
        }
    }

    pub(super) fn agent(&self) -> &'a str {
        match self {
            Self::Payment(payment) => &payment.agent,
            Self::Refusal(refusal) => &refusal.agent,
        }
    }

    /// Refusals without a price come first.
    fn dollars(&self) -> Option<MicroUsd> {
        let text = match self {
            Self::Payment(payment) => &payment.usd,
            Self::Refusal(refusal) => refusal.usd.as_ref()?,
        };
        MicroUsd::parse(text).ok()
    }
}
