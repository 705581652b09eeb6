//! `private/credentials/`: what repeats need, on disk. Records are in the slots of one file (`slots.rs`); one that is too
//! long for a slot has a file of its own. Nothing is synced (R7).
//!
//! Before format 5 each payment had a file, whose records move into slots at the first start that finds them.

use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::record::{Mark, Stored};
use super::slots::{At, SLOT, Slot, Slots};
use bursar_home::{self as home, HomeError, failed};
use bursar_ledger::PaymentId;

/// The file of slots.
const SLOTS: &str = "slots";
/// The end of the name of a record's own file.
const OWN: &str = "record";
/// The end of the name of a file of before format 5: JSON.
const OLD: &str = "json";
/// A record is as long as the field that carries the credential, at most.
const LONGEST: u64 = 1 << 20;

pub(super) struct Store {
    folder: PathBuf,
    slots: Slots,
}

/// Where one record is. Not `Clone`: it is cleared once.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum Place {
    Slot(Slot),
    /// A file with this name.
    File(String),
    /// It could not be stored. Only a repeat after a restart needs it.
    #[default]
    Nowhere,
}

/// A change of the record at a place.
pub(super) struct Marking {
    at: Marked,
    mark: Mark,
}

enum Marked {
    Slot(At),
    File(String),
    Nowhere,
}

impl Marking {
    pub(super) fn of(place: &Place, mark: Mark) -> Self {
        let at = match place {
            Place::Slot(slot) => Marked::Slot(slot.at()),
            Place::File(name) => Marked::File(name.clone()),
            Place::Nowhere => Marked::Nowhere,
        };
        Self { at, mark }
    }
}

impl Store {
    /// Opens the folder and reads all records, several of one payment included. What cannot be read is removed.
    pub(super) fn open(folder: &Path) -> Result<(Self, Vec<(Place, Stored)>), HomeError> {
        home::create_folder(folder)?;
        let (slots, read) = Slots::open(&folder.join(SLOTS))?;
        let store = Self {
            folder: folder.to_owned(),
            slots,
        };
        let in_slots = read.records.into_iter();
        let mut records: Vec<_> = in_slots.map(|(slot, stored)| (Place::Slot(slot), stored)).collect();
        let mut unreadable = read.torn;
        for entry in fs::read_dir(folder).map_err(|source| failed("read", folder, source))? {
            let path = entry.map_err(|source| failed("read", folder, source))?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            if name == SLOTS {
                continue;
            }
            let place = Place::File(name.to_owned());
            match in_file(&path) {
                Some(stored) => records.push((place, stored)),
                None => {
                    unreadable += 1;
                    store.clear(place);
                }
            }
        }
        if unreadable > 0 {
            tracing::warn!(
                unreadable, folder = %folder.display(),
                "credentials of outstanding payments were not stored completely before the last stop and were removed; \
                 their payments stay counted, and a repeat of their requests is answered with the unknown outcome"
            );
        }
        Ok((store, records))
    }

    pub(super) fn put(&self, stored: &Stored) -> Place {
        let record = stored.encoded(SLOT);
        let put = match record.len() {
            ..=SLOT => self.slots.put(record).map(Place::Slot),
            _ => self.put_in_file(stored.rid, &record).map(Place::File),
        };
        put.unwrap_or_else(|error| {
            tracing::warn!(
                payment = %stored.rid, %error,
                "the credential could not be stored; after a restart, a repeat cannot present it again"
            );
            Place::Nowhere
        })
    }

    fn put_in_file(&self, rid: PaymentId, record: &[u8]) -> io::Result<String> {
        let name = format!("{rid}.{OWN}");
        home::write_unsynced(&self.folder.join(&name), record).map_err(io::Error::other)?;
        Ok(name)
    }

    /// Moves a record of before format 5, so that its marks can be written. If the process dies in between there are two,
    /// and the next start takes one of them.
    pub(super) fn renewed(&self, place: Place, stored: &Stored) -> Place {
        if !matches!(&place, Place::File(name) if name.ends_with(OLD)) {
            return place;
        }
        match self.put(stored) {
            Place::Nowhere => place,
            renewed => {
                self.clear(place);
                renewed
            }
        }
    }

    pub(super) fn mark(&self, Marking { at, mark }: Marking, rid: PaymentId) {
        let marked = match at {
            Marked::Slot(at) => self.slots.mark(at, mark),
            // An old file that could not be moved.
            Marked::File(name) if name.ends_with(OLD) => Ok(()),
            Marked::File(name) => mark_in_file(&self.folder.join(name), mark),
            Marked::Nowhere => Ok(()),
        };
        if let Err(error) = marked {
            tracing::warn!(
                payment = %rid, %error,
                "the stored credential could not be marked; after a restart it may be presented once more"
            );
        }
    }

    /// The payment needs no repeat any more.
    pub(super) fn clear(&self, place: Place) {
        let cleared = match place {
            Place::Slot(slot) => self.slots.clear(slot),
            Place::File(name) => fs::remove_file(self.folder.join(name)),
            Place::Nowhere => Ok(()),
        };
        match cleared {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let folder = self.folder.display();
                tracing::warn!(%folder, %error, "could not clear a credential that is no longer needed");
            }
            _ => {}
        }
    }
}

fn in_file(path: &Path) -> Option<Stored> {
    let is_old = path.extension().is_some_and(|end| end == OLD);
    if is_old {
        return serde_json::from_str(&home::read_secret(path).ok()?).ok();
    }
    let (file, mut bytes) = (home::open_private(path).ok()?, Zeroizing::new(Vec::new()));
    (&file).take(LONGEST).read_to_end(&mut bytes).ok()?;
    Stored::decoded(&bytes)
}

fn mark_in_file(path: &Path, mark: Mark) -> io::Result<()> {
    let (at, byte) = mark.byte();
    let file = home::open_private(path).map_err(io::Error::other)?;
    file.write_all_at(&[byte], at as u64)
}
