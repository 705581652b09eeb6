//! Whether a token is this approver's approval of this question (approvals §5). There are thirteen checks in that
//! order, each with the stable reason that logs, entries and vectors use. The last one, that the token was not used
//! before, is made where the approval is recorded ([`super::replay`]).
//!
//! What the header says about keys (`jwk`, `jku`, `x5c`, `x5u`) is ignored. A signature by one of the issuer's keys
//! proves little on its own: an agent's own token is signed too, and may have the scope.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::decimal::Decimal;
use super::details::{Binding, Repeated, Sent};
use super::jwks::{Key, KeySet};
use super::rejected::Rejected;
use super::replay::{self, ReplayKey, without_slash};
use crate::challenge::json::{self, Object};

/// In characters; longer tokens are not examined.
const LONGEST: usize = 8192;

/// What a token must say to count. It is kept with the proof, as a record of what was checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    pub source: Source,
    pub issuer: String,
    /// The audience of an access token; that of an ID token is always `client_id`.
    pub audience: String,
    pub client_id: String,
    /// The approver who was asked.
    pub subject: String,
    pub scope: String,
    pub algs: Vec<Alg>,
    pub leeway_s: u32,
    /// From `iat` to `exp`. A token that lives longer does not approve a single action.
    pub max_lifetime_s: u32,
    pub sent: Sent,
    pub binding: Binding,
}

/// Which token of the response is judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    AccessTokenJwt,
    /// For servers whose access tokens are opaque. The scope, and the details if the token has none, then come from the
    /// response that contained it.
    IdToken {
        /// A response without a scope grants what was asked for (RFC 6749 §5.1); then this is what was asked for.
        scope: String,
        /// JSON text.
        authorization_details: Option<String>,
    },
}

/// Two names of one algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Alg {
    #[serde(rename = "EdDSA")]
    EdDsa,
    /// RFC 9864.
    Ed25519,
}

/// A token that passed the checks. Only [`verify`] creates one.
#[derive(Clone, PartialEq, Eq)]
pub struct Verified {
    pub(super) token: String,
    pub(super) key: Key,
    pub(super) claims: Proven,
    pub(super) policy: Policy,
    pub(super) verified_at: Timestamp,
    expires_at: Timestamp,
    replay_key: ReplayKey,
}

/// The claims of a token that an auditor reads (approvals §10).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proven {
    pub aud: Vec<String>,
    pub exp: i64,
    pub iat: i64,
    pub iss: String,
    pub jti: Option<String>,
    /// For an ID token, the scope of the response.
    pub scope: String,
    pub sub: String,
}

/// Checks 1 to 12. `now` is the wall clock.
pub fn verify(token: &str, keys: &KeySet, policy: &Policy, now: Timestamp) -> Result<Verified, Rejected> {
    let parts = Parts::of(token)?;
    let kid = kid(&parts.header, &policy.algs)?;
    let key = keys.key(&kid).ok_or(Rejected::UnknownKid)?;
    if !key.has_signed(parts.signed, &parts.signature) {
        return Err(Rejected::BadSignature);
    }
    let payload = json::checked(&parts.payload).map_err(|_| Rejected::Malformed)?;
    let claims = Claims::of(&Object::read(payload).ok_or(Rejected::Malformed)?)?;
    let claims = claims.check(policy, now)?;
    Ok(Verified {
        token: token.to_owned(),
        key: key.clone(),
        expires_at: Timestamp::from_second(claims.exp).map_err(|_| Rejected::ClaimType("exp"))?,
        replay_key: match &claims.jti {
            Some(jti) => ReplayKey::of_jti(&claims.iss, jti),
            None => ReplayKey::of_token(token),
        },
        claims,
        policy: policy.clone(),
        verified_at: now,
    })
}

/// The three parts, decoded, and the bytes that were signed, as received.
struct Parts<'a> {
    signed: &'a [u8],
    header: Vec<u8>,
    payload: Vec<u8>,
    signature: Vec<u8>,
}

