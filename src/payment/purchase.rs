//! A purchase that the limits allow: reserve, sign, and send what was signed (`presentation.rs`).
//!
//! Approval by a person is in `approval.rs`, signing by somebody else in `remote_signer.rs`.
//!
//! It runs as a task of its own, so that the outcome of a payment is recorded even if the agent hangs up.

mod approval;
mod record;
mod remote_signer;
mod unpaid;

use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{Request, Response};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::consider::{Disposition, PurchasePlan, Subject};
use super::context::{Context, Purchasing};
use super::forward::pass_through;
use super::idempotency::Claim;
use super::presentation::{AgentAnswer, Presentation};
use super::repeat;
use crate::answer::{Code, Problem, Unpaid};
use bursar_core::challenge::{Rail, Term, Why};
use bursar_core::clock;
use bursar_core::hop::Presented;
use bursar_core::policy::Remaining;
use bursar_ledger::{Outcome, PaymentId, Reason, Reservation, Reserve, ReserveError, Source};
use bursar_net::body::{AnswerBody, Relay, Replay};
use bursar_net::upstream::Lane;
use bursar_rails::outstanding::{Fingerprint, Target};
use bursar_rails::pay::{NotPaid, Permission, RemoteCredential, SignedPayment};
use remote_signer::NotReady;

/// How long an agent should wait before it retries after a failure of our ledger or of Stripe.
const STORE_RETRY: Duration = Duration::from_secs(30);

/// Buys. `unpaid` is the 402; if its body is short it is read to the end, so that its connection can carry the replay.
pub(crate) async fn run(
    context: &Arc<Context>,
    lane: &Arc<Lane>,
    head: Parts,
    replay: Replay,
    plan: PurchasePlan,
    claim: Option<Claim>,
    unpaid: Response<Relay>,
) -> AgentAnswer {
    let purchase = Purchase {
        context: context.clone(),
        lane: lane.clone(),
        head,
        replay,
        plan,
        claim,
        asked_at: Instant::now(),
    };
    let (hand_over, answer) = oneshot::channel();
    context.tasks.spawn(purchase.run(unpaid, Agent(Some(hand_over))));
    answer.await.unwrap_or_else(|_| {
        // Only a bug ends the task like this. It may have paid, so the answer must not say that nothing was paid.
        let detail = "The purchase failed inside bursar before its outcome was known; see `bursar payments list`.";
        Err(Problem::new(Code::AnswerLost, detail).retryable(false))
    })
}

struct Purchase {
    context: Arc<Context>,
    lane: Arc<Lane>,
    head: Parts,
    replay: Replay,
    plan: PurchasePlan,
    /// The claim on the agent's `Idempotency-Key`, held until repeats can see what was bought under it.
    claim: Option<Claim>,
    /// When the 402 behind the plan was read.
    asked_at: Instant,
}

/// Where the agent's one answer goes.
struct Agent(Option<oneshot::Sender<AgentAnswer>>);

/// Why there is no reservation.
enum NotBought {
    Declined(Declined),
    /// This offer cannot be paid after all; if no other can, the 402 is passed on.
    OfferGone(Why),
    /// Another proxy on this ledger has published newer limits.
    LimitsReplaced,
    /// Spending exceeds these rules, and a person may approve the payment.
    MustAsk(Vec<Arc<str>>),
    /// Decide again, with the current limits and windows.
    Reconsidered(Box<PurchasePlan>),
    /// The site was asked again, and these are its current terms.
    AskedAgain(Box<PurchasePlan>),
}

/// What the agent gets instead of the paid answer.
enum Declined {
    Refuse(Problem),
    /// The original 402, with this reason.
    PassThrough(Unpaid),
    /// The site was asked again, and it no longer asks for payment.
    Free(Box<Response<AnswerBody>>),
    /// Nothing: it hung up before anything was signed.
    AgentGone,
}

