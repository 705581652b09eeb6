//! A refusal: which rule of limits.toml, its value, what was asked, and what to do about it.
//!
//! The fields become the members of the agent's problem document and of the `pay.refused` entry. Codes are stable and
//! never renamed (R37); no text from the merchant is included, except the host that the agent asked for.

use std::fmt;

use jiff::Timestamp;

use super::budget::{Charge, Unit, Window};
use super::limits::{Level, OverLimit};
use super::pause::PauseScope;
use super::rates::NoPrice;
use crate::money::MicroUsd;

/// Why limits.toml does not allow this payment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: RefusalCode,
    /// Path in limits.toml, such as `agents.research.day`.
    pub rule: String,
    /// The rule's value: US dollars as `0.50` or a number of payments, depending on the rule; hosts and names as
    /// written.
    pub limit: Option<String>,
    /// Settled in this window, in the unit of `limit`.
    pub used: Option<String>,
    /// Held, signed or outstanding in this window, in the unit of `limit`.
    pub reserved: Option<String>,
    /// What this payment would add, in the unit of `limit`.
    pub asked: Option<String>,
    /// When the window ends and its counter restarts at zero.
    pub resets_at: Option<Timestamp>,
    /// When the same payment may fit again, if the agent pays for nothing else until then. `None`: waiting does not help, or
    /// no moment is known.
    pub retry_at: Option<Timestamp>,
    /// A sentence for the agent's logs and the people who read them.
    pub detail: String,
}

macro_rules! refusals {
    ($($name:ident $code:literal $meaning:literal $what_to_do:literal)+) => {
        /// Why the limits refuse a payment: each code once, with all that is said about it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum RefusalCode {
            $($name,)+
        }

        impl RefusalCode {
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// Stable text: the last part of the problem type.
            pub const fn code(self) -> &'static str {
                match self {
                    $(Self::$name => $code,)+
                }
            }

            /// When this happens.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => $meaning,)+
                }
            }

            pub const fn what_to_do(self) -> &'static str {
                match self {
                    $(Self::$name => $what_to_do,)+
                }
            }
        }
    };
}

refusals! {
    OverLimit "over-limit"
        "An amount, a number of payments, or `per_transaction` in limits.toml would be exceeded. The problem names rule, limit, used and reserved."
        "Wait until `retry_at` where it is named, buy something cheaper, or ask finance to raise the limit that `rule` names."
    NoBudget "no-budget"
        "Neither the agent's section in limits.toml nor its group's has an amount window, so the agent may not spend."
        "Ask finance to give the agent a budget, for example `day = \"5.00\"`."
    Paused "paused"
        "Payments are paused: by `paused = true` for the account, the group or the agent in limits.toml, or by a person with `bursar pause`. Nothing was paid. Requests that cost nothing still pass."
        "Do not try again until finance lifts the pause, by `paused = false` or with `bursar resume`; `rule` says which pause it is."
    MerchantNotAllowed "merchant-not-allowed"
        "The site's host is not on a `merchants` list in limits.toml, or is denied by one."
        "Ask finance to allow the merchant in the section that `rule` names."
    PayeeNotAllowed "payee-not-allowed"
        "The address or Stripe profile to be paid is not on a `payees` list in limits.toml, or is denied by one."
        "Make sure that the payee is really the merchant's; then ask finance to add it under `rule`."
    NetworkNotAllowed "network-not-allowed"
        "The offer is for a network that limits.toml does not allow."
        "Ask finance to allow the network in the section that `rule` names."
    AssetNotAllowed "asset-not-allowed"
        "The offer is in a token or currency that limits.toml does not allow."
        "Ask finance to allow the asset in the section that `rule` names."
    RailNotAllowed "rail-not-allowed"
        "The offer uses a rail that `rails` in limits.toml does not list."
        "Ask finance to list the rail if it should be used."
    NoRate "no-rate"
        "The price is not in US dollars, and limits.toml has no rate for the currency, or none that is still valid."
        "Ask finance to add or renew the rate under [rates]."
    ApprovalUnavailable "approval-unavailable"
        "A person would have to approve the payment, and bursar.toml names no approval backend."
        "Ask the operator to set up [approval], or finance to raise the threshold that `rule` names."
}

impl RefusalCode {
    /// Reads [`RefusalCode::code`].
    pub fn parse(code: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|known| known.code() == code)
    }
}

