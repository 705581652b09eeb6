//! From a 402 to a disposition: pass it through, refuse, or purchase. Reads the challenges (`challenge`, pure), drops what this
//! wallet cannot pay, and asks the limits (`policy`, pure). Nothing is recorded or signed here.

mod offers;
pub(crate) mod quote;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::Address;
use http::{HeaderMap, Method, Response};
use jiff::Timestamp;
use tokio::time::Instant;

use crate::answer::{Code, Problem, Unpaid};
use crate::config::operator::AgentPayments;
use crate::rules::Rules;
use bursar_core::agent_name::AgentName;
use bursar_core::assets::{Mode, Network};
use bursar_core::challenge::{self, BodyType, Challenge, Found, Offer, Payer, Remote, Why};
use bursar_core::clock::{self, SharedClock};
use bursar_core::decode::{self, Coding};
use bursar_core::hop;
use bursar_core::host::Host;
use bursar_core::money::MicroUsd;
use bursar_core::policy::{self, Approvals, Charge, Decision, Limits, Plan, Purchase, Refusal};
use bursar_ledger::entry::Other;
use bursar_ledger::{Ledger, Pause, RefusalRecord};
use bursar_net::body::{ReadEnd, Relay};
use bursar_net::upstream::{Origin, Scheme};
use bursar_rails::balances::Balances;
use bursar_rails::pay::Payers;
use offers::Offers;

/// A challenge in a body is at most this long after decoding (R34).
const CHALLENGE_CAP: usize = 64 << 10;
/// A body that arrives in drips is not a challenge (threat 2.7).
const CHALLENGE_PATIENCE: Duration = Duration::from_secs(10);

/// The limits, the counters and the means of payment that decide what happens to a 402.
pub(crate) struct Decider {
    pub rules: Arc<Rules>,
    pub ledger: Arc<dyn Ledger>,
    pub clock: SharedClock,
    pub balances: Balances,
    /// Which approvers can be asked.
    pub approvals: Approvals,
    pub means: Means,
    pub networks: BTreeSet<Network>,
    /// The networks for which bursar.toml names a node.
    pub proven: BTreeSet<Network>,
    /// Hosts that may be paid without TLS (R26).
    pub allow_http_payments: BTreeSet<Host>,
    pub agent_payments: AgentPayments,
}

/// What this proxy can pay with. Fixed at start.
#[derive(Clone, Debug, Default)]
pub(crate) struct Means {
    pub is_empty: bool,
    pub address: Option<Address>,
    pub stripe: Option<Mode>,
    pub remote: Remote,
}

impl Means {
    pub(crate) fn of(payers: &Payers) -> Self {
        Self {
            is_empty: payers.is_empty(),
            address: payers.address(),
            stripe: payers.stripe_mode(),
            remote: payers.remote(),
        }
    }
}

/// Which agent sends the request, and where it goes.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub agent: &'a AgentName,
    pub origin: &'a Origin,
    pub method: &'a Method,
}

/// What to do with a 402.
pub(crate) enum Disposition {
    /// Pass the original on, with the reason why it was not paid.
    PassThrough(Unpaid),
    Refuse(Problem),
    Purchase(Box<PurchasePlan>),
}

/// What to buy, and which limits it is charged to.
#[derive(Clone)]
pub(crate) struct PurchasePlan {
    pub offer: Offer,
    pub decided: Plan,
    pub limits: Arc<Limits>,
    pub policy_gen: u64,
    /// All offers of the 402, in case it has to be decided again.
    offers: Offers,
    /// The rules that require approval because spending exceeds them, as the ledger found.
    pub over: Vec<Arc<str>>,
}

impl PurchasePlan {
    /// The other offers of the 402, and why they are not taken.
    pub(crate) fn others(&self, now: Timestamp) -> Vec<Other> {
        self.offers.beside(&self.decided, &self.limits, now)
    }
}

impl Decider {
    /// Reads the challenge and decides. `over`: the rules for which this request already needs approval.
    pub(crate) async fn disposition(
        &self,
        subject: Subject<'_>,
        headers: &HeaderMap,
        response: &mut Response<Relay>,
        over: Vec<Arc<str>>,
    ) -> Disposition {
        if let Some(why) = self.bars(subject, headers) {
            return Disposition::PassThrough(why);
        }
        match read(response).await {
            Ok(challenge) => self.decide_about(subject, challenge, over),
            Err(why) => Disposition::PassThrough(Unpaid::Challenge(why)),
        }
    }

