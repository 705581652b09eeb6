//! All offers of one 402: those that can still be paid, and those left out with the reason. Recorded with the payment,
//! for `bursar explain`.

use jiff::Timestamp;

use bursar_core::challenge::{Challenge, Offer, Place, Rail, Unpayable, Why};
use bursar_core::money::MicroUsd;
use bursar_core::policy::{Limits, Plan};
use bursar_ledger::entry::Other;
use bursar_ledger::text::Decimal;

#[derive(Clone)]
pub(super) struct Offers {
    /// The offers that policy chooses among.
    payable: Vec<Offer>,
    left_out: Vec<LeftOut>,
}

/// Offers that policy does not see, or no longer sees.
#[derive(Clone)]
enum LeftOut {
    /// It could not be read as an offer.
    Unread(Unpayable),
    Unpaid(Box<Offer>, Why),
}

impl Offers {
    pub(super) fn of(challenge: Challenge) -> Self {
        for Unpayable { place, why } in &challenge.unpayable {
            tracing::debug!(%place, why = why.code(), "an offer is left out");
        }
        Self {
            payable: challenge.offers,
            left_out: challenge.unpayable.into_iter().map(LeftOut::Unread).collect(),
        }
    }

    pub(super) fn payable(&self) -> &[Offer] {
        &self.payable
    }

    /// Leaves out what `verdict` rejects; returns the reason for the first one.
    pub(super) fn keep(&mut self, verdict: impl Fn(&Offer) -> Result<(), Why>) -> Option<Why> {
        let (mut next, mut first) = (0, None);
        while let Some(offer) = self.payable.get(next) {
            match verdict(offer) {
                Ok(()) => next += 1,
                Err(why) => {
                    tracing::debug!(place = %offer.place(), why = why.code(), "an offer is left out");
                    self.left_out
                        .push(LeftOut::Unpaid(Box::new(self.payable.remove(next)), why));
                    first = first.or(Some(why));
                }
            }
        }
        first
    }

    /// The first reason, if anything was left out. That an offer is not the first of its pair follows from one that is,
    /// whose own reason is what the agent needs.
    pub(super) fn first_reason(&self) -> Option<Why> {
        let mut reasons = self.left_out.iter().map(|left_out| match left_out {
            LeftOut::Unread(unpayable) => unpayable.why,
            LeftOut::Unpaid(_, why) => *why,
        });
        reasons.find(|why| *why != Why::FirstOfPair)
    }

    /// The offers that policy does not see, each with the reason.
    pub(super) fn left_out(&self) -> impl Iterator<Item = (Place, Option<&Offer>, Why)> {
        self.left_out.iter().map(|left_out| match left_out {
            LeftOut::Unread(unpayable) => (unpayable.place, None, unpayable.why),
            LeftOut::Unpaid(offer, why) => (offer.place(), Some(&**offer), *why),
        })
    }

    /// The offers other than the chosen one, in the order of the 402, as an entry records them. `plan` is about these
    /// offers.
    pub(super) fn beside(&self, plan: &Plan, limits: &Limits, now: Timestamp) -> Vec<Other> {
        let price = |offer: &Offer| limits.rates.price(offer, now).ok();
        let left_out = self.left_out.iter().map(|left_out| match left_out {
            LeftOut::Unread(unpayable) => (
                unpayable.place,
                other(unpayable.place, None, None, unpayable.why.code()),
            ),
            LeftOut::Unpaid(offer, why) => {
                let place = offer.place();
                (place, other(place, Some(offer.rail), price(offer), why.code()))
            }
        });
        let unchosen = plan.others.iter().filter_map(|unchosen| {
            let offer = self.payable.get(unchosen.offer)?;
            let mut other = other(offer.place(), Some(offer.rail), unchosen.usd, unchosen.why.code());
            other.rule = unchosen.why.rule().map(str::to_owned);
            Some((offer.place(), other))
        });
        let mut all: Vec<(Place, Other)> = left_out.chain(unchosen).collect();
        all.sort_by_key(|(place, _)| *place);
        Other::that_fit(all.into_iter().map(|(_, other)| other).collect())
    }
}

