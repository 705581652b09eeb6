//! Signed checkpoints: how many entries the journal has and the root of their tree, with our signature (C2SP signed-note and
//! tlog-checkpoint; R224).
//!
//! ```text
//! bursar.local/0f3c...            origin
//! 1024                            entries
//! <base64 of the root>
//!
//! — bursar.local/0f3c... <base64 of key id and signature>
//! ```

use std::fmt;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::text::Digest;

/// Signature type of an Ed25519 key in a note.
const ED25519_TYPE: u8 = 0x01;
const SIGNATURE_BYTES: usize = 64;

/// Starts a signature line: an em dash and a space.
const SIGNED_BY: &str = "\u{2014} ";

/// The number of entries, and the root of the tree over them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    pub size: u64,
    pub root: Digest,
}

/// Why a note is not a checkpoint of this log.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NoteError {
    #[error("it is not a signed note: {0}")]
    Malformed(&'static str),
    #[error("the signature of the log's key {0} in it is wrong")]
    BadSignature(String),
    #[error("it is not signed by a key of this log")]
    Unsigned,
    #[error("it is not a checkpoint: {0}")]
    NotCheckpoint(&'static str),
    #[error("it belongs to the log `{0}`")]
    OtherLog(String),
}

/// The name of a log and of its key. It contains no space, no `+` and nothing that would break a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(String);

impl Origin {
    pub fn parse(text: &str) -> Option<Self> {
        let is_bad = |c: char| c.is_whitespace() || c.is_control() || c == '+';
        (!text.is_empty() && !text.contains(is_bad)).then(|| Self(text.to_owned()))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The public half of a log's key, and its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verifier {
    origin: Origin,
    public: [u8; 32],
}

impl Verifier {
    /// Parses `name+hex(key id)+base64(0x01 || public key)`.
    pub fn parse(vkey: &str) -> Option<Self> {
        let (origin, rest) = vkey.split_once('+')?;
        // Base64 may contain a plus sign too.
        let (_, key) = rest.split_once('+')?;
        let key = BASE64.decode(key).ok()?;
        let (&ED25519_TYPE, public) = key.split_first()? else {
            return None;
        };
        let verifier = Self {
            origin: Origin::parse(origin)?,
            public: public.try_into().ok()?,
        };
        (verifier.to_string() == vkey).then_some(verifier)
    }

    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The first four bytes of SHA-256(name || 0x0A || 0x01 || public key).
    fn id(&self) -> [u8; 4] {
        let mut hash = Sha256::new();
        hash.update(self.origin.0.as_bytes());
        hash.update([b'\n', ED25519_TYPE]);
        hash.update(self.public);
        let whole: [u8; 32] = hash.finalize().into();
        [whole[0], whole[1], whole[2], whole[3]]
    }
}

impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let typed = [&[ED25519_TYPE][..], &self.public].concat();
        write!(
            f,
            "{}+{:08x}+{}",
            self.origin,
            u32::from_be_bytes(self.id()),
            BASE64.encode(typed)
        )
    }
}

/// The key that signs a log's checkpoints. It has no `Debug`.
pub struct Signer {
    pair: Ed25519KeyPair,
    verifier: Verifier,
}

impl Signer {
    /// `None`: the origin is not a valid name, or the bytes are not a valid seed.
    pub fn new(origin: Origin, seed: &[u8; 32]) -> Option<Self> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).ok()?;
        let public = pair.public_key().as_ref().try_into().ok()?;
        let verifier = Verifier { origin, public };
        Some(Self { pair, verifier })
    }

    /// A log without a configured name is named after its key, so that no two logs share a name.
    pub fn unnamed(seed: &[u8; 32]) -> Option<Self> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).ok()?;
        let name = Digest::of(pair.public_key().as_ref()).to_string();
        Self::new(Origin::parse(&format!("bursar.local/{}", &name[..16]))?, seed)
    }

    pub fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    pub fn sign(&self, checkpoint: &Checkpoint) -> String {
        let Checkpoint { size, root } = checkpoint;
        let origin = &self.verifier.origin;
        let text = format!("{origin}\n{size}\n{}\n", BASE64.encode(root.0));
        let signature = self.pair.sign(text.as_bytes());
        let signature = BASE64.encode([&self.verifier.id(), signature.as_ref()].concat());
        format!("{text}\n{SIGNED_BY}{origin} {signature}\n")
    }
}

