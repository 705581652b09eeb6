//! The reading side of `agents.toml`: what `serve` checks `Proxy-Authorization` against.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::HeaderValue;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use subtle::{ConditionallySelectable, ConstantTimeEq};

use super::{AgentName, AgentsError, TokenDigest, TokenRecord, read};
use bursar_home::{self as home, Home};

/// Tolerates missing padding and stray bits in the last character: clients differ here.
const TOLERANT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// A client's `Basic` credentials: the name it claims, and its token.
pub(crate) struct ProxyCredential {
    pub name: String,
    pub token: SecretString,
}

impl ProxyCredential {
    /// Reads `Basic` (RFC 7617), with the scheme in any case. Other schemes and malformed values are `None`: a 407
    /// either way.
    pub(crate) fn parse(value: &HeaderValue) -> Option<Self> {
        let text = value.to_str().ok()?.trim_ascii();
        let (scheme, encoded) = text.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let decoded = TOLERANT.decode(encoded.trim_ascii()).ok()?;
        let decoded: SecretString = String::from_utf8(decoded).ok()?.into();
        let (name, token) = decoded.expose_secret().split_once(':')?;
        Some(Self {
            name: name.into(),
            token: token.into(),
        })
    }
}

/// The agents of one directory as of the last reload. If the file becomes unreadable, the last good state stays in
/// force.
pub(crate) struct Roster {
    home: Home,
    state: RwLock<Arc<Snapshot>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reload {
    Unchanged,
    Changed { agents: usize },
}

struct Snapshot {
    stamp: Option<Stamp>,
    tokens: Vec<(AgentName, TokenRecord)>,
    agents: usize,
}

/// Distinguishes versions of the file; a rename always brings a new inode.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: (i64, i64),
    length: u64,
    inode: u64,
}

impl Roster {
    pub(crate) fn load(home: &Home) -> Result<Self, AgentsError> {
        Ok(Self {
            home: home.clone(),
            state: RwLock::new(Arc::new(Snapshot::take(home, Stamp::of(home)?)?)),
        })
    }

    /// The agent that owns this live token, if its name is `name` (R30). The time taken depends only on the number of
    /// tokens, not on which one comes closest.
    pub(crate) fn authenticate(&self, name: &str, token: &SecretString, now: Timestamp) -> Option<AgentName> {
        let presented = TokenDigest::of(token.expose_secret());
        let snapshot = self.snapshot();
        let mut found = u64::MAX;
        for (position, (_, token)) in (0u64..).zip(&snapshot.tokens) {
            found.conditional_assign(&position, token.digest.0.ct_eq(&presented.0));
        }
        let (owner, token) = snapshot.tokens.get(usize::try_from(found).ok()?)?;
        (owner.as_str() == name && token.is_live(now)).then(|| owner.clone())
    }

    /// Whether a token that was accepted before is still valid.
    pub(crate) fn is_live(&self, name: &AgentName, digest: &TokenDigest, now: Timestamp) -> bool {
        let snapshot = self.snapshot();
        snapshot
            .tokens
            .iter()
            .any(|(owner, token)| owner == name && token.digest == *digest && token.is_live(now))
    }

