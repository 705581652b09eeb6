//! MPP beside x402: `Payment` challenges are paid by authorization, both protocols share one list of offers and one
//! budget, and a repeat presents the same credential.

mod chain;
mod hostile;
mod mppx_stripe;
mod stripe;
mod stripe_offers;
mod tempo;
mod tempo_hostile;

use std::sync::atomic::{AtomicUsize, Ordering};

use alloy_primitives::keccak256;
use http::{HeaderValue, Request};
use serde_json::{Value, json};

use crate::support::agent::Agent;
use crate::support::bursar::{Bursar, LIMITS, setup};
use crate::support::credentials;
use crate::support::mpp::{self, Challenge, decoded, evm, sold};
use crate::support::origin::{Answer, Origin, Seen, answer};
use crate::support::seller::{PAYEE, TX, challenge, encoded, requirement};

/// Sells to anyone who pays what `asks` demands for a path.
async fn sells(asks: fn(&str) -> Answer) -> Origin {
    Origin::https(move |request: Seen| async move {
        if request.is_paid() {
            sold("goods")
        } else {
            asks(&request.target)
        }
    })
    .await
}

/// Both protocols in one 402, as the reference server offers them.
fn dual(mpp: &str, x402: &str) -> Answer {
    let mut asks = mpp::asks(&[evm(mpp)]);
    let x402 = encoded(&challenge("/", &[requirement(x402)]));
    asks.headers_mut()
        .insert("payment-required", HeaderValue::from_str(&x402).unwrap());
    asks
}

/// The protocol of each paid request: `mpp` or `x402`.
fn rails(origin: &Origin) -> Vec<&'static str> {
    let paid = origin.seen().into_iter().filter(Seen::is_paid);
    paid.map(|request| {
        let x402 = request.headers.contains_key("payment-signature");
        let mpp = request
            .headers
            .get("authorization")
            .is_some_and(|value| value.as_bytes().starts_with(b"Payment "));
        assert!(x402 != mpp, "exactly one credential: {:?}", request.headers);
        if mpp { "mpp" } else { "x402" }
    })
    .collect()
}

fn now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.unwrap().as_secs()
}

#[tokio::test]
async fn a_payment_challenge_is_answered_once_and_recorded() {
    let origin = sells(|_| mpp::asks(&[evm("10000")])).await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let page = Agent::of(&bursar).get(origin.address, "/report?q=1").await;
    assert_eq!((page.status.as_u16(), &page.body[..]), (200, &b"goods"[..]));

    let payments = bursar.payments();
    assert_eq!(payments.len(), 1);
    let expected = json!({
        "state": "settled", "by": "merchant", "tx": TX, "rail": "mpp.evm", "scheme": "charge",
        "network": "eip155:84532", "amount": "10000", "payee": PAYEE, "resource": origin.url("/report")
    });
    for (member, value) in expected.as_object().unwrap() {
        let found = payments[0][member].as_str().map(str::to_lowercase);
        assert_eq!(found, value.as_str().map(str::to_lowercase), "{member}");
    }
    assert_eq!(page.header("bursar-payment"), payments[0]["id"].as_str());
    // The agent gets the site's receipt too.
    assert_eq!(page.header("payment-receipt"), Some(&*mpp::receipt()));

    let sent = origin.payments();
    assert_eq!((sent.len(), origin.seen().len()), (1, 2));
    let credential = decoded(&sent[0]);
    let (id, signed) = (credential["challenge"]["id"].as_str().unwrap(), &credential["payload"]);
    assert_eq!(signed["nonce"], keccak256(format!("{id}localhost")).to_string());
    assert_eq!(signed["nonce"], payments[0]["nonce"]);
    assert_eq!(
        (&signed["type"], &signed["value"]),
        (&json!("authorization"), &json!("10000"))
    );
    assert_eq!((&signed["to"], &signed["validAfter"]), (&json!(PAYEE), &json!("0")));
    let source = format!("did:pkh:eip155:84532:{}", crate::support::bursar::WALLET);
    assert_eq!(credential["source"], source);
    // R16: the challenge asks for validity until 2099.
    let valid_before: u64 = signed["validBefore"].as_str().unwrap().parse().unwrap();
    assert!(valid_before <= now() + 300, "{valid_before}");
}

