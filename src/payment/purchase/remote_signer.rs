//! Credentials made by a remote signer: ordered once the record is on disk, compared with it, recorded, and only then
//! sent.
//!
//! An order is made once. Whatever may have come of it stays counted, and a repeat by the agent is answered with the
//! unknown outcome instead of ordering again. A confirmation that comes too late for the agent's request is still
//! collected, so that its nonce is recorded and a repeat can present it.

use tokio::time::Instant;

use super::{Agent, Purchase, STORE_RETRY};
use crate::answer::{Code, Problem};
use bursar_core::assets::Asset;
use bursar_core::prefer;
use bursar_ledger::{LedgerError, Outcome, PaymentId, Reason, Reservation, Source};
use bursar_rails::bkey::Purpose;
use bursar_rails::pay::{Exposure, Ordered, Permission, RemoteCredential, SignError, SignerFault, Waiting};

/// Longer paths are not shown to the person: the rest of the sentence matters more.
const LONGEST_RESOURCE: usize = 512;

/// Why nothing is sent, now or at all.
pub(super) enum NotReady {
    /// The payment has ended, and the ledger has it.
    Over(Problem),
    /// A person has not confirmed yet; the agent gets this problem, if it is still connected.
    Deferred(Box<Deferred>, Problem),
}

/// The order to watch after the agent has its answer.
pub(super) struct Deferred {
    reservation: Reservation,
    waiting: Waiting,
    purpose: Purpose,
}

impl Purchase {
    /// The remote signer's credential for this record, already recorded; `None` if we sign ourselves.
    pub(super) async fn remote_credential(
        &self,
        reservation: Reservation,
        agent: &mut Agent,
    ) -> Result<(Reservation, Option<RemoteCredential>), NotReady> {
        let purpose = self.purpose(&reservation);
        let now = || self.buying().clock.now();
        match self.buying().payers.order(&reservation, &purpose, now).await {
            None => Ok((reservation, None)),
            Some(Ok(Ordered::Made(made))) => self.recorded(reservation, made).await.map_err(NotReady::Over),
            Some(Ok(Ordered::Waits(waiting))) => self.confirmed(reservation, waiting, purpose, agent).await,
            Some(Err(not_made)) => Err(NotReady::Over(self.not_made(reservation, not_made).await)),
        }
    }

    /// Waits for the person as long as the agent's request may.
    async fn confirmed(
        &self,
        reservation: Reservation,
        mut waiting: Waiting,
        purpose: Purpose,
        agent: &mut Agent,
    ) -> Result<(Reservation, Option<RemoteCredential>), NotReady> {
        let (rid, id) = (reservation.rid(), waiting.id().to_owned());
        tracing::info!(payment = %rid, authorization = id, "waiting for a person to confirm the payment at BKey");
        let hold = Instant::now() + prefer::wait(&self.head.headers, self.buying().times.hold);
        let now = || self.buying().clock.now();
        let waited = tokio::select! {
            biased;
            () = agent.gone() => None,
            // R65.
            () = self.context.stop.cancelled() => None,
            made = self.buying().payers.wait(&reservation, &mut waiting, &purpose, hold, now) => made,
        };
        match waited {
            Some(Ok(made)) => self.recorded(reservation, made).await.map_err(NotReady::Over),
            Some(Err(not_made)) => Err(NotReady::Over(self.not_made(reservation, not_made).await)),
            None => {
                let detail = format!(
                    "Payment {rid} is waiting for a person to confirm it on the phone, at BKey. Nothing was sent to \
                     the merchant. The payment counts. Send the same request again later: if it has been confirmed by \
                     then, it is paid with that confirmation."
                );
                let problem = Problem::new(Code::SignerPending, detail)
                    .payment(rid)
                    .retryable(true)
                    .retry_after(STORE_RETRY);
                self.remember(rid, reservation.arm().valid_before);
                let deferred = Deferred {
                    reservation,
                    waiting,
                    purpose,
                };
                Err(NotReady::Deferred(Box::new(deferred), problem))
            }
        }
    }

    /// Watches until BKey closes the order. A credential is stored for the agent's repeat and not sent before.
    pub(super) async fn deferred(mut self, deferred: Deferred) {
        let Deferred {
            reservation,
            mut waiting,
            purpose,
        } = deferred;
        let rid = reservation.rid();
        let (target, fingerprint) = self.identity();
        let keyed = self.claim.is_some();
        if let Some(claim) = self.claim.take() {
            // Requests under the same key need not wait for the person.
            claim.paid(rid, fingerprint);
        }
        let (until, now) = (waiting.until(), || self.buying().clock.now());
        let waited = tokio::select! {
            biased;
            () = self.context.stop.cancelled() => None,
            made = self.buying().payers.wait(&reservation, &mut waiting, &purpose, until, now) => made,
        };
        let made = match waited {
            Some(Ok(made)) => made,
            Some(Err(not_made)) => return drop(self.not_made(reservation, not_made).await),
            None => {
                let valid_before = reservation.arm().valid_before;
                return self
                    .outcome_unknown(rid, valid_before, Reason::SignerNotConfirmed)
                    .await;
            }
        };
        let Ok((reservation, made)) = self.recorded(reservation, made).await else {
            return;
        };
        let signed = self.sign(reservation, &Permission::Granted, made.as_ref()).await;
        let ticket = match &signed {
            Ok(signed) => {
                let sent = (self.plan.offer.rail, &signed.field, &signed.credential);
                let outstanding = &self.buying().outstanding;
                let ticket = outstanding.sent(rid, target, fingerprint, sent, signed.valid_before, keyed);
                outstanding.forget_lost(&fingerprint);
                Some(ticket)
            }
            Err(not_paid) => {
                let error = not_paid.error();
                tracing::warn!(payment = %rid, %error, "the confirmed payment cannot be presented");
                None
            }
        };
        let (why, tx) = (Reason::ConfirmedLate, None);
        self.finish(rid, Outcome::Unknown { why, tx }).await;
        // From now on a repeat may present it.
        drop(ticket);
    }

