//! What is read back from disk, and what auditors get: the journal, its checkpoints, `audit/pruned`, and backups.
//! Somebody may have changed every byte of it.

use std::cell::RefCell;
use std::fs;
use std::path::{Component, Path};
use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bursar::backup::Manifest;
use bursar_ledger::entry::{Entry, read_head};
use bursar_ledger::note::{Checkpoint, NoteError, Origin, Signer};
use bursar_ledger::pruned::{self, Pruned};
use bursar_ledger::scan::segment_name;
use bursar_ledger::text::Digest;
use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::Value;

/// The journal of `fixtures/ledger`.
pub const JOURNAL: &[u8] = include_bytes!("../../fixtures/ledger/v1/audit/seg-00000000000000000000.jsonl");

/// A line of the journal. What is accepted is written as the same bytes, which are canonical to an independent writer.
pub fn entry(data: &[u8]) {
    let head = read_head(data);
    let Ok((entry, prev)) = Entry::parse(data) else {
        return;
    };
    let head = head.expect("an entry has a head");
    assert_eq!((head.seq, head.prev), (entry.seq, prev));
    let value: Value = serde_json::from_slice(data).expect("an entry is JSON");
    // Numbers that are no doubles have no canonical form; nothing counts that far.
    if numbers_are_exact(&value) {
        assert_eq!(serde_json_canonicalizer::to_vec(&value).expect("JSON"), data);
    }
    // The current version writes every entry that an older one wrote, and reads it back.
    let mut again = Vec::new();
    if entry.encode(&prev, &mut again).is_ok() {
        assert_eq!(Entry::parse(&again).expect("an entry"), (entry, prev));
    }
}

fn numbers_are_exact(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.as_u64().is_some_and(|number| number < 1 << 53),
        Value::Array(values) => values.iter().all(numbers_are_exact),
        Value::Object(members) => members.values().all(numbers_are_exact),
        _ => true,
    }
}

/// A journal of one or two segments, which a zero byte separates.
pub fn journal(data: &[u8]) {
    scanned(data);
}

/// The journal of `fixtures/ledger` with changes: five bytes each for what, where (two) and with what (two). Readers
/// show entries that were written, in their order, or say that the journal is damaged.
pub fn changed_journal(data: &[u8]) {
    static LINES: LazyLock<Vec<&[u8]>> = LazyLock::new(|| JOURNAL.split_inclusive(|byte| *byte == b'\n').collect());
    let mut bytes = JOURNAL.to_vec();
    for change in data.chunks_exact(5).take(16) {
        let at = usize::from(u16::from_be_bytes([change[1], change[2]])) % (bytes.len() + 1);
        let length = usize::from(change[3]);
        let until = (at + length).min(bytes.len());
        match change[0] % 7 {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..until)),
            2 => bytes
                .splice(at..at, std::iter::repeat_n(change[4], length))
                .for_each(drop),
            3 => bytes[at..until].fill(change[4]),
            4 => bytes.get_mut(at).into_iter().for_each(|byte| *byte ^= change[4]),
            5 => {
                let copied = bytes[at..until].to_vec();
                bytes.extend(copied);
            }
            _ => bytes.extend(LINES[length % LINES.len()]),
        }
    }
    let shown = scanned(&bytes);
    let Some((_, before)) = shown.split_last() else {
        return;
    };
    // Nothing follows the last one yet, so only a signed checkpoint proves it.
    for (shown, written) in before.iter().zip(LINES.iter()) {
        assert_eq!(
            Some(&shown[..]),
            written.strip_suffix(b"\n"),
            "an entry that was not written is shown"
        );
    }
    assert!(
        before.len() < LINES.len().max(1) + 16,
        "more entries than there were lines"
    );
}

/// The entries that a reader is shown.
fn scanned(data: &[u8]) -> Vec<Vec<u8>> {
    let mut parts = data.splitn(2, |byte| *byte == 0);
    let first = parts.next().unwrap_or_default();
    let second = parts.next();
    in_directory(|audit| {
        write(&audit.join(segment_name(0)), first);
        let lines = first.iter().filter(|byte| **byte == b'\n').count() as u64;
        if let Some(second) = second
            && lines > 0
        {
            write(&audit.join(segment_name(lines)), second);
        }
        let (mut shown, mut tip) = (Vec::new(), Digest::ZERO);
        let mut offset = 0;
        let scanned = pruned::scan(audit, &mut |line| {
            assert_eq!(line.head.seq, shown.len() as u64);
            assert_eq!(line.head.prev, tip);
            assert_eq!(line.leaf, Digest::leaf(line.bytes));
            if line.place.segment == 0 {
                assert_eq!(line.place.offset, offset);
                offset += line.bytes.len() as u64 + 1;
                assert_eq!(
                    first.get(line.place.offset as usize..offset as usize - 1),
                    Some(line.bytes)
                );
            }
            tip = line.leaf;
            shown.push(line.bytes.to_vec());
            Ok(())
        });
        if let Ok(scanned) = scanned {
            assert_eq!((scanned.chain.next_seq, scanned.chain.tip), (shown.len() as u64, tip));
            let newest = scanned.newest.expect("a segment");
            // A torn write has no complete entry in it: that would be damage.
            let mut pieces = newest.torn.split(|byte| *byte == b'\n');
            pieces.next_back();
            assert!(
                pieces.all(|line| read_head(line).is_err()),
                "an entry was taken for a torn write"
            );
            assert_eq!(
                newest.len,
                shown[newest.first_seq as usize..]
                    .iter()
                    .map(|line| line.len() as u64 + 1)
                    .sum::<u64>()
            );
        }
        shown
    })
}

