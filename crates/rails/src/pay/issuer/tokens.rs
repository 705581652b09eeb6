//! Which token belongs to which payment: one file each in `private/tokens/`, until Stripe has said what became of it.
//! The files are not synced: for a day, repeating the order finds a token again whose file was lost in a crash (R14).
//!
//! A token that ended unused is watched for some more days. A seller may have put a hold on the card before, and a hold
//! can be captured long after its token has expired.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};

use crate::stripe::TokenId;
use bursar_home::{self as home, HomeError};
use bursar_ledger::{Payment, PaymentId, Source, State};

/// Card networks allow a hold to be captured for seven days; this adds one.
const HOLD: SignedDuration = SignedDuration::from_hours(8 * 24);

pub struct Tokens {
    folder: PathBuf,
    watched: Mutex<BTreeSet<PaymentId>>,
}

impl Tokens {
    pub fn open(folder: PathBuf) -> Result<Self, HomeError> {
        home::create_folder(&folder)?;
        Ok(Self {
            folder,
            watched: Mutex::default(),
        })
    }

    pub fn keep(&self, rid: PaymentId, token: &TokenId) {
        if let Err(error) = home::write_unsynced(&self.path(rid), token.expose().as_bytes()) {
            tracing::warn!(
                payment = %rid, %error,
                "its token could not be stored; for a day, the same order can get it from Stripe again"
            );
        }
    }

    pub fn of(&self, rid: PaymentId) -> Option<TokenId> {
        let text = home::read_secret(&self.path(rid)).ok()?;
        TokenId::parse(&text).ok()
    }

    /// Watches the token of a payment that was recorded as dead, for as long as a hold may be captured.
    pub fn watch(&self, rid: PaymentId) {
        self.watching().insert(rid);
    }

    pub fn watched(&self) -> Vec<PaymentId> {
        self.watching().iter().copied().collect()
    }

    /// Whether the token of a payment that was recorded as dead may still have a hold that can be captured.
    pub fn may_have_a_hold(payment: &Payment, now: Timestamp) -> bool {
        payment.state == State::Expired
            && matches!(payment.by, Some(Source::Stripe | Source::Operator))
            && now.duration_since(payment.created_at.timestamp()) <= HOLD
    }

    fn watching(&self) -> MutexGuard<'_, BTreeSet<PaymentId>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a token that there is nothing more to ask about.
    pub fn forget(&self, rid: PaymentId) {
        self.watching().remove(&rid);
        match fs::remove_file(self.path(rid)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(payment = %rid, %error, "could not delete a token that is no longer needed");
            }
            _ => {}
        }
    }

    /// All payments with a stored token.
    pub fn all(&self) -> Vec<PaymentId> {
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return Vec::new();
        };
        let named = |entry: fs::DirEntry| PaymentId::parse(entry.file_name().to_str()?);
        entries.filter_map(Result::ok).filter_map(named).collect()
    }

    fn path(&self, rid: PaymentId) -> PathBuf {
        self.folder.join(rid.to_string())
    }
}
