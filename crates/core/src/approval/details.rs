//! Whatever a token repeats of the question must match what was asked (approvals §8.3). Numbers are compared as exact
//! decimals, not as floats: `1250.0` equals 1250.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::decimal::Decimal;
use super::rejected::Rejected;
use crate::challenge::json::{self, Object};

const AUTH_REQ_ID: &str = "urn:openid:params:jwt:claim:auth_req_id";
const ACTION: &str = "action_details";
const AUTHORIZATION: &str = "authorization_details";
/// The members of `action_details` that are compared, in addition to `amount`. The server may word type and
/// description.
const TEXTS: [&str; 3] = ["currency", "recipient", "resource"];

/// The question as the backend sent it; details are the JSON text as sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    pub auth_req_id: String,
    /// BKey's details (approvals §4.4), an object.
    pub action_details: Option<String>,
    /// RFC 9396, an array. If it was sent, it must come back with all members equal.
    pub authorization_details: Option<String>,
}

/// What is required of a token that does not repeat the details.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Binding {
    /// Nothing: the handle over which it was fetched binds it. BKey documents no more than that.
    IfRepeated,
    /// `require_bound_details`: the token must repeat every detail that was sent.
    Required,
}

/// The details in a token's payload, with the right types.
#[derive(Clone, Debug)]
pub(super) struct Repeated<'a> {
    auth_req_id: Option<String>,
    action: Option<Action>,
    authorization: Option<&'a str>,
}

#[derive(Clone, Debug)]
struct Action {
    amount: Option<Decimal>,
    texts: [Option<String>; TEXTS.len()],
}

impl<'a> Repeated<'a> {
    pub(super) fn of(claims: &Object<'a>) -> Result<Self, Rejected> {
        let action = match claims.member(ACTION) {
            None => None,
            Some(details) => Some(
                Object::read(details.get())
                    .and_then(|details| Action::of(&details))
                    .ok_or(Rejected::ClaimType(ACTION))?,
            ),
        };
        let authorization = match claims.member(AUTHORIZATION).map(RawValue::get) {
            Some(details) if !details.starts_with('[') => return Err(Rejected::ClaimType(AUTHORIZATION)),
            details => details,
        };
        let auth_req_id = claims.text(AUTH_REQ_ID);
        if auth_req_id.is_none() && claims.member(AUTH_REQ_ID).is_some() {
            return Err(Rejected::ClaimType(AUTH_REQ_ID));
        }
        Ok(Self {
            auth_req_id,
            action,
            authorization,
        })
    }

    /// A server that does not sign the details may repeat them in its response, next to the token.
    pub(super) fn or_beside(mut self, authorization: Option<&'a str>) -> Self {
        self.authorization = self.authorization.or(authorization);
        self
    }
}

impl Action {
    fn of(details: &Object<'_>) -> Option<Self> {
        let amount = match details.member("amount") {
            None => None,
            Some(amount) => Some(Decimal::parse(amount.get())?),
        };
        let is_text = |name: &str| details.member(name).is_none() || details.text(name).is_some();
        TEXTS.into_iter().all(is_text).then(|| Self {
            amount,
            texts: TEXTS.map(|name| details.text(name)),
        })
    }

    fn sent(text: &str) -> Option<Self> {
        let text = json::checked(text.as_bytes()).ok()?;
        Self::of(&Object::read(text)?)
    }

    fn agrees_with(&self, sent: &Self, binding: Binding) -> bool {
        let texts = self.texts.iter().zip(&sent.texts);
        agrees(self.amount.as_ref(), sent.amount.as_ref(), binding)
            && texts
                .into_iter()
                .all(|(repeated, sent)| agrees(repeated.as_ref(), sent.as_ref(), binding))
    }
}

/// A detail that was never sent does not agree.
fn agrees<T: PartialEq>(repeated: Option<&T>, sent: Option<&T>, binding: Binding) -> bool {
    match (repeated, binding) {
        (None, Binding::IfRepeated) => true,
        (repeated, _) => repeated == sent,
    }
}

