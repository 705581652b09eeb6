//! A credential on its way: sent once, its answer read, the outcome recorded, the answer handed to the agent.
//!
//! It runs as a task of its own, so that an agent that hangs up does not take the outcome of its payment with it: the answer
//! is then waited for until `settle_wait` (R5).

use bursar_ledger::Reason;
use std::convert::Infallible;
use std::future::pending;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{Request, Response, StatusCode};
use http_body::Body;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use crate::answer::{self, Code, Problem, Unpaid};
use bursar_core::challenge::mpp::Statement;
use bursar_core::challenge::receipt::{self, Receipt};
use bursar_core::challenge::{Protocol, Rail};
use bursar_core::decode::{self, Coding};
use bursar_core::hop::{self, Upgrading};
use bursar_core::money::MicroUsd;
use bursar_ledger::{Ledger, LedgerError, Outcome, PaymentId, Source};
use bursar_net::body::{AnswerBody, Progress, ReadEnd, Relay, RequestBody};
use bursar_net::upstream::{Lane, SendError, UpstreamError, stream};
use bursar_rails::outstanding::Ticket;
use bursar_rails::pay::Permission;

pub(super) type AgentAnswer = Result<Response<AnswerBody>, Problem>;

/// One sending of one credential.
pub(super) struct Presentation {
    pub ledger: Arc<dyn Ledger>,
    /// How long the answer is waited for once the agent has gone.
    pub settle_wait: Duration,
    pub lane: Arc<Lane>,
    pub rid: PaymentId,
    pub rail: Rail,
    /// What it costs, where that is at hand.
    pub usd: Option<MicroUsd>,
    /// Says how it ended to whoever asks the same again.
    pub ticket: Ticket,
    /// Held until the seller has answered, for `settle_wait` at the longest.
    pub permission: Permission,
}

impl Presentation {
    /// Sends `request`, which carries the credential, and answers `agent`.
    pub(super) async fn run(mut self, request: Request<RequestBody>, mut agent: oneshot::Sender<AgentAnswer>) {
        match self.send(request, &mut agent).await {
            // There is nothing to join its stream to (R35).
            Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                let problem = self.switched(response).await;
                drop(agent.send(Err(problem)));
            }
            Ok(response) => self.hand_over(response, agent).await,
            Err(error) => {
                let problem = self.unanswered(error).await;
                drop(agent.send(Err(problem)));
            }
        }
    }

    /// Once. While the agent waits, the site has its ordinary time; once the agent is gone, `settle_wait`.
    async fn send(
        &mut self,
        request: Request<RequestBody>,
        agent: &mut oneshot::Sender<AgentAnswer>,
    ) -> Result<Response<Relay>, SendError> {
        let progress = Progress::none();
        let (lane, permission) = (
            self.lane.clone(),
            mem::replace(&mut self.permission, Permission::Granted),
        );
        let settle_wait = self.settle_wait;
        // Whoever answers no sooner must not hold up what other sellers are to bring to the chain. If it uses the permission
        // later all the same, the next one has a nonce that is gone: that payment fails, and none is made twice.
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

    /// Any answer, whatever its status: its receipt decides what is recorded (R10), its bytes go to the agent.
    async fn hand_over(self, mut response: Response<Relay>, agent: oneshot::Sender<AgentAnswer>) {
        let outcome = outcome(self.rail, &mut response).await;
        if matches!(outcome, Outcome::Settled { .. }) {
            self.ticket.paid();
        }
        self.log(response.status().as_u16(), &outcome);
        self.record(outcome).await;
        hop::strip_response(response.headers_mut(), Upgrading::No);
        answer::mark_paid(response.headers_mut(), self.rid);
        if response.status() == StatusCode::PAYMENT_REQUIRED {
            answer::mark_unpaid(response.headers_mut(), Unpaid::StillAfterPayment);
        }
        // Without a 2xx that reaches the agent whole the payment stays in doubt (R3): the ticket is dropped.
        let mut to_deliver = response.status().is_success().then_some(self.ticket);
        if !response.body().is_end_stream()
            && let Some(ticket) = to_deliver.take()
        {
            response.body_mut().when_delivered(Box::new(move || ticket.delivered()));
        }
        if agent.send(Ok(stream(response))).is_ok()
            && let Some(ticket) = to_deliver
        {
            ticket.delivered();
        }
    }

    async fn switched(&self, mut response: Response<Relay>) -> Problem {
        let outcome = outcome(self.rail, &mut response).await;
        if matches!(outcome, Outcome::Settled { .. }) {
            self.ticket.paid();
        }
        self.log(response.status().as_u16(), &outcome);
        self.record(outcome).await;
        let rid = self.rid;
        let detail = format!(
            "After payment, the site switched to another protocol instead of answering. Payment {rid} may have been taken and \
             stays counted; `bursar payments show {rid}` prints what is known."
        );
        Problem::new(Code::AnswerLost, detail).payment(rid).retryable(true)
    }

    async fn unanswered(&self, error: SendError) -> Problem {
        let (why, code) = match &error {
            SendError::Unsent(..) => (Reason::NotSent, Code::AnswerLost),
            SendError::Sent(UpstreamError::Timeout) => (Reason::AnswerLate, Code::AnswerLate),
            SendError::Sent(_) => (Reason::AnswerLost, Code::AnswerLost),
        };
        let (outcome, rid) = (Outcome::Unknown { why, tx: None }, self.rid);
        self.log(0, &outcome);
        self.record(outcome).await;
        let detail = format!(
            "After payment, {}. Payment {rid} may have been taken and stays counted. The same request again presents the same payment \
             while it is valid; `bursar payments show {rid}` tells what is known.",
            error.into_error()
        );
        Problem::new(code, detail).payment(rid).retryable(true)
    }

    async fn record(&self, outcome: Outcome) {
        match self.ledger.finish(self.rid, outcome).await {
            Ok(()) => {}
            // A repeat can meet a payment that a receipt has settled before; the books know more than its answer.
            Err(LedgerError::NotOpen(rid)) => tracing::debug!(payment = %rid, "already closed in the books"),
            Err(error) => {
                // The reservation stays counted, which is the safe side; the operator must see it.
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

/// Why an MPP seller says that it did not take the payment. What was read is put back.
async fn problem(rail: Rail, response: &mut Response<Relay>) -> Option<Statement> {
    const LONGEST: usize = 64 << 10;
    const SOON: Duration = std::time::Duration::from_secs(1);
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