    /// Records what the signer chose before a credential is made from it.
    async fn recorded(
        &self,
        reservation: Reservation,
        made: RemoteCredential,
    ) -> Result<(Reservation, Option<RemoteCredential>), Problem> {
        let RemoteCredential::Authorization(signed) = &made else {
            return Ok((reservation, Some(made)));
        };
        let (rid, valid_before) = (reservation.rid(), reservation.arm().valid_before);
        let error = match self.buying().ledger.issued(reservation, signed.issued.clone()).await {
            Ok(reservation) => return Ok((reservation, Some(made))),
            Err(error) => error,
        };
        self.remember(rid, valid_before);
        tracing::error!(
            payment = %rid, nonce = %signed.issued.nonce, %error,
            "BKey's signature could not be recorded, so it is not sent; the payment stays counted"
        );
        let (why, code) = match error {
            LedgerError::NonceTaken(_) => (Reason::SignerNonceUsed, Code::SigningFailed),
            LedgerError::Failed(_) => (Reason::SignerNotRecorded, Code::StoreUnavailable),
            _ => (Reason::SignerNotRecorded, Code::SigningFailed),
        };
        self.finish(rid, Outcome::Unknown { why, tx: None }).await;
        let detail = format!(
            "BKey has signed payment {rid}, but the signature could not be recorded: {error}. Nothing was sent to the \
             merchant. The payment counts until it is proven that it can no longer be taken."
        );
        Err(Problem::new(code, detail).payment(rid).retryable(false))
    }

    /// Nothing can be sent. Whatever may exist stays counted.
    async fn not_made(&self, reservation: Reservation, mut not_made: SignError) -> Problem {
        let (rid, why, valid_before) = (reservation.rid(), not_made.why, reservation.arm().valid_before);
        let agent = self.lane.agent();
        match not_made.fault {
            SignerFault::Differs => {
                tracing::error!(payment = %rid, %agent, %why, error = not_made.to_string(), "not sent; stays counted");
            }
            _ => {
                tracing::warn!(payment = %rid, %agent, %why, error = not_made.to_string(), "BKey made no credential")
            }
        }
        let counted = match not_made.left {
            Exposure::Nothing => {
                // BKey never had the order or did not accept it, so it made nothing (R11).
                let by = Source::Us;
                self.finish(rid, Outcome::Expired { by, why }).await;
                String::new()
            }
            Exposure::Perhaps => {
                if let Some(signed) = not_made.signed.take()
                    && let Err(error) = self.buying().ledger.issued(reservation, *signed).await
                {
                    tracing::error!(payment = %rid, %error, "BKey's signature is not on record; resolve it by hand");
                }
                self.outcome_unknown(rid, valid_before, why).await;
                format!(
                    " A credential may exist that the merchant was not sent; payment {rid} counts until that \
                     credential is proven unusable, or the operator runs `bursar payments resolve`."
                )
            }
        };
        let nothing_left = not_made.left == Exposure::Nothing;
        let (code, retryable, way_out) = match not_made.fault {
            SignerFault::Refused => (
                Code::SignerUnavailable,
                false,
                "The operator must check BKey's client and its scopes.",
            ),
            SignerFault::Silent => (Code::SignerUnavailable, nothing_left, "Trying again later may help."),
            SignerFault::Differs => (Code::SigningFailed, false, "The operator must check the log."),
            SignerFault::NotConfirmed => (
                Code::PaymentDeclined,
                false,
                "The person or BKey's own limits did not allow it.",
            ),
        };
        let detail = format!("No payment could be made through BKey: {not_made}. Nothing was paid.{counted} {way_out}");
        let problem = Problem::new(code, detail).payment(rid).retryable(retryable);
        match retryable {
            true => problem.retry_after(STORE_RETRY),
            false => problem,
        }
    }

    pub(super) async fn outcome_unknown(&self, rid: PaymentId, valid_before: u64, why: Reason) {
        self.remember(rid, valid_before);
        self.finish(rid, Outcome::Unknown { why, tx: None }).await;
    }

    /// Makes a repeat get the unknown outcome instead of a new order (R4).
    fn remember(&self, rid: PaymentId, valid_before: u64) {
        let (_, fingerprint) = self.identity();
        let outstanding_payment = (rid, fingerprint.bytes(), valid_before);
        self.buying().outstanding.remember(std::iter::once(outstanding_payment));
    }

    /// What the person reads on the phone: no text from the merchant, and no query, which may hold secrets.
    fn purpose(&self, reservation: &Reservation) -> Purpose {
        let (terms, origin) = (reservation.terms(), self.lane.origin());
        let host = origin.authority.host.as_str().to_owned();
        let amount = match terms.asset {
            Asset::Token(token) => terms.amount.decimal(token.decimals),
            Asset::Fiat(_, currency) => terms.amount.fixed(currency.decimals),
        };
        let description = format!(
            "{}: pay {amount} {} to {host}, payment {}",
            self.lane.agent(),
            terms.asset.symbol(),
            reservation.rid(),
        );
        let site = format!("{}://{}", origin.scheme.as_str(), origin.host_field());
        let resource = format!("{site}{}", self.head.uri.path());
        Purpose {
            description,
            host,
            resource: match resource.len() <= LONGEST_RESOURCE {
                true => resource,
                false => site,
            },
        }
    }
}