impl Sent {
    pub(super) fn check(&self, repeated: &Repeated<'_>, binding: Binding) -> Result<(), Rejected> {
        let is_bound = self.action_details.is_some() || self.authorization_details.is_some();
        if binding == Binding::Required && !is_bound {
            return Err(Rejected::BindingMismatch(AUTHORIZATION));
        }
        // Servers omit it for polling clients; if present, it must be ours.
        if repeated.auth_req_id.as_ref().is_some_and(|id| *id != self.auth_req_id) {
            return Err(Rejected::BindingMismatch(AUTH_REQ_ID));
        }
        if !self.action_agrees(repeated, binding) {
            return Err(Rejected::BindingMismatch(ACTION));
        }
        if !self.authorization_agrees(repeated) {
            return Err(Rejected::BindingMismatch(AUTHORIZATION));
        }
        Ok(())
    }

    fn action_agrees(&self, repeated: &Repeated<'_>, binding: Binding) -> bool {
        match (&repeated.action, &self.action_details) {
            (None, None) => true,
            (None, Some(_)) => binding == Binding::IfRepeated,
            (Some(_), None) => false,
            (Some(repeated), Some(sent)) => Action::sent(sent).is_some_and(|sent| repeated.agrees_with(&sent, binding)),
        }
    }

    fn authorization_agrees(&self, repeated: &Repeated<'_>) -> bool {
        match (repeated.authorization, &self.authorization_details) {
            (None, None) => true,
            (None, Some(_)) | (Some(_), None) => false,
            (Some(repeated), Some(sent)) => equal(repeated, sent),
        }
    }
}

/// Whether two texts are the same JSON value. The order of members does not matter, the order in arrays does.
fn equal(a: &str, b: &str) -> bool {
    let [a, b] = [a, b].map(|text| json::checked(text.as_bytes()).ok().and_then(Json::read));
    a.is_some() && a == b
}

#[derive(PartialEq, Eq)]
enum Json {
    Object(BTreeMap<String, Self>),
    Array(Vec<Self>),
    Text(String),
    Number(Decimal),
    /// `true`, `false`, `null`.
    Word(String),
}

