//! What would be decided about a 402 if its request were an agent's own. Nothing is recorded, held or signed (R237).

use http::{HeaderMap, Response};
use serde::{Deserialize, Serialize};

use super::offers::Offers;
use super::{Decider, Subject, read};
use crate::answer::{Code, Unpaid};
use crate::trial::Report;
use bursar_core::challenge::Offer;
use bursar_core::policy::{Bid, Judged, Limits, Outcome, Plan, Verdict, judge};
use bursar_ledger::Standing;
use bursar_net::body::Relay;

/// What a site asks for a request, and what bursar would do about it. `--json` of `bursar quote`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Quote {
    /// Scheme, host and path, as the site was asked; no query.
    pub url: String,
    /// The site's answer; absent if it gave none.
    pub status: Option<u16>,
    /// The verdict is one of `limits try`, or `free`, or `no-price` if the site was not reached or answers with an error.
    #[serde(flatten)]
    pub report: Report,
    /// Every offer of the 402, in its order.
    pub offers: Vec<Quoted>,
}

/// One offer of a 402.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Quoted {
    /// Protocol and place in the challenge, such as `x402 0`.
    pub at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rail: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub symbol: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payee: Option<String>,
    /// What it would cost with its fee, in whole units of the asset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<String>,
    /// What it counts as against limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usd: Option<String>,
    /// Why this one would not be paid: a code, or the rule that refuses it. Absent for the one that would be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl Decider {
    /// Reads the challenge and judges it by the limits and the ledger as they are now.
    pub(crate) async fn quote(
        &self,
        subject: Subject<'_>,
        headers: &HeaderMap,
        response: &mut Response<Relay>,
    ) -> Result<(Report, Vec<Quoted>), String> {
        if let Some(why) = self.bars(subject, headers) {
            return Ok((unpaid(why), Vec::new()));
        }
        let challenge = match read(response).await {
            Ok(challenge) => challenge,
            Err(why) => return Ok((unpaid(Unpaid::Challenge(why)), Vec::new())),
        };
        let (limits, _) = self.rules.current();
        let now = self.ledger.now();
        let offers = self.payable_offers(subject, challenge, &limits);
        if let (true, Some(why)) = (offers.payable().is_empty(), offers.first_reason()) {
            return Ok((unpaid(Unpaid::Challenge(why)), offers.quoted(&limits, now, None)));
        }
        let purchase = self.purchase(subject, &[]);
        let bids: Vec<Bid> = offers
            .payable()
            .iter()
            .map(|offer| Bid::of(&limits, offer, now))
            .collect();
        let charges = match judge(&limits, &purchase, &bids, |_| None).verdict {
            Verdict::Pay(plan) | Verdict::Ask(plan) | Verdict::Unknown(plan) => plan.charges,
            Verdict::Refuse(_) | Verdict::Unpaid(_) => Vec::new(),
        };
        let standing = Standing::ask(&*self.ledger, &charges).await;
        let standing = standing.map_err(|error| error.to_string())?;
        let judged = judge(&limits, &purchase, &bids, |charge| standing.counted(charge));
        let group = limits.group_of(subject.agent.as_str());
        let pause = standing.pause_on(subject.agent.as_str(), group, subject.origin.authority.host.as_str());
        let report = Report::of(&judged, &bids, Some(now)).stopped_by(pause);
        let quoted = offers.quoted(&limits, now, Some(&judged));
        Ok((self.within_the_wallet(report, &judged, &offers), quoted))
    }

    /// What the wallet does not hold is not paid, whatever the limits say.
    fn within_the_wallet(&self, mut report: Report, judged: &Judged, offers: &Offers) -> Report {
        let (Verdict::Pay(plan) | Verdict::Ask(plan)) = &judged.verdict else {
            return report;
        };
        let short = |offer: &&Offer| !self.balances.may_cover(offer.asset, offer.outlay());
        if report.code.is_none() && offers.payable().get(plan.offer).filter(short).is_some() {
            let spec = Code::WalletInsufficient.spec();
            "refuse".clone_into(&mut report.verdict);
            report.code = Some(spec.code.to_owned());
            report.rule = Some("wallet".to_owned());
            report.detail = Some(spec.meaning.to_owned());
        }
        report
    }
}

fn unpaid(why: Unpaid) -> Report {
    Report::without_rules("unpaid", why.code(), format!("{} {}", why.meaning(), why.what_to_do()))
}

impl Offers {
    /// All offers in the order of the 402. `judged` is about those that are payable.
    fn quoted(&self, limits: &Limits, now: jiff::Timestamp, judged: Option<&Judged>) -> Vec<Quoted> {
        let plan = judged.and_then(|judged| match &judged.verdict {
            Verdict::Pay(plan) | Verdict::Ask(plan) | Verdict::Unknown(plan) => Some(plan),
            Verdict::Refuse(_) | Verdict::Unpaid(_) => None,
        });
        let usd = |offer: &Offer| limits.price(offer, now).map(|usd| usd.to_string());
        let payable = self.payable().iter().enumerate().map(|(index, offer)| {
            let why = not_taken(index, plan, judged);
            (offer.place(), Quoted::of(offer, usd(offer), why))
        });
        let left_out = self.left_out().map(|(place, offer, why)| {
            let why = Some(why.code().to_owned());
            let quoted = match offer {
                Some(offer) => Quoted::of(offer, usd(offer), why),
                None => Quoted::unread(place.to_string(), why),
            };
            (place, quoted)
        });
        let mut all: Vec<_> = payable.chain(left_out).collect();
        all.sort_by_key(|(place, _)| *place);
        all.into_iter().map(|(_, quoted)| quoted).collect()
    }
}

/// Why the offer at `index` would not be the one that is paid; `None` if it would be.
fn not_taken(index: usize, plan: Option<&Plan>, judged: Option<&Judged>) -> Option<String> {
    if let Some(plan) = plan {
        let other = plan.others.iter().find(|other| other.offer == index)?;
        let code = other.why.code();
        return Some(
            other
                .why
                .rule()
                .map_or_else(|| code.to_owned(), |rule| format!("{code} by {rule}")),
        );
    }
    let looked = judged?.trace.offers.get(index)?;
    let fails = looked.iter().find(|looked| looked.outcome == Outcome::Fail);
    // What refuses the whole purchase refuses each of its offers.
    Some(fails.map_or_else(|| "refused".to_owned(), |looked| format!("refused by {}", looked.rule)))
}

impl Quoted {
    fn of(offer: &Offer, usd: Option<String>, why: Option<String>) -> Self {
        Self {
            at: offer.place().to_string(),
            rail: Some(offer.rail.name().to_owned()),
            network: Some(offer.asset.network().to_string()),
            symbol: Some(offer.asset.symbol().to_owned()),
            payee: Some(offer.payee.text()),
            amount: Some(offer.outlay().decimal(offer.asset.decimals()).to_string()),
            usd,
            why,
        }
    }

    fn unread(at: String, why: Option<String>) -> Self {
        Self {
            at,
            rail: None,
            network: None,
            symbol: None,
            payee: None,
            amount: None,
            usd: None,
            why,
        }
    }
}
