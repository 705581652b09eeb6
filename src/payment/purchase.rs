//! A purchase that the limits allow: reserve, sign, and send what was signed (`presentation.rs`).
//!
//! What a person must approve first is in `approval.rs`, what somebody else signs in `remote_signer.rs`.
//!
//! It runs as a task of its own, so that an agent that hangs up does not take the outcome of its payment with it.

mod approval;
mod record;
mod remote_signer;
mod unpaid;

use bursar_ledger::Reason;
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
use bursar_core::clock::{self};
use bursar_ledger::{Outcome, PaymentId, Reservation, Reserve, ReserveError, Source};
use bursar_net::body::{AnswerBody, Relay, Replay};
use bursar_net::upstream::Lane;
use bursar_rails::outstanding::{Fingerprint, Target};
use bursar_rails::pay::{NotPaid, Permission, RemoteCredential, SignedPayment};
use remote_signer::NotReady;

/// An agent that asks again by itself after our ledger or Stripe failed should not do so at once.
const STORE_RETRY: Duration = Duration::from_secs(30);

/// Buys. `unpaid` is the 402, whose body is read to the end if it is short, so that its connection can carry the replay.
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
        // Only a bug ends the task like this. It may have paid, so it must not read as if it had not.
        let detail = "The purchase ended without an outcome; see `bursar payments list`.";
        Err(Problem::new(Code::AnswerLost, detail).retryable(false))
    })
}

struct Purchase {
    context: Arc<Context>,
    lane: Arc<Lane>,
    head: Parts,
    replay: Replay,
    plan: PurchasePlan,
    /// On the agent's `Idempotency-Key`, until what is bought under it is known to repeats.
    claim: Option<Claim>,
    /// When the 402 was read that the plan came from.
    asked_at: Instant,
}

/// The agent's end of a purchase. It is answered once.
struct Agent(Option<oneshot::Sender<AgentAnswer>>);

/// Why there is no reservation.
enum NotBought {
    Declined(Declined),
    /// This offer cannot be paid after all; if no other can, the 402 goes to the agent as it came.
    OfferGone(Why),
    /// Another proxy on this ledger has published other limits.
    LimitsReplaced,
    /// What was spent already passes this rule, and a person may let the payment pass it.
    MustAsk(Arc<str>),
    /// This is decided now: other limits, other windows.
    Reconsidered(Box<PurchasePlan>),
    /// The site was asked once more, and this is what it wants now.
    AskedAgain(Box<PurchasePlan>),
    /// The site was asked once more, and it does not want money any more.
    Free(Box<Response<AnswerBody>>),
    /// The agent hung up before anything was signed.
    AgentGone,
}

/// What the agent gets instead of what it asked for.
enum Declined {
    Refuse(Problem),
    /// The 402 as it came, with this reason.
    PassThrough(Unpaid),
}

impl Purchase {
    async fn run(mut self, unpaid: Response<Relay>, mut agent: Agent) {
        // An agent that has gone before anything was promised wants nothing any more.
        if agent.is_gone() {
            return;
        }
        let Some((reservation, permission)) = self.reserved(unpaid, &mut agent).await else {
            return;
        };
        if agent.is_gone() {
            return self.never_signed(reservation.rid()).await;
        }
        let (reservation, remote) = match self.remote_credential(reservation, &mut agent).await {
            Ok(ready) => ready,
            Err(NotReady::Over(problem)) => return agent.answer(Err(problem)),
            Err(NotReady::Deferred(deferred, problem)) => {
                agent.answer(Err(problem));
                return self.deferred(*deferred).await;
            }
        };
        let signed = match self.sign(reservation, &permission, remote.as_ref()).await {
            Ok(signed) => signed,
            Err(not_paid) => return agent.answer(Err(self.not_paid(*not_paid).await)),
        };
        if let Some(problem) = self.too_late(&signed, &remote, &agent).await {
            return agent.answer(Err(problem));
        }
        self.present(signed, permission, agent).await;
    }

