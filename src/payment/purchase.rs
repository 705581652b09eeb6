//! A purchase that the limits allow: reserve, sign, and send what was signed (`presentation.rs`).
//!
//! What a person must approve first is in `approval.rs`.
//!
//! It runs as a task of its own, so that an agent that hangs up does not take the outcome of its payment with it.

mod approval;
mod remote_signer;
mod unpaid;

use std::sync::Arc;

use alloy_primitives::B256;
use http::request::Parts;
use http::{HeaderName, Request, Response};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::answer::{self, Code, Problem};
use crate::listen::proxy::Proxy;
use crate::payment::consider::{self, Disposition, PurchasePlan};
use crate::payment::idempotency::Claim;
use crate::payment::presentation::{AgentAnswer, Presentation};
use crate::payment::repeat;
use crate::serve;
use bursar_core::assets::Asset;
use bursar_core::challenge::{Credential, Nonce, Offer, Rail, Term, Why};
use bursar_core::clock;
use bursar_core::money::MicroUsd;
use bursar_core::policy::Charge;
use bursar_ledger::{Arm, ArmedNonce, Hold, Outcome, PaymentId, Reservation, Reserve, ReserveError, Source, Terms};
use bursar_net::body::{AnswerBody, Relay, Replay};
use bursar_net::upstream::{Lane, stream};
use bursar_rails::outstanding::{Fingerprint, Target};
use bursar_rails::pay::{PayError, Permission, RemoteCredential};
use remote_signer::NotReady;

/// An agent that asks again by itself after our store or Stripe failed should not do so at once.
const STORE_RETRY: std::time::Duration = std::time::Duration::from_secs(30);

/// Buys. `unpaid` is the 402, whose body is read to the end if it is short, so that its connection can carry the replay.
pub async fn run(
    proxy: &Arc<Proxy>,
    lane: &Arc<Lane>,
    head: Parts,
    replay: Replay,
    intent: PurchasePlan,
    claim: Option<Claim>,
    unpaid: Response<Relay>,
) -> AgentAnswer {
    let purchase = Purchase {
        proxy: proxy.clone(),
        lane: lane.clone(),
        head,
        replay,
        intent,
        claim,
        asked_at: Instant::now(),
    };
    let (hand_over, answer) = oneshot::channel();
    proxy.tasks.spawn(purchase.run(unpaid, hand_over));
    answer.await.unwrap_or_else(|_| {
        // Only a bug ends the task like this. It may have paid, so it must not read as if it had not.
        let detail = "The purchase ended without an outcome; see `bursar payments list`.";
        Err(Problem::new(Code::AnswerLost, detail).retryable(false))
    })
}

struct Purchase {
    proxy: Arc<Proxy>,
    lane: Arc<Lane>,
    head: Parts,
    replay: Replay,
    intent: PurchasePlan,
    /// On the agent's `Idempotency-Key`, until what is bought under it is known to repeats.
    claim: Option<Claim>,
    /// When the 402 was read that the intent came from.
    asked_at: Instant,
}

/// Why there is no reservation.
enum NotBought {
    Declined(Declined),
    /// This offer cannot be paid after all; if no other can, the 402 goes to the agent as it came.
    OfferGone(Why),
    /// Another proxy on these books has published other limits.
    LimitsReplaced,
    /// What was spent already passes this rule, and a person may let the payment pass it.
    MustAsk(Arc<str>),
    /// This is decided now: other limits, other windows.
    Reconsidered(Box<PurchasePlan>),
    /// The site was asked once more, and this is what it wants now.
    AskedAgain(Box<PurchasePlan>),
    /// The site was asked once more, and it wants no money any more.
    Free(Box<Response<AnswerBody>>),
    /// The agent has hung up before anything was signed.
    AgentGone,
}