#[tokio::test]
async fn everything_known_is_echoed_as_it_came() {
    // Not in canonical order, and with white space: a server that compares bytes must find its own bytes.
    const REQUEST: &str = r#"{ "methodDetails": {"credentialTypes":["authorization"],"chainId":84532}, "recipient":"0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
        "currency":"0x036cbd53842c5426634e7929541ec2318f3dcf7e", "amount":"10000"}"#;
    fn asks() -> Challenge {
        use base64::Engine;
        let request = base64::engine::general_purpose::STANDARD.encode(REQUEST);
        evm("10000")
            .with("request", &request)
            .with("expires", "2099-01-01T02:00:00.123456+02:00")
            .with("description", r#"a \"b\" \\ \u2014 c"#)
            .with("opaque", "whatever+/=the server put here")
            .with("unknown", "x")
    }
    let origin = sells(|_| mpp::asks(&[asks()])).await;
    let bursar = setup().trust(&origin.ca_pem).start();
    assert_eq!(Agent::of(&bursar).get(origin.address, "/").await.status, 200);
    let mut echoed = decoded(&origin.payments()[0])["challenge"].take();
    let id = echoed.as_object_mut().unwrap().remove("id");
    assert!(id.is_some());
    let asks = asks();
    assert_eq!(
        echoed,
        json!({
            "realm": "localhost", "method": "evm", "intent": "charge", "request": asks.get("request"),
            "expires": asks.get("expires"), "opaque": asks.get("opaque"), "description": "a \"b\" \\ \u{2014} c"
        })
    );
}

#[tokio::test]
async fn both_protocols_are_one_list_of_offers() {
    let asks = |path: &str| match path {
        "/x402-cheaper" => dual("20000", "10000"),
        "/mpp-cheaper" => dual("10000", "20000"),
        "/mpp-for-another-body" => {
            let mut asks = dual("10000", "20000");
            let other = "sha-256=CFdtBA5fXO1HaQ8sdv75T9kcnF5ed8M5LhPNrKzrx/I=";
            let field = evm("10000").with("digest", other).field();
            asks.headers_mut().insert("www-authenticate", field.parse().unwrap());
            asks
        }
        _ => dual("10000", "10000"),
    };
    let origin = sells(asks).await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    for path in ["/same", "/x402-cheaper", "/mpp-cheaper", "/mpp-for-another-body"] {
        agent.get(origin.address, path).await;
    }
    assert_eq!(rails(&origin), ["mpp", "x402", "mpp", "x402"]);
    let amounts: Vec<Value> = bursar
        .payments()
        .iter()
        .map(|payment| payment["amount"].clone())
        .collect();
    assert_eq!(amounts, ["10000", "10000", "10000", "20000"]);

    for (first, expected) in [("[\"x402\", \"mpp.evm\"]", "x402"), ("[\"mpp.evm\"]", "mpp")] {
        let limits = format!("rails = {first}\n{LIMITS}");
        let origin = sells(asks).await;
        let bursar = setup().limits(&limits).trust(&origin.ca_pem).start();
        Agent::of(&bursar).get(origin.address, "/same").await;
        assert_eq!(rails(&origin), [expected]);
    }
}

#[tokio::test]
async fn a_rail_that_limits_toml_leaves_out_is_refused() {
    let origin = sells(|_| mpp::asks(&[evm("10000")])).await;
    let limits = format!("rails = [\"x402\"]\n{LIMITS}");
    let bursar = setup().limits(&limits).trust(&origin.ca_pem).start();
    let page = Agent::of(&bursar).get(origin.address, "/").await;
    assert_eq!(
        (page.status.as_u16(), page.problem()),
        (403, "rail-not-allowed".to_owned())
    );
    assert_eq!((origin.payments().len(), bursar.payments().len()), (0, 0));
}