impl Checkpoint {
    /// Parses a note that at least one of `verifiers` must have signed. Signatures of other keys are ignored; a wrong
    /// signature of a known key rejects the note.
    pub fn verified(note: &str, verifiers: &[&Verifier]) -> Result<Self, NoteError> {
        let (text, signatures) = split(note)?;
        let mut signer = None;
        for line in signatures.split_terminator('\n') {
            let (name, id, signature) = signature(line)?;
            let known = verifiers
                .iter()
                .find(|verifier| verifier.origin.0 == name && verifier.id() == id);
            let Some(verifier) = known else {
                continue;
            };
            UnparsedPublicKey::new(&ED25519, verifier.public)
                .verify(text.as_bytes(), &signature)
                .map_err(|_| NoteError::BadSignature(verifier.to_string()))?;
            signer = signer.or(Some(verifier));
        }
        let signer = signer.ok_or(NoteError::Unsigned)?;
        let (origin, checkpoint) = Self::parse(text)?;
        if origin != signer.origin.0 {
            return Err(NoteError::OtherLog(origin.to_owned()));
        }
        Ok(checkpoint)
    }

    /// Parses the three lines.
    fn parse(text: &str) -> Result<(&str, Self), NoteError> {
        let mut lines = text.split_terminator('\n');
        let mut line = || {
            lines
                .next()
                .ok_or(NoteError::NotCheckpoint("it has fewer than three lines"))
        };
        let (origin, size, root) = (line()?, line()?, line()?);
        if lines.next().is_some() {
            return Err(NoteError::NotCheckpoint("it has more than three lines"));
        }
        let number: u64 = size
            .parse()
            .map_err(|_| NoteError::NotCheckpoint("its size is not a number"))?;
        if number.to_string() != size {
            return Err(NoteError::NotCheckpoint("its size is not in its shortest form"));
        }
        let hash = BASE64.decode(root).ok().and_then(|bytes| bytes.try_into().ok());
        let root = hash.ok_or(NoteError::NotCheckpoint("its root is not a hash of 32 bytes"))?;
        let root = Digest(root);
        Ok((origin, Self { size: number, root }))
    }
}

/// The text up to its last newline, and the signature lines.
fn split(note: &str) -> Result<(&str, &str), NoteError> {
    if note.chars().any(|c| c.is_control() && c != '\n') {
        return Err(NoteError::Malformed("it has control characters"));
    }
    let (_, signatures) = note
        .rsplit_once("\n\n")
        .ok_or(NoteError::Malformed("there is no empty line before the signatures"))?;
    if !signatures.ends_with('\n') {
        return Err(NoteError::Malformed("its last line has no newline"));
    }
    let text = &note[..note.len() - signatures.len() - 1];
    Ok((text, signatures))
}

