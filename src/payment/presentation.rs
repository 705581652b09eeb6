//! Presents a credential once: sends it, reads the answer, records the outcome and hands the answer to the agent.
//!
//! It runs as a task of its own, so that the outcome of a payment is recorded even if the agent hangs up: the answer is
//! then awaited for up to `settle_wait` (R5).

use std::convert::Infallible;
use std::future::pending;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{Request, Response, StatusCode};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::forward::strip;
use crate::answer::{self, Code, Problem, Unpaid};
use bursar_core::challenge::mpp::Statement;
use bursar_core::challenge::receipt::{self, Receipt};
use bursar_core::challenge::{Protocol, Rail};
use bursar_core::decode::{self, Coding};
use bursar_core::h1::Lines;
use bursar_core::hop::Presented;
use bursar_core::money::MicroUsd;
use bursar_core::policy::Remaining;
use bursar_ledger::{Ledger, LedgerError, Outcome, PaymentId, Reason, Source};
use bursar_net::body::{AnswerBody, Progress, ReadEnd, Relay, RequestBody};
use bursar_net::h1::Interims;
use bursar_net::upstream::{Lane, SendError, UpstreamError, stream};
use bursar_rails::outstanding::Ticket;
use bursar_rails::pay::Permission;

pub(super) type AgentAnswer = Result<Response<AnswerBody>, Problem>;

/// One sending of one credential.
pub(super) struct Presentation {
    pub ledger: Arc<dyn Ledger>,
    /// How long to wait for the answer once the agent has hung up.
    pub settle_wait: Duration,
    pub lane: Arc<Lane>,
    pub rid: PaymentId,
    pub rail: Rail,
    /// For removing what the answer repeats of the credential.
    pub presented: Presented,
    /// The price, if known here.
    pub usd: Option<MicroUsd>,
    /// The limit that the agent reaches first after this payment, if known here.
    pub remaining: Option<Remaining>,
    /// Reports the end to requests that repeat this one.
    pub ticket: Ticket,
    /// Held until the seller has answered, for at most `settle_wait`.
    pub permission: Permission,
}

