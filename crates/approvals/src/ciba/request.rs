//! Builds the requests to an identity server: questions in both styles, polls, and the agent's own login (approvals
//! §2.2, §2.4, §2.6, §4.4). A request here is a body and a header. Pure, except for assertions that the client signs.

use http::Uri;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::assertion;
use super::settings::{AmountUnit, BindingStyle, CibaSettings, ClientAuth, Secret};
use bursar_core::approval::Question;
pub use bursar_net::oauth::Outgoing;
use bursar_net::oauth::form::{basic, bearer};

pub(crate) const CIBA_GRANT: &str = "urn:openid:params:grant-type:ciba";
/// BKey's range for `requested_expiry`; the standard has none.
const EXPIRY_S: (u64, u64) = (30, 600);

/// A question in BKey's format.
#[derive(Serialize)]
struct BkeyQuestion<'a> {
    login_hint: &'a str,
    scope: &'a str,
    binding_message: &'a str,
    action_details: ActionDetails,
    requested_expiry: u64,
}

/// What the approver's phone shows. The unit of `amount` is not documented, so the description has the amount with its
/// currency (approvals §4.4).
#[derive(Clone, Debug, Serialize)]
pub struct ActionDetails {
    r#type: &'static str,
    description: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    amount: Option<Box<RawValue>>,
    currency: &'static str,
    recipient: String,
    /// The intent's hash, which ties the approval to this payment.
    resource: String,
}

/// The payment's details as sent next to the message, to compare with what comes back (approvals §3, §8.3).
#[derive(Clone, Debug, PartialEq)]
pub enum SentDetails {
    None,
    /// BKey's `action_details`.
    Action(Value),
    /// RFC 9396's array.
    Authorization(Value),
}

/// Always includes `openid`: the standard requires it, and both of BKey's SDKs put it first.
pub fn scope(settings: &CibaSettings) -> String {
    match settings.options.scope.split(' ').any(|part| part == "openid") {
        true => settings.options.scope.clone(),
        false => format!("openid {}", settings.options.scope),
    }
}

fn binding_message(question: &Question, style: BindingStyle) -> &str {
    match style {
        BindingStyle::Sentence => &question.sentence,
        BindingStyle::Compact20 => &question.compact,
    }
}

fn expiry_s(question: &Question) -> u64 {
    question.ttl.as_secs().clamp(EXPIRY_S.0, EXPIRY_S.1)
}

fn approver(question: &Question) -> &str {
    question.intent.member("approver").unwrap_or_default()
}

/// `POST /oauth/bc-authorize` as BKey expects it: JSON, authorized by the agent's own token.
pub(crate) fn ask_bkey(
    settings: &CibaSettings,
    question: &Question,
    style: BindingStyle,
    agent_token: &Secret,
) -> Option<Outgoing> {
    let question = BkeyQuestion {
        login_hint: approver(question),
        scope: &scope(settings),
        binding_message: binding_message(question, style),
        action_details: action_details(question, settings.options.amount_unit)?,
        requested_expiry: expiry_s(question),
    };
    Some(Outgoing {
        content_type: "application/json",
        authorization: Some(bearer(agent_token)?),
        body: Zeroizing::new(serde_json::to_vec(&question).ok()?),
    })
}

/// The standard request: a form with client authentication. `notification` is the token that the server sends in pings.
pub fn ask_standard(
    settings: &CibaSettings,
    question: &Question,
    style: BindingStyle,
    notification: Option<&Secret>,
) -> Option<Outgoing> {
    let (scope, expiry) = (scope(settings), expiry_s(question).to_string());
    let details = match sent_details(settings, question) {
        SentDetails::Authorization(details) => Some(details.to_string()),
        SentDetails::None | SentDetails::Action(_) => None,
    };
    let mut fields = vec![
        ("scope", scope.as_str()),
        ("login_hint", approver(question)),
        ("binding_message", binding_message(question, style)),
        ("requested_expiry", &expiry),
    ];
    if let Some(details) = &details {
        fields.push(("authorization_details", details));
    }
    if let Some(token) = notification {
        fields.push(("client_notification_token", token.expose()));
    }
    authenticated(settings, fields)
}