    /// Why a request like this is not paid for, whatever its 402 says.
    fn bars(&self, subject: Subject<'_>, headers: &HeaderMap) -> Option<Unpaid> {
        let Subject { origin, method, .. } = subject;
        if self.agent_payments == AgentPayments::Pass && hop::agent_payment(headers).is_some() {
            return Some(Unpaid::AgentPays);
        }
        if origin.scheme == Scheme::Http && !self.allow_http_payments.contains(&origin.authority.host) {
            return Some(Unpaid::NotOverTls);
        }
        if self.means.is_empty {
            return Some(Unpaid::Challenge(Why::NoWallet));
        }
        // A paid `101` would leave HTTP, and nothing would join its stream to the agent's (R35).
        if headers.contains_key(http::header::UPGRADE) {
            return Some(Unpaid::Upgrade);
        }
        let (limits, _) = self.rules.current();
        (!limits.pays_for(method)).then_some(Unpaid::Policy(policy::Unpaid::Method))
    }

    fn decide_about(&self, subject: Subject<'_>, challenge: Challenge, over: Vec<Arc<str>>) -> Disposition {
        let (limits, _) = self.rules.current();
        let offers = self.payable_offers(subject, challenge, &limits);
        match (offers.payable().is_empty(), offers.first_reason()) {
            (true, why) => Disposition::PassThrough(Unpaid::Challenge(why.unwrap_or(Why::OffersEmpty))),
            (false, _) => self.decide(subject, offers, over),
        }
    }

    /// All offers of the challenge, those that this wallet cannot pay left out.
    fn payable_offers(&self, subject: Subject<'_>, challenge: Challenge, limits: &Limits) -> Offers {
        let host = subject.origin.authority.host.as_str();
        let names = limits.names_of(host);
        let payer = Payer {
            address: self.means.address,
            stripe: self.means.stripe,
            remote: self.means.remote,
            networks: &self.networks,
            proven: &self.proven,
            request_host: host,
            resource_hosts: names.map_or(&[], |names| &names.resource_hosts),
            realms: names.map_or(&[], |names| &names.realms),
            zero_amount: limits.zero_amount(),
            now: clock::unix_second(self.clock.now()),
        };
        let mut offers = Offers::of(challenge);
        offers.keep(|offer| challenge::payable(offer, &payer));
        note_trust(&offers, &payer);
        offers
    }

    /// Decides again once the upload is complete and its body is known, if that can change anything: an offer has
    /// expired or binds another body, other limits are in force, a window has ended. An agent can stretch an upload as
    /// long as it likes, and must not keep using what was allowed when it began.
    pub(crate) fn decide_again(
        &self,
        subject: Subject<'_>,
        body_sha256: &[u8; 32],
        mut plan: PurchasePlan,
    ) -> Disposition {
        let second = clock::unix_second(self.clock.now());
        let dropped = plan
            .offers
            .keep(|offer| challenge::still_payable(offer, body_sha256, second));
        if let (true, Some(why)) = (plan.offers.payable().is_empty(), dropped) {
            return Disposition::PassThrough(Unpaid::Challenge(why));
        }
        let is_paused = self.pause_on(subject, plan.decided.group.as_deref()).is_some();
        if dropped.is_none() && !is_paused && self.still_holds(&plan) {
            return Disposition::Purchase(Box::new(plan));
        }
        self.decide(subject, plan.offers, plan.over)
    }

    /// Decides again with a person to be asked, because spending exceeds `rules`, beside those that it was known to exceed.
    pub(crate) fn decide_to_ask(&self, subject: Subject<'_>, plan: PurchasePlan, rules: &[Arc<str>]) -> Disposition {
        let mut over = plan.over;
        for rule in rules {
            if !over.contains(rule) {
                over.push(rule.clone());
            }
        }
        self.decide(subject, plan.offers, over)
    }

    /// Whether the decision would still be the same: same limits, no window ended, same price.
    pub(crate) fn still_holds(&self, plan: &PurchasePlan) -> bool {
        let PurchasePlan {
            offer,
            decided,
            limits,
            policy_gen,
            ..
        } = plan;
        let now = self.ledger.now();
        let has_ended = |charge: &Charge| charge.ends.is_some_and(|ends| ends <= now);
        self.rules.current().1 == *policy_gen
            && !decided.charges.iter().any(has_ended)
            // A rate is valid through its last day.
            && limits.price(offer, now) == Some(decided.usd)
    }

