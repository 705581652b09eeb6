//! The stored credentials of a data directory, read by their written form (docs/architecture/0079) and by no code of
//! bursar's.

use std::path::Path;

use serde_json::Value;
use sha2::{Digest, Sha256};

const SLOT: usize = 4096;
const HEAD: usize = 64;

/// One whole record in the file of slots.
pub(crate) struct Stored {
    pub(crate) id: String,
    pub(crate) presented: u8,
    pub(crate) delivered: bool,
    pub(crate) body: Value,
    slot: usize,
}

fn slots(home: &Path) -> std::path::PathBuf {
    home.join("private/credentials/slots")
}

/// All whole records. No server that runs may be asked for more than a moment's truth.
pub(crate) fn stored(home: &Path) -> Vec<Stored> {
    let bytes = std::fs::read(slots(home)).unwrap_or_default();
    let read = |(slot, record): (usize, &[u8])| {
        let length = u32::from_be_bytes(record[4..8].try_into().unwrap()) as usize;
        let body = record[HEAD..].get(..length)?;
        let hash: [u8; 32] = Sha256::new()
            .chain_update(&record[..24])
            .chain_update(body)
            .finalize()
            .into();
        if &record[..4] != b"BSC1" || record[24..56] != hash {
            return None;
        }
        let body: Value = serde_json::from_slice(body).unwrap();
        Some(Stored {
            id: body["rid"].as_str().unwrap().to_owned(),
            presented: record[56],
            delivered: record[57] == 1,
            body,
            slot,
        })
    };
    bytes.chunks_exact(SLOT).enumerate().filter_map(read).collect()
}

/// Whether the folder holds nothing but zeroed slots.
pub(crate) fn is_empty(home: &Path) -> bool {
    let folder = home.join("private/credentials");
    let names = std::fs::read_dir(&folder).unwrap().count();
    names <= 1
        && std::fs::read(slots(home))
            .unwrap_or_default()
            .iter()
            .all(|byte| *byte == 0)
}

impl Stored {
    /// Leaves the first half of it, as a kill in the middle of its write does.
    pub(crate) fn tear(&self, home: &Path) {
        let mut bytes = std::fs::read(slots(home)).unwrap();
        let length = HEAD + self.body.to_string().len();
        bytes[self.slot * SLOT..][length / 2..SLOT].fill(0);
        std::fs::write(slots(home), bytes).unwrap();
    }

    /// Replaces the body, as bursar would have written it.
    pub(crate) fn rewrite(&self, home: &Path, body: &Value) {
        let mut bytes = std::fs::read(slots(home)).unwrap();
        let body = serde_json::to_vec(body).unwrap();
        let record = &mut bytes[self.slot * SLOT..][..SLOT];
        record[4..8].copy_from_slice(&u32::try_from(body.len()).unwrap().to_be_bytes());
        let hash: [u8; 32] = Sha256::new()
            .chain_update(&record[..24])
            .chain_update(&body)
            .finalize()
            .into();
        record[24..56].copy_from_slice(&hash);
        record[HEAD..].fill(0);
        record[HEAD..][..body.len()].copy_from_slice(&body);
        std::fs::write(slots(home), bytes).unwrap();
    }
}
