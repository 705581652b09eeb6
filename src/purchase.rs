//! A purchase that the limits allow: reserve, sign, and send what was signed (`presentation.rs`).
//!
//! It runs as a task of its own, so that an agent that hangs up does not take the outcome of its payment with it.

use std::sync::Arc;

use alloy_primitives::Address;
use http::request::Parts;
use http::{HeaderName, Request, Response};
use jiff::Timestamp;
use tokio::sync::oneshot;

use crate::answer::{Code, Problem};
use crate::body::{Relay, Replay};
use crate::challenge::{Credential, Offer, Rail};
use crate::clock;
use crate::consider::{self, Course, Intent};
use crate::doubts::{Fingerprint, Target};
use crate::idempotency::Claim;
use crate::ledger::{Arm, By, Hold, Outcome, Reservation, Reserve, ReserveError, Rid, Terms};
use crate::pay;
use crate::policy::Refusal;
use crate::presentation::{Answer, Presentation};
use crate::proxy::Proxy;
use crate::repeat;
use crate::repeat::keyed::already_paid;
use crate::serve;
use crate::upstream::Lane;

/// An agent that asks again by itself after our store failed should not do so at once.
const STORE_RETRY: std::time::Duration = std::time::Duration::from_secs(30);

/// Buys. `unpaid` is the 402, whose body is read to the end if it is short, so that its connection can carry the replay.
pub async fn run(
    proxy: &Arc<Proxy>,
    lane: &Arc<Lane>,
    head: Parts,
    replay: Replay,
    intent: Intent,
    claim: Option<Claim>,
    unpaid: Response<Relay>,
) -> Answer {
    let purchase = Purchase {
        proxy: proxy.clone(),
        lane: lane.clone(),
        head,
        replay,
        intent,
        claim,
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
    intent: Intent,
    /// On the agent's `Idempotency-Key`, until what is bought under it is known to repeats.
    claim: Option<Claim>,
}

impl Purchase {
    async fn run(self, unpaid: Response<Relay>, agent: oneshot::Sender<Answer>) {
        // An agent that has gone before anything was promised wants nothing any more.
        if agent.is_closed() {
            return;
        }
        let reserve = match self.reserve() {
            Ok(reserve) => reserve,
            Err(problem) => return drop(agent.send(Err(problem))),
        };
        // The journal's disk and the rest of the 402 are waited for at the same time.
        let (reserved, ()) = tokio::join!(self.proxy.ledger.reserve(reserve), drain(unpaid));
        let (this, reserved) = match reserved {
            Err(ReserveError::StalePolicy { .. }) => match self.decided_again().await {
                Ok((this, reserve)) => {
                    let reserved = this.proxy.ledger.reserve(reserve).await;
                    (this, reserved)
                }
                Err(problem) => return drop(agent.send(Err(problem))),
            },
            reserved => (self, reserved),
        };
        this.go_on(reserved, agent).await;
    }

    async fn go_on(self, reserved: Result<Reservation, ReserveError>, agent: oneshot::Sender<Answer>) {
        let reservation = match reserved {
            Ok(reservation) => reservation,
            Err(error) => return drop(agent.send(Err(self.not_reserved(error)))),
        };
        if agent.is_closed() {
            return self.never_signed(reservation).await;
        }
        let (field, credential) = match self.sign(&reservation) {
            Ok(signed) => signed,
            Err(problem) => {
                self.never_signed(reservation).await;
                return drop(agent.send(Err(problem)));
            }
        };
        let rid = reservation.rid();
        let (target, fingerprint) = self.identity();
        let valid_before = reservation.arm().valid_before;
        let doubts = &self.proxy.doubts;
        let keyed = self.claim.is_some();
        let ticket = doubts.sent(rid, target, fingerprint, (&field, &credential), valid_before, keyed);
        if let Some(claim) = self.claim {
            claim.paid(rid, fingerprint);
        }
        // The first request again, with the credential as the only difference (Ruling 27).
        let mut head = self.head;
        head.headers.insert(field, credential.header_value());
        let request = Request::from_parts(head, self.replay.into());
        let presentation = Presentation {
            rid,
            usd: Some(self.intent.offer.usd),
            ticket,
            proxy: self.proxy,
            lane: self.lane,
        };
        presentation.run(request, agent).await;
    }

    /// Another proxy has published other limits; the file here may have changed by now as well.
    async fn decided_again(self) -> Result<(Self, Reserve), Problem> {
        serve::look_at_rules(&self.proxy).await;
        let Self {
            proxy,
            lane,
            head,
            replay,
            intent,
            claim,
        } = self;
        match consider::decide_again(&proxy, lane.agent(), lane.origin(), &head.method, intent) {
            Course::Buy(intent) => {
                let this = Self {
                    proxy,
                    lane,
                    head,
                    replay,
                    intent: *intent,
                    claim,
                };
                let reserve = this.reserve()?;
                Ok((this, reserve))
            }
            Course::Refuse(problem) => Err(problem),
            Course::PassOn(_) => {
                let detail =
                    "The limits have just changed, and this is no longer paid for. Nothing was paid; ask again.";
                Err(Problem::new(Code::StoreUnavailable, detail).retryable(true))
            }
        }
    }

    /// Armed money expires only with proof (Ruling 11). Here the proof is at hand: a signature takes the reservation, there is
    /// only one, and it ends here.
    async fn never_signed(&self, reservation: Reservation) {
        let (by, why) = (By::Us, "never-signed");
        let outcome = Outcome::Expired { by, why };
        if let Err(error) = self.proxy.ledger.finish(reservation.rid(), outcome).await {
            tracing::error!(payment = %reservation.rid(), %error, "outcome not recorded; the payment stays counted");
        }
    }

    fn identity(&self) -> (Target, Fingerprint) {
        let target = repeat::target(&self.lane, &self.head);
        (target, target.with_body(&self.replay.sha256))
    }

    /// Everything the ledger fixes before a signature exists: terms, charges, nonce, validity.
    fn reserve(&self) -> Result<Reserve, Problem> {
        let Intent {
            offer,
            plan,
            policy_gen,
            ..
        } = &self.intent;
        let (Some(wallet), Ok(nonce), Ok(entropy)) = (&self.proxy.wallet, clock::random::<32>(), clock::random::<10>())
        else {
            return Err(Problem::new(
                Code::SigningFailed,
                "The operating system gave no random bytes; nothing was paid.",
            ));
        };
        let now = self.proxy.clock.now();
        let origin = self.lane.origin();
        let hold = Hold {
            rid: Rid::new(now, entropy),
            agent: self.lane.agent().as_str().to_owned(),
            group: plan.group.as_deref().map(str::to_owned),
            host: origin.authority.host.as_str().to_owned(),
            path: self.head.uri.path().to_owned(),
            query: self.head.uri.query().map(str::to_owned),
            terms: terms(offer),
            charges: plan.charges.clone(),
            policy_gen: *policy_gen,
            fingerprint: self.identity().1.bytes(),
            idempotency: self.claim.as_ref().map(|claim| claim.key().bytes()),
            offer_sha256: offer.sha256,
        };
        let validity_s = offer.max_timeout_s.min(plan.max_validity_s);
        Ok(Reserve {
            hold,
            arm: arm(wallet.address(), nonce, now, validity_s),
        })
    }

    fn not_reserved(&self, error: ReserveError) -> Problem {
        match error {
            ReserveError::Denied { charge, settled, open } => {
                let Intent { plan, offer, .. } = &self.intent;
                let refusal = Refusal::over_limit(&plan.charges[charge], settled, open);
                let (agent, origin) = (self.lane.agent(), self.lane.origin());
                consider::record_refusal(
                    &self.proxy,
                    agent,
                    plan.group.as_deref(),
                    origin,
                    &refusal,
                    Some(offer.usd),
                );
                Problem::refused(&refusal)
            }
            ReserveError::StalePolicy { have, need } => {
                tracing::error!(
                    have,
                    need,
                    "limits.toml here is not the one that is in force on the shared books"
                );
                let detail = format!(
                    "Another proxy on these books has other limits (generation {need}; here it is {have}). Nothing was paid. The \
                     operator must put the same limits.toml on every proxy."
                );
                Problem::new(Code::StoreUnavailable, detail)
                    .retryable(true)
                    .retry_after(STORE_RETRY)
            }
            // The claim keeps others away; only the last second of a key can lead here.
            ReserveError::KeyTaken(rid) => already_paid(rid, None),
            error => {
                tracing::error!(%error, "payment not recorded, nothing signed");
                let detail = format!(
                    "The payment could not be recorded: {error}. Nothing was paid; requests that cost nothing go through."
                );
                Problem::new(Code::StoreUnavailable, detail)
                    .retryable(true)
                    .retry_after(STORE_RETRY)
            }
        }
    }

    fn sign(&self, reservation: &Reservation) -> Result<(HeaderName, Credential), Problem> {
        let refuse = |detail: String| Problem::new(Code::SigningFailed, detail);
        let wallet = self
            .proxy
            .wallet
            .as_ref()
            .ok_or_else(|| refuse("There is no wallet key.".into()))?;
        pay::pay(wallet, reservation, &self.intent.offer.echo)
            .map_err(|error| refuse(format!("The payment could not be signed: {error}. Nothing was paid.")))
    }
}

fn terms(offer: &Offer) -> Terms {
    Terms {
        rail: Rail::X402,
        scheme: "exact",
        asset: offer.asset,
        amount: offer.amount,
        usd: offer.usd,
        payee: offer.payee,
    }
}

/// `validAfter` 0 is immune to a fast clock of ours; `validBefore` is never later than the seller asked for (Rulings 15, 16).
fn arm(from: Address, nonce: [u8; 32], now: Timestamp, validity_s: u64) -> Arm {
    let now = u64::try_from(now.as_second()).unwrap_or(0);
    Arm {
        from,
        nonce: nonce.into(),
        valid_after: 0,
        valid_before: now.saturating_add(validity_s),
    }
}

/// Reads a short 402 to its end; a long one is left, and its connection with it.
async fn drain(mut unpaid: Response<Relay>) {
    const SHORT: usize = 64 << 10;
    const SOON: std::time::Duration = std::time::Duration::from_millis(250);
    unpaid.body_mut().read_up_to(SHORT, SOON).await;
}
