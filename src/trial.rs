//! What would be decided about a purchase that nobody makes: read from words, judged, and put into words. Holds nothing (R235).

use http::Method;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use bursar_config::diagnose::nearest;
use bursar_core::account::Account;
use bursar_core::assets::{Asset, Network, currency, tokens};
use bursar_core::challenge::Rail;
use bursar_core::policy::{
    Approvals, AssetName, Bid, Charge, Counted, Imagined, Judged, Limits, Looked, Outcome, Plan, Purchase, Refusal,
    Verdict, judge, named_host,
};
use bursar_ledger::Pause;

/// An offer in the words of limits.toml.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Described {
    pub amount: String,
    pub asset: Option<String>,
    pub rail: Option<String>,
    pub network: Option<String>,
    pub payee: Option<String>,
    #[serde(default)]
    pub upfront: bool,
}

/// Who asks, where, and when.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Setting {
    pub agent: String,
    pub host: String,
    pub method: String,
    pub at: Timestamp,
}

/// `--json` of `limits try`, and what the server answers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// `pay`, `ask`, `refuse`, `unpaid`, or `unknown` if the ledger cannot be seen.
    pub verdict: String,
    pub code: Option<String>,
    pub rule: Option<String>,
    pub detail: Option<String>,
    /// In US dollars, as limits count it.
    pub usd: Option<String>,
    pub offer: Option<Offered>,
    pub rules: Vec<Rule>,
    /// The ledger's time for which this holds; absent if the ledger was not seen.
    pub as_of: Option<Timestamp>,
}

/// The offer that it was decided for.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Offered {
    pub rail: String,
    pub network: String,
    pub asset: String,
    pub symbol: String,
    pub payee: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Rule {
    pub rule: String,
    /// `pass`, `ask`, `fail`, or `not-reached` after another rule has refused.
    pub outcome: String,
    /// What a rule that was not reached says by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub would: Option<String>,
    pub limit: Option<String>,
    pub used: Option<String>,
    pub reserved: Option<String>,
    pub asked: Option<String>,
    pub resets_at: Option<Timestamp>,
}

/// Judges `offers`, of which one is taken. `counted`: what the ledger counts; `None` where it cannot be seen.
pub(crate) fn run(
    limits: &Limits,
    approvals: Approvals,
    setting: &Setting,
    offers: &[Described],
    counted: impl Fn(&Charge) -> Option<Counted>,
) -> Result<(Judged, Vec<Bid>), String> {
    let method = Method::from_bytes(setting.method.to_ascii_uppercase().as_bytes())
        .map_err(|_| format!("{:?} is not a request method; write GET or POST", setting.method))?;
    named_host(&setting.host).map_err(|why| format!("{:?} is not a host: {why}", setting.host))?;
    let mut bids = Vec::new();
    for offer in offers {
        let imagined = imagined(offer)?;
        let of_offer = imagined.bids(limits, &setting.agent, setting.at);
        bids.extend(of_offer.map_err(|error| error.to_string())?);
    }
    let purchase = Purchase {
        agent: &setting.agent,
        merchant: &setting.host,
        method: &method,
        now: setting.at,
        approvals,
        over: &[],
    };
    Ok((judge(limits, &purchase, &bids, counted), bids))
}

/// What the purchase would be charged to, so that the ledger can be asked about it; nothing if the rules refuse it.
pub(crate) fn charges(
    limits: &Limits,
    approvals: Approvals,
    setting: &Setting,
    offers: &[Described],
) -> Result<Vec<Charge>, String> {
    let (judged, _) = run(limits, approvals, setting, offers, |_| None)?;
    Ok(match judged.verdict {
        Verdict::Pay(plan) | Verdict::Ask(plan) | Verdict::Unknown(plan) => plan.charges,
        Verdict::Refuse(_) | Verdict::Unpaid(_) => Vec::new(),
    })
}

fn imagined(offer: &Described) -> Result<Imagined, String> {
    let rail = offer.rail.as_deref().map(|name| {
        Rail::parse(name).ok_or_else(|| {
            let known = Rail::ALL.map(Rail::name);
            match nearest(name, known) {
                Some(meant) => format!("{name:?} is not a rail; did you mean {meant}?"),
                None => format!("{name:?} is not a rail; known: {}", known.join(", ")),
            }
        })
    });
    let network = offer.network.as_deref().map(|name| {
        Network::parse(name)
            .or_else(|| Network::from_v1_name(name))
            .ok_or_else(|| format!("{name:?} is not a network; write a CAIP-2 name, such as eip155:8453 for Base"))
    });
    let payee = offer.payee.as_deref().map(|text| {
        Account::parse(text).ok_or_else(|| {
            format!("{text:?} is not a payee; write 0x and 40 hex digits, or profile_… for a seller at Stripe")
        })
    });
    Ok(Imagined {
        rail: rail.transpose()?,
        network: network.transpose()?,
        asset: offer.asset.as_deref().map(asset).transpose()?,
        payee: payee.transpose()?,
        upfront: offer.upfront,
        amount: offer.amount.trim_start_matches('$').to_owned(),
    })
}

