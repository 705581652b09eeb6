//! A purchase that the limits allow: reserve, sign, replay once, read the receipt, record, answer.
//!
//! It runs as a task of its own from the reservation on, so that an agent that hangs up does not take the outcome of its
//! payment with it: the answer is waited for until `settle_wait`, and recorded (Ruling 5, ledger digest §2.1).

use std::sync::Arc;

use alloy_primitives::Address;
use http::request::Parts;
use http::{HeaderName, Request, Response};
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::agents::AgentName;
use crate::answer::{self, Code, Problem};
use crate::body::{AnswerBody, Progress, Relay, Replay, RequestBody};
use crate::challenge::receipt::{self, Receipt};
use crate::challenge::{Credential, Offer, Rail};
use crate::clock;
use crate::consider::{self, Intent};
use crate::hop::{self, Upgrading};
use crate::ledger::{Arm, By, Outcome, Reservation, Reserve, ReserveError, Rid, Terms};
use crate::pay;
use crate::policy::Refusal;
use crate::proxy::Proxy;
use crate::upstream::{Lane, SendError, UpstreamError, stream};

/// An agent that asks again by itself after our store failed should not do so at once.
const STORE_RETRY: std::time::Duration = std::time::Duration::from_secs(30);

/// Buys. `unpaid` is the 402, whose body is read to the end if it is short, so that its connection can carry the replay.
pub async fn run(
    proxy: &Arc<Proxy>,
    lane: &Arc<Lane>,
    head: &Parts,
    replay: Replay,
    intent: Intent,
    unpaid: Response<Relay>,
) -> Result<Response<AnswerBody>, Problem> {
    let purchase = Purchase {
        proxy: proxy.clone(),
        lane: lane.clone(),
        head: head.clone(),
        replay,
        intent,
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
}

type Answer = Result<Response<AnswerBody>, Problem>;

impl Purchase {
    async fn run(self, unpaid: Response<Relay>, mut agent: oneshot::Sender<Answer>) {
        let reserve = match self.reserve() {
            Ok(reserve) => reserve,
            Err(problem) => return drop(agent.send(Err(problem))),
        };
        // The journal's disk and the rest of the 402 are waited for at the same time.
        let (reserved, ()) = tokio::join!(self.proxy.ledger.reserve(reserve), drain(unpaid));
        let reservation = match reserved {
            Ok(reservation) => reservation,
            Err(error) => return drop(agent.send(Err(self.not_reserved(error)))),
        };
        let rid = reservation.rid();
        let request = match self.paid_request(&reservation) {
            Ok(request) => request,
            Err(problem) => {
                self.record(
                    rid,
                    Outcome::Expired {
                        by: By::Us,
                        why: "never-signed",
                    },
                )
                .await;
                return drop(agent.send(Err(problem)));
            }
        };
        let answer = match self.send(request, &mut agent).await {
            Ok(response) => Ok(self.answered(rid, response).await),
            Err(error) => Err(self.unanswered(rid, error).await),
        };
        drop(agent.send(answer));
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
        Ok(Reserve {
            rid: Rid::new(now, entropy),
            agent: self.lane.agent().as_str().to_owned(),
            group: plan.group.as_deref().map(str::to_owned),
            host: origin.authority.host.as_str().to_owned(),
            path: self.head.uri.path().to_owned(),
            query: self.head.uri.query().map(str::to_owned),
            terms: terms(offer),
            charges: plan.charges.clone(),
            policy_gen: *policy_gen,
            fingerprint: fingerprint(self.lane.agent(), &self.lane, &self.head, &self.replay.sha256),
            idempotency: idempotency(self.lane.agent(), &self.head),
            offer_sha256: offer.sha256,
            arm: arm(
                wallet.address(),
                nonce,
                now,
                offer.max_timeout_s.min(plan.max_validity_s),
            ),
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

    /// The first request again, with the credential as the only difference (Ruling 27).
    fn paid_request(&self, reservation: &Reservation) -> Result<Request<RequestBody>, Problem> {
        let (name, credential) = self.sign(reservation)?;
        let mut head = self.head.clone();
        head.headers.remove(http::header::EXPECT);
        head.headers.insert(name, credential.header_value());
        Ok(Request::from_parts(head, self.replay.clone().into()))
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

    /// Once. While the agent waits, the site has its ordinary time; once the agent is gone, `settle_wait`.
    async fn send(
        &self,
        request: Request<RequestBody>,
        agent: &mut oneshot::Sender<Answer>,
    ) -> Result<Response<Relay>, SendError> {
        let progress = Progress::none();
        let sending = self.lane.send_paid(request, &progress);
        tokio::pin!(sending);
        tokio::select! {
            sent = &mut sending => return sent,
            () = agent.closed() => {}
        }
        timeout(self.proxy.config.timeouts.settle_wait, sending)
            .await
            .unwrap_or(Err(SendError::Sent(UpstreamError::Timeout)))
    }

    /// Any answer, whatever its status: its receipt decides what is recorded (Ruling 10), its bytes go to the agent.
    async fn answered(&self, rid: Rid, mut response: Response<Relay>) -> Response<AnswerBody> {
        let outcome = match receipt::receipt(response.headers()) {
            Receipt::Settled { tx } => Outcome::Settled {
                by: By::Merchant,
                tx: Some(tx),
            },
            Receipt::Failed { .. } => Outcome::Unknown {
                why: "receipt-says-failed",
            },
            Receipt::Unreadable => Outcome::Unknown {
                why: "receipt-unreadable",
            },
            Receipt::Absent => Outcome::Unknown { why: "no-receipt" },
        };
        self.log(rid, response.status().as_u16(), &outcome);
        self.record(rid, outcome).await;
        hop::strip_response(response.headers_mut(), Upgrading::No);
        answer::mark_paid(response.headers_mut(), rid);
        if response.status() == http::StatusCode::PAYMENT_REQUIRED {
            answer::mark_unpaid(response.headers_mut(), "still-402-after-payment");
        }
        stream(response)
    }

    async fn unanswered(&self, rid: Rid, error: SendError) -> Problem {
        let (why, code) = match &error {
            SendError::Unsent(..) => ("not-sent", Code::AnswerLost),
            SendError::Sent(UpstreamError::Timeout) => ("answer-late", Code::AnswerLate),
            SendError::Sent(_) => ("answer-lost", Code::AnswerLost),
        };
        let outcome = Outcome::Unknown { why };
        self.log(rid, 0, &outcome);
        self.record(rid, outcome).await;
        let detail = format!(
            "After payment, {}. Payment {rid} may have been taken and stays counted. Trying again would be a new purchase; \
             `bursar payments show {rid}` tells what is known.",
            error.into_error()
        );
        Problem::new(code, detail).payment(rid).retryable(false)
    }

    async fn record(&self, rid: Rid, outcome: Outcome) {
        if let Err(error) = self.proxy.ledger.finish(rid, outcome).await {
            // The reservation stays counted, which is the safe side; the operator must see it.
            tracing::error!(payment = %rid, %error, "outcome not recorded; the payment stays counted");
        }
    }

    fn log(&self, rid: Rid, status: u16, outcome: &Outcome) {
        let offer = &self.intent.offer;
        tracing::info!(
            payment = %rid, agent = %self.lane.agent(), merchant = %self.lane.origin().authority.host, usd = %offer.usd,
            network = %offer.asset.network, payee = %offer.payee, status, state = %outcome.state(), "paid"
        );
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

/// Which requests are the same (Ruling 2): agent, method, scheme, authority, path and query, body. The offer is no part of it.
fn fingerprint(agent: &AgentName, lane: &Lane, head: &Parts, body: &[u8; 32]) -> [u8; 32] {
    let origin = lane.origin();
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    let authority = origin.authority.to_string();
    let mut hash = Sha256::new();
    for part in [
        agent.as_str(),
        head.method.as_str(),
        origin.scheme.as_str(),
        &authority,
        target,
    ] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hash.update(body);
    hash.finalize().into()
}

fn idempotency(agent: &AgentName, head: &Parts) -> Option<[u8; 32]> {
    let key = head.headers.get("idempotency-key")?;
    let mut hash = Sha256::new();
    hash.update((agent.as_str().len() as u64).to_be_bytes());
    hash.update(agent.as_str().as_bytes());
    hash.update(key.as_bytes());
    Some(hash.finalize().into())
}
