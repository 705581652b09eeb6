//! The Stripe client and the Stripe sandbox, checked against npm's `stripe` and `mppx`
//! (`tests/interop/stripe-shapes.mjs`). What the client sends has the types of the package, so do the sandbox's
//! answers, and both packages work with the sandbox. mppx's client also buys at the sandbox's shop.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bursar_core::clock::SystemClock;
use bursar_ledger::PaymentId;
use bursar_net::tls::upstream::{Trust, UpstreamTls};
use bursar_rails::stripe::{
    ApiBase, Currency, Endpoint, Order, PaymentMethod, Profile, SecretKey, Settings, Stripe, StripeError,
};
use bursar_sandbox::stripe::{AGENT_KEY, StripeSandbox};
use bursar_sandbox::{Options, Sandbox};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

const AGENT: &str = "sk_test_agent";
const SELLER: &str = "sk_test_seller";
const PROFILE: &str = "profile_test_seller";

fn interop() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/interop")
}

/// Whether `npm ci` has been run there. With BURSAR_TEST_STRICT=1, a test that cannot run fails.
fn installed() -> bool {
    let packages = ["stripe", "typescript", "mppx"];
    let found = packages
        .iter()
        .all(|name| interop().join("node_modules").join(name).is_dir());
    if !found {
        let need = "the npm packages are not installed: run `npm ci` in tests/interop";
        let strict = std::env::var_os("BURSAR_TEST_STRICT").is_some_and(|value| value == "1");
        assert!(!strict, "BURSAR_TEST_STRICT=1 and {need}");
        eprintln!("skipped: {need}");
    }
    found
}

/// One run of the script.
fn shapes(arguments: &[&str], input: &Value) -> Value {
    shapes_by(&mut Command::new("node"), arguments, input)
}

fn shapes_by(node: &mut Command, arguments: &[&str], input: &Value) -> Value {
    let mut child = node
        .arg(interop().join("stripe-shapes.mjs"))
        .args(arguments)
        .env_remove("HTTP_PROXY")
        .env_remove("HTTPS_PROXY")
        .env_remove("NODE_USE_ENV_PROXY")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.to_string().as_bytes()).unwrap();
    drop(stdin);
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "stripe-shapes.mjs: {}", out.status);
    serde_json::from_slice(&out.stdout).unwrap()
}

/// The compiler's error numbers for each value.
fn complaints(cases: &[(&str, &Value)]) -> Vec<Vec<u64>> {
    let input: Vec<Value> = cases
        .iter()
        .map(|(name, value)| json!({ "type": name, "value": value }))
        .collect();
    let said = shapes(&["check"], &json!(input));
    let numbers = |of_one: &Value| {
        of_one
            .as_array()
            .unwrap()
            .iter()
            .map(|said| said["code"].as_u64().unwrap())
            .collect()
    };
    said.as_array().unwrap().iter().map(numbers).collect()
}

