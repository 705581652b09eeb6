//! Verifies the tokens of an identity server with [`bursar_core::approval::token`] (approvals §5). The policy is made
//! from the server's settings and the question.
//!
//! Whether a token was used before (check 13) is decided by the ledger, which records its replay key in the same step
//! as the approval (R45).

use super::ciba::poll::Grant;
use super::ciba::request::{self, SentDetails};
use super::ciba::settings::{CibaSettings, EvidenceToken};
use super::ciba::{Presented, Rejected, Verifier};
use bursar_core::approval::Evidence;
use bursar_core::approval::details::{Binding, Sent};
use bursar_core::approval::jwks::KeySet;
use bursar_core::approval::rejected;
use bursar_core::approval::token::{Policy, Source, verify};

/// Longest time from `iat` to `exp` (approvals §5, check 7).
const LONGEST_LIFE_S: u32 = 3600;

/// Relies only on what the issuer signed, except for the scope that comes with an id_token.
pub struct Tokens;

impl Verifier for Tokens {
    type Keys = KeySet;

    fn keys(&self, document: &[u8]) -> Option<KeySet> {
        match KeySet::read(document) {
            Ok(keys) => Some(keys),
            Err(error) => {
                tracing::warn!(%error, "the identity server's key set is not usable");
                None
            }
        }
    }

    fn verify(&self, presented: &Presented<'_>, keys: &KeySet) -> Result<Evidence, Rejected> {
        let policy = policy(presented);
        match verify(presented.token.expose(), keys, &policy, presented.now) {
            Ok(verified) => Ok(verified.evidence()),
            Err(rejected::Rejected::UnknownKid) => Err(Rejected::UnknownKid),
            Err(why) => {
                tracing::debug!(%why, "the token does not prove an approval");
                Err(Rejected::Because(why.code()))
            }
        }
    }
}

fn policy(presented: &Presented<'_>) -> Policy {
    let (settings, question) = (presented.settings, presented.question);
    let (action_details, authorization_details) = match presented.sent {
        SentDetails::None => (None, None),
        SentDetails::Action(details) => (Some(details.to_string()), None),
        SentDetails::Authorization(details) => (None, Some(details.to_string())),
    };
    Policy {
        source: source(settings, presented.grant),
        issuer: settings.issuer.as_str().to_owned(),
        audience: settings.audience().to_owned(),
        client_id: settings.client_id.clone(),
        // Every question names an approver, so the default is never used.
        subject: question.intent.member("approver").unwrap_or_default().to_owned(),
        scope: settings.options.scope.clone(),
        algs: settings.options.algs.clone(),
        leeway_s: u32::try_from(settings.options.leeway.as_secs()).unwrap_or(u32::MAX),
        max_lifetime_s: LONGEST_LIFE_S,
        sent: Sent {
            auth_req_id: presented.auth_req_id.to_owned(),
            action_details,
            authorization_details,
        },
        binding: match settings.options.require_bound_details {
            true => Binding::Required,
            false => Binding::IfRepeated,
        },
    }
}

fn source(settings: &CibaSettings, grant: &Grant) -> Source {
    match settings.options.evidence {
        EvidenceToken::AccessTokenJwt => Source::AccessTokenJwt,
        EvidenceToken::IdToken => Source::IdToken {
            // A response without `scope` grants the requested one (RFC 6749 §5.1).
            scope: grant.scope.clone().unwrap_or_else(|| request::scope(settings)),
            authorization_details: grant.authorization_details.as_ref().map(ToString::to_string),
        },
    }
}