impl Purchase {
    async fn run(mut self, unpaid: Response<Relay>, mut agent: Agent) {
        // An agent that hung up before anything was committed needs nothing more.
        if agent.is_gone() {
            return;
        }
        let Some((reservation, permission)) = self.reserved(unpaid, &mut agent).await else {
            return;
        };
        if agent.is_gone() {
            return self.never_signed(reservation.rid()).await;
        }
        // The last question before anything exists that could be cashed: from here on the payment goes on.
        if let Some(problem) = self.paused_before_signing(reservation.rid()).await {
            return agent.answer(Err(problem));
        }
        let (reservation, remote) = match self.remote_credential(reservation, &mut agent).await {
            Ok(ready) => ready,
            Err(NotReady::Over(problem)) => return agent.answer(Err(problem)),
            Err(NotReady::Deferred(deferred, problem)) => {
                agent.answer(Err(problem));
                return self.deferred(*deferred).await;
            }
        };
        let remaining = reservation.remaining().cloned();
        let signed = match self.sign(reservation, &permission, remote.as_ref()).await {
            Ok(signed) => signed,
            Err(not_paid) => return agent.answer(Err(self.not_paid(*not_paid).await)),
        };
        if let Some(problem) = self.too_late(&signed, &remote, &agent).await {
            return agent.answer(Err(problem));
        }
        self.present(signed, remaining, permission, agent).await;
    }

    /// The permission to sign, or `None` once the agent has its answer or has hung up.
    async fn reserved(&mut self, unpaid: Response<Relay>, agent: &mut Agent) -> Option<(Reservation, Permission)> {
        let mut unpaid = Unread(unpaid);
        // Only once: if the operator has not updated this proxy, it stays behind.
        let mut decided_again = false;
        loop {
            let was_asked = self.plan.decided.threshold.is_some();
            let not_bought = match self.reserve_or_ask(&mut unpaid, agent, decided_again).await {
                Ok(allowed) => return Some(allowed),
                Err(not_bought) => not_bought,
            };
            decided_again |= matches!(not_bought, NotBought::LimitsReplaced);
            let declined = match self.replan(not_bought).await {
                Ok(()) => continue,
                Err(declined) => declined,
            };
            agent.answer(match declined {
                Declined::AgentGone => return None,
                Declined::Free(response) => Ok(*response),
                Declined::Refuse(problem) => Err(problem),
                Declined::PassThrough(why) if was_asked => Err(approval::offer_gone(why)),
                Declined::PassThrough(why) => Ok(pass_through(self.lane.agent(), unpaid.0, why)),
            });
            return None;
        }
    }

    async fn reserve_or_ask(
        &mut self,
        unpaid: &mut Unread,
        agent: &mut Agent,
        decided_again: bool,
    ) -> Result<(Reservation, Permission), NotBought> {
        if self.plan.decided.threshold.is_some() {
            // No connection to the site is held while a person decides.
            unpaid.drain().await;
            return self.approved(agent).await;
        }
        if let Some(joins) = self.joins() {
            return Err(joins);
        }
        let (reserve, permission) = self.permitted().await?;
        // Wait for the journal and for the rest of the 402 at the same time.
        let (reserved, ()) = tokio::join!(self.buying().ledger.reserve(reserve), unpaid.drain());
        match reserved {
            Ok(reservation) => Ok((reservation, permission)),
            Err(ReserveError::StalePolicy { .. }) if !decided_again => Err(NotBought::LimitsReplaced),
            // Another request may have asked the question just now.
            Err(error) => Err(match self.asks_over(&error).or_else(|| self.joins()) {
                Some(asks) => asks,
                None => self.not_reserved(error).await,
            }),
        }
    }

    /// Moves on to what may be bought instead.
    async fn replan(&mut self, not_bought: NotBought) -> Result<(), Declined> {
        match not_bought {
            NotBought::Declined(declined) => return Err(declined),
            // Each round has one offer fewer, so the loop ends.
            NotBought::OfferGone(why) => {
                let another = self.context.decider.another(self.subject(), self.plan.clone(), why);
                self.plan = another.ok_or(Declined::PassThrough(Unpaid::Challenge(why)))?;
            }
            NotBought::LimitsReplaced => {
                // The local file may have changed as well by now.
                self.buying().rules.refresh(&*self.buying().ledger).await;
                self.plan = self.decided_again()?;
            }
            NotBought::MustAsk(rules) => {
                let asking = self
                    .context
                    .decider
                    .decide_to_ask(self.subject(), self.plan.clone(), &rules);
                self.plan = planned(asking)?;
            }
            NotBought::Reconsidered(plan) => self.plan = *plan,
            NotBought::AskedAgain(plan) => {
                self.plan = *plan;
                self.asked_at = Instant::now();
            }
        }
        Ok(())
    }