#[tokio::test]
async fn a_realm_that_the_merchants_section_names_is_this_merchants() {
    let origin = sells(|_| mpp::asks(&[evm("10000").with("realm", "pay.example.com")])).await;
    for (section, status) in [
        ("", 402),
        (
            "[merchants.\"localhost\"]\nresource_hosts = [\"pay.example.com\"]\n",
            200,
        ),
    ] {
        let bursar = setup()
            .limits(&format!("{LIMITS}{section}"))
            .trust(&origin.ca_pem)
            .start();
        assert_eq!(Agent::of(&bursar).get(origin.address, "/").await.status, status);
    }
    let credential = decoded(&origin.payments()[0]);
    let id = credential["challenge"]["id"].as_str().unwrap();
    // The nonce is derived from the realm exactly as in the challenge.
    let nonce = keccak256(format!("{id}pay.example.com")).to_string();
    assert_eq!(credential["payload"]["nonce"], nonce);
}

#[tokio::test]
async fn two_receipts_for_one_payment_count_once() {
    let origin = Origin::https(|request: Seen| async move {
        if !request.is_paid() {
            return dual("10000", "10000");
        }
        let mut sold = sold("goods");
        let x402 = crate::support::seller::receipt(true, TX);
        sold.headers_mut()
            .insert("payment-response", HeaderValue::from_str(&x402).unwrap());
        sold
    })
    .await;
    for first in ["mpp.evm", "x402"] {
        let limits = format!("timezone = \"UTC\"\nrails = [\"{first}\"]\n[agents.research]\nday = \"0.025\"\n");
        let bursar = setup().limits(&limits).trust(&origin.ca_pem).start();
        let agent = Agent::of(&bursar);
        let page = agent.get(origin.address, "/").await;
        assert!(page.headers.contains_key("payment-receipt") && page.headers.contains_key("payment-response"));
        assert_eq!(bursar.states(), ["settled"], "{first}");
        assert_eq!(bursar.payments()[0]["tx"], TX);
        // Counted once, so that a second purchase fits and a third does not.
        assert_eq!(agent.get(origin.address, "/").await.status, 200);
        assert_eq!(agent.get(origin.address, "/").await.problem(), "over-limit");
    }
}

#[tokio::test]
async fn one_budget_spans_both_protocols() {
    let origin = sells(|path| match path {
        "/mpp" => mpp::asks(&[evm("10000")]),
        _ => crate::support::seller::asks("10000"),
    })
    .await;
    let limits = "timezone = \"UTC\"\n[agents.research]\nday = \"0.015\"\n";
    let bursar = setup().limits(limits).trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    assert_eq!(agent.get(origin.address, "/mpp").await.status, 200);
    for path in ["/x402", "/mpp"] {
        let page = agent.get(origin.address, path).await;
        assert_eq!(
            (page.status.as_u16(), page.problem()),
            (403, "over-limit".to_owned()),
            "{path}"
        );
        assert_eq!(page.json()["used"], "0.01");
    }
    assert_eq!(rails(&origin), ["mpp"]);
}