    /// The pause that stops payments by this agent to this site, set by a person. The ledger asks once more when it
    /// reserves.
    pub(crate) fn pause_on(&self, subject: Subject<'_>, group: Option<&str>) -> Option<Pause> {
        let Subject { agent, origin, .. } = subject;
        let host = origin.authority.host.as_str();
        self.ledger.pause_on(agent.as_str(), group, host)
    }

    /// The answer to a purchase that a pause stops; records the refusal.
    pub(crate) fn refuse_paused(
        &self,
        subject: Subject<'_>,
        group: Option<&str>,
        pause: &Pause,
        asked: Option<MicroUsd>,
    ) -> Problem {
        let refusal = self.paused(pause);
        self.record_refusal(subject, group, &refusal, asked);
        Problem::refused(&refusal, subject.agent, &subject.origin.authority.host)
    }

    /// The words for a pause, as far as finance lets agents see them.
    pub(crate) fn paused(&self, pause: &Pause) -> Refusal {
        let (limits, _) = self.rules.current();
        let reason = (pause.who.as_str(), pause.why.as_str());
        Refusal::on_pause(
            &pause.scope,
            pause.since.timestamp(),
            limits.show_pause_reason.then_some(reason),
        )
    }

    /// Another offer of the same 402, if the chosen one is `gone`: already answered, say, or expired. Nothing has been
    /// signed for it, so this is still the only credential for its request.
    pub(crate) fn another(&self, subject: Subject<'_>, mut plan: PurchasePlan, gone: Why) -> Option<PurchasePlan> {
        let sha256 = plan.offer.sha256;
        plan.offers.keep(|offer| match offer.sha256 == sha256 {
            true => Err(gone),
            false => Ok(()),
        });
        let (limits, policy_gen) = self.rules.current();
        let payable = plan.offers.payable();
        match policy::decide(&limits, &self.purchase(subject, &plan.over), payable) {
            Decision::Pay(decided) => {
                let offer = payable[decided.offer].clone();
                let covered = self.balances.may_cover(offer.asset, offer.outlay());
                covered.then_some(PurchasePlan {
                    offer,
                    decided,
                    limits,
                    policy_gen,
                    offers: plan.offers,
                    over: plan.over,
                })
            }
            Decision::Refuse(_) | Decision::Unpaid(_) => None,
        }
    }

    fn purchase<'a>(&self, subject: Subject<'a>, over: &'a [Arc<str>]) -> Purchase<'a> {
        Purchase {
            agent: subject.agent.as_str(),
            merchant: subject.origin.authority.host.as_str(),
            method: subject.method,
            now: self.ledger.now(),
            approvals: self.approvals,
            over,
        }
    }

    fn decide(&self, subject: Subject<'_>, offers: Offers, over: Vec<Arc<str>>) -> Disposition {
        let (limits, policy_gen) = self.rules.current();
        match policy::decide(&limits, &self.purchase(subject, &over), offers.payable()) {
            Decision::Unpaid(why) => Disposition::PassThrough(Unpaid::Policy(why)),
            Decision::Refuse(refusal) => {
                let cheapest = limits.cheapest(offers.payable(), self.ledger.now());
                let group = limits.group_of(subject.agent.as_str());
                self.record_refusal(subject, group, &refusal, cheapest);
                Disposition::Refuse(Problem::refused(
                    &refusal,
                    subject.agent,
                    &subject.origin.authority.host,
                ))
            }
            Decision::Pay(decided) => {
                let group = decided.group.as_deref();
                if let Some(pause) = self.pause_on(subject, group) {
                    return Disposition::Refuse(self.refuse_paused(subject, group, &pause, Some(decided.usd)));
                }
                let offer = offers.payable()[decided.offer].clone();
                if !self.balances.may_cover(offer.asset, offer.outlay()) {
                    let group = decided.group.as_deref();
                    return Disposition::Refuse(self.wallet_insufficient(subject, group, &offer, decided.usd));
                }
                Disposition::Purchase(Box::new(PurchasePlan {
                    offer,
                    decided,
                    limits,
                    policy_gen,
                    offers,
                    over,
                }))
            }
        }
    }