impl Json {
    /// Reads a text that [`json::checked`] has accepted, so its depth is bounded.
    fn read(text: &str) -> Option<Self> {
        let text = text.trim_ascii();
        match text.as_bytes().first()? {
            b'{' => {
                let members: BTreeMap<String, &RawValue> = serde_json::from_str(text).ok()?;
                let read = |(name, value): (String, &RawValue)| Some((name, Self::read(value.get())?));
                members.into_iter().map(read).collect::<Option<_>>().map(Self::Object)
            }
            b'[' => {
                let entries: Vec<&RawValue> = serde_json::from_str(text).ok()?;
                let entries = entries.into_iter().map(|entry| Self::read(entry.get()));
                entries.collect::<Option<_>>().map(Self::Array)
            }
            b'"' => serde_json::from_str(text).ok().map(Self::Text),
            b'-' | b'0'..=b'9' => Decimal::parse(text).map(Self::Number),
            _ => Some(Self::Word(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    const RAR: &str = r#"[{"type":"payment_initiation","actions":["initiate","status"],
        "instructedAmount":{"currency":"USDC","amount":"12.50"},"limit":5,"creditorName":"api.example.com"}]"#;

    fn sent(action: Option<&str>, authorization: Option<&str>) -> Sent {
        Sent {
            auth_req_id: "ciba_0001".to_owned(),
            action_details: action.map(str::to_owned),
            authorization_details: authorization.map(str::to_owned),
        }
    }

    fn check(claims: &str, sent: &Sent, binding: Binding) -> Result<(), &'static str> {
        let claims = Object::read(json::checked(claims.as_bytes()).unwrap()).unwrap();
        Repeated::of(&claims)
            .and_then(|repeated| sent.check(&repeated, binding))
            .map_err(|rejected| rejected.code())
    }

    /// A member of the vectors as written there: a `Value` would turn numbers into floats.
    fn raw<'a>(text: &'a str, path: &[&str]) -> &'a str {
        path.iter().fold(text, |text, name| {
            Object::read(text).unwrap().member(name).unwrap().get()
        })
    }

    #[test]
    fn details_agree_as_the_vectors_say() {
        let fixture = include_str!("../../../../fixtures/approvals/intent_binding.json");
        let action = raw(fixture, &["token_binding", "pending", "sent_action_details"]);
        let sent = sent(Some(action), None);
        let cases: Vec<&RawValue> = serde_json::from_str(raw(fixture, &["token_binding", "cases"])).unwrap();
        assert_eq!(cases.len(), 12);
        for case in cases {
            let verdict: Value = serde_json::from_str(case.get()).unwrap();
            let found = check(raw(case.get(), &["claims"]), &sent, Binding::IfRepeated);
            let expected = match verdict["verdict"].as_str().unwrap() {
                "accept" => Ok(()),
                _ => Err(verdict["reason"].as_str().unwrap()),
            };
            assert_eq!(found, expected, "{}", verdict["name"]);
        }
    }

    #[test]
    fn required_details_must_all_be_there() {
        let sent_action = sent(
            Some(r#"{"type":"payment","amount":1250,"currency":"USD","recipient":"r"}"#),
            None,
        );
        let whole = r#"{"action_details":{"amount":1250,"currency":"USD","recipient":"r"}}"#;
        assert_eq!(check(whole, &sent_action, Binding::Required), Ok(()));
        for partial in [
            "{}",
            r#"{"urn:openid:params:jwt:claim:auth_req_id":"ciba_0001"}"#,
            r#"{"action_details":{"amount":1250,"currency":"USD"}}"#,
            r#"{"action_details":{"amount":null,"currency":"USD","recipient":"r"}}"#,
        ] {
            assert_eq!(check(partial, &sent_action, Binding::IfRepeated), Ok(()), "{partial}");
            let found = check(partial, &sent_action, Binding::Required);
            assert_eq!(found, Err("binding_mismatch"), "{partial}");
        }
        // Nothing was sent that the token could repeat.
        assert_eq!(
            check("{}", &sent(None, None), Binding::Required),
            Err("binding_mismatch")
        );
        assert_eq!(check("{}", &sent(None, None), Binding::IfRepeated), Ok(()));
    }

    #[test]
    fn details_that_were_never_sent_do_not_agree() {
        let without_amount = sent(Some(r#"{"type":"payment","currency":"USD"}"#), None);
        let found = check(
            r#"{"action_details":{"amount":1}}"#,
            &without_amount,
            Binding::IfRepeated,
        );
        assert_eq!(found, Err("binding_mismatch"));
        let nothing = sent(None, None);
        for claims in [r#"{"action_details":{}}"#, r#"{"authorization_details":[]}"#] {
            let found = check(claims, &nothing, Binding::IfRepeated);
            assert_eq!(found, Err("binding_mismatch"), "{claims}");
        }
    }

    #[test]
    fn details_of_another_type_are_refused_as_such() {
        let sent = sent(Some(r#"{"amount":1}"#), None);
        for claims in [
            r#"{"action_details":[]}"#,
            r#"{"action_details":{"amount":"1"}}"#,
            r#"{"action_details":{"currency":1}}"#,
            r#"{"authorization_details":{}}"#,
            r#"{"urn:openid:params:jwt:claim:auth_req_id":1}"#,
        ] {
            assert_eq!(check(claims, &sent, Binding::IfRepeated), Err("claim_type"), "{claims}");
        }
    }

    #[test]
    fn rich_details_must_come_back_member_for_member() {
        let sent = sent(None, Some(RAR));
        let back = |details: &str| {
            check(
                &format!(r#"{{"authorization_details":{details}}}"#),
                &sent,
                Binding::IfRepeated,
            )
        };
        assert_eq!(back(RAR), Ok(()));
        let reordered = r#"[{"limit":5.0,"creditorName":"api.example.com","actions":["initiate","status"],
            "instructedAmount":{"amount":"12.50","currency":"USD\u0043"},"type":"payment_initiation"}]"#;
        assert_eq!(back(reordered), Ok(()));
        for changed in [
            RAR.replace("12.50", "12.5"),
            RAR.replace("5,", "6,"),
            RAR.replace(r#""initiate","status""#, r#""status","initiate""#),
            RAR.replace(r#""limit":5,"#, ""),
            RAR.replace(r#""limit":5,"#, r#""limit":5,"more":null,"#),
            RAR.replace(r#""limit":5,"#, r#""limit":"5","#),
            RAR.replace("}]", "},{}]"),
            "[]".to_owned(),
        ] {
            assert_ne!(changed, RAR);
            assert_eq!(back(&changed), Err("binding_mismatch"), "{changed}");
        }
        assert_eq!(check("{}", &sent, Binding::IfRepeated), Err("binding_mismatch"));
    }

    proptest! {
        #[test]
        fn no_text_panics(a in ".{0,60}") {
            let _ = equal(&a, &a);
        }
    }
}