impl<'a> Parts<'a> {
    fn of(token: &'a str) -> Result<Self, Rejected> {
        if token.len() > LONGEST {
            return Err(Rejected::TooLong);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(Rejected::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(Rejected::Malformed)?;
        // The engine rejects a further dot, unused bits that are not zero, and padding.
        let decode = |part: &str| match URL_SAFE_NO_PAD.decode(part) {
            Ok(bytes) if !bytes.is_empty() => Ok(bytes),
            _ => Err(Rejected::Malformed),
        };
        Ok(Self {
            signed: signed.as_bytes(),
            header: decode(header)?,
            payload: decode(payload)?,
            signature: decode(signature)?,
        })
    }
}

/// The `kid`, provided that the header asks for nothing that we do not support.
fn kid(header: &[u8], algs: &[Alg]) -> Result<String, Rejected> {
    let text = json::checked(header).map_err(|_| Rejected::Malformed)?;
    let header = Object::read(text).ok_or(Rejected::Malformed)?;
    let text = |name: &str| match header.member(name) {
        None => Ok(None),
        Some(_) => header.text(name).map(Some).ok_or(Rejected::Malformed),
    };
    let alg = text("alg")?.ok_or(Rejected::Malformed)?;
    if !algs.iter().any(|allowed| allowed.name() == alg) {
        return Err(Rejected::AlgNotAllowed);
    }
    if header.has("crit") {
        return Err(Rejected::CritNotSupported);
    }
    let is_known = |typ: &str| ["JWT", "at+jwt"].iter().any(|known| typ.eq_ignore_ascii_case(known));
    match text("typ")? {
        Some(typ) if !is_known(&typ) => Err(Rejected::Malformed),
        _ => text("kid")?.ok_or(Rejected::UnknownKid),
    }
}

/// The claims that matter, with the right types; times in whole seconds.
struct Claims<'a> {
    iss: Option<String>,
    sub: Option<String>,
    aud: Option<Vec<String>>,
    client_id: Option<String>,
    azp: Option<String>,
    scope: Option<String>,
    jti: Option<String>,
    exp: Option<i64>,
    nbf: Option<i64>,
    iat: Option<i64>,
    repeated: Repeated<'a>,
}

impl<'a> Claims<'a> {
    fn of(claims: &Object<'a>) -> Result<Self, Rejected> {
        let text = |name: &'static str| match claims.member(name) {
            None => Ok(None),
            Some(_) => claims.text(name).map(Some).ok_or(Rejected::ClaimType(name)),
        };
        let time = |name: &'static str| match claims.member(name) {
            None => Ok(None),
            Some(raw) => Decimal::parse(raw.get())
                .and_then(|number| number.floor())
                .map(Some)
                .ok_or(Rejected::ClaimType(name)),
        };
        let aud = match claims.member("aud") {
            None => None,
            Some(raw) if raw.get().starts_with('[') => {
                Some(serde_json::from_str(raw.get()).map_err(|_| Rejected::ClaimType("aud"))?)
            }
            Some(_) => text("aud")?.map(|aud| vec![aud]),
        };
        Ok(Self {
            iss: text("iss")?,
            sub: text("sub")?,
            aud,
            client_id: text("client_id")?,
            azp: text("azp")?,
            scope: text("scope")?,
            jti: text("jti")?,
            exp: time("exp")?,
            nbf: time("nbf")?,
            iat: time("iat")?,
            repeated: Repeated::of(claims)?,
        })
    }

    /// Checks 6 to 12.
    fn check(self, policy: &Policy, now: Timestamp) -> Result<Proven, Rejected> {
        let iss = self.iss.ok_or(Rejected::ClaimMissing("iss"))?;
        if without_slash(&iss) != without_slash(&policy.issuer) {
            return Err(Rejected::WrongIssuer);
        }
        let (iat, exp) = check_times(self.iat, self.nbf, self.exp, policy, now)?;
        let (audience, scope, beside) = match &policy.source {
            Source::AccessTokenJwt => (&policy.audience, self.scope, None),
            Source::IdToken {
                scope,
                authorization_details,
            } => (&policy.client_id, Some(scope.clone()), authorization_details.as_deref()),
        };
        let aud = self.aud.ok_or(Rejected::ClaimMissing("aud"))?;
        if !aud.contains(audience) {
            return Err(Rejected::WrongAudience);
        }
        let mut clients = self.client_id.iter().chain(&self.azp);
        if clients.any(|client| *client != policy.client_id) {
            return Err(Rejected::WrongClient);
        }
        let sub = self.sub.ok_or(Rejected::ClaimMissing("sub"))?;
        if sub != policy.subject {
            return Err(Rejected::WrongSubject);
        }
        let scope = scope.ok_or(Rejected::ScopeMissing)?;
        if !scope.split(' ').any(|granted| granted == policy.scope) {
            return Err(Rejected::ScopeMissing);
        }
        let is_id_token = policy.source != Source::AccessTokenJwt;
        match self.jti.as_deref() {
            Some("") => return Err(Rejected::ClaimMissing("jti")),
            None if !is_id_token => return Err(Rejected::ClaimMissing("jti")),
            _ => {}
        }
        policy.sent.check(&self.repeated.or_beside(beside), policy.binding)?;
        Ok(Proven {
            aud,
            exp,
            iat,
            iss,
            jti: self.jti,
            scope,
            sub,
        })
    }
}