#[tokio::test]
async fn the_credential_goes_where_the_challenge_says_and_the_agents_login_stays() {
    let origin = sells(|path| match path {
        "/separate" => mpp::asks(&[evm("10000").with("header", "payment-authorization")]),
        _ => mpp::asks(&[evm("10000")]),
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    for path in ["/separate", "/same"] {
        let request = Request::get(path).header("authorization", "Bearer of-the-agent");
        assert_eq!(agent.request(origin.address, request).await.status, 200, "{path}");
    }
    let paid: Vec<Seen> = origin.seen().into_iter().filter(Seen::is_paid).collect();
    let [separate, same] = &paid[..] else {
        panic!("{} paid requests", paid.len())
    };
    assert_eq!(separate.headers["authorization"], "Bearer of-the-agent");
    let credential = decoded(separate.headers["payment-authorization"].to_str().unwrap());
    assert_eq!(credential["challenge"]["header"], "payment-authorization");
    // A server that omits the parameter reads the credential only there.
    assert_eq!(same.headers.get_all("authorization").iter().count(), 1);
    assert!(same.headers["authorization"].as_bytes().starts_with(b"Payment "));
    assert!(!same.headers.contains_key("payment-authorization"));
    assert!(
        bursar
            .log()
            .contains("the agent's own field is replaced by the payment")
    );
    assert!(!bursar.log().contains("of-the-agent"));
}

#[tokio::test]
async fn the_paid_request_differs_by_the_credential_alone() {
    let body = br#"{"q":"hello"}"#;
    // The digest of that body, in both spellings.
    const DIGEST: &str = "CFdtBA5fXO1HaQ8sdv75T9kcnF5ed8M5LhPNrKzrx/I=";
    let origin = sells(|path| {
        let digest = match path {
            "/rfc9530" => format!("sha-256=:{DIGEST}:"),
            _ => format!("sha-256={DIGEST}"),
        };
        mpp::asks(&[evm("10000").with("digest", &digest)])
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    for path in ["/rfc9530", "/bare"] {
        assert_eq!(agent.post(origin.address, path, &body[..]).await.status, 200, "{path}");
    }
    for pair in origin.seen().chunks(2) {
        let [first, paid] = pair else { panic!("an odd request") };
        let mut headers = paid.headers.clone();
        assert!(headers.remove("authorization").is_some());
        assert_eq!(headers, first.headers);
        assert_eq!((&paid.body[..], &first.body[..]), (&body[..], &body[..]));
    }
}

#[tokio::test]
async fn one_bad_challenge_spoils_no_other() {
    let origin = Origin::https(|request: Seen| async move {
        if request.is_paid() {
            return sold("goods");
        }
        let (good, bad) = (evm("10000"), evm("1").with("realm", "x").without("request"));
        match request.target.as_str() {
            "/one-field" => {
                let mixed = format!(
                    "Bearer realm=\"app, Payment id=fake\", {}, Payment id=\"open, {}",
                    bad.field(),
                    good.field()
                );
                // The unterminated challenge swallows what follows, so the good one comes first.
                let mixed = format!("{}, {mixed}", good.with("id", "in-front").field());
                answer(402, &[("www-authenticate", &mixed)], "")
            }
            "/fields" => answer(
                402,
                &[
                    ("www-authenticate", "Basic realm=\"x\""),
                    ("www-authenticate", &bad.field()),
                    ("www-authenticate", "Payment id=\"open"),
                    ("www-authenticate", &good.field()),
                ],
                "",
            ),
            "/bad-x402" => {
                let field = good.field();
                answer(402, &[("www-authenticate", &field), ("payment-required", "???")], "")
            }
            "/latin-1" => {
                let field = good.with("description", "caf\u{e9}").field();
                let field: Vec<u8> = field.chars().map(|c| u8::try_from(c).unwrap()).collect();
                let mut asks = answer(402, &[], "");
                asks.headers_mut()
                    .insert("www-authenticate", HeaderValue::from_bytes(&field).unwrap());
                asks
            }
            // R34: JSON beside an MPP header is read, but need not be a challenge.
            _ => {
                let field = good.field();
                answer(
                    402,
                    &[("www-authenticate", &field), ("content-type", "application/json")],
                    "{\"error\":\"pay\"}",
                )
            }
        }
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    let paths = ["/one-field", "/fields", "/bad-x402", "/latin-1", "/json-body"];
    for path in paths {
        assert_eq!(agent.get(origin.address, path).await.status, 200, "{path}");
    }
    assert_eq!(rails(&origin), ["mpp"; 5]);
    let echoed = decoded(&origin.payments()[3]);
    assert_eq!(echoed["challenge"]["description"], "caf\u{e9}");
}

#[tokio::test]
async fn a_challenge_is_answered_at_most_once() {
    const TEXT: &str = "the same challenge for everybody";
    fn the_one() -> Answer {
        let field = evm("10000").with("id", "the-one").field();
        answer(
            402,
            &[("www-authenticate", &field), ("content-type", "text/plain")],
            TEXT,
        )
    }
    let origin = sells(|_| the_one()).await;
    let limits = format!("{LIMITS}[agents.other]\nday = \"100.00\"\n");
    let home = setup().limits(&limits).trust(&origin.ca_pem).home();
    let other = home.add_agent("other");
    let bursar = home.serve();
    let agent = Agent::of(&bursar);
    // Both at once: the order does not matter.
    let (one, two) = tokio::join!(agent.get(origin.address, "/a"), agent.get(origin.address, "/b"));
    let mut statuses = [one.status.as_u16(), two.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 402]);

    let agents = [Agent::of(&bursar), Agent::named(&bursar, "other", &other)];
    for agent in &agents {
        let page = agent.get(origin.address, "/a").await;
        assert_eq!((page.status.as_u16(), &page.body[..]), (402, TEXT.as_bytes()));
        assert!(page.headers.contains_key("www-authenticate"));
        assert_eq!(page.header("proxy-status"), Some("bursar; details=\"challenge-used\""));
    }
    assert_eq!(bursar.states(), ["settled"]);
    assert_eq!(origin.payments().len(), 1);
}

async fn get(bursar: &Bursar, origin: &Origin) -> http::StatusCode {
    let request = Request::get("/x").header("x-own", "1");
    Agent::of(bursar).request(origin.address, request).await.status
}

/// Servers derive ids from the offer and the time: two requests in one millisecond can get the same challenge.
#[tokio::test]
async fn where_a_challenge_is_used_up_the_other_protocol_is_taken() {
    let origin = sells(|_| {
        let mut asks = dual("10000", "20000");
        let field = evm("10000").with("id", "the-one").field();
        asks.headers_mut().insert("www-authenticate", field.parse().unwrap());
        asks
    })
    .await;
    let limits = "timezone = \"UTC\"\n[agents.research]\nday = \"0.05\"\n";
    let bursar = setup().limits(limits).trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    for _ in 0..3 {
        assert_eq!(agent.get(origin.address, "/").await.status, 200);
    }
    assert_eq!(rails(&origin), ["mpp", "x402", "x402"]);
    let spent = |payment: &Value| payment["amount"].as_str().unwrap().to_owned();
    let spent: Vec<String> = bursar.payments().iter().map(spent).collect();
    assert_eq!(spent, ["10000", "20000", "20000"], "each one counts at its own price");
    // The limits apply to the other offer as well.
    let page = agent.get(origin.address, "/").await;
    assert_eq!(page.status, 403, "{page:?}");
    assert_eq!(page.problem(), "over-limit");
}

#[tokio::test]
async fn a_repeat_presents_the_same_credential_in_the_same_field() {
    for field in ["authorization", "payment-authorization"] {
        let presented = std::sync::Arc::new(AtomicUsize::new(0));
        let count = presented.clone();
        let origin = Origin::https(move |request: Seen| {
            let count = count.clone();
            async move {
                if !request.is_paid() {
                    return mpp::asks(&[evm("10000").with("header", field)]);
                }
                match count.fetch_add(1, Ordering::SeqCst) {
                    0 | 1 => answer(500, &[mpp::PROBLEM], mpp::problem("internal-payment-error")),
                    _ => sold("goods"),
                }
            }
        })
        .await;
        let mut bursar = setup().trust(&origin.ca_pem).start();
        assert_eq!(get(&bursar, &origin).await, 500);
        assert_eq!(get(&bursar, &origin).await, 500);
        // After a crash as well.
        let mut bursar = bursar.kill().serve();
        assert_eq!(get(&bursar, &origin).await, 200);
        assert_eq!(bursar.states(), ["settled"], "{field}");
        let sent: Vec<Seen> = origin.seen().into_iter().filter(Seen::is_paid).collect();
        assert_eq!(
            (sent.len(), origin.seen().len()),
            (3, 4),
            "one challenge, one credential, shown three times"
        );
        assert!(
            sent.iter()
                .all(|request| request.headers[field] == sent[0].headers[field])
        );
        assert_eq!(bursar.stop(), 0);
        assert!(credentials::is_empty(bursar.path()), "delivered, so nothing is kept");
    }
}

#[tokio::test]
async fn an_idempotency_key_holds_for_this_rail_too() {
    let origin = sells(|_| mpp::asks(&[evm("10000")])).await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    for _ in 0..2 {
        let request = Request::get("/x").header("idempotency-key", "order-7");
        assert_eq!(agent.request(origin.address, request).await.status, 200);
    }
    let sent = origin.payments();
    assert_eq!((sent.len(), bursar.payments().len()), (2, 1));
    assert_eq!(sent[0], sent[1], "the same payment again");
}