fn other(place: Place, rail: Option<Rail>, usd: Option<MicroUsd>, why: &'static str) -> Other {
    Other {
        at: place.to_string(),
        rail: rail.map(|rail| rail.name().to_owned()),
        rule: None,
        usd_micros: usd.map(|usd| Decimal(usd.get())),
        why: why.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::Address;
    use http::Method;

    use super::*;
    use crate::config;
    use bursar_core::assets::{Asset, Mode, Network, currency, tokens_of};
    use bursar_core::challenge::Protocol;
    use bursar_core::money::Atoms;
    use bursar_core::policy::{Approvals, Decision, Purchase, decide};

    const LIMITS: &str = "timezone = \"UTC\"\n[rates.eur]\nusd = \"1.10\"\nvalid_until = \"2099-12-31\"\n\
                          [agents.research]\nday = \"9\"\nper_transaction = \"0.05\"\n";

    fn now() -> Timestamp {
        "2026-11-20T12:00:00Z".parse().unwrap()
    }

    fn offer(rail: Rail, position: usize, amount: u128) -> Offer {
        let token = tokens_of(Network::Eip155(84_532)).next().unwrap();
        let last = u8::try_from(position).unwrap();
        Offer {
            rail,
            position,
            sha256: [last; 32],
            ..Offer::of(token, Atoms::new(amount), Address::repeat_byte(1))
        }
    }

    fn bad(place: Place, why: Why) -> Unpayable {
        Unpayable { place, why }
    }

    fn plan(limits: &Limits, offers: &Offers) -> Plan {
        let purchase = Purchase {
            agent: "research",
            merchant: "api.example.com",
            method: &Method::GET,
            now: now(),
            approvals: Approvals::None,
            over: &[],
        };
        match decide(limits, &purchase, offers.payable()) {
            Decision::Pay(plan) => plan,
            Decision::Refuse(refusal) => panic!("{}", refusal.detail),
            Decision::Unpaid(why) => panic!("{}", why.code()),
        }
    }

    /// Place, rail, price, reason and rule.
    type Summary<'a> = (&'a str, Option<&'a str>, Option<u128>, &'a str, Option<&'a str>);

    fn summaries(others: &[Other]) -> Vec<Summary<'_>> {
        let summaries = others.iter().map(|other| {
            let usd = other.usd_micros.map(|usd| usd.0);
            (
                &*other.at,
                other.rail.as_deref(),
                usd,
                &*other.why,
                other.rule.as_deref(),
            )
        });
        summaries.collect()
    }

    #[test]
    fn every_other_offer_is_listed_once_in_the_order_of_the_402() {
        let limits = config::limits::parse("limits.toml", LIMITS).unwrap_or_else(|error| panic!("{error}"));
        let euros = Offer {
            asset: Asset::Fiat(Mode::Test, currency("eur").unwrap()),
            usd: None,
            ..offer(Rail::MppStripe, 2, 100)
        };
        let mut offers = Offers::of(Challenge {
            offers: vec![
                offer(Rail::MppEvm, 0, 10_000),
                euros,
                offer(Rail::MppEvm, 3, 20_000),
                offer(Rail::X402, 10, 10_000),
                offer(Rail::X402, 2, 60_000),
            ],
            unpayable: vec![
                bad(Place::of(Protocol::Mpp, 1), Why::NotBase64),
                bad(Place::challenge(Protocol::X402), Why::NotJson),
            ],
        });
        assert_eq!(offers.first_reason(), Some(Why::NotBase64));
        assert_eq!(offers.keep(|_| Ok(())), None);
        let refused = offers.keep(|offer| match offer.rail {
            Rail::MppStripe => Err(Why::StripeNotConfigured),
            _ => Ok(()),
        });
        assert_eq!(refused, Some(Why::StripeNotConfigured));
        // The chosen offer turns out to be answered already.
        assert_eq!(offers.payable()[plan(&limits, &offers).offer].position, 0);
        offers.keep(|offer| match offer.sha256 == [0; 32] {
            true => Err(Why::ChallengeUsed),
            false => Ok(()),
        });
        let plan = plan(&limits, &offers);
        assert_eq!(offers.payable()[plan.offer].position, 10);
        let over = Some("agents.research.per_transaction");
        assert_eq!(
            summaries(&offers.beside(&plan, &limits, now())),
            [
                ("x402", None, None, "challenge-not-json", None),
                ("x402 2", Some("x402"), Some(60_000), "over-limit", over),
                ("mpp 0", Some("mpp.evm"), Some(10_000), "challenge-used", None),
                ("mpp 1", None, None, "challenge-not-base64", None),
                // Priced at finance's rate.
                (
                    "mpp 2",
                    Some("mpp.stripe"),
                    Some(1_100_000),
                    "stripe-not-configured",
                    None
                ),
                ("mpp 3", Some("mpp.evm"), Some(20_000), "dearer", None),
            ]
        );
    }

    #[test]
    fn a_single_offer_has_no_others() {
        let limits = config::limits::parse("limits.toml", LIMITS).unwrap_or_else(|error| panic!("{error}"));
        let offers = Offers::of(Challenge {
            offers: vec![offer(Rail::X402, 0, 1)],
            unpayable: Vec::new(),
        });
        let plan = plan(&limits, &offers);
        assert_eq!(offers.beside(&plan, &limits, now()).capacity(), 0);
    }
}
