//! Responses stored under idempotency keys, for 24 hours.

use std::collections::HashMap;

use ::http::HeaderValue;

use super::form::Form;
use super::{AccountId, Answer};

/// In seconds.
const REMEMBERED: u64 = 24 * 3600;

#[derive(Default)]
pub(super) struct Memory(HashMap<(AccountId, String), Answered>);

struct Answered {
    path: String,
    form: Form,
    at: u64,
    answer: Answer,
}

pub(super) enum Recall {
    New,
    /// The same request was sent before.
    Same(Answer),
    /// The key was used for another request.
    Other,
}

impl Memory {
    pub(super) fn recall(&mut self, account: AccountId, key: &str, path: &str, form: &Form, now: u64) -> Recall {
        self.0
            .retain(|_, answered| now < answered.at.saturating_add(REMEMBERED));
        match self.0.get(&(account, key.to_owned())) {
            None => Recall::New,
            Some(answered) if answered.path == path && answered.form.is_same(form) => {
                let mut answer = answered.answer.clone();
                let replayed = HeaderValue::from_static("true");
                answer.headers.insert("idempotent-replayed", replayed);
                Recall::Same(answer)
            }
            Some(_) => Recall::Other,
        }
    }

    pub(super) fn keep(&mut self, account: AccountId, key: String, path: &str, form: Form, now: u64, answer: Answer) {
        let answered = Answered {
            path: path.to_owned(),
            form,
            at: now,
            answer,
        };
        self.0.insert((account, key), answered);
    }
}
