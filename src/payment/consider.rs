//! From a 402 to a course: pass it on, refuse, or buy. Reads the challenges (`challenge/`, pure), drops what this wallet
//! cannot pay, and asks the limits (`policy/`, pure). Nothing is recorded or signed here.

mod offers;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Response};
use jiff::Timestamp;

use crate::answer::{Code, Problem};
use crate::listen::proxy::Proxy;
use bursar_approvals::questions::Questions;
use bursar_core::agent_name::AgentName;
use bursar_core::challenge::{self, Challenge, Found, Offer, Payer, Why};
use bursar_core::clock;
use bursar_core::decode::{self, Coding};
use bursar_core::money::MicroUsd;
use bursar_core::policy::{self, Approvals, Charge, Decision, Limits, Plan, Purchase, Refusal, Unpaid};
use bursar_ledger::RefusalRecord;
use bursar_ledger::entry::Other;
use bursar_net::body::{ReadEnd, Relay};
use bursar_net::upstream::{Origin, Scheme};
use offers::Offers;

/// A challenge in a body is at most this long after decoding (R34).
const CHALLENGE_CAP: usize = 64 << 10;
/// A body that drips is no challenge (threat 2.7).
const CHALLENGE_PATIENCE: Duration = Duration::from_secs(10);

/// What to do with a 402.
pub enum Disposition {
    /// Hand on the original, with a word on why it was not paid.
    PassThrough(&'static str),
    Refuse(Problem),
    Purchase(Box<PurchasePlan>),
}

/// What is to be bought, and what it is charged to.
#[derive(Clone)]
pub struct PurchasePlan {
    pub offer: Offer,
    pub plan: Plan,
    pub limits: Arc<Limits>,
    pub policy_gen: u64,
    /// All of the 402, should it have to be decided again.
    offers: Offers,
    /// The rule over which a person is asked, as the ledger has said that what was spent passes it.
    pub over: Option<Arc<str>>,
}

impl PurchasePlan {
    /// What else the 402 offered, and why it is not taken.
    pub fn others(&self, now: Timestamp) -> Vec<Other> {
        self.offers.beside(&self.plan, &self.limits, now)
    }
}

/// `over`: the rule over which a person is asked about this request already.
pub async fn course(
    proxy: &Proxy,
    agent: &AgentName,
    origin: &Origin,
    request: &Parts,
    response: &mut Response<Relay>,
    over: Option<Arc<str>>,
) -> Disposition {
    if proxy.passes_agent_payments() && bursar_core::hop::agent_payment(&request.headers).is_some() {
        return Disposition::PassThrough("agent-pays");
    }
    if origin.scheme == Scheme::Http
        && !proxy
            .config
            .upstream
            .allow_http_payments
            .contains(&origin.authority.host)
    {
        return Disposition::PassThrough("not-over-tls");
    }
    if proxy.payers.is_empty() {
        return Disposition::PassThrough(Why::NoWallet.code());
    }
    // A paid `101` would leave HTTP, and its stream has no one to join it to the agent's (R35).
    if request.headers.contains_key(http::header::UPGRADE) {
        return Disposition::PassThrough("upgrade-not-paid");
    }
    let (limits, _) = proxy.rules.current();
    if !limits.pays_for(&request.method) {
        return Disposition::PassThrough(Unpaid::Method.code());
    }
    let challenge = match read(response).await {
        Ok(challenge) => challenge,
        Err(why) => return Disposition::PassThrough(why.code()),
    };
    let host = &origin.authority.host;
    let payer = Payer {
        address: proxy.payers.address(),
        stripe: proxy.payers.stripe_mode(),
        remote: proxy.payers.remote(),
        networks: &proxy.networks,
        proven: &proxy.proven,
        request_host: host.as_str(),
        resource_hosts: limits.resource_hosts(host.as_str()),
        zero_amount: limits.zero_amount(),
        now: clock::unix_second(proxy.clock.now()),
    };
    match payable(challenge, &payer) {
        Ok(offers) => decide(proxy, agent, origin, &request.method, offers, over),
        Err(why) => Disposition::PassThrough(why.code()),
    }
}

/// Decides once more, now that the upload is over and its body known, if that can change anything: an offer has expired or
/// binds another body, other limits are in force, a window has ended. An upload can be drawn out for as long as an agent
/// likes, and must not save up what was allowed when it began.
pub fn decide_again(
    proxy: &Proxy,
    agent: &AgentName,
    origin: &Origin,
    method: &Method,
    body_sha256: &[u8; 32],
    mut intent: PurchasePlan,
) -> Disposition {
    let second = clock::unix_second(proxy.clock.now());
    let dropped = intent
        .offers
        .keep(|offer| challenge::still_payable(offer, body_sha256, second));
    if let (true, Some(why)) = (intent.offers.payable().is_empty(), dropped) {
        return Disposition::PassThrough(why.code());
    }
    if dropped.is_none() && still_holds(proxy, &intent) {
        return Disposition::Purchase(Box::new(intent));
    }
    decide(proxy, agent, origin, method, intent.offers, intent.over)
}

/// The same with a person to be asked, as what was spent passes `rule`.
pub fn decide_to_ask(
    proxy: &Proxy,
    agent: &AgentName,
    origin: &Origin,
    method: &Method,
    intent: PurchasePlan,
    rule: Arc<str>,
) -> Disposition {
    decide(proxy, agent, origin, method, intent.offers, Some(rule))
}

/// Whether what was decided would be decided now: the same limits, windows that have not ended, the same price.
pub fn still_holds(proxy: &Proxy, intent: &PurchasePlan) -> bool {
    let PurchasePlan {
        offer,
        plan,
        limits,
        policy_gen,
        ..
    } = intent;
    let now = proxy.ledger.now();
    let has_ended = |charge: &Charge| charge.ends.is_some_and(|ends| ends <= now);
    proxy.rules.current().1 == *policy_gen
        && !plan.charges.iter().any(has_ended)
        // A rate holds to its last day.
        && limits.price(offer, now) == Some(plan.usd)
}

/// What else of the same 402 may be bought, should the chosen offer be `gone`: answered already, say, or expired. Nothing has
/// been signed for it, so this is still the only credential of its request.
pub fn another(
    proxy: &Proxy,
    agent: &AgentName,
    origin: &Origin,
    method: &Method,
    mut intent: PurchasePlan,
    gone: Why,
) -> Option<PurchasePlan> {
    let sha256 = intent.offer.sha256;
    intent.offers.keep(|offer| match offer.sha256 == sha256 {
        true => Err(gone),
        false => Ok(()),
    });
    let (limits, policy_gen) = proxy.rules.current();
    let payable = intent.offers.payable();
    let over = intent.over.as_deref();
    match policy::decide(&limits, &purchase(proxy, agent, origin, method, over), payable) {
        Decision::Pay(plan) => {
            let offer = payable[plan.offer].clone();
            let covered = proxy.balances.may_cover(offer.asset, offer.outlay());
            covered.then_some(PurchasePlan {
                offer,
                plan,
                limits,
                policy_gen,
                offers: intent.offers,
                over: intent.over,
            })
        }
        Decision::Refuse(_) | Decision::Unpaid(_) => None,
    }
}

fn purchase<'a>(
    proxy: &Proxy,
    agent: &'a AgentName,
    origin: &'a Origin,
    method: &'a Method,
    over: Option<&'a str>,
) -> Purchase<'a> {
    Purchase {
        agent: agent.as_str(),
        merchant: origin.authority.host.as_str(),
        method,
        now: proxy.ledger.now(),
        approvals: proxy.questions.as_ref().map_or(Approvals::None, Questions::approvals),
        over,
    }
}

