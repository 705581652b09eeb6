//! Which token belongs to which payment: `private/tokens/`, one file each, until Stripe has said what became of it. Not synced: a
//! file that a crash took with it is found again by the same order, for a day (Ruling 14).

use std::fs;
use std::io;
use std::path::PathBuf;

use crate::home::{self, HomeError};
use crate::ledger::Rid;
use crate::stripe::TokenId;

pub struct Tokens {
    folder: PathBuf,
}

impl Tokens {
    pub fn open(folder: PathBuf) -> Result<Self, HomeError> {
        home::create_folder(&folder)?;
        Ok(Self { folder })
    }

    pub fn keep(&self, rid: Rid, token: &TokenId) {
        if let Err(error) = home::write_unsynced(&self.path(rid), token.expose().as_bytes()) {
            tracing::warn!(payment = %rid, %error, "its token could not be kept; within a day Stripe can tell it again");
        }
    }

    pub fn of(&self, rid: Rid) -> Option<TokenId> {
        let text = home::read_secret(&self.path(rid)).ok()?;
        TokenId::parse(&text).ok()
    }

    /// Nothing more is to be asked about it.
    pub fn forget(&self, rid: Rid) {
        match fs::remove_file(self.path(rid)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(payment = %rid, %error, "a token that is no longer needed could not be deleted");
            }
            _ => {}
        }
    }

    /// All payments that have one.
    pub fn all(&self) -> Vec<Rid> {
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return Vec::new();
        };
        let named = |entry: fs::DirEntry| Rid::parse(entry.file_name().to_str()?);
        entries.filter_map(Result::ok).filter_map(named).collect()
    }

    fn path(&self, rid: Rid) -> PathBuf {
        self.folder.join(rid.to_string())
    }
}
