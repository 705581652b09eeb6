//! `payment-identifier`: presenting the same payment again gets the same paid response again (x402 §8).
//!
//! The same identifier with another payment is a conflict, even if that payment was newly signed for the same purchase.

use std::collections::{HashMap, VecDeque};

use alloy_primitives::{B256, keccak256};

/// How many responses are kept; the oldest are dropped first.
const CAPACITY: usize = 1024;

/// Identifies the payment behind an identifier: a hash of the payment header, method and URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint(B256);

impl Fingerprint {
    pub(crate) fn of(payment_header: &[u8], method: &str, url: &str) -> Self {
        let target = format!("{method} {url}\n");
        Self(keccak256([target.as_bytes(), payment_header].concat()))
    }
}

/// What is known about an identifier.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Recall<A> {
    New,
    /// The same payment got this response before.
    Answered(A),
    /// Another payment used the identifier.
    Conflict,
}

/// Responses by identifier.
pub(crate) struct Answers<A> {
    entries: HashMap<String, (Fingerprint, A)>,
    order: VecDeque<String>,
}

impl<A: Clone> Answers<A> {
    pub(crate) fn new() -> Self {
        Self {
            entries: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    pub(crate) fn recall(&self, identifier: &str, fingerprint: Fingerprint) -> Recall<A> {
        match self.entries.get(identifier) {
            None => Recall::New,
            Some((known, answer)) if *known == fingerprint => Recall::Answered(answer.clone()),
            Some(_) => Recall::Conflict,
        }
    }

    pub(crate) fn keep(&mut self, identifier: String, fingerprint: Fingerprint, answer: A) {
        if self.order.len() == CAPACITY
            && let Some(oldest) = self.order.pop_front()
        {
            self.entries.remove(&oldest);
        }
        self.order.push_back(identifier.clone());
        self.entries.insert(identifier, (fingerprint, answer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_payment_is_answered_again_and_another_conflicts() {
        let mut answers = Answers::new();
        let first = Fingerprint::of(b"payment", "GET", "https://a.example/x");
        assert_eq!(answers.recall("id", first), Recall::New);
        answers.keep("id".to_owned(), first, "answer");
        assert_eq!(answers.recall("id", first), Recall::Answered("answer"));
        for other in [
            Fingerprint::of(b"signed anew", "GET", "https://a.example/x"),
            Fingerprint::of(b"payment", "POST", "https://a.example/x"),
            Fingerprint::of(b"payment", "GET", "https://a.example/y"),
        ] {
            assert_eq!(answers.recall("id", other), Recall::Conflict);
        }
    }

    #[test]
    fn the_oldest_answer_makes_room() {
        let mut answers = Answers::new();
        let fingerprint = Fingerprint::of(b"payment", "GET", "/");
        for n in 0..=CAPACITY {
            answers.keep(n.to_string(), fingerprint, n);
        }
        assert_eq!(answers.recall("0", fingerprint), Recall::New);
        assert_eq!(answers.recall("1", fingerprint), Recall::Answered(1));
        assert_eq!(answers.entries.len(), CAPACITY);
    }
}