fn decide(
    proxy: &Proxy,
    agent: &AgentName,
    origin: &Origin,
    method: &Method,
    offers: Offers,
    over: Option<Arc<str>>,
) -> Disposition {
    let (limits, policy_gen) = proxy.rules.current();
    let purchase = purchase(proxy, agent, origin, method, over.as_deref());
    match policy::decide(&limits, &purchase, offers.payable()) {
        Decision::Unpaid(why) => Disposition::PassThrough(why.code()),
        Decision::Refuse(refusal) => {
            let cheapest = limits.cheapest(offers.payable(), proxy.ledger.now());
            let group = limits.group_of(agent.as_str());
            record_refusal(proxy, agent, group, origin, &refusal, cheapest);
            Disposition::Refuse(Problem::refused(&refusal))
        }
        Decision::Pay(plan) => {
            let offer = offers.payable()[plan.offer].clone();
            if !proxy.balances.may_cover(offer.asset, offer.outlay()) {
                let group = plan.group.as_deref();
                return Disposition::Refuse(wallet_insufficient(proxy, agent, group, origin, &offer, plan.usd));
            }
            Disposition::Purchase(Box::new(PurchasePlan {
                offer,
                plan,
                limits,
                policy_gen,
                offers,
                over,
            }))
        }
    }
}