/// What the agent gets instead of what it asked for.
enum Declined {
    Refuse(Problem),
    /// The 402 as it came, with this reason.
    PassThrough(&'static str),
}

impl From<Problem> for NotBought {
    fn from(problem: Problem) -> Self {
        Self::Declined(Declined::Refuse(problem))
    }
}

impl Purchase {
    async fn run(mut self, mut unpaid: Response<Relay>, mut agent: oneshot::Sender<AgentAnswer>) {
        // An agent that has gone before anything was promised wants nothing any more.
        if agent.is_closed() {
            return;
        }
        // Once: a proxy whose operator has not followed stays behind.
        let mut decided_again = false;
        let (reservation, permission) = loop {
            let reserved = match self.intent.plan.threshold {
                Some(_) => {
                    // Nothing is kept open towards the site while a person decides.
                    unpaid = drain(unpaid).await;
                    self.approved(&mut agent).await
                }
                None if let Some(joins) = self.joins() => Err(joins),
                None => match self.permitted().await {
                    Ok((reserve, permission)) => {
                        // The journal's disk and the rest of the 402 are waited for at the same time.
                        let (reserved, drained) = tokio::join!(self.proxy.ledger.reserve(reserve), drain(unpaid));
                        unpaid = drained;
                        reserved
                            .map(|reservation| (reservation, permission))
                            .map_err(|error| match error {
                                ReserveError::StalePolicy { .. } if !decided_again => NotBought::LimitsReplaced,
                                error => self
                                    .asks_over(&error)
                                    // Another request may have put the question in this moment.
                                    .or_else(|| self.joins())
                                    .unwrap_or_else(|| self.not_reserved(error)),
                            })
                    }
                    Err(not_bought) => Err(not_bought),
                },
            };
            let was_asked = self.intent.plan.threshold.is_some();
            let next = match reserved {
                Ok(allowed) => break allowed,
                Err(NotBought::Declined(declined)) => Err(declined),
                Err(NotBought::OfferGone(why)) => self.with_another_offer(why).ok_or(Declined::PassThrough(why.code())),
                Err(NotBought::LimitsReplaced) => {
                    decided_again = true;
                    self.decided_again().await
                }
                Err(NotBought::MustAsk(rule)) => self.with_a_question(rule),
                Err(NotBought::Reconsidered(intent)) => Ok(Self {
                    intent: *intent,
                    ..self
                }),
                Err(NotBought::AskedAgain(intent)) => Ok(Self {
                    intent: *intent,
                    asked_at: Instant::now(),
                    ..self
                }),
                Err(NotBought::Free(response)) => return drop(agent.send(Ok(*response))),
                Err(NotBought::AgentGone) => return,
            };
            match next {
                Ok(purchase) => self = purchase,
                Err(Declined::Refuse(problem)) => return drop(agent.send(Err(problem))),
                Err(Declined::PassThrough(why)) if was_asked => {
                    return drop(agent.send(Err(approval::offer_gone(why))));
                }
                Err(Declined::PassThrough(why)) => return drop(agent.send(Ok(passed_on(unpaid, why)))),
            }
        };
        // A long one takes its connection with it.
        drop(unpaid);
        if agent.is_closed() {
            return self.never_signed(reservation).await;
        }
        let (reservation, made) = match self.remote_credential(reservation, &mut agent).await {
            Ok(made) => made,
            Err(NotReady::Over(problem)) => return drop(agent.send(Err(problem))),
            Err(NotReady::Deferred(later, problem)) => {
                drop(agent.send(Err(problem)));
                return self.later(*later).await;
            }
        };
        let (field, credential) = match self.pay(&reservation, &permission, made.as_ref()).await {
            Ok(signed) => signed,
            Err(error) => {
                let problem = self.not_paid(reservation, &error).await;
                return drop(agent.send(Err(problem)));
            }
        };
        let rid = reservation.rid();
        let valid_before = reservation.arm().valid_before;
        // Ordering a token can take half a minute. One that nobody waits for, or that ends before a seller could charge it, is not
        // sent: unlike a signature it can be taken back.
        let left = valid_before.saturating_sub(clock::unix_second(self.proxy.clock.now()));
        let is_late = left < Term::LEAST_S;
        if self.intent.offer.rail == Rail::MppStripe && (is_late || agent.is_closed()) {
            let (problem, retryable) = match made {
                None => {
                    let (why, tx) = ("never-sent", None);
                    self.finish(rid, Outcome::Unknown { why, tx }).await;
                    let detail = "Stripe took so long that the merchant's offer has run out, and the merchant was sent nothing. The \
                                  token counts until it has been taken back. Trying again later may help.";
                    (Problem::new(Code::TokenUnavailable, detail), true)
                }
                // Nobody takes it back.
                Some(_) => {
                    self.in_doubt(rid, valid_before, "never-sent").await;
                    let detail = "BKey took so long that the merchant's offer has run out, and the merchant was sent nothing. The \
                                  token counts until `bursar payments resolve` closes the payment.";
                    (Problem::new(Code::SignerUnavailable, detail), false)
                }
            };
            let problem = problem.payment(rid).retryable(retryable).retry_after(STORE_RETRY);
            return drop(agent.send(Err(problem)));
        }
        let (target, fingerprint) = self.identity();
        let outstanding = &self.proxy.outstanding;
        let keyed = self.claim.is_some();
        let rail = self.intent.offer.rail;
        let sent = (rail, &field, &credential);
        let ticket = outstanding.sent(rid, target, fingerprint, sent, valid_before, keyed);
        if let Some(claim) = self.claim {
            claim.paid(rid, fingerprint);
        }
        // The first request again, with the credential as the only difference (R27).
        let mut head = self.head;
        if head.headers.contains_key(&field) {
            // Only `Authorization` can be there (R31). A server that needs both asks for another field.
            tracing::info!(payment = %rid, %field, "the agent's own field is replaced by the payment");
        }
        head.headers.insert(field, credential.header_value());
        let request = Request::from_parts(head, self.replay.into());
        let presentation = Presentation {
            rid,
            rail,
            usd: Some(self.intent.plan.usd),
            ticket,
            proxy: self.proxy,
            lane: self.lane,
            permission,
        };
        presentation.run(request, agent).await;
    }