/// The form that the client writes for an order, as its parameters: nested, and numbers where there are only digits.
fn parameters(endpoint: Endpoint) -> Value {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let service = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut read = Vec::new();
        while !read.ends_with(PROFILE.as_bytes()) {
            let mut chunk = [0; 1024];
            let length = stream.read(&mut chunk).unwrap();
            assert!(length > 0, "the client went away early");
            read.extend_from_slice(&chunk[..length]);
        }
        stream
            .write_all(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n")
            .unwrap();
        String::from_utf8(read).unwrap()
    });
    let tls = UpstreamTls::new(&Trust::default(), Duration::from_secs(10)).unwrap();
    let settings = Settings {
        base: ApiBase::parse(&base).unwrap(),
        endpoint,
        ..Settings::default()
    };
    let client = Stripe::new(SecretKey::parse(AGENT).ok().unwrap(), settings, Arc::new(tls))
        .ok()
        .unwrap();
    let order = Order {
        idempotency_key: PaymentId::new(Timestamp::now(), [1; 10]),
        payment_method: &PaymentMethod::parse("pm_card_visa").unwrap(),
        currency: Currency::parse("usd").unwrap(),
        max_amount: 100,
        expires_at: 1_790_000_300,
        seller: &Profile::parse(PROFILE).unwrap(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let refused = runtime.block_on(client.issue(&order)).err().unwrap();
    assert!(matches!(refused, StripeError::Unauthorized), "{refused}");
    let request = service.join().unwrap();
    nested(request.rsplit_once("\r\n\r\n").unwrap().1)
}

fn nested(form: &str) -> Value {
    let mut whole = Map::new();
    for pair in form.split('&') {
        let (name, value) = pair.split_once('=').unwrap();
        let name = name.replace("%5B", "[").replace("%5D", "]");
        assert!(!name.contains('%') && !value.contains(['%', '+']), "{pair}");
        let value = value
            .parse::<u64>()
            .map_or_else(|_| json!(value), |number| json!(number));
        match name.strip_suffix(']').and_then(|name| name.split_once('[')) {
            None => whole.insert(name, value),
            Some((outer, inner)) => {
                let object = whole.entry(outer).or_insert_with(|| json!({}));
                object.as_object_mut().unwrap().insert(inner.to_owned(), value)
            }
        };
    }
    whole.into()
}

#[test]
fn what_the_client_sends_has_the_types_of_the_package() {
    if !installed() {
        return;
    }
    // TypeScript's own error numbers.
    const UNKNOWN_MEMBER: u64 = 2353;
    const WRONG_TYPE: u64 = 2322;
    const MISSING_MEMBER: u64 = 2741;

    let sent = parameters(Endpoint::Issued);
    let helped = parameters(Endpoint::TestHelper);
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut changed = sent.clone();
        change(&mut changed);
        changed
    };
    let excess = changed(&|sent| sent["livemode"] = json!(false));
    let inner_excess = changed(&|sent| sent["seller_details"]["network_id"] = json!("x"));
    let wrong = changed(&|sent| sent["usage_limits"]["max_amount"] = json!("100"));
    let missing = changed(&|sent| {
        sent.as_object_mut().unwrap().remove("payment_method");
    });
    let mut helped_as_typed = helped.clone();
    helped_as_typed.as_object_mut().unwrap().remove("seller_details");

    let said = complaints(&[
        ("IssuedTokenCreateParams", &sent),
        ("IssuedTokenCreateParams", &excess),
        ("IssuedTokenCreateParams", &inner_excess),
        ("IssuedTokenCreateParams", &wrong),
        ("IssuedTokenCreateParams", &missing),
        ("GrantedTokenCreateParams", &helped_as_typed),
        // Stripe's guide and mppx name the seller here; the package does not have the member.
        ("GrantedTokenCreateParams", &helped),
    ]);
    assert_eq!(
        said,
        [
            vec![],
            vec![UNKNOWN_MEMBER],
            vec![UNKNOWN_MEMBER],
            vec![WRONG_TYPE],
            vec![MISSING_MEMBER],
            vec![],
            vec![UNKNOWN_MEMBER],
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_package_and_mppx_can_work_with_the_sandbox() {
    if !installed() {
        return;
    }
    let sandbox = Arc::new(StripeSandbox::new(Arc::new(SystemClock), AGENT).with_seller(SELLER, PROFILE));
    let listening = sandbox.clone().listen().await.unwrap();
    let url = listening.base_url();
    let said = tokio::task::spawn_blocking(move || {
        let arguments = [
            "drive",
            "--url",
            &url,
            "--agent-key",
            AGENT,
            "--seller-key",
            SELLER,
            "--seller",
            PROFILE,
        ];
        shapes(&arguments, &Value::Null)
    })
    .await
    .unwrap();

    assert_eq!(said["issued"]["status"], "active");
    assert_eq!(said["issued"], said["retrieved"]);
    assert_eq!(said["issued"]["shared_metadata"], json!({ "plan": "pro" }));
    assert_eq!(said["granted"]["id"], said["issued"]["id"]);
    assert_eq!(said["revoked"]["deactivated_reason"], "revoked");
    assert_eq!(said["waiting"]["next_action"]["type"], "redirect_to_url");
    assert_eq!(said["unhelped"]["deactivated_reason"], "revoked");
    assert_eq!(said["intent"]["status"], "succeeded");
    assert_eq!(said["consumed"]["usage_details"]["amount_captured"]["value"], 60);

    let seller = "seller_details[network_business_profile]";
    for (name, kind, code, param, status) in [
        ("declined", "StripeCardError", json!("card_declined"), Value::Null, 402),
        (
            "unknown",
            "StripeInvalidRequestError",
            json!("parameter_unknown"),
            json!("livemode"),
            400,
        ),
        (
            "nobody",
            "StripeInvalidRequestError",
            json!("resource_missing"),
            json!(seller),
            400,
        ),
        (
            "lost",
            "StripeInvalidRequestError",
            json!("resource_missing"),
            json!("id"),
            404,
        ),
        (
            "late",
            "StripeInvalidRequestError",
            json!("shared_payment_token_consumed"),
            Value::Null,
            400,
        ),
        ("stranger", "StripeAuthenticationError", Value::Null, Value::Null, 401),
        ("released", "StripeInvalidRequestError", Value::Null, Value::Null, 404),
        ("conflict", "StripeIdempotencyError", Value::Null, Value::Null, 400),
    ] {
        let refused = &said[name];
        assert_eq!(refused["type"], kind, "{name}: {refused}");
        assert_eq!((&refused["code"], &refused["param"]), (&code, &param), "{name}");
        assert_eq!(refused["status"], status, "{name}");
    }
    assert_eq!(said["declined"]["decline"], "generic_decline");

    // mppx sells once. It accepts neither a repeated answer nor a used token as a payment.
    let sale = &said["sale"];
    assert_eq!(
        (&sale["status"], &sale["replayed"], &sale["reused"]),
        (&json!(200), &json!(402), &json!(402)),
        "{sale}"
    );
    assert_eq!(sale["receipt"]["method"], "stripe");
    assert!(sale["receipt"]["reference"].as_str().unwrap().starts_with("pi_"));

    let counters = sandbox.counters();
    assert_eq!((counters.intents_succeeded, counters.revocations), (2, 2));
    let captured = |token: &Value, cents| (token.as_str().unwrap().to_owned(), cents);
    let wanted = BTreeMap::from([captured(&said["consumed"]["id"], 60), captured(&sale["spt"], 100)]);
    assert_eq!(counters.captured, wanted);

    // The answers have the types of the package, and a wrong one would be noticed.
    let mut wrong = said["issued"].clone();
    wrong["usage_limits"]["max_amount"] = json!("100");
    let issued = ["issued", "revoked", "waiting", "consumed"].map(|name| ("IssuedToken", &said[name]));
    let granted = ["granted", "helped", "unhelped", "charged"].map(|name| ("GrantedToken", &said[name]));
    let cases = [issued.as_slice(), &granted, &[("IssuedToken", &wrong)]].concat();
    let complaints = tokio::task::block_in_place(|| complaints(&cases));
    let (last, others) = complaints.split_last().unwrap();
    assert!(others.iter().all(Vec::is_empty), "{complaints:?}");
    assert!(!last.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_of_mppx_buys_at_the_sandbox() {
    if !installed() {
        return;
    }
    let sandbox = Sandbox::start(([127, 0, 0, 1], 0).into(), Options::default())
        .await
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, sandbox.ca_pem()).unwrap();
    // The second is sold over x402 as well.
    for (path, charges) in [("/mpp/report", 1), ("/both/report", 2)] {
        let url = format!("{}{path}", sandbox.base_url());
        let mut node = Command::new("node");
        node.env("NODE_EXTRA_CA_CERTS", &ca);
        let buy = move || {
            shapes_by(
                &mut node,
                &["buy", "--url", &url, "--agent-key", AGENT_KEY],
                &Value::Null,
            )
        };
        let said = tokio::task::spawn_blocking(buy).await.unwrap();
        assert_eq!(said["status"], 200, "{said}");
        assert_eq!(said["goods"]["company"], "Sandbank Shipping");
        assert_eq!(said["receipt"]["method"], "stripe");
        assert_eq!(said["receipt"]["externalId"], format!("sandbox{path}"));
        let reference = said["receipt"]["reference"].as_str().unwrap();
        assert!(reference.starts_with("pi_"), "{reference}");
        assert_eq!(said["replayed"], 402);
        let kind = "https://paymentauth.org/problems/verification-failed";
        assert_eq!(said["problem"]["type"], kind);
        let counters = sandbox.stripe().counters();
        assert_eq!(counters.intents_succeeded, charges);
        assert!(counters.captured.values().all(|cents| *cents == 50), "{counters:?}");
    }
    sandbox.stop().await;
}