impl fmt::Display for RefusalCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl Refusal {
    /// The ledger refused `charge`. `settled` and `open` (held, signed or outstanding) are what its window contains
    /// already, in the charge's unit.
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
            Window::Hour => "per hour".to_owned(),
            Window::Day => "per day".to_owned(),
            Window::Week => "per week".to_owned(),
            Window::Month => "per month".to_owned(),
            Window::Rolling(rolling) => format!("within any {}", span(rolling.seconds())),
            Window::Pending => "pending at a time".to_owned(),
            Window::SinceApproval | Window::Payee => String::new(),
        };
        let mut detail = format!(
            "{what} would exceed {rule}, which is {cap} {per}: {} used, {} reserved.",
            words(settled),
            words(open)
        );
        if charge.amount > charge.cap {
            detail += " It is more than a whole window allows, so waiting does not help.";
        } else {
            match (charge.window, charge.ends) {
                (Window::Rolling(_), _) => detail += " Room returns as older payments leave the window.",
                (Window::Pending, _) => detail += " Room returns as payments are settled or proven expired.",
                (window, Some(ends)) => {
                    detail += &format!(
                        " The current {} ends at {ends}, and the count then restarts.",
                        window.name()
                    );
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
            // A rolling window has no single time at which it restarts.
            resets_at: charge.ends.filter(|_| charge.window.is_calendar()),
            retry_at: charge
                .ends
                .filter(|_| charge.window.is_calendar() && charge.amount <= charge.cap),
            ..Self::new(RefusalCode::OverLimit, rule.to_string(), detail)
        }
    }

    /// Names the time from which on the same payment fits a rolling window, if it is known.
    #[must_use]
    pub fn fitting_from(self, at: Option<Timestamp>) -> Self {
        let Some(at) = at else {
            return self;
        };
        Self {
            retry_at: Some(at),
            detail: format!(
                "{} The same payment fits again at {at} if nothing else is spent until then.",
                self.detail
            ),
            ..self
        }
    }

    fn first_time_payee(charge: &Charge) -> Self {
        let (rule, payee) = (&charge.rule, &charge.start);
        let detail = format!(
            "No earlier payment to {payee} is known to {rule}, so a person must approve this one, but no approval backend is \
             configured. Finance can remove {rule} from limits.toml."
        );
        Self::new(RefusalCode::ApprovalUnavailable, rule.to_string(), detail).names(None, payee)
    }

    /// So much was spent since the last approval that a person must approve this payment.
    fn approval_due(charge: &Charge, settled: u128, open: u128) -> Self {
        let Charge { unit, rule, .. } = charge;
        let detail = format!(
            "With this payment of {}, spending since a person last approved a payment would exceed {} ({} used, {} reserved), the \
             amount set by {rule}. A person must approve it, but no approval backend is configured. Finance can raise {rule} in \
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
            "Payments are paused: {rule} is true in limits.toml. Requests that cost nothing still pass. Finance can \
             set it to false to resume payments."
        );
        Self::new(RefusalCode::Paused, rule, detail)
    }

    /// A person stopped such payments with `bursar pause`. `reason`: who and why, if finance lets agents see it.
    pub fn on_pause(scope: &PauseScope, since: Timestamp, reason: Option<(&str, &str)>) -> Self {
        let by = reason.map_or_else(|| " by a person".to_owned(), |(who, why)| format!(" by {who} ({why})"));
        let detail = format!(
            "{} are paused since {}{by}, until finance lifts the pause with `bursar resume {}`. Nothing was paid. Requests \
             that cost nothing still pass.",
            scope.words(),
            since.strftime("%Y-%m-%d %H:%M:%S UTC"),
            scope.options(),
        );
        Self::new(RefusalCode::Paused, scope.rule(), detail)
    }

    pub(super) fn per_transaction(level: &Level, limit: MicroUsd, price: MicroUsd) -> Self {
        let rule = format!("{}.per_transaction", level.section);
        let asking = match level.over_limit {
            OverLimit::Deny => "",
            OverLimit::Ask => " Nobody can be asked to approve it: no approval backend is configured.",
        };
        let detail = format!(
            "The price of {price} USD is over {rule}, which is {limit} USD per payment.{asking} Finance can raise {rule} \
             in limits.toml."
        );
        Self::new(RefusalCode::OverLimit, rule, detail).figures(limit, price)
    }

    /// Several people must approve, and the operator's terminal cannot tell people apart.
    pub(super) fn nobody_else(level: &Level, price: MicroUsd) -> Self {
        let rule = format!("{}.second_approval_above", level.section);
        let limit = level.asking.second_above.unwrap_or_default();
        let detail = format!(
            "The price of {price} USD is over {rule}, which is {limit} USD, so {} people must approve it. The operator's \
             terminal cannot tell people apart: that needs [approval] backend = \"ciba\" or \"keyra\" in bursar.toml.",
            level.asking.needed
        );
        Self::new(RefusalCode::ApprovalUnavailable, rule, detail).figures(limit, price)
    }

    pub(super) fn approval_unavailable(level: &Level, key: &str, limit: MicroUsd, price: MicroUsd) -> Self {
        let rule = format!("{}.{key}", level.section);
        let detail = format!(
            "The price of {price} USD is over {rule}, which is {limit} USD, so a person must approve it, but no approval \
             backend is configured. Finance can raise {rule} in limits.toml."
        );
        Self::new(RefusalCode::ApprovalUnavailable, rule, detail).figures(limit, price)
    }

    /// The amount is not in dollars, and finance has set no valid rate for it.
    pub(super) fn no_price(why: NoPrice) -> Self {
        let (code, detail) = match why {
            NoPrice::NoRate(currency) => (
                currency.code,
                format!(
                    "The price is in {0}, but limits.toml has no rate for it. Finance can add [rates.{1}] with `usd` and \
                     `valid_until`.",
                    currency.symbol, currency.code
                ),
            ),
            NoPrice::Outdated(currency) => (
                currency.code,
                format!(
                    "The price is in {0}, but the rate for it in limits.toml has expired. Finance can renew \
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
            retry_at: None,
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

/// `24 hours`, `90 minutes`: in the largest unit that divides it.
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
