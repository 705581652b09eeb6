//! Asks a person before bursar pays, and keeps what proves the answer.
//!
//! A payment that `limits.toml` does not allow on its own becomes a question to one or more approvers. The money is
//! held while they decide. An approval counts only once bursar has verified its evidence, written it to disk and
//! recorded it in the ledger; a bare "approved" from a service is not enough (approvals §1).
//!
//! * [`Backend`] delivers questions to approvers and polls for their answers. There are three: [`operator`] (the
//!   `bursar approve` command), [`ciba`] (an OpenID CIBA identity server, such as BKey) and [`keyra`].
//! * [`Questions`](questions::Questions) runs every open question from the hold to its end: how often approvers may be
//!   asked, several approvers for one payment, restarts, remembered denials, approvals that expire unused.
//! * [`ApprovalRecord`](record::ApprovalRecord) is everything about one approval in one document: question, evidence
//!   and ledger entries. [`examine`](record::examine) checks it without the data directory or the network.
//!
//! Start with [`Backend`] below, then read [`Questions::ask`](questions::Questions::ask) and `questions/lifecycle.rs`,
//! which takes one question through its steps. [`operator`] is the smallest backend.
//!
//! An auditor checks an exported record like this:
//!
//! ```
//! use bursar_approvals::record::{ApprovalRecord, Decision, examine};
//!
//! let document = serde_json::json!({
//!     "format": "bursar-approval-1",
//!     "id": "019aa05d-5400-7101-8101-010101010101",
//!     "entries": [],
//! });
//! let record = ApprovalRecord::read(document).unwrap();
//! let examined = examine(&record);
//! assert_eq!(examined.decision, Decision::Pending);
//! assert!(!examined.whole, "the payment's first entry is missing");
//! ```
#![cfg_attr(
    not(test),
    warn(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::float_arithmetic,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss
    )
)]

pub mod ciba;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod keyra;
pub mod operator;
pub mod questions;
pub mod record;
#[cfg(any(test, feature = "testing"))]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::cast_possible_truncation)] // only tests call it
pub mod testing;
pub mod tokens;

use std::pin::Pin;
use std::time::Duration;

use jiff::Timestamp;
use thiserror::Error;

use bursar_core::approval::{Evidence, Question};
use questions::Bound;

/// What a backend's methods return.
pub type Reply<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A question that has reached its approver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The backend's id of the question. It does not authenticate the approver, but should not be disclosed either.
    pub handle: String,
    pub expires_at: Timestamp,
    /// Time between two polls, as set by the backend, which may raise it.
    pub interval: Duration,
    /// Consecutive polls without a usable response: timeouts, 5xx.
    pub failures: u32,
}

/// The result of one poll.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QuestionStatus {
    /// Poll again after `wait`, counted from the start of this poll.
    Pending {
        wait: Duration,
    },
    Approved(Box<Evidence>),
    Denied(Denial),
    Expired,
    Failed(Failure),
}

/// A person denied the payment. Backends may not report who, or why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Denial {
    pub by: Option<String>,
    pub why: Option<String>,
}

/// Why a question ends without a decision. Never caused by the approver.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{code}")]
pub struct Failure {
    /// One of bursar's stable codes, such as `token_rejected:wrong_subject`, `start_unknown`, `invalid_client`.
    pub code: String,
    /// Whether a new question may succeed.
    pub retryable: bool,
}

/// Delivers questions to approvers and collects their answers.
pub trait Backend: Send + Sync + 'static {
    /// The value of `[approval] backend` in bursar.toml.
    fn name(&self) -> &'static str;

    /// Sends the question to its approver.
    fn start<'a>(&'a self, question: &'a Question) -> Reply<'a, Result<Asked, Failure>>;

    /// Fetches the state of a question. `asked` carries interval and failures from one poll to the next.
    fn poll<'a>(&'a self, question: &'a Question, asked: &'a mut Asked) -> Reply<'a, QuestionStatus>;

    /// Called before the first poll of a question that an earlier run of the program asked.
    fn take_up(&self, _: &Question) {}

    /// The answer is no longer needed: it came too late, or the payment has ended.
    fn close(&self, _: &Question) {}
}

/// Whether a notification of a question was delivered. The backend reaches approvers independently of this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notified {
    ByOneAtLeast,
    /// Every channel failed, or none is configured. The question stays open for approvers who check on their own.
    ByNone,
}

/// Notifies approvers through the operator's alert channels, in addition to the backend.
pub trait Notifier: Send + Sync + 'static {
    fn notify<'a>(&'a self, question: &'a Question, expires_at: Timestamp) -> Reply<'a, Notified>;

    /// An agent's question was not asked, because people are asked too much already. Called for each such question; must
    /// not block.
    fn bounded(&self, bound: &Bound);
}
