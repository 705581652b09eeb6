//! A refusal: which rule of limits.toml, its value, what was asked, and what a reader can do about it.
//!
//! The fields become the members of the agent's problem document and of the `pay.refused` entry. Codes are stable and
//! never renamed (R37); no text of the merchant's gets in, except the host the agent itself asked for.

use std::fmt;

use jiff::Timestamp;

use super::budget::{Charge, Unit, Window};
use super::limits::{Level, OverLimit};
use super::rates::NoPrice;
use crate::money::MicroUsd;

/// Why limits.toml does not let this payment go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: RefusalCode,
    /// Path in limits.toml, such as `agents.research.day`.
    pub rule: String,
    /// What the rule says. US dollars as `0.50` or a number of payments, as the rule counts; hosts and names as written.
    pub limit: Option<String>,
    /// Settled in this window, in the unit of `limit`.
    pub used: Option<String>,
    /// Held, signed or in doubt in this window, in the unit of `limit`.
    pub reserved: Option<String>,
    /// What this payment asked of the rule, in the unit of `limit`.
    pub asked: Option<String>,
    /// When the window ends and its counter starts again at nothing.
    pub resets_at: Option<Timestamp>,
    /// Plain English for the agent's logs and the people who read them.
    pub detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalCode {
    OverLimit,
    NoBudget,
    Paused,
    MerchantNotAllowed,
    PayeeNotAllowed,
    NetworkNotAllowed,
    AssetNotAllowed,
    RailNotAllowed,
    NoRate,
    ApprovalUnavailable,
}

impl RefusalCode {
    pub const ALL: [Self; 10] = [
        Self::OverLimit,
        Self::NoBudget,
        Self::Paused,
        Self::MerchantNotAllowed,
        Self::PayeeNotAllowed,
        Self::NetworkNotAllowed,
        Self::AssetNotAllowed,
        Self::RailNotAllowed,
        Self::NoRate,
        Self::ApprovalUnavailable,
    ];

    /// Stable text: the last part of the problem type.
    pub const fn code(self) -> &'static str {
        match self {
            Self::OverLimit => "over-limit",
            Self::NoBudget => "no-budget",
            Self::Paused => "paused",
            Self::MerchantNotAllowed => "merchant-not-allowed",
            Self::PayeeNotAllowed => "payee-not-allowed",
            Self::NetworkNotAllowed => "network-not-allowed",
            Self::AssetNotAllowed => "asset-not-allowed",
            Self::RailNotAllowed => "rail-not-allowed",
            Self::NoRate => "no-rate",
            Self::ApprovalUnavailable => "approval-unavailable",
        }
    }

    /// Reads [`RefusalCode::code`].
    pub fn parse(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.code() == code)
    }
}

impl fmt::Display for RefusalCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl Refusal {
    /// The ledger denied `charge`: `settled` and `open` (held, signed or in doubt) are what its window holds already,
    /// in the charge's unit.
    pub fn over_limit(charge: &Charge, settled: u128, open: u128) -> Self {
        let Charge { unit, rule, .. } = charge;
        match charge.window {
            Window::Payee => return Self::first_time_payee(charge),
            Window::SinceApproval => return Self::approval_due(charge, settled, open),
            _ => {}
        }
        let (words, figure) = (|v| unit.words(v), |v| unit.figure(v));
        let cap = words(charge.cap);
        let what = match unit {
            Unit::MicroUsd => format!("This payment of {}", words(charge.amount)),
            Unit::Payments => "One more payment".to_owned(),
        };
        let per = match charge.window {
            Window::Total => "in total".to_owned(),
            Window::Hour => "an hour".to_owned(),
            Window::Day => "a day".to_owned(),
            Window::Week => "a week".to_owned(),
            Window::Month => "a month".to_owned(),
            Window::Rolling(rolling) => format!("within any {}", span(rolling.seconds())),
            Window::Pending => "at a time that is not settled yet".to_owned(),
            Window::SinceApproval | Window::Payee => String::new(),
        };
        let mut detail = format!(
            "{what} would go over {rule}, which is {cap} {per}: {} used, {} reserved.",
            words(settled),
            words(open)
        );
        if charge.amount > charge.cap {
            detail += " It is more than an unused window holds, so waiting does not help.";
        } else {
            match (charge.window, charge.ends) {
                (Window::Rolling(_), _) => detail += " Room comes back as older payments leave the window.",
                (Window::Pending, _) => detail += " Room comes back as payments are settled or proven dead.",
                (window, Some(ends)) => {
                    detail += &format!(" This {} ends at {ends}, then the count starts again.", window.name());
                }
                (_, None) => {}
            }
        }
        detail += &format!(" Finance can raise {rule} in limits.toml.");
        Self {
            limit: Some(figure(charge.cap)),
            used: Some(figure(settled)),
            reserved: Some(figure(open)),
            asked: Some(figure(charge.amount)),
            // A rolling window does not start again at any one time.
            resets_at: charge.ends.filter(|_| charge.window.is_calendar()),
            ..Self::new(RefusalCode::OverLimit, rule.to_string(), detail)
        }
    }

