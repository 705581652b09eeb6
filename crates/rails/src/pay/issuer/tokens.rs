//! Which token belongs to which payment: `private/tokens/`, one file each, until Stripe has said what became of it. Not synced: a
//! file that a crash took with it is found again by the same order, for a day (R14).
//!
//! A token that ended unused is watched for some days more: a seller may have put a hold on the card before, and a hold is captured
//! long after its token can make no other.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};

use crate::stripe::TokenId;
use bursar_home::{self as home, HomeError};
use bursar_ledger::{Payment, PaymentId, Source, State};

/// Card networks let a hold be captured for seven days.
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
            tracing::warn!(payment = %rid, %error, "its token could not be kept; within a day Stripe can tell it again");
        }
    }

    pub fn of(&self, rid: PaymentId) -> Option<TokenId> {
        let text = home::read_secret(&self.path(rid)).ok()?;
        TokenId::parse(&text).ok()
    }

    /// Its payment is called dead: it is asked about for as long as a hold may be captured.
    pub fn watch(&self, rid: PaymentId) {
        self.watching().insert(rid);
    }

    pub fn watched(&self) -> Vec<PaymentId> {
        self.watching().iter().copied().collect()
    }

    /// Whether money can have been taken with the token of this payment, though it is called dead.
    pub fn may_have_a_hold(payment: &Payment, now: Timestamp) -> bool {
        payment.state == State::Expired
            && matches!(payment.by, Some(Source::Stripe | Source::Operator))
            && now.duration_since(payment.created_at.timestamp()) <= HOLD
    }

    fn watching(&self) -> MutexGuard<'_, BTreeSet<PaymentId>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing more is to be asked about it.
    pub fn forget(&self, rid: PaymentId) {
        self.watching().remove(&rid);
        match fs::remove_file(self.path(rid)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(payment = %rid, %error, "a token that is no longer needed could not be deleted");
            }
            _ => {}
        }
    }

    /// All payments that have one.
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
