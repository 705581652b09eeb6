//! Commitments to values that may be personal: the entry holds a hash, the value is in `private/` and can be erased
//! without breaking the log (R222). The form is SD-JWT's: base64url(JSON `[salt, name, value]`).

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use bursar_home::spare;

/// A name and value with its salt, encoded. Its digest is in the `sd` of an entry.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Disclosure(String);

/// Hides the value: a code must not get into a log.
impl fmt::Debug for Disclosure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Disclosure").field(&self.digest()).finish()
    }
}

impl Disclosure {
    /// `salt` must be fresh random bytes, because a plain hash of a path can be guessed.
    pub fn new(salt: [u8; 16], name: &str, value: &str) -> Self {
        let salt = BASE64URL.encode(salt);
        let [salt, name, value] = [salt.as_str(), name, value].map(|text| serde_json::Value::from(text).to_string());
        Self(BASE64URL.encode(format!("[{salt}, {name}, {value}]")))
    }

    /// base64url(SHA-256(ASCII(disclosure))).
    pub fn digest(&self) -> String {
        BASE64URL.encode(Sha256::digest(self.0.as_bytes()))
    }

    /// Name and value, if the text is a disclosure.
    pub fn open(&self) -> Option<(String, String)> {
        let json = BASE64URL.decode(&self.0).ok()?;
        let (_salt, name, value): (String, String, String) = serde_json::from_slice(&json).ok()?;
        Some((name, value))
    }
}

/// Writes `private/<segment>.jsonl`, one disclosure per line, so that a value is erased by deleting a line. Mode 0600,
/// not synced: losing one costs a path in a report (R7).
pub struct Private {
    dir: PathBuf,
    open: Option<(String, File)>,
}

#[derive(Serialize, Deserialize)]
struct PrivateLine {
    disclosure: Disclosure,
    seq: u64,
}

impl Private {
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, open: None }
    }

    /// Appends the values that entries of `segment` commit to.
    pub fn write(&mut self, segment: &str, disclosures: Vec<(u64, Disclosure)>) -> io::Result<()> {
        let mut lines = Vec::new();
        for (seq, disclosure) in disclosures {
            serde_json::to_writer(&mut lines, &PrivateLine { disclosure, seq })?;
            lines.push(b'\n');
        }
        self.file(segment)?.write_all(&lines)
    }

    fn file(&mut self, segment: &str) -> io::Result<&mut File> {
        let current = self.open.take().filter(|(name, _)| name == segment);
        let (name, file) = match current {
            Some(current) => current,
            None => {
                let path = self.dir.join(segment);
                let mut options = OpenOptions::new();
                options.append(true).create(true).mode(0o600);
                let file = spare::opening(|| options.open(&path))?;
                (segment.to_owned(), file)
            }
        };
        Ok(&mut self.open.insert((name, file)).1)
    }
}

/// All readable disclosures in `dir`, by digest: name and value. Erased and torn lines are skipped.
pub fn disclosed(dir: &Path) -> io::Result<HashMap<String, (String, String)>> {
    let mut found = HashMap::new();
    for file in fs::read_dir(dir)? {
        let path = file?.path();
        let is_segment = path
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.starts_with("seg-"));
        if !is_segment {
            continue;
        }
        for line in fs::read(&path)?.split(|byte| *byte == b'\n') {
            if let Ok(line) = serde_json::from_slice::<PrivateLine>(line)
                && let Some(opened) = line.disclosure.open()
            {
                found.insert(line.disclosure.digest(), opened);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Vectors {
        cases: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Case {
        salt: String,
        name: String,
        value: String,
        disclosure: String,
        digest: String,
    }

    #[test]
    fn disclosures_and_digests_match_the_vectors() {
        let vectors: Vectors = serde_json::from_str(include_str!("../../../fixtures/audit/disclosure.json")).unwrap();
        assert_eq!(vectors.cases.len(), 3);
        for case in vectors.cases {
            let salt: [u8; 16] = BASE64URL.decode(&case.salt).unwrap().try_into().unwrap();
            let made = Disclosure::new(salt, &case.name, &case.value);
            assert_eq!(made.0, case.disclosure);
            assert_eq!(made.digest(), case.digest);
            assert_eq!(made.open(), Some((case.name, case.value)));
        }
    }

    #[test]
    fn other_text_is_not_a_disclosure() {
        for bad in ["", "!!", "WyJhIl0", "e30"] {
            assert_eq!(Disclosure(bad.to_owned()).open(), None, "{bad:?}");
        }
    }
}