/// The challenges of a 402, wherever they stand, as one list.
async fn read(response: &mut Response<Relay>) -> Result<Challenge, Why> {
    let x402 = x402(response).await;
    challenge::with_mpp(response.headers(), x402)
}

/// What was read of the body is put back.
async fn x402(response: &mut Response<Relay>) -> Result<Challenge, Why> {
    match challenge::look(response.headers()) {
        Found::Nothing(why) => Err(why),
        Found::V2Header(value) => challenge::v2(value),
        Found::Body => {
            let (received, end) = response.body_mut().read_up_to(CHALLENGE_CAP, CHALLENGE_PATIENCE).await;
            response.body_mut().unread(received.clone());
            match end {
                ReadEnd::Whole => challenge::v1(&decoded(response, &received)?),
                ReadEnd::TooLong => Err(Why::TooLarge),
                ReadEnd::Late | ReadEnd::Broken => Err(Why::BodyCutOff),
            }
        }
    }
}

fn decoded(response: &Response<Relay>, received: &Bytes) -> Result<Vec<u8>, Why> {
    Coding::of(response.headers())
        .and_then(|coding| decode::decode(coding, received))
        .map_err(|_| Why::BodyUndecodable)
}

/// The offers that this wallet could pay; without one, the reason that stood first.
fn payable(challenge: Challenge, payer: &Payer<'_>) -> Result<Offers, Why> {
    let mut offers = Offers::of(challenge);
    offers.keep(|offer| challenge::payable(offer, payer));
    if offers.payable().is_empty() {
        Err(offers.first_reason().unwrap_or(Why::OffersEmpty))
    } else {
        Ok(offers)
    }
}

fn wallet_insufficient(
    proxy: &Proxy,
    agent: &AgentName,
    group: Option<&str>,
    origin: &Origin,
    offer: &Offer,
    usd: MicroUsd,
) -> Problem {
    let code = Code::WalletInsufficient.as_str();
    proxy.ledger.refused(RefusalRecord {
        agent: agent.as_str().to_owned(),
        group: group.map(str::to_owned),
        host: origin.authority.host.as_str().to_owned(),
        reason: code.to_owned(),
        rule: "wallet".to_owned(),
        asked: Some(usd),
    });
    proxy.balances.look_again();
    tracing::info!(%agent, merchant = %origin.authority.host, %usd, code, "payment refused");
    let detail = format!(
        "The wallet holds less than {} {} on {}. The operator must fund {}; trying again before that will not help.",
        offer.outlay().decimal(offer.asset.decimals()),
        offer.asset.symbol(),
        offer.asset.network(),
        proxy
            .payers
            .address()
            .map(|address| address.to_string())
            .unwrap_or_default(),
    );
    Problem::new(Code::WalletInsufficient, detail).retryable(false)
}

/// Puts a refusal into the books and the log, whether the limits refuse at once or the ledger denies.
pub fn record_refusal(
    proxy: &Proxy,
    agent: &AgentName,
    group: Option<&str>,
    origin: &Origin,
    refusal: &Refusal,
    asked: Option<MicroUsd>,
) {
    let (code, usd) = (refusal.code.code(), asked.unwrap_or_default());
    tracing::info!(%agent, merchant = %origin.authority.host, rule = %refusal.rule, code, %usd, "payment refused");
    proxy.ledger.refused(RefusalRecord {
        agent: agent.as_str().to_owned(),
        group: group.map(str::to_owned),
        host: origin.authority.host.as_str().to_owned(),
        reason: code.to_owned(),
        rule: refusal.rule.clone(),
        asked,
    });
}