    /// An offer fewer each time, so that this comes to an end.
    fn with_another_offer(self, gone: Why) -> Option<Self> {
        let (agent, origin) = (self.lane.agent(), self.lane.origin());
        let intent = consider::another(&self.proxy, agent, origin, &self.head.method, self.intent, gone)?;
        Some(Self { intent, ..self })
    }

    /// Another proxy has published other limits; the file here may have changed by now as well.
    async fn decided_again(self) -> Result<Self, Declined> {
        serve::look_at_rules(&self.proxy).await;
        let (agent, origin) = (self.lane.agent(), self.lane.origin());
        let (method, sha256) = (&self.head.method, &self.replay.sha256);
        match consider::decide_again(&self.proxy, agent, origin, method, sha256, self.intent) {
            Disposition::Purchase(intent) => Ok(Self {
                intent: *intent,
                ..self
            }),
            Disposition::Refuse(problem) => Err(Declined::Refuse(problem)),
            Disposition::PassThrough(why) => Err(Declined::PassThrough(why)),
        }
    }

    /// Armed money expires only with proof (R11). Here the proof is at hand: a signature takes the reservation, there
    /// is only one, and it ends here.
    async fn never_signed(&self, reservation: Reservation) {
        let (by, why) = (Source::Us, "never-signed");
        self.finish(reservation.rid(), Outcome::Expired { by, why }).await;
    }

    async fn finish(&self, rid: PaymentId, outcome: Outcome) {
        if let Err(error) = self.proxy.ledger.finish(rid, outcome).await {
            tracing::error!(payment = %rid, %error, "outcome not recorded; the payment stays counted");
        }
    }

    fn identity(&self) -> (Target, Fingerprint) {
        let target = repeat::target(&self.lane, &self.head);
        (target, target.with_body(&self.replay.sha256))
    }

    /// Everything the ledger fixes before a signature exists: terms, charges, nonce, validity.
    fn reserve(&self) -> Result<Reserve, NotBought> {
        let arm = self.arm()?;
        let hold = self.hold(self.intent.plan.charges.clone())?;
        Ok(Reserve { hold, arm })
    }

    fn hold(&self, charges: Vec<Charge>) -> Result<Hold, NotBought> {
        let PurchasePlan {
            offer,
            plan,
            policy_gen,
            ..
        } = &self.intent;
        let now = self.proxy.clock.now();
        let entropy = clock::random::<10>().map_err(|_| no_random_bytes())?;
        let origin = self.lane.origin();
        Ok(Hold {
            rid: PaymentId::new(now, entropy),
            agent: self.lane.agent().as_str().to_owned(),
            group: plan.group.as_deref().map(str::to_owned),
            host: origin.authority.host.as_str().to_owned(),
            path: self.head.uri.path().to_owned(),
            query: self.head.uri.query().map(str::to_owned),
            terms: terms(offer, plan.usd),
            charges,
            policy_gen: *policy_gen,
            fingerprint: self.identity().1.bytes(),
            idempotency: self.claim.as_ref().map(|claim| claim.key().bytes()),
            offer_sha256: offer.sha256,
            others: self.intent.others(self.proxy.ledger.now()),
        })
    }