impl Presentation {
    /// Sends `request`, which carries the credential, and answers `agent`.
    pub(super) async fn run(mut self, request: Request<RequestBody>, mut agent: oneshot::Sender<AgentAnswer>) {
        match self.send(request, &mut agent).await {
            // A switched protocol cannot be joined to the agent (R35).
            Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                drop(agent.send(Err(self.switched(response).await)));
            }
            Ok(response) => self.hand_over(response, agent).await,
            Err(error) => {
                drop(agent.send(Err(self.unanswered(error).await)));
            }
        }
    }

    /// Sends once. While the agent waits, the site has its usual timeout; after that, `settle_wait`.
    async fn send(
        &mut self,
        mut request: Request<RequestBody>,
        agent: &mut oneshot::Sender<AgentAnswer>,
    ) -> Result<Response<Relay>, SendError> {
        // A seller could repeat the credential in an informational answer.
        request.extensions_mut().remove::<Interims>();
        let progress = Progress::none();
        let (lane, permission) = (
            self.lane.clone(),
            mem::replace(&mut self.permission, Permission::Granted),
        );
        let settle_wait = self.settle_wait;
        // A seller that answers later than this must not hold up the payments of other sellers. If it uses the
        // permission afterwards, the next payment finds its nonce used and fails; no payment is made twice.
        let given_up = async {
            sleep(settle_wait).await;
            drop(permission);
            pending::<Infallible>().await
        };
        let sending = async {
            tokio::select! {
                sent = lane.send_paid(request, &progress) => sent,
                never = given_up => match never {},
            }
        };
        tokio::pin!(sending);
        tokio::select! {
            sent = &mut sending => return sent,
            () = agent.closed() => {}
        }
        self.ticket.abandoned();
        tracing::debug!(payment = %self.rid, "the agent hung up; the answer is waited for");
        timeout(settle_wait, sending)
            .await
            .unwrap_or(Err(SendError::Sent(UpstreamError::Timeout)))
    }

    /// Handles an answer of any status: its receipt decides what is recorded (R10), its bytes go to the agent.
    async fn hand_over(self, mut response: Response<Relay>, agent: oneshot::Sender<AgentAnswer>) {
        let outcome = outcome(self.rail, &mut response).await;
        if matches!(outcome, Outcome::Settled { .. }) {
            self.ticket.paid();
        }
        self.log(response.status().as_u16(), &outcome);
        self.record(outcome).await;
        strip(&mut response);
        let echoes = self.presented.remove_echoes(response.headers_mut());
        if let Some(lines) = response.extensions_mut().get_mut::<Lines>() {
            *lines = lines.fields_only();
        }
        if echoes > 0 {
            tracing::warn!(
                payment = %self.rid, merchant = %self.lane.origin().authority.host, echoes,
                "the merchant's answer repeated the credential; the agent does not get those header fields"
            );
        }
        response.body_mut().withhold(self.presented);
        answer::mark_paid(response.headers_mut(), self.rid);
        answer::mark_price(response.headers_mut(), self.usd, self.remaining.as_ref());
        if response.status() == StatusCode::PAYMENT_REQUIRED {
            answer::mark_unpaid(response.headers_mut(), Unpaid::StillAfterPayment);
        }
        // Unless a 2xx reaches the agent completely, the payment stays outstanding (R3): the ticket is dropped.
        let to_deliver = response.status().is_success().then_some(self.ticket);
        if let Some(ticket) = to_deliver {
            response.body_mut().when_delivered(Box::new(move || ticket.delivered()));
        }
        // If the agent has hung up, the answer and its ticket are dropped.
        drop(agent.send(Ok(stream(response))));
    }

    /// Uses up the ticket, so that the payment is outstanding before the agent can repeat its request (R3).
    async fn switched(self, mut response: Response<Relay>) -> Problem {
        let outcome = outcome(self.rail, &mut response).await;
        if matches!(outcome, Outcome::Settled { .. }) {
            self.ticket.paid();
        }
        self.log(response.status().as_u16(), &outcome);
        self.record(outcome).await;
        let rid = self.rid;
        let detail = format!(
            "After payment, the site switched to another protocol instead of answering. The merchant may have taken \
             payment {rid}, so it stays counted; `bursar payments show {rid}` prints what is known."
        );
        Problem::new(Code::AnswerLost, detail).payment(rid).retryable(true)
    }

    /// Uses up the ticket, like `switched`.
    async fn unanswered(self, error: SendError) -> Problem {
        let (why, code) = match &error {
            SendError::Unsent(..) => (Reason::NotSent, Code::AnswerLost),
            SendError::Sent(UpstreamError::Timeout) => (Reason::AnswerLate, Code::AnswerLate),
            SendError::Sent(_) => (Reason::AnswerLost, Code::AnswerLost),
        };
        let (outcome, rid) = (Outcome::Unknown { why, tx: None }, self.rid);
        self.log(0, &outcome);
        self.record(outcome).await;
        let happened = match &error {
            SendError::Unsent(..) => "was signed, but could not be sent to the merchant",
            SendError::Sent(_) => "was sent, and the merchant may have taken it",
        };
        let detail = format!(
            "Payment {rid} {happened}: {}. It stays counted. Send the same request again to present the same payment while \
             it is valid; `bursar payments show {rid}` prints what is known.",
            error.into_error()
        );
        Problem::new(code, detail).payment(rid).retryable(true)
    }

    async fn record(&self, outcome: Outcome) {
        match self.ledger.finish(self.rid, outcome).await {
            Ok(()) => {}
            // A repeat can present a payment that an earlier receipt settled; the ledger already has the outcome.
            Err(LedgerError::NotOpen(rid)) => tracing::debug!(payment = %rid, "already closed in the ledger"),
            Err(error) => {
                // The reservation stays counted, which is the safe side; the operator must see the error.
                tracing::error!(payment = %self.rid, %error, "outcome not recorded; the payment stays counted");
            }
        }
    }

    fn log(&self, status: u16, outcome: &Outcome) {
        let usd = self.usd.map(tracing::field::display);
        tracing::info!(
            payment = %self.rid, agent = %self.lane.agent(), merchant = %self.lane.origin().authority.host, usd,
            status, state = %outcome.state(), "paid"
        );
    }
}

async fn outcome(rail: Rail, response: &mut Response<Relay>) -> Outcome {
    let unknown = |why| Outcome::Unknown { why, tx: None };
    match receipt::receipt(rail, response.headers()) {
        Receipt::Settled { tx } => Outcome::Settled {
            by: Source::Merchant,
            tx,
        },
        Receipt::Failed { tx, .. } => Outcome::Unknown {
            why: Reason::ReceiptFailed,
            tx,
        },
        Receipt::Unreadable => unknown(Reason::ReceiptUnreadable),
        Receipt::Absent => match problem(rail, response).await {
            Some(problem) => unknown(Reason::Seller(problem)),
            None => unknown(Reason::NoReceipt),
        },
    }
}

/// Why an MPP seller says that it did not accept the payment. Puts back what it read.
async fn problem(rail: Rail, response: &mut Response<Relay>) -> Option<Statement> {
    const LONGEST: usize = 64 << 10;
    const SOON: Duration = Duration::from_secs(1);
    let kind = response.headers().get(CONTENT_TYPE)?.to_str().ok()?;
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if rail.protocol() != Protocol::Mpp
        || response.status().is_success()
        || !kind.eq_ignore_ascii_case("application/problem+json")
    {
        return None;
    }
    let coding = Coding::of(response.headers()).ok()?;
    let (body, end) = response.body_mut().read_up_to(LONGEST, SOON).await;
    response.body_mut().unread(body.clone());
    match end {
        ReadEnd::Whole => Statement::read(&decode::decode(coding, &body).ok()?),
        _ => None,
    }
}
