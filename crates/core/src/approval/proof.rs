//! A verified token as evidence, and evidence that is verified again: years later, offline, when the issuer has other
//! keys. What was checked is kept with the token, so that the same checks can be repeated as of the time of the
//! decision.
//!
//! The signature proves that the holder of the archived key made the token, but not whose key it was. That rests on the
//! thumbprint, which was recorded while the issuer still published the key.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::jwks::{BadKeys, Jwk, Key, KeySet};
use super::rejected::Rejected;
use super::token::{self, Policy, Proven, Verified};
use super::{Evidence, EvidenceKind};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Proof {
    token: String,
    jwk: Jwk,
    thumbprint: String,
    claims: Proven,
    policy: Policy,
}

/// Why evidence does not prove what it claims.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Unproven {
    #[error("it does not consist of a signed token and its key")]
    NotSignedToken,
    #[error("its key: {0}")]
    BadKey(#[from] BadKeys),
    #[error("its token: {0}")]
    Rejected(#[from] Rejected),
    #[error("it differs from what its token says")]
    Differs,
}

impl Verified {
    /// To be recorded together with the replay key. The time of the decision is when bursar learned of it: `iat` may be
    /// slightly ahead of our clock.
    pub fn evidence(&self) -> Evidence {
        let proof = Proof {
            token: self.token.clone(),
            jwk: self.key.jwk(),
            thumbprint: self.key.thumbprint(),
            claims: self.claims.clone(),
            policy: self.policy.clone(),
        };
        Evidence {
            kind: EvidenceKind::SignedToken,
            approver: self.claims.sub.clone(),
            decided_at: self.verified_at,
            good_until: Some(self.expires_at()),
            replay_key: self.replay_key().to_string(),
            // Cannot fail: there are only maps with string keys, and whole numbers.
            proof: serde_json::to_value(proof).unwrap_or_default(),
        }
    }
}

/// Repeats the checks of [`token::verify`] as of the decision, using only the evidence, and checks that it claims no
/// more than they prove. The caller must check in the result that issuer, approver, scope and thumbprint are the right
/// ones.
pub fn reverify(evidence: &Evidence) -> Result<Verified, Unproven> {
    if evidence.kind != EvidenceKind::SignedToken {
        return Err(Unproven::NotSignedToken);
    }
    let proof = Proof::deserialize(&evidence.proof).map_err(|_| Unproven::NotSignedToken)?;
    let keys = KeySet::from(Key::from_jwk(&proof.jwk)?);
    let verified = token::verify(&proof.token, &keys, &proof.policy, evidence.decided_at)?;
    match verified.evidence() == *evidence {
        true => Ok(verified),
        false => Err(Unproven::Differs),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::token::tests::{NOW, issuer_keys, now, policy, signed, valid};
    use super::super::token::{Source, verify};
    use super::*;

    fn evidence() -> Evidence {
        verify(&valid(), &issuer_keys(), &policy(), now()).unwrap().evidence()
    }

    #[test]
    fn evidence_says_who_decided_when_and_by_what() {
        let evidence = evidence();
        assert_eq!(evidence.kind, EvidenceKind::SignedToken);
        assert_eq!(evidence.approver, "did:bkey:zApproverOne");
        assert_eq!(evidence.decided_at, now());
        assert_eq!(evidence.good_until.unwrap().as_second(), NOW + 290);
        assert_eq!(evidence.replay_key.len(), 64);
        assert_eq!(evidence.proof["token"], valid());
        assert_eq!(
            evidence.proof["jwk"]["x"],
            "4_eVNUfslNGV_bOcssdMux7tEfcFmYpPyZxbxA_qCqc"
        );
        assert_eq!(
            evidence.proof["thumbprint"],
            issuer_keys().key("k1").unwrap().thumbprint()
        );
        assert_eq!(
            evidence.proof["claims"],
            json!({"aud": ["bkey_client_proxy"], "exp": NOW + 290, "iat": NOW - 10, "iss": "https://idp.test",
                "jti": "jti-0001", "scope": "openid approve:payment", "sub": "did:bkey:zApproverOne"})
        );
    }

    #[test]
    fn written_evidence_verifies_again_without_the_issuer() {
        let written = serde_json::to_string(&evidence()).unwrap();
        let read: Evidence = serde_json::from_str(&written).unwrap();
        let verified = reverify(&read).unwrap();
        assert_eq!(verified, verify(&valid(), &issuer_keys(), &policy(), now()).unwrap());
        assert_eq!(verified.policy().issuer, "https://idp.test");
    }

    #[test]
    fn an_id_token_without_jti_verifies_again() {
        let token = signed(&json!({"iss": "https://idp.test", "sub": "did:bkey:zApproverOne",
            "aud": "bkey_client_proxy", "iat": NOW, "exp": NOW + 60}));
        let mut policy = policy();
        policy.source = Source::IdToken {
            scope: "approve:payment".to_owned(),
            authorization_details: None,
        };
        let evidence = verify(&token, &issuer_keys(), &policy, now()).unwrap().evidence();
        assert!(reverify(&evidence).is_ok());
    }

    /// Changes every value in the written evidence, one at a time. None may change unnoticed.
    #[test]
    fn changed_evidence_does_not_verify() {
        let written = serde_json::to_value(evidence()).unwrap();
        // What bursar itself allowed and sent: a token that repeats none of it passes with other values too.
        let free = [
            "/proof/policy/leeway_s",
            "/proof/policy/max_lifetime_s",
            "/proof/policy/sent/auth_req_id",
            "/proof/policy/sent/action_details",
        ];
        let mut paths = Vec::new();
        leaves(&written, String::new(), &mut paths);
        assert!(paths.len() > 25, "{paths:?}");
        for path in paths.iter().filter(|path| !free.contains(&path.as_str())) {
            let mut changed = written.clone();
            let leaf = changed.pointer_mut(path).unwrap();
            *leaf = match &*leaf {
                Value::String(text) => json!(format!("{text}A")),
                Value::Number(number) => json!(number.as_i64().unwrap() + 1),
                _ => json!("[]"),
            };
            let read = serde_json::from_value::<Evidence>(changed);
            assert!(read.map_or(true, |evidence| reverify(&evidence).is_err()), "{path}");
        }
    }

    fn leaves(value: &Value, path: String, paths: &mut Vec<String>) {
        match value {
            Value::Object(members) => {
                for (name, value) in members {
                    leaves(value, format!("{path}/{name}"), paths);
                }
            }
            Value::Array(entries) => {
                for (place, value) in entries.iter().enumerate() {
                    leaves(value, format!("{path}/{place}"), paths);
                }
            }
            _ => paths.push(path),
        }
    }

    #[test]
    fn each_fault_has_its_name() {
        let mut late = evidence();
        late.decided_at = jiff::Timestamp::from_second(NOW + 321).unwrap();
        assert_eq!(reverify(&late), Err(Unproven::Rejected(Rejected::Expired)));
        let mut operator = evidence();
        operator.kind = EvidenceKind::Operator;
        assert_eq!(reverify(&operator), Err(Unproven::NotSignedToken));
        let mut other = evidence();
        other.approver = "did:bkey:zOther".to_owned();
        assert_eq!(reverify(&other), Err(Unproven::Differs));
        let mut more = evidence();
        more.proof["more"] = json!(1);
        assert_eq!(reverify(&more), Err(Unproven::NotSignedToken));
        let mut other_key = evidence();
        other_key.proof["jwk"]["x"] = json!("C_5BDSp6JfeT7pQxsPDcUL1-kN8tZeFJ-c0uqVndNeM");
        assert_eq!(reverify(&other_key), Err(Unproven::Rejected(Rejected::BadSignature)));
        let mut weak = evidence();
        weak.proof["jwk"]["x"] = json!("AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!(
            reverify(&weak),
            Err(Unproven::BadKey(BadKeys::WeakKey("k1".to_owned())))
        );
    }
}