    fn arm(&self) -> Result<Arm, NotBought> {
        let PurchasePlan { offer, plan, .. } = &self.intent;
        let from = self.proxy.payers.account(offer.asset);
        let (Some(from), Ok(nonce)) = (from, nonce(offer)) else {
            return Err(no_random_bytes());
        };
        // Waiting for an upload or for another request under the same key can have outlived the challenge.
        let now = clock::unix_second(self.proxy.clock.now());
        let valid_before = offer.valid_before(now, plan.max_validity_s);
        let Some(valid_before) = valid_before else {
            return Err(NotBought::OfferGone(Why::ChallengeExpired));
        };
        let signer = self.proxy.payers.remote_signer(offer.asset);
        // `validAfter` 0 is immune to a fast clock of ours (R15).
        Ok(Arm {
            from,
            issuer: self.proxy.payers.issuer_mark(offer.asset),
            nonce: match (signer, offer.asset) {
                // Whoever signs chooses it. Nothing stands in its place until it is known.
                (Some(_), Asset::Token(_)) => ArmedNonce::Signers,
                _ => ArmedNonce::Known(nonce),
            },
            signer,
            valid_after: 0,
            valid_before,
        })
    }

    /// With what has to be asked before money is set aside.
    async fn permitted(&self) -> Result<(Reserve, Permission), NotBought> {
        let permission = self.permission().await?;
        // Nodes may have been asked and another payment waited for: what was decided before that is decided for now.
        if !consider::still_holds(&self.proxy, &self.intent) {
            return Err(self.reconsidered());
        }
        Ok((self.reserve()?, permission))
    }

    /// The same offers under the limits and in the windows of now.
    fn reconsidered(&self) -> NotBought {
        let (agent, origin) = (self.lane.agent(), self.lane.origin());
        let (method, sha256) = (&self.head.method, &self.replay.sha256);
        match consider::decide_again(&self.proxy, agent, origin, method, sha256, self.intent.clone()) {
            Disposition::Purchase(intent) => NotBought::Reconsidered(intent),
            Disposition::Refuse(problem) => NotBought::Declined(Declined::Refuse(problem)),
            Disposition::PassThrough(why) => NotBought::Declined(Declined::PassThrough(why)),
        }
    }

    async fn permission(&self) -> Result<Permission, NotBought> {
        let (proxy, offer) = (&self.proxy, &self.intent.offer);
        let Some(owner) = proxy.payers.address() else {
            return Ok(Permission::Granted);
        };
        let (reconciler, patience) = (&proxy.reconciler, proxy.config.timeouts.settle_wait);
        let (nodes, tls) = (&reconciler.nodes, &reconciler.tls);
        let asked = proxy.permissions.of(offer, owner, nodes, tls, patience);
        asked.await.map_err(NotBought::OfferGone)
    }

    async fn pay(
        &self,
        reservation: &Reservation,
        permission: &Permission,
        made: Option<&RemoteCredential>,
    ) -> Result<(HeaderName, Credential), PayError> {
        let echo = &self.intent.offer.echo;
        self.proxy.payers.pay(reservation, echo, permission, made).await
    }
}

fn terms(offer: &Offer, usd: MicroUsd) -> Terms {
    Terms {
        rail: offer.rail,
        asset: offer.asset,
        amount: offer.amount,
        usd,
        payee: offer.payee.clone(),
        clause: offer.clause,
    }
}

fn no_random_bytes() -> NotBought {
    let detail = "The operating system gave no random bytes; nothing was paid.";
    Problem::new(Code::SigningFailed, detail).into()
}

/// The 402 as it came, with the reason beside it.
fn passed_on(mut unpaid: Response<Relay>, why: &'static str) -> Response<AnswerBody> {
    tracing::info!(why, "402 passed on unpaid");
    answer::mark_unpaid(unpaid.headers_mut(), why);
    stream(unpaid)
}

/// R18.
fn nonce(offer: &Offer) -> Result<B256, getrandom::Error> {
    match offer.nonce {
        Nonce::Random => clock::random::<32>().map(B256::from),
        Nonce::Fixed(nonce) => Ok(nonce),
    }
}

/// Reads a short 402 to its end, and gives it back as it came.
async fn drain(mut unpaid: Response<Relay>) -> Response<Relay> {
    const SHORT: usize = 64 << 10;
    const SOON: std::time::Duration = std::time::Duration::from_millis(250);
    let (read, _) = unpaid.body_mut().read_up_to(SHORT, SOON).await;
    unpaid.body_mut().unread(read);
    unpaid
}