    /// The permission to sign, or `None` once the agent has its answer or has gone.
    async fn reserved(&mut self, unpaid: Response<Relay>, agent: &mut Agent) -> Option<(Reservation, Permission)> {
        let mut unpaid = Unread(unpaid);
        // Once: a proxy whose operator has not followed stays behind.
        let mut decided_again = false;
        loop {
            let was_asked = self.plan.decided.threshold.is_some();
            let not_bought = match self.reserve_or_ask(&mut unpaid, agent, decided_again).await {
                Ok(allowed) => return Some(allowed),
                Err(not_bought) => not_bought,
            };
            decided_again |= matches!(not_bought, NotBought::LimitsReplaced);
            let declined = match not_bought {
                NotBought::Free(response) => {
                    agent.answer(Ok(*response));
                    return None;
                }
                NotBought::AgentGone => return None,
                other => match self.replan(other).await {
                    Ok(()) => continue,
                    Err(declined) => declined,
                },
            };
            agent.answer(match declined {
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
            // Nothing is kept open towards the site while a person decides.
            unpaid.drain().await;
            return self.approved(agent).await;
        }
        if let Some(joins) = self.joins() {
            return Err(joins);
        }
        let (reserve, permission) = self.permitted().await?;
        // The journal's disk and the rest of the 402 are waited for at the same time.
        let (reserved, ()) = tokio::join!(self.buying().ledger.reserve(reserve), unpaid.drain());
        match reserved {
            Ok(reservation) => Ok((reservation, permission)),
            Err(ReserveError::StalePolicy { .. }) if !decided_again => Err(NotBought::LimitsReplaced),
            Err(error) => Err(self
                .asks_over(&error)
                // Another request may have put the question in this moment.
                .or_else(|| self.joins())
                .unwrap_or_else(|| self.not_reserved(error))),
        }
    }

    /// Turns to what may be bought instead.
    async fn replan(&mut self, not_bought: NotBought) -> Result<(), Declined> {
        match not_bought {
            NotBought::Declined(declined) => return Err(declined),
            // An offer fewer each time, so that this comes to an end.
            NotBought::OfferGone(why) => {
                let another = self.context.decider.another(self.subject(), self.plan.clone(), why);
                self.plan = another.ok_or(Declined::PassThrough(Unpaid::Challenge(why)))?;
            }
            NotBought::LimitsReplaced => {
                // The file here may have changed by now as well.
                self.buying().rules.refresh(&*self.buying().ledger).await;
                self.plan = self.decided_again()?;
            }
            NotBought::MustAsk(rule) => {
                let asking = self
                    .context
                    .decider
                    .decide_to_ask(self.subject(), self.plan.clone(), rule);
                self.plan = planned(asking)?;
            }
            NotBought::Reconsidered(plan) => self.plan = *plan,
            NotBought::AskedAgain(plan) => {
                self.plan = *plan;
                self.asked_at = Instant::now();
            }
            // Nothing more is bought after either.
            NotBought::Free(_) | NotBought::AgentGone => {}
        }
        Ok(())
    }

    /// The same offers under the limits and in the windows of this moment.
    fn decided_again(&self) -> Result<PurchasePlan, Declined> {
        let plan = self.plan.clone();
        planned(
            self.context
                .decider
                .decide_again(self.subject(), &self.replay.sha256, plan),
        )
    }

    /// With what has to be asked before money is set aside.
    async fn permitted(&self) -> Result<(Reserve, Permission), NotBought> {
        let permission = self.permission().await?;
        // Nodes may have been asked and another payment waited for, so the decision has to hold now.
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

    /// Ordering a token can take half a minute. One that nobody waits for, or that ends before a seller could charge it, is not
    /// sent: unlike a signature it can be taken back.
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
                let detail = "Stripe took so long that the merchant's offer has run out, and the merchant was sent nothing. The \
                              token counts until it has been taken back. Trying again later may help.";
                Problem::new(Code::TokenUnavailable, detail).retryable(true)
            }
            // Nobody takes it back.
            Some(_) => {
                self.outcome_unknown(rid, valid_before, Reason::NeverSent).await;
                let detail = "BKey took so long that the merchant's offer has run out, and the merchant was sent nothing. The \
                              token counts until `bursar payments resolve` closes the payment.";
                Problem::new(Code::SignerUnavailable, detail).retryable(false)
            }
        };
        Some(problem.payment(rid).retry_after(STORE_RETRY))
    }

    /// Sends the first request again, with the credential as the only difference (R27).
    async fn present(self, signed: SignedPayment, permission: Permission, agent: Agent) {
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
            // Only `Authorization` can be there (R31). A server that needs both asks for another field.
            tracing::info!(payment = %rid, %field, "the agent's own field is replaced by the payment");
        }
        head.headers.insert(field, credential.header_value());
        let presentation = Presentation {
            ledger: buying.ledger.clone(),
            settle_wait: buying.times.settle_wait,
            lane: self.lane,
            rid,
            rail,
            usd: Some(self.plan.decided.usd),
            ticket,
            permission,
        };
        if let Some(hand_over) = agent.0 {
            presentation
                .run(Request::from_parts(head, self.replay.into()), hand_over)
                .await;
        }
    }

    /// Armed money expires only with proof (R11). Here the proof is at hand: a signature consumes the reservation, there is
    /// only one, and it ends here.
    async fn never_signed(&self, rid: PaymentId) {
        let (by, why) = (Source::Us, Reason::NeverSigned);
        self.finish(rid, Outcome::Expired { by, why }).await;
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

    /// Returns when the agent has hung up.
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

/// The 402 as it came, its body perhaps not read yet.
struct Unread(Response<Relay>);

impl Unread {
    /// Reads a short body to its end, and puts it back as it came. A long one takes its connection with it.
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