/// `iat` and `exp`, if `now` lies between them within the allowed clock difference.
fn check_times(
    iat: Option<i64>,
    nbf: Option<i64>,
    exp: Option<i64>,
    policy: &Policy,
    now: Timestamp,
) -> Result<(i64, i64), Rejected> {
    let exp = exp.ok_or(Rejected::ClaimMissing("exp"))?;
    let iat = iat.ok_or(Rejected::ClaimMissing("iat"))?;
    // The range of a timestamp is far within that of an i64.
    let now = now.as_second();
    let earliest = now.saturating_sub(i64::from(policy.leeway_s));
    let latest = now.saturating_add(i64::from(policy.leeway_s));
    if exp <= earliest {
        return Err(Rejected::Expired);
    }
    if nbf.is_some_and(|nbf| nbf > latest) {
        return Err(Rejected::NotYetValid);
    }
    if iat > latest {
        return Err(Rejected::IssuedInFuture);
    }
    let lifetime = exp.checked_sub(iat).ok_or(Rejected::LifetimeTooLong)?;
    match lifetime > i64::from(policy.max_lifetime_s) {
        true => Err(Rejected::LifetimeTooLong),
        false => Ok((iat, exp)),
    }
}

impl Verified {
    pub const fn key(&self) -> &Key {
        &self.key
    }

    pub const fn claims(&self) -> &Proven {
        &self.claims
    }

    /// What it was checked against.
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    pub const fn expires_at(&self) -> Timestamp {
        self.expires_at
    }

    /// Check 13 is to store this, once, in the same step that records the approval.
    pub const fn replay_key(&self) -> ReplayKey {
        self.replay_key
    }

    /// How long the store must keep the replay key.
    pub fn kept_until(&self) -> Timestamp {
        replay::kept_until(
            self.expires_at,
            SignedDuration::from_secs(i64::from(self.policy.leeway_s)),
        )
    }
}

/// Omits the token, which must not get into logs.
impl fmt::Debug for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verified")
            .field("kid", &self.key.kid())
            .field("claims", &self.claims)
            .field("replay_key", &self.replay_key)
            .finish_non_exhaustive()
    }
}

impl Alg {
    pub const fn name(self) -> &'static str {
        match self {
            Self::EdDsa => "EdDSA",
            Self::Ed25519 => "Ed25519",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        [Self::EdDsa, Self::Ed25519].into_iter().find(|alg| alg.name() == name)
    }
}

#[cfg(test)]
pub(super) mod tests;