    /// One `stat`; reads the file only if it has changed since the last call. Call it every second.
    pub(crate) fn reload_if_changed(&self) -> Result<Reload, AgentsError> {
        let stamp = Stamp::of(&self.home)?;
        if self.snapshot().stamp == stamp {
            return Ok(Reload::Unchanged);
        }
        // At worst the stamp is older than the content read now, so a change in between is noticed next time.
        let fresh = Arc::new(Snapshot::take(&self.home, stamp)?);
        let agents = fresh.agents;
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(Reload::Changed { agents })
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Snapshot {
    fn take(home: &Home, stamp: Option<Stamp>) -> Result<Self, AgentsError> {
        let agents = read(home)?;
        Ok(Self {
            stamp,
            agents: agents.len(),
            tokens: agents
                .into_iter()
                .flat_map(|agent| agent.tokens.into_iter().map(move |token| (agent.name.clone(), token)))
                .collect(),
        })
    }
}

impl Stamp {
    fn of(home: &Home) -> Result<Option<Self>, AgentsError> {
        let path = home.agents();
        match std::fs::metadata(&path) {
            Ok(about) => Ok(Some(Self {
                modified: (about.mtime(), about.mtime_nsec()),
                length: about.len(),
                inode: about.ino(),
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(home::failed("examine", &path, source).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, home, name};
    use super::super::{Purpose, Registry};
    use super::*;
    use bursar_home::Readers;

    #[test]
    fn the_token_decides_and_the_name_must_match() {
        let (_folder, home) = home();
        let registry = Registry::new(&home);
        let a = registry.add(&name("a"), at(0)).unwrap();
        let b = registry.add(&name("b"), at(0)).unwrap();
        let roster = Roster::load(&home).unwrap();
        let login = |name: &str, token: &SecretString| roster.authenticate(name, token, at(1));
        assert_eq!(login("a", &a.token), Some(name("a")));
        assert_eq!(login("b", &b.token), Some(name("b")));
        assert_eq!(login("a", &b.token), None);
        assert_eq!(login("", &a.token), None);
        assert_eq!(login("A", &a.token), None);
        assert_eq!(login("a", &a.digest.to_string().into()), None);
        assert_eq!(login("a", &"".into()), None);
    }

    #[test]
    fn expired_tokens_end_without_a_write() {
        let (_folder, home) = home();
        let registry = Registry::new(&home);
        registry.add(&name("a"), at(0)).unwrap();
        let temporary = registry
            .mint_temporary(&name("a"), Purpose::Env, at(10), at(0))
            .unwrap();
        let roster = Roster::load(&home).unwrap();
        assert!(roster.authenticate("a", &temporary.token, at(9)).is_some());
        assert!(roster.authenticate("a", &temporary.token, at(10)).is_none());
    }

    #[test]
    fn changes_are_seen_and_damage_changes_nothing() {
        let (_folder, home) = home();
        let roster = Roster::load(&home).unwrap();
        assert_eq!(roster.reload_if_changed().unwrap(), Reload::Unchanged);
        let registry = Registry::new(&home);
        let old = registry.add(&name("a"), at(0)).unwrap();
        assert!(roster.authenticate("a", &old.token, at(0)).is_none());
        assert_eq!(roster.reload_if_changed().unwrap(), Reload::Changed { agents: 1 });
        assert_eq!(roster.reload_if_changed().unwrap(), Reload::Unchanged);
        assert!(roster.authenticate("a", &old.token, at(0)).is_some());

        home::write_atomic(&home.agents(), b"[[agents", Readers::Owner).unwrap();
        assert!(matches!(roster.reload_if_changed(), Err(AgentsError::Damaged { .. })));
        assert!(roster.authenticate("a", &old.token, at(0)).is_some());

        std::fs::remove_file(home.agents()).unwrap();
        assert_eq!(roster.reload_if_changed().unwrap(), Reload::Changed { agents: 0 });
        assert!(roster.authenticate("a", &old.token, at(0)).is_none());
    }

    #[test]
    fn basic_credentials() {
        let parse = |text: &str| {
            let credential = ProxyCredential::parse(&HeaderValue::from_str(text).unwrap())?;
            Some((credential.name, credential.token.expose_secret().to_string()))
        };
        let research = Some(("research".to_string(), "bur_x".to_string()));
        for text in [
            "Basic cmVzZWFyY2g6YnVyX3g=",
            "basic cmVzZWFyY2g6YnVyX3g",
            "BASIC   cmVzZWFyY2g6YnVyX3g=  ",
            "Basic cmVzZWFyY2g6YnVyX3h=",
        ] {
            assert_eq!(parse(text), research, "{text}");
        }
        assert_eq!(parse("Basic YTpiOmM="), Some(("a".into(), "b:c".into())));
        assert_eq!(parse("Basic YTo="), Some(("a".into(), String::new())));
        for text in [
            "",
            "Basic",
            "Basic ",
            "Basic !!!",
            "Bearer cmVzZWFyY2g6YnVyX3g=",
            "Basic cmVzZWFyY2g=",
            "Basic /w==",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