/// A note. Nothing passes without a signature of the log's key.
pub fn note(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let signer = signer();
    match Checkpoint::verified(text, &[signer.verifier()]) {
        Ok(checkpoint) => assert!(text.starts_with(&body_of(&signer.sign(&checkpoint)))),
        Err(error) => assert!(error.to_string().len() <= data.len() + 256),
    }
}

/// The text of a note, which the log's key signs whatever it says. Only a checkpoint passes, and it is written as it
/// was read.
pub fn signed_note(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let text = format!("{}\n", text.trim_end_matches('\n'));
    let signer = signer();
    let note = format!("{text}\n\u{2014} {} {}\n", signer.verifier().origin(), signature(&text));
    match Checkpoint::verified(&note, &[signer.verifier()]) {
        Ok(checkpoint) => {
            assert_eq!(body_of(&signer.sign(&checkpoint)), text);
            let again = Checkpoint::verified(&signer.sign(&checkpoint), &[signer.verifier()]);
            assert_eq!(again, Ok(checkpoint));
        }
        Err(error) => assert!(
            matches!(
                error,
                NoteError::Malformed(_) | NoteError::NotCheckpoint(_) | NoteError::OtherLog(_) | NoteError::Unsigned
            ),
            "{error}"
        ),
    }
}

const SEED: [u8; 32] = [7; 32];

fn signer() -> Signer {
    let origin = Origin::parse("fuzz.example/log").expect("a name");
    Signer::new(origin, &SEED).expect("a key")
}

fn body_of(note: &str) -> String {
    let (text, _) = note.rsplit_once("\n\n").expect("a note");
    format!("{text}\n")
}

/// Made by another implementation of Ed25519 than the one that verifies it.
fn signature(text: &str) -> String {
    let key = SigningKey::from_bytes(&SEED);
    let vkey = signer().verifier().to_string();
    let id = vkey.split('+').nth(1).expect("a key id");
    let id = u32::from_str_radix(id, 16).expect("hex").to_be_bytes();
    STANDARD.encode([&id, &key.sign(text.as_bytes()).to_bytes()[..]].concat())
}

/// `audit/pruned`: where the journal begins. It must agree with itself, and is written as it was read.
pub fn pruned_file(data: &[u8]) {
    in_directory(|audit| {
        write(&audit.join(pruned::NAME), data);
        let Ok(Some(pruned)) = Pruned::read(audit) else {
            assert!(pruned::beginning(audit).is_err());
            return;
        };
        let text = serde_json::to_vec(&pruned).expect("JSON");
        let again: Pruned = serde_json::from_slice(&text).expect("what was written can be read");
        // Times are written to the microsecond, whatever was read.
        assert_eq!(serde_json::to_vec(&again).expect("JSON"), text);
        if let Ok(beginning) = pruned::beginning(audit) {
            assert_eq!(beginning.tree.size(), beginning.chain.next_seq);
            assert_eq!(beginning.place.segment, beginning.chain.next_seq);
        }
    });
}

/// `backup.json`. No path in it leads out of the backup.
pub fn manifest(data: &[u8]) {
    in_directory(|backup| {
        write(&backup.join("backup.json"), data);
        let Ok(manifest) = Manifest::read(backup) else {
            return;
        };
        for file in manifest.files.keys() {
            let path = backup.join(file);
            assert!(path.starts_with(backup) && path != backup, "{file:?} leads elsewhere");
            assert!(!path.components().any(|part| matches!(part, Component::ParentDir)));
        }
        let text = serde_json::to_vec(&manifest).expect("JSON");
        assert_eq!(
            serde_json::from_slice::<Manifest>(&text).expect("what was written can be read"),
            manifest
        );
    });
}

/// An empty directory, in memory where there is one: thousands of files a second are of no use to a disk.
fn in_directory<T>(with: impl FnOnce(&Path) -> T) -> T {
    thread_local! {
        static PLACE: RefCell<Option<tempfile::TempDir>> = const { RefCell::new(None) };
    }
    PLACE.with_borrow_mut(|place| {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() {
            memory.to_owned()
        } else {
            std::env::temp_dir()
        };
        let place = place.get_or_insert_with(|| tempfile::tempdir_in(parent).expect("a directory"));
        for file in fs::read_dir(place.path()).expect("a directory") {
            fs::remove_file(file.expect("a file").path()).expect("a file");
        }
        with(place.path())
    })
}

fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).expect("room for a file");
}