fn asset(text: &str) -> Result<AssetName, String> {
    if text.contains('/') {
        return Asset::parse(text)
            .map(AssetName::One)
            .ok_or_else(|| format!("bursar does not know the asset {text:?}; a symbol such as USDC is enough"));
    }
    let upper = text.to_ascii_uppercase();
    let token = tokens().find(|token| token.symbol.eq_ignore_ascii_case(text));
    let fiat = currency(&text.to_ascii_lowercase()).filter(|currency| currency.symbol == upper);
    let symbol = token.map(|token| token.symbol).or(fiat.map(|currency| currency.symbol));
    symbol
        .map(|symbol| AssetName::Symbol(symbol.to_owned()))
        .ok_or_else(|| format!("bursar does not know the asset {text:?}; write a symbol such as USDC, or a CAIP-19 id"))
}

impl Report {
    /// `as_of`: when the ledger was seen.
    pub(crate) fn of(judged: &Judged, bids: &[Bid], as_of: Option<Timestamp>) -> Self {
        let (verdict, code, rule, detail) = match &judged.verdict {
            Verdict::Pay(_) => ("pay", None, None, None),
            Verdict::Unknown(_) => ("unknown", None, None, None),
            Verdict::Ask(plan) => ("ask", None, first_rule(plan), None),
            Verdict::Refuse(refusal) => (
                "refuse",
                Some(refusal.code.code().to_owned()),
                Some(refusal.rule.clone()),
                Some(refusal.detail.clone()),
            ),
            Verdict::Unpaid(unpaid) => (
                "unpaid",
                Some(unpaid.code().to_owned()),
                Some("methods".to_owned()),
                Some(unpaid.meaning().to_owned()),
            ),
        };
        let shown = shown_offer(judged, rule.as_deref());
        let bid = shown.and_then(|offer| bids.get(offer));
        let of_offer = shown.and_then(|offer| judged.trace.offers.get(offer));
        let looked = judged.trace.purchase.iter();
        let looked = looked
            .chain(of_offer.into_iter().flatten())
            .chain(&judged.trace.budgets);
        Self {
            verdict: verdict.to_owned(),
            code,
            rule,
            detail,
            usd: bid.and_then(|bid| bid.price.ok()).map(|usd| usd.to_string()),
            offer: bid.map(Offered::of),
            rules: looked.map(Rule::of).collect(),
            as_of,
        }
    }
}

impl Report {
    /// The site asks for no payment.
    pub(crate) fn free() -> Self {
        Self {
            code: None,
            detail: None,
            ..Self::without_rules("free", "", String::new())
        }
    }

    /// Decided before any rule of limits.toml was looked at.
    pub(crate) fn without_rules(verdict: &str, code: &str, detail: String) -> Self {
        Self {
            verdict: verdict.to_owned(),
            code: Some(code.to_owned()),
            rule: None,
            detail: Some(detail),
            usd: None,
            offer: None,
            rules: Vec::new(),
            as_of: None,
        }
    }

    /// A person has stopped such payments for now, whatever the limits say.
    pub(crate) fn stopped_by(mut self, pause: Option<&Pause>) -> Self {
        if let Some(pause) = pause {
            let reason = Some((pause.who.as_str(), pause.why.as_str()));
            let refusal = Refusal::on_pause(&pause.scope, pause.since.timestamp(), reason);
            "refuse".clone_into(&mut self.verdict);
            self.code = Some(refusal.code.code().to_owned());
            self.rule = Some(refusal.rule);
            self.detail = Some(refusal.detail);
        }
        self
    }
}

fn first_rule(plan: &Plan) -> Option<String> {
    plan.threshold.as_ref()?.rules.first().cloned()
}

/// The offer that was taken; without one, the first that the rule which refuses was met at.
fn shown_offer(judged: &Judged, rule: Option<&str>) -> Option<usize> {
    match &judged.verdict {
        Verdict::Pay(plan) | Verdict::Ask(plan) | Verdict::Unknown(plan) => return Some(plan.offer),
        Verdict::Refuse(_) | Verdict::Unpaid(_) => {}
    }
    if let bursar_core::policy::Decision::Pay(plan) = &judged.trace.decision {
        return Some(plan.offer);
    }
    let refuses =
        |looked: &Looked| looked.reached && looked.outcome == Outcome::Fail && Some(looked.rule.as_str()) == rule;
    let offers = &judged.trace.offers;
    let met = offers.iter().position(|offer| offer.iter().any(refuses));
    met.or((!offers.is_empty()).then_some(0))
}

impl Offered {
    fn of(bid: &Bid) -> Self {
        Self {
            rail: bid.rail.name().to_owned(),
            network: bid.asset.network().to_string(),
            asset: bid.asset.caip19(),
            symbol: bid.asset.symbol().to_owned(),
            payee: bid.payee.text(),
        }
    }
}

impl Rule {
    fn of(looked: &Looked) -> Self {
        let said = match looked.outcome {
            Outcome::Pass => Some("pass"),
            Outcome::Ask => Some("ask"),
            Outcome::Fail => Some("fail"),
            Outcome::Unknown => None,
        };
        let (outcome, would) = match (looked.reached, said) {
            (true, Some(said)) => (said, None),
            (_, would) => ("not-reached", would),
        };
        Self {
            rule: looked.rule.clone(),
            outcome: outcome.to_owned(),
            would: would.map(str::to_owned),
            limit: looked.limit.clone(),
            used: looked.used.clone(),
            reserved: looked.reserved.clone(),
            asked: looked.asked.clone(),
            resets_at: looked.resets_at,
        }
    }
}