/// Name, key id and signature in one line.
fn signature(line: &str) -> Result<(&str, [u8; 4], Vec<u8>), NoteError> {
    let malformed = NoteError::Malformed("a signature line is not `\u{2014} name base64`");
    let parts = line.strip_prefix(SIGNED_BY).and_then(|rest| rest.split_once(' '));
    let (name, encoded) = parts.ok_or(malformed.clone())?;
    let bytes = BASE64.decode(encoded).map_err(|_| malformed.clone())?;
    let (id, signature) = bytes.split_first_chunk().ok_or(malformed.clone())?;
    if Origin::parse(name).is_none() || signature.len() < SIGNATURE_BYTES {
        return Err(malformed);
    }
    Ok((name, *id, signature.to_vec()))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Vectors {
        keys: Vec<Key>,
        good: Vec<Note>,
        bad_note: Vec<Note>,
        bad_checkpoint_body_with_valid_signature: Vec<Note>,
        fork: Fork,
    }

    #[derive(Deserialize)]
    struct Key {
        label: String,
        name: String,
        r#type: u8,
        vkey: String,
    }

    #[derive(Deserialize)]
    struct Note {
        name: String,
        note: String,
    }

    #[derive(Deserialize)]
    struct Fork {
        a: String,
        b: String,
    }

    fn vectors() -> (Vectors, Vec<Signer>) {
        let vectors: Vectors = serde_json::from_str(include_str!("../../../fixtures/audit/checkpoints.json")).unwrap();
        let ours = vectors.keys.iter().filter(|key| key.r#type == ED25519_TYPE);
        let signers = ours
            .map(|key| {
                let seed = Digest::of(key.label.as_bytes()).0;
                let signer = Signer::new(Origin::parse(&key.name).unwrap(), &seed).unwrap();
                assert_eq!(signer.verifier().to_string(), key.vkey);
                assert_eq!(Verifier::parse(&key.vkey).as_ref(), Some(signer.verifier()));
                signer
            })
            .collect();
        (vectors, signers)
    }

    #[test]
    fn good_notes_verify_and_ours_are_the_same_bytes() {
        let (vectors, signers) = vectors();
        assert_eq!(signers.len(), 2);
        for Note { name, note } in vectors.good {
            let checkpoint = Checkpoint::verified(&note, &[signers[0].verifier()]).unwrap_or_else(|error| {
                panic!("{name}: {error}");
            });
            let ours = signers[0].sign(&checkpoint);
            assert!(note.starts_with(&ours), "{name}: {ours}");
            let both = [signers[0].verifier(), signers[1].verifier()];
            assert_eq!(Checkpoint::verified(&note, &both), Ok(checkpoint), "{name}");
        }
    }

    #[test]
    fn bad_notes_are_refused() {
        let (vectors, signers) = vectors();
        let bad = vectors.bad_note.iter();
        let bad = bad.chain(&vectors.bad_checkpoint_body_with_valid_signature);
        let mut looked_at = 0;
        for Note { name, note } in bad {
            let read = Checkpoint::verified(note, &[signers[0].verifier()]);
            assert!(read.is_err(), "{name}: {read:?}");
            looked_at += 1;
        }
        assert_eq!(looked_at, 14);
        let error = |wanted: &str| {
            let all = vectors.bad_note.iter();
            let mut all = all.chain(&vectors.bad_checkpoint_body_with_valid_signature);
            let note = &all.find(|note| note.name == wanted).unwrap().note;
            Checkpoint::verified(note, &[signers[0].verifier()]).unwrap_err()
        };
        assert!(matches!(error("root-changed"), NoteError::BadSignature(_)));
        assert_eq!(error("unknown-key"), NoteError::Unsigned);
        assert_eq!(error("wrong-name"), NoteError::Unsigned);
        assert_eq!(
            error("other-origin"),
            NoteError::OtherLog("other.example/log".to_owned())
        );
        assert!(matches!(error("leading-zero-size"), NoteError::NotCheckpoint(_)));
        assert!(matches!(error("two-lines"), NoteError::NotCheckpoint(_)));
    }

    #[test]
    fn both_sides_of_a_fork_verify_and_differ() {
        let (vectors, signers) = vectors();
        let [a, b] =
            [vectors.fork.a, vectors.fork.b].map(|note| Checkpoint::verified(&note, &[signers[0].verifier()]).unwrap());
        assert_eq!(a.size, b.size);
        assert_ne!(a.root, b.root);
    }

    #[test]
    fn a_log_without_a_name_is_named_by_its_key() {
        let [one, other] = [[1; 32], [2; 32]].map(|seed| Signer::unnamed(&seed).unwrap());
        assert_ne!(one.verifier().origin(), other.verifier().origin());
        let checkpoint = Checkpoint {
            size: 7,
            root: Digest::ZERO,
        };
        let note = one.sign(&checkpoint);
        assert_eq!(Checkpoint::verified(&note, &[one.verifier()]), Ok(checkpoint));
        assert_eq!(
            Checkpoint::verified(&note, &[other.verifier()]),
            Err(NoteError::Unsigned)
        );
    }

    #[test]
    fn names_that_would_break_a_note_are_rejected() {
        for bad in ["", "a b", "a+b", "a\nb", "a\u{a0}b", "a\tb"] {
            assert_eq!(Origin::parse(bad), None, "{bad:?}");
        }
    }
}