/// A poll: has the person decided?
pub fn look(settings: &CibaSettings, auth_req_id: &str) -> Option<Outgoing> {
    authenticated(settings, vec![("grant_type", CIBA_GRANT), ("auth_req_id", auth_req_id)])
}

/// The agent's own login.
pub fn client_credentials(settings: &CibaSettings) -> Option<Outgoing> {
    authenticated(settings, vec![("grant_type", "client_credentials")])
}

/// Adds client authentication by exactly one method.
fn authenticated<'a>(settings: &'a CibaSettings, mut fields: Vec<(&str, &'a str)>) -> Option<Outgoing> {
    match &settings.client_auth {
        ClientAuth::Basic(secret) => {
            let authorization = basic(&settings.client_id, secret)?;
            Some(Outgoing::form(&fields, Some(authorization)))
        }
        ClientAuth::Post(secret) => {
            fields.push(("client_id", &settings.client_id));
            fields.push(("client_secret", secret.expose()));
            Some(Outgoing::form(&fields, None))
        }
        ClientAuth::PrivateKeyJwt(key) => {
            let assertion = key.assertion(&settings.client_id, &settings.issuer)?;
            let mut fields: Vec<(&str, &str)> = fields;
            // The assertion has it too; servers differ in where they look first (RFC 7521 §4.2).
            fields.push(("client_id", &settings.client_id));
            fields.push(("client_assertion_type", assertion::TYPE));
            fields.push(("client_assertion", &assertion));
            Some(Outgoing::form(&fields, None))
        }
    }
}

/// Depends on question and settings only, so that it is the same after a restart.
pub(crate) fn sent_details(settings: &CibaSettings, question: &Question) -> SentDetails {
    use super::settings::Style::{Bkey, Standard};
    match (settings.options.style, &settings.options.details_type) {
        (Bkey, _) => action_details(question, settings.options.amount_unit)
            .and_then(|details| serde_json::to_value(details).ok())
            .map_or(SentDetails::None, SentDetails::Action),
        (Standard, Some(kind)) => SentDetails::Authorization(authorization_details(question, kind)),
        (Standard, None) => SentDetails::None,
    }
}

fn action_details(question: &Question, unit: AmountUnit) -> Option<ActionDetails> {
    let text = |name| question.intent.member(name).unwrap_or_default();
    let cents = question.usd_cents;
    let amount = match unit {
        AmountUnit::Minor => Some(cents.to_string()),
        AmountUnit::Major => Some(format!("{}.{:02}", cents / 100, cents % 100)),
        AmountUnit::Omit => None,
    };
    let amount = match amount {
        Some(number) => Some(RawValue::from_string(number).ok()?),
        None => None,
    };
    Some(ActionDetails {
        r#type: "payment",
        description: format!(
            "{} {} {} to {}",
            text("protocol"),
            question.intent.amount(),
            text("currency"),
            text("host")
        ),
        amount,
        currency: "USD",
        recipient: text("host").to_owned(),
        resource: alloy_primitives::hex::encode(question.intent.hash()),
    })
}

/// Amount and payee, for the server to sign (approvals §3).
fn authorization_details(question: &Question, kind: &str) -> Value {
    let text = |name| question.intent.member(name).unwrap_or_default();
    json!([{
        "type": kind,
        "actions": ["initiate"],
        "locations": [location(question)],
        "instructedAmount": { "currency": text("currency"), "amount": question.intent.amount() },
        "creditorName": text("host"),
        "creditorAccount": { "address": text("payee"), "network": text("network") },
        "identifier": alloy_primitives::hex::encode(question.intent.hash()),
    }])
}

/// Scheme and authority of the purchased resource.
fn location(question: &Question) -> String {
    let resource: Option<Uri> = question.intent.member("resource").and_then(|url| url.parse().ok());
    let origin = resource.and_then(|url| Some(format!("{}://{}", url.scheme_str()?, url.authority()?)));
    origin.unwrap_or_else(|| format!("https://{}", question.intent.member("host").unwrap_or_default()))
}
