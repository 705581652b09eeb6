//! The operator's terminal: `bursar pending` lists the questions, `bursar approve` and `bursar deny` answer them over
//! the admin socket. No third party is involved. The code proves that the question was read (R47); the socket's peer
//! credentials say who answered.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::{Asked, Backend, Denial, Failure, QuestionStatus, Reply};
use bursar_core::approval::{Code, Evidence, EvidenceKind, Question};
use bursar_core::clock::SharedClock;
use bursar_ledger::PaymentId;

/// The backend's name in bursar.toml, and the approver in its intents.
pub const NAME: &str = "operator";
/// Wrong codes allowed per question. The code shows that the question was read; it must not be guessable.
const WRONG_CODES: u8 = 5;
/// Time between polls. Long, because an answer wakes the question's task.
const REST: Duration = Duration::from_secs(3600);

pub struct Operator {
    clock: SharedClock,
    open: Mutex<HashMap<PaymentId, Open>>,
}

struct Open {
    code: Code,
    wrong: u8,
    answer: Option<OperatorAnswer>,
}

enum OperatorAnswer {
    Approved { by: String, at: Timestamp },
    Denied { by: String, why: String },
}

/// Why an answer does not count.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NotTaken {
    #[error("question {0} is not open; list the open questions with `bursar pending`")]
    NotOpen(PaymentId),
    #[error("question {0} has already been answered")]
    Answered(PaymentId),
    #[error(
        "wrong code for question {0}: read the code from `bursar pending`, and check agent, amount and host before you \
         approve"
    )]
    WrongCode(PaymentId),
    #[error("too many wrong codes for question {0}; it can now only be denied")]
    Locked(PaymentId),
}

impl Operator {
    pub fn new(clock: SharedClock) -> Self {
        Self {
            clock,
            open: Mutex::default(),
        }
    }

    /// `by` is the account at the other end of the socket, as reported by the kernel.
    pub fn approve(&self, id: PaymentId, code: &str, by: String) -> Result<(), NotTaken> {
        let mut open = self.open();
        let question = unanswered(&mut open, id)?;
        if question.wrong >= WRONG_CODES {
            return Err(NotTaken::Locked(id));
        }
        if !question.code.is(code) {
            question.wrong += 1;
            return Err(NotTaken::WrongCode(id));
        }
        let at = self.clock.now();
        question.answer = Some(OperatorAnswer::Approved { by, at });
        Ok(())
    }

    pub fn deny(&self, id: PaymentId, why: String, by: String) -> Result<(), NotTaken> {
        let mut open = self.open();
        unanswered(&mut open, id)?.answer = Some(OperatorAnswer::Denied { by, why });
        Ok(())
    }

    /// Drops a question whose answer is no longer needed.
    fn forget(&self, id: PaymentId) {
        self.open().remove(&id);
    }

    fn look(&self, question: &Question) -> QuestionStatus {
        let answer = self.open().get_mut(&question.id).and_then(|open| open.answer.take());
        let Some(answer) = answer else {
            return QuestionStatus::Pending { wait: REST };
        };
        self.forget(question.id);
        match answer {
            OperatorAnswer::Denied { by, why } => QuestionStatus::Denied(Denial {
                by: Some(by),
                why: Some(why),
            }),
            OperatorAnswer::Approved { by, at } => QuestionStatus::Approved(Box::new(Evidence {
                kind: EvidenceKind::Operator,
                decided_at: at,
                good_until: None,
                replay_key: replay_key(question.id),
                proof: serde_json::json!({
                    "by": by,
                    "code": question.code.as_str(),
                    "intent_sha256": alloy_primitives::hex::encode(question.intent.hash()),
                    "over": "admin socket",
                }),
                approver: by,
            })),
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<PaymentId, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn of(question: &Question) -> Self {
        Self {
            code: question.code,
            wrong: 0,
            answer: None,
        }
    }
}

impl Backend for Operator {
    fn name(&self) -> &'static str {
        NAME
    }

    fn start<'a>(&'a self, question: &'a Question) -> Reply<'a, Result<Asked, Failure>> {
        let now = self.clock.now();
        self.take_up(question);
        Box::pin(async move {
            Ok(Asked {
                handle: question.id.to_string(),
                expires_at: now.saturating_add(question.ttl).unwrap_or(Timestamp::MAX),
                interval: REST,
                failures: 0,
            })
        })
    }

    fn poll<'a>(&'a self, question: &'a Question, _: &'a mut Asked) -> Reply<'a, QuestionStatus> {
        Box::pin(async move { self.look(question) })
    }

    fn take_up(&self, question: &Question) {
        self.open().insert(question.id, Open::of(question));
    }

    fn close(&self, question: &Question) {
        self.forget(question.id);
    }
}

fn unanswered(open: &mut HashMap<PaymentId, Open>, id: PaymentId) -> Result<&mut Open, NotTaken> {
    let question = open.get_mut(&id).ok_or(NotTaken::NotOpen(id))?;
    match question.answer {
        None => Ok(question),
        Some(_) => Err(NotTaken::Answered(id)),
    }
}

/// One replay key per question, so that each is approved at most once.
fn replay_key(id: PaymentId) -> String {
    let mut hash = Sha256::new();
    hash.update(NAME);
    hash.update([0]);
    hash.update(id.to_string());
    alloy_primitives::hex::encode(hash.finalize())
}
