//! A question, a client, and a verifier that stands for the program's own: signature, key, subject, scope, audience, details.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bursar::approval::{Evidence, EvidenceKind, Intent, Question, intent};
use bursar::approve::ciba::discovery::{Issuer, PlainHttp};
use bursar::approve::ciba::request::SentDetails;
use bursar::approve::ciba::settings::{
    AmountUnit, BindingStyle, CibaSettings, ClientAuth, Delivery, EvidenceToken, Secret, Style,
};
use bursar::approve::ciba::{Ciba, Presented, Rejected, Verifier};
use bursar::approve::{Asked, Backend, Failure, Standing};
use bursar::challenge;
use bursar::clock::SystemClock;
use bursar::ledger::Rid;
use bursar::tls::upstream::{Trust, UpstreamTls};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::bkey::{APPROVER, CLIENT_ID, CLIENT_SECRET, FakeBkey};

pub struct Checks;

impl Verifier for Checks {
    type Keys = Vec<Value>;

    fn keys(&self, document: &[u8]) -> Option<Vec<Value>> {
        let document: Value = serde_json::from_slice(document).ok()?;
        document["keys"].as_array().filter(|keys| !keys.is_empty()).cloned()
    }

    fn verify(&self, presented: &Presented<'_>, keys: &Vec<Value>) -> Result<Evidence, Rejected> {
        let malformed = Rejected::Because("malformed");
        let token = presented.token.expose();
        let (signed, signature) = token.rsplit_once('.').ok_or(malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(malformed)?;
        let bytes = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| malformed);
        let read = |text: &str| serde_json::from_slice::<Value>(&bytes(text)?).map_err(|_| malformed);
        let (header, claims) = (read(header)?, read(claims)?);
        let key = keys.iter().find(|key| key["kid"] == header["kid"]);
        let key = bytes(key.ok_or(Rejected::UnknownKid)?["x"].as_str().ok_or(malformed)?)?;
        UnparsedPublicKey::new(&ED25519, key)
            .verify(signed.as_bytes(), &bytes(signature)?)
            .map_err(|_| Rejected::Because("bad_signature"))?;
        let settings = presented.settings;
        if claims["iss"] != settings.issuer.as_str() {
            return Err(Rejected::Because("wrong_issuer"));
        }
        if claims["aud"] != settings.audience() {
            return Err(Rejected::Because("wrong_audience"));
        }
        if claims["sub"].as_str() != presented.question.intent.member("approver") {
            return Err(Rejected::Because("wrong_subject"));
        }
        let scope = match settings.evidence {
            EvidenceToken::AccessTokenJwt => claims["scope"].as_str(),
            EvidenceToken::IdToken => presented.grant.scope.as_deref(),
        };
        if !scope.is_some_and(|scope| scope.split(' ').any(|part| part == settings.scope)) {
            return Err(Rejected::Because("scope_missing"));
        }
        if let SentDetails::Authorization(sent) = presented.sent
            && settings.evidence == EvidenceToken::AccessTokenJwt
            && claims["authorization_details"] != *sent
        {
            return Err(Rejected::Because("binding_mismatch"));
        }
        Ok(Evidence {
            kind: EvidenceKind::SignedToken,
            approver: claims["sub"].as_str().unwrap_or_default().to_owned(),
            decided_at: presented.now,
            good_until: None,
            replay_key: claims["jti"].as_str().unwrap_or_default().to_owned(),
            proof: json!({ "token": token, "kid": header["kid"] }),
        })
    }
}

/// One that costs $12.50, put to [`APPROVER`].
pub fn question() -> Question {
    let challenge = json!({
        "x402Version": 1,
        "accepts": [{
            "scheme": "exact", "network": "base", "maxAmountRequired": "12500000", "maxTimeoutSeconds": 60,
            "resource": "https://api.example.com/v1/forecast", "description": "", "mimeType": "",
            "payTo": "0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
            "asset": "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913",
            "extra": { "name": "USD Coin", "version": "2" },
        }],
    });
    let challenge = challenge::v1(challenge.to_string().as_bytes()).unwrap();
    let asked = intent::Asked {
        agent: "build-bot",
        approver: APPROVER,
        host: "api.example.com",
        method: "GET",
        resource: "https://api.example.com/v1/forecast",
        body_sha256: None,
    };
    let intent = Intent::of(&asked, &challenge.offers[0]);
    Question {
        id: Rid::new(Timestamp::now(), [7; 10]),
        sentence: intent.sentence("12.50"),
        compact: intent.compact("12.50"),
        usd_cents: 1250,
        ttl: Duration::from_secs(300),
        intent,
    }
}

pub fn settings(issuer: &str, style: Style) -> CibaSettings {
    CibaSettings {
        issuer: Issuer::parse(issuer, PlainHttp::ToThisMachine).unwrap(),
        style,
        delivery: Delivery::Poll,
        client_id: CLIENT_ID.to_owned(),
        secret: Secret::new(CLIENT_SECRET),
        client_auth: ClientAuth::Post,
        scope: "approve:payment".to_owned(),
        audience: None,
        evidence: EvidenceToken::AccessTokenJwt,
        algs: vec!["EdDSA".to_owned()],
        leeway: Duration::from_secs(30),
        binding_style: BindingStyle::Sentence,
        amount_unit: AmountUnit::Minor,
        details_type: None,
        require_bound_details: false,
        hosts: Vec::new(),
    }
}

pub fn client(settings: CibaSettings) -> Ciba<Checks> {
    let tls = UpstreamTls::new(&Trust::default(), Duration::from_secs(10)).unwrap();
    Ciba::new(settings, Checks, Arc::new(tls), Arc::new(SystemClock))
}

pub fn of(fake: &FakeBkey) -> Ciba<Checks> {
    client(settings(&fake.base, Style::Bkey))
}

/// The code of a question that could not be put.
pub async fn refused(ciba: &Ciba<Checks>) -> Failure {
    ciba.start(&question()).await.expect_err("it was put")
}

pub async fn look(ciba: &Ciba<Checks>, asked: &mut Asked) -> Standing {
    ciba.poll(&question(), asked).await
}

pub fn code(standing: Standing) -> String {
    match standing {
        Standing::Failed(failure) => failure.code,
        other => panic!("{other:?}"),
    }
}

pub fn wait(standing: Standing) -> Duration {
    match standing {
        Standing::Pending { wait } => wait,
        other => panic!("{other:?}"),
    }
}

pub fn interop() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/interop")
}

/// A test that cannot run is a failure where BURSAR_TEST_STRICT=1 says so.
pub fn skip(need: &str) {
    let strict = std::env::var_os("BURSAR_TEST_STRICT").is_some_and(|value| value == "1");
    assert!(!strict, "BURSAR_TEST_STRICT=1 and {need}");
    eprintln!("skipped: {need}");
}