    /// Decides about the same offers under the current limits and windows.
    fn decided_again(&self) -> Result<PurchasePlan, Declined> {
        let plan = self.plan.clone();
        planned(
            self.context
                .decider
                .decide_again(self.subject(), &self.replay.sha256, plan),
        )
    }

    /// Reserves, after the checks that must come before money is set aside.
    async fn permitted(&self) -> Result<(Reserve, Permission), NotBought> {
        let permission = self.permission().await?;
        // Asking nodes or waiting for another payment takes time, so the decision has to hold now.
        if !self.context.decider.still_holds(&self.plan) {
            return Err(self.reconsidered());
        }
        Ok((self.reserve()?, permission))
    }

    fn reconsidered(&self) -> NotBought {
        match self.decided_again() {
            Ok(plan) => NotBought::Reconsidered(Box::new(plan)),
            Err(declined) => NotBought::Declined(declined),
        }
    }

    async fn permission(&self) -> Result<Permission, NotBought> {
        let buying = self.buying();
        let Some(owner) = buying.payers.address() else {
            return Ok(Permission::Granted);
        };
        let (nodes, tls, patience) = (&buying.nodes, &buying.tls, buying.times.settle_wait);
        let asked = buying.permissions.of(&self.plan.offer, owner, nodes, tls, patience);
        asked.await.map_err(NotBought::OfferGone)
    }

    async fn sign(
        &self,
        reservation: Reservation,
        permission: &Permission,
        remote: Option<&RemoteCredential>,
    ) -> Result<SignedPayment, Box<NotPaid>> {
        let echo = &self.plan.offer.echo;
        self.buying().payers.pay(reservation, echo, permission, remote).await
    }

    /// Ordering a token can take half a minute. A token that the agent no longer waits for, or that expires before a
    /// seller could charge it, is not sent: unlike a signature, it can be revoked.
    async fn too_late(
        &self,
        signed: &SignedPayment,
        remote: &Option<RemoteCredential>,
        agent: &Agent,
    ) -> Option<Problem> {
        let (rid, valid_before) = (signed.id, signed.valid_before);
        let left = valid_before.saturating_sub(clock::unix_second(self.buying().clock.now()));
        if self.plan.offer.rail != Rail::MppStripe || (left >= Term::LEAST_S && !agent.is_gone()) {
            return None;
        }
        let problem = match remote {
            None => {
                let (why, tx) = (Reason::NeverSent, None);
                self.finish(rid, Outcome::Unknown { why, tx }).await;
                let detail = "Stripe took so long that the merchant's offer expired. Nothing was sent to the merchant. \
                              The token counts until it is revoked. Trying again later may help.";
                Problem::new(Code::TokenUnavailable, detail).retryable(true)
            }
            // Nothing revokes a token that BKey ordered.
            Some(_) => {
                self.outcome_unknown(rid, valid_before, Reason::NeverSent).await;
                let detail = "BKey took so long that the merchant's offer expired. Nothing was sent to the merchant. \
                              The token counts until the operator closes the payment with `bursar payments resolve`.";
                Problem::new(Code::SignerUnavailable, detail).retryable(false)
            }
        };
        Some(problem.payment(rid).retry_after(STORE_RETRY))
    }

