//! Asking a person: the backends, behind one trait. A backend turns a question into a handle, and later into evidence that the proxy
//! itself has verified; "approved" by a library's word is never enough (approvals §1).
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
pub mod keyra;
pub mod operator;
pub mod questions;
pub mod record;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod tokens;

use std::pin::Pin;
use std::time::Duration;

use jiff::Timestamp;
use thiserror::Error;

use bursar_core::approval::{Evidence, Question};

/// What a backend's method answers.
pub type Reply<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A question that has reached its approver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// By which the backend knows it. Not a secret of the approver's, but nobody else's affair either.
    pub handle: String,
    pub expires_at: Timestamp,
    /// Between two looks, by the backend's own word; grows when it asks for that.
    pub interval: Duration,
    /// Looks in a row that brought no answer: timeouts, 5xx.
    pub failures: u32,
}

/// How it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QuestionStatus {
    /// Look again after so long, counted from the moment of this look.
    Pending {
        wait: Duration,
    },
    Approved(Box<Evidence>),
    Denied(Denial),
    Expired,
    Failed(Failure),
}

/// A person said no, as far as the backend tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Denial {
    pub by: Option<String>,
    pub why: Option<String>,
}

/// Why there will be no answer. Never the fault of the person asked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{code}")]
pub struct Failure {
    /// A stable code of ours, such as `token_rejected:wrong_subject`, `start_unknown`, `invalid_client`.
    pub code: String,
    /// Whether asking anew may help.
    pub retryable: bool,
}

/// Who carries a question to a person.
pub trait Backend: Send + Sync + 'static {
    /// As bursar.toml names it.
    fn name(&self) -> &'static str;

    fn start<'a>(&'a self, question: &'a Question) -> Reply<'a, Result<Asked, Failure>>;

    /// Looks how a question stands. `asked` carries interval and failures from one look to the next.
    fn poll<'a>(&'a self, question: &'a Question, asked: &'a mut Asked) -> Reply<'a, QuestionStatus>;

    /// A question that an earlier run has put, before the first look at it.
    fn take_up(&self, _: &Question) {}

    /// Nobody waits for the answer any more: it came too late, or the payment is gone.
    fn close(&self, _: &Question) {}
}

/// Whether an approver heard of a question from us. The backend may reach them all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notified {
    ByOneAtLeast,
    /// No channel worked, or none is configured. The question still waits for approvers who look by themselves.
    ByNone,
}

/// Notifies approvers through the operator's own channels, besides the backend.
pub trait Notifier: Send + Sync + 'static {
    fn notify<'a>(&'a self, question: &'a Question, expires_at: Timestamp) -> Reply<'a, Notified>;
}