    fn wallet_insufficient(&self, subject: Subject<'_>, group: Option<&str>, offer: &Offer, usd: MicroUsd) -> Problem {
        let code = Code::WalletInsufficient.spec().code;
        let Subject { agent, origin, .. } = subject;
        self.ledger.refused(RefusalRecord {
            agent: agent.as_str().to_owned(),
            group: group.map(str::to_owned),
            host: origin.authority.host.as_str().to_owned(),
            reason: code.to_owned(),
            rule: "wallet".to_owned(),
            asked: Some(usd),
        });
        self.balances.look_again();
        tracing::info!(%agent, merchant = %origin.authority.host, %usd, code, "payment refused");
        let detail = format!(
            "The wallet holds less than {} {} on {}. The operator must fund {}; trying again before that will not help.",
            offer.outlay().decimal(offer.asset.decimals()),
            offer.asset.symbol(),
            offer.asset.network(),
            self.means
                .address
                .map(|address| address.to_string())
                .unwrap_or_default(),
        );
        Problem::new(Code::WalletInsufficient, detail).retryable(false)
    }

    /// Records a refusal in the ledger and the log, whether the limits or the ledger's counters refuse.
    pub(crate) fn record_refusal(
        &self,
        subject: Subject<'_>,
        group: Option<&str>,
        refusal: &Refusal,
        asked: Option<MicroUsd>,
    ) {
        let Subject { agent, origin, .. } = subject;
        let (code, usd) = (refusal.code.code(), asked.unwrap_or_default());
        tracing::info!(%agent, merchant = %origin.authority.host, rule = %refusal.rule, code, %usd, "payment refused");
        self.ledger.refused(RefusalRecord {
            agent: agent.as_str().to_owned(),
            group: group.map(str::to_owned),
            host: origin.authority.host.as_str().to_owned(),
            reason: code.to_owned(),
            rule: refusal.rule.clone(),
            asked,
        });
    }
}

/// All challenges of a 402, from headers and body, as one list.
async fn read(response: &mut Response<Relay>) -> Result<Challenge, Why> {
    let x402 = x402(response).await;
    challenge::with_mpp(response.headers(), x402)
}

/// Puts back what it reads of the body.
async fn x402(response: &mut Response<Relay>) -> Result<Challenge, Why> {
    match challenge::look(response.headers()) {
        Found::Nothing(why) => Err(why),
        Found::V2Header(value) => challenge::v2(value),
        Found::Body(kind) => in_body(response, kind).await,
    }
}

async fn in_body(response: &mut Response<Relay>, kind: BodyType) -> Result<Challenge, Why> {
    let coding = Coding::of(response.headers());
    let until = Instant::now() + CHALLENGE_PATIENCE;
    let body = response.body_mut();
    // Text that is no challenge streams on: it is held back no longer than it takes to see its first letter.
    let is_worth_reading = match (kind.is_guess, coding) {
        (true, Ok(Coding::Identity)) => begins_an_object(body, until).await,
        (true, Err(_)) => false,
        (true, Ok(_)) | (false, _) => true,
    };
    if !is_worth_reading {
        return Err(kind.otherwise);
    }
    let left = until.saturating_duration_since(Instant::now());
    let (received, end) = body.read_up_to(CHALLENGE_CAP, left).await;
    body.unread(received.clone());
    match end {
        ReadEnd::Whole => {
            let decoded = coding.and_then(|coding| decode::decode(coding, &received));
            kind.challenge(&decoded.map_err(|_| Why::BodyUndecodable)?)
        }
        ReadEnd::TooLong => Err(Why::TooLarge),
        ReadEnd::Late | ReadEnd::Broken => Err(Why::BodyCutOff),
    }
}

/// Whether the first byte that is not blank is `{`. Puts back what it reads.
async fn begins_an_object(body: &mut Relay, until: Instant) -> bool {
    let mut seen = 0;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let (received, end) = body.read_up_to(seen, left).await;
        let length = received.len();
        let first = received[seen..]
            .iter()
            .find(|byte| !byte.is_ascii_whitespace())
            .copied();
        // Not cloned, so that a body of many small parts is not copied for each of them.
        body.unread(received);
        match first {
            Some(first) => return first == b'{',
            None if end == ReadEnd::TooLong && length <= CHALLENGE_CAP => seen = length,
            None => return false,
        }
    }
}

/// R71: an offer that names no public host is taken for the one that was asked, and the log says so. What it names
/// instead is the merchant's text and stays out.
fn note_trust(offers: &Offers, payer: &Payer<'_>) {
    for offer in offers.payable().iter().filter(|offer| payer.takes_on_trust(offer)) {
        let (place, merchant) = (offer.place(), payer.request_host);
        tracing::info!(%place, merchant, "the offer names no public host; it counts as the merchant's");
    }
}