    /// Sends the first request again, with the credential as the only difference (R27).
    async fn present(self, signed: SignedPayment, remaining: Option<Remaining>, permission: Permission, agent: Agent) {
        let SignedPayment {
            id: rid,
            valid_before,
            field,
            credential,
        } = signed;
        let (target, fingerprint) = self.identity();
        let (rail, keyed) = (self.plan.offer.rail, self.claim.is_some());
        let buying = &self.context.purchasing;
        let sent = (rail, &field, &credential);
        let ticket = buying
            .outstanding
            .sent(rid, target, fingerprint, sent, valid_before, keyed);
        if let Some(claim) = self.claim {
            claim.paid(rid, fingerprint);
        }
        let mut head = self.head;
        if head.headers.contains_key(&field) {
            // Only `Authorization` can be present (R31). A server that needs both uses another field for payment.
            tracing::info!(payment = %rid, %field, "the agent's own field is replaced by the payment");
        }
        let value = credential.header_value();
        let presented = Presented::of(&value);
        head.headers.insert(field, value);
        let presentation = Presentation {
            ledger: buying.ledger.clone(),
            settle_wait: buying.times.settle_wait,
            lane: self.lane,
            rid,
            rail,
            presented,
            usd: Some(self.plan.decided.usd),
            remaining,
            ticket,
            permission,
        };
        if let Some(hand_over) = agent.0 {
            presentation
                .run(Request::from_parts(head, self.replay.into()), hand_over)
                .await;
        }
    }

    /// Armed money expires only with proof (R11). This is the proof: a signature consumes the reservation, there is
    /// only one reservation, and it ends here.
    async fn never_signed(&self, rid: PaymentId) {
        let (by, why) = (Source::Us, Reason::NeverSigned);
        self.finish(rid, Outcome::Expired { by, why }).await;
    }

    /// Ends an armed payment that a person has paused meanwhile. Only the task that has its reservation can know that
    /// nothing was signed or ordered, so only this one ends it.
    async fn paused_before_signing(&self, rid: PaymentId) -> Option<Problem> {
        let pause = self
            .context
            .decider
            .pause_on(self.subject(), self.plan.decided.group.as_deref())?;
        tracing::info!(payment = %rid, agent = %self.lane.agent(), scope = %pause.scope, "paused before it was signed");
        let (by, why) = (Source::Us, Reason::Paused);
        self.finish(rid, Outcome::Expired { by, why }).await;
        let (refusal, subject) = (self.context.decider.paused(&pause), self.subject());
        Some(Problem::refused(&refusal, subject.agent, &subject.origin.authority.host).payment(rid))
    }

    async fn finish(&self, rid: PaymentId, outcome: Outcome) {
        if let Err(error) = self.buying().ledger.finish(rid, outcome).await {
            tracing::error!(payment = %rid, %error, "outcome not recorded; the payment stays counted");
        }
    }

    fn identity(&self) -> (Target, Fingerprint) {
        let target = repeat::target(self.lane.agent(), self.lane.origin(), &self.head);
        (target, target.with_body(&self.replay.sha256))
    }

    fn subject(&self) -> Subject<'_> {
        Subject {
            agent: self.lane.agent(),
            origin: self.lane.origin(),
            method: &self.head.method,
        }
    }

    fn buying(&self) -> &Purchasing {
        &self.context.purchasing
    }
}

impl Agent {
    fn is_gone(&self) -> bool {
        self.0.as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    /// Completes when the agent hangs up.
    async fn gone(&mut self) {
        if let Some(sender) = &mut self.0 {
            sender.closed().await;
        }
    }

    fn answer(&mut self, answer: AgentAnswer) {
        if let Some(sender) = self.0.take() {
            drop(sender.send(answer));
        }
    }
}

/// The original 402, perhaps with its body still unread.
struct Unread(Response<Relay>);

impl Unread {
    /// Reads a short body to its end and puts it back unchanged. A long one closes its connection.
    async fn drain(&mut self) {
        const SHORT: usize = 64 << 10;
        const SOON: Duration = Duration::from_millis(250);
        let (read, _) = self.0.body_mut().read_up_to(SHORT, SOON).await;
        self.0.body_mut().unread(read);
    }
}

fn planned(disposition: Disposition) -> Result<PurchasePlan, Declined> {
    match disposition {
        Disposition::Purchase(plan) => Ok(*plan),
        Disposition::Refuse(problem) => Err(Declined::Refuse(problem)),
        Disposition::PassThrough(why) => Err(Declined::PassThrough(why)),
    }
}

impl From<Problem> for NotBought {
    fn from(problem: Problem) -> Self {
        Self::Declined(Declined::Refuse(problem))
    }
}

impl From<Declined> for NotBought {
    fn from(declined: Declined) -> Self {
        Self::Declined(declined)
    }
}