    fn first_time_payee(charge: &Charge) -> Self {
        let (rule, payee) = (&charge.rule, &charge.start);
        let detail = format!(
            "Nothing was paid to {payee} before that {rule} knows of, so a person would have to approve it, and no approval backend \
             is configured. Finance can take {rule} out of limits.toml."
        );
        Self::new(RefusalCode::ApprovalUnavailable, rule.to_string(), detail).names(None, payee)
    }

    /// So much was spent since a person last looked that one would have to look now.
    fn approval_due(charge: &Charge, settled: u128, open: u128) -> Self {
        let Charge { unit, rule, .. } = charge;
        let detail = format!(
            "With this payment of {}, more than {} would be spent since a person last approved a payment ({} used, {} reserved), which \
             is {rule}; a person would have to approve it, and no approval backend is configured. Finance can raise {rule} in \
             limits.toml.",
            unit.words(charge.amount),
            unit.words(charge.cap),
            unit.words(settled),
            unit.words(open),
        );
        Self {
            limit: Some(unit.figure(charge.cap)),
            used: Some(unit.figure(settled)),
            reserved: Some(unit.figure(open)),
            asked: Some(unit.figure(charge.amount)),
            ..Self::new(RefusalCode::ApprovalUnavailable, rule.to_string(), detail)
        }
    }

    pub(super) fn unknown_agent(agent: &str) -> Self {
        Self::new(
            RefusalCode::NoBudget,
            format!("agents.{agent}"),
            format!(
                "limits.toml has no section [agents.{agent}], so this agent may not pay. Finance can add the section \
                 with an amount window, such as day = \"5.00\"."
            ),
        )
    }

    pub(super) fn no_budget(level: &Level) -> Self {
        let section = &level.section;
        Self::new(
            RefusalCode::NoBudget,
            section.to_string(),
            format!(
                "Neither [{section}] nor its group has an amount window in limits.toml, and without one an agent may \
                 not pay. Finance can add one, such as day = \"5.00\"."
            ),
        )
    }

    pub(super) fn paused(level: &Level) -> Self {
        let rule = format!("{}.paused", level.section);
        let detail = format!(
            "Payments are stopped: {rule} is true in limits.toml. Requests that cost nothing still pass; finance can \
             set it to false."
        );
        Self::new(RefusalCode::Paused, rule, detail)
    }

    pub(super) fn per_transaction(level: &Level, limit: MicroUsd, price: MicroUsd) -> Self {
        let rule = format!("{}.per_transaction", level.section);
        let asking = match level.over_limit {
            OverLimit::Deny => "",
            OverLimit::Ask => " Nobody can be asked about it: no approval backend is configured.",
        };
        let detail = format!(
            "The price of {price} USD is over {rule}, which is {limit} USD a payment.{asking} Finance can raise {rule} \
             in limits.toml."
        );
        Self::new(RefusalCode::OverLimit, rule, detail).figures(limit, price)
    }

    /// More people than one are needed, and the operator's terminal knows only one.
    pub(super) fn nobody_else(level: &Level, price: MicroUsd) -> Self {
        let rule = format!("{}.second_approval_above", level.section);
        let limit = level.asking.second_above.unwrap_or_default();
        let detail = format!(
            "The price of {price} USD is over {rule}, which is {limit} USD, so {} people would have to approve it. The operator's \
             terminal cannot tell people apart: bursar.toml needs [approval] backend = \"ciba\" or \"keyra\" for that.",
            level.asking.needed
        );
        Self::new(RefusalCode::ApprovalUnavailable, rule, detail).figures(limit, price)
    }

    pub(super) fn approval_unavailable(level: &Level, key: &str, limit: MicroUsd, price: MicroUsd) -> Self {
        let rule = format!("{}.{key}", level.section);
        let detail = format!(
            "The price of {price} USD is over {rule}, which is {limit} USD, so a person would have to approve it, and \
             no approval backend is configured. Finance can raise {rule} in limits.toml."
        );
        Self::new(RefusalCode::ApprovalUnavailable, rule, detail).figures(limit, price)
    }

    /// The amount is not in dollars, and finance has not said what it counts for.
    pub(super) fn no_price(why: NoPrice) -> Self {
        let (code, detail) = match why {
            NoPrice::NoRate(currency) => (
                currency.code,
                format!(
                    "The price is in {0}, and limits.toml has no rate for it. Finance can add [rates.{1}] with `usd` and \
                     `valid_until`.",
                    currency.symbol, currency.code
                ),
            ),
            NoPrice::Outdated(currency) => (
                currency.code,
                format!(
                    "The price is in {0}, and the rate for it in limits.toml holds no longer. Finance can renew \
                     rates.{1}.usd and rates.{1}.valid_until.",
                    currency.symbol, currency.code
                ),
            ),
            NoPrice::TooLarge => ("usd", "The price is too large to be counted in US dollars.".to_owned()),
        };
        Self::new(RefusalCode::NoRate, format!("rates.{code}"), detail)
    }

    pub(super) fn denied(code: RefusalCode, rule: String, what: &str, entry: &str, asked: &str) -> Self {
        let detail = format!(
            "The {what} {asked} is denied by the entry {entry} of {rule} in limits.toml. Finance can remove the entry."
        );
        Self::new(code, rule, detail).names(Some(entry), asked)
    }

    pub(super) fn not_listed(code: RefusalCode, rule: String, what: &str, asked: &str) -> Self {
        let detail = format!("The {what} {asked} is not listed in {rule} in limits.toml. Finance can add it there.");
        Self::new(code, rule, detail).names(None, asked)
    }

    fn new(code: RefusalCode, rule: String, detail: String) -> Self {
        Self {
            code,
            rule,
            limit: None,
            used: None,
            reserved: None,
            asked: None,
            resets_at: None,
            detail,
        }
    }

    fn figures(mut self, limit: MicroUsd, asked: MicroUsd) -> Self {
        self.limit = Some(limit.to_string());
        self.asked = Some(asked.to_string());
        self
    }

    fn names(mut self, limit: Option<&str>, asked: &str) -> Self {
        self.limit = limit.map(str::to_owned);
        self.asked = Some(asked.to_owned());
        self
    }
}

/// `24 hours`, `90 minutes`: the largest unit that fits.
fn span(seconds: u32) -> String {
    const UNITS: [(u32, &str); 3] = [(86_400, "day"), (3_600, "hour"), (60, "minute")];
    let (unit, name) = UNITS
        .into_iter()
        .find(|(unit, _)| seconds.is_multiple_of(*unit) && seconds / unit > 1)
        .unwrap_or(UNITS[2]);
    let count = seconds / unit;
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {name}{plural}")
}
