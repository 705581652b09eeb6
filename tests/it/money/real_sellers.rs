//! Honest sellers as they are in the wild, and their hostile twins: what is signed, for how long, and what the ledger says
//! of it. `fixtures/real` holds challenges in the manner of real sellers; the reference packages sell the first two.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};

use crate::money::chain::FUNDS;
use crate::support::agent::{Agent, Page};
use crate::support::bursar::{Bursar, LIMITS, setup};
use crate::support::buyer::{Transfer, buyer, buyer_within, lab, site};
use crate::support::mpp::{self, evm};
use crate::support::origin::{Answer, Origin, Parts, Seen, answer, streamed};
use crate::support::seller::{self, PAYEE, TX, USDC, challenge, requirement, v1_body, v2};

/// The v1 challenge of `v1_body("10000", "/data")` by `zstd -19`.
const ZSTD: &str = "KLUv/QRo5QgAVhRAIRCx6sYQgpSZt9pcoAe5/H0ZWWUD9plh4+0nSggAAADABTYANgA4AJV+/fneulLxOZF5nLuulR4+66t5mL4ArAFuZ7QrACxxQEAI\
    isDj89fe24fQPGc1fNsRn+g7J5FUxWrQkZymGEk1RpSUDBNrks/3fD43xvTwD/S5yJxnN8JHt8NT7WK7xoHGdPJ5y7Wa3Nzhc9nhaaaZ4PNdr2dxX2tAxQjJ6xBBkiWf\
    i16TJEyoKCXrqRQ61YKspuqJFtvQ7vA9uKxMUihIRquhHUmn8/jM4S0Do0G5c+bpzV8fPtM8zjhbm5E925uGcRq9dIL8df58dxusN207fPbcabfiDggAXUt8h71Oo804\
    YV0YAHRjdW0HMm8IfAYqUVgn";

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A receipt for either protocol: only that of the rail counts.
fn sold() -> Answer {
    let mut sold = seller::sold("goods");
    let receipt = mpp::receipt();
    sold.headers_mut().insert("payment-receipt", receipt.parse().unwrap());
    sold
}

/// Sells to anyone who pays what `asks` demands for a path.
async fn sells(asks: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Origin {
    Origin::https(move |request: Seen| {
        let answer = match request.is_paid() {
            true => sold(),
            false => asks(&request.target),
        };
        async move { answer }
    })
    .await
}

/// Amount, payee and `validBefore` of what was signed, in whichever field it came.
fn signed(credential: &str) -> (String, String, u64) {
    let payload = match credential.strip_prefix("Payment ") {
        Some(_) => mpp::decoded(credential)["payload"].take(),
        None => seller::decoded(credential)["payload"]["authorization"].take(),
    };
    let text = |member: &str| {
        payload[member]
            .as_str()
            .unwrap_or_else(|| panic!("{payload}"))
            .to_owned()
    };
    (text("value"), text("to"), text("validBefore").parse().unwrap())
}

/// The newest purchase: one credential for `amount`, and the same in the ledger.
fn assert_paid(name: &str, origin: &Origin, bursar: &Bursar, page: &Page, amount: &str, purchases: usize) {
    assert_eq!(
        (page.status.as_u16(), &page.body[..]),
        (200, &b"goods"[..]),
        "{name}: {page:?}"
    );
    let credentials = origin.payments();
    assert_eq!(credentials.len(), purchases, "{name}");
    let (value, to, valid_before) = signed(credentials.last().unwrap());
    assert_eq!((&*value, &*to), (amount, PAYEE), "{name}");
    // As long as the seller wants, and never longer than `max_validity`.
    assert!(
        (now() + 30..=now() + 300).contains(&valid_before),
        "{name}: {valid_before}"
    );
    let payments = bursar.payments();
    assert_eq!(payments.len(), purchases, "{name}");
    let payment = payments.last().unwrap();
    assert_eq!(
        (&payment["state"], &payment["by"]),
        (&json!("settled"), &json!("merchant")),
        "{name}"
    );
    assert_eq!(
        (&payment["amount"], &payment["tx"]),
        (&json!(amount), &json!(TX)),
        "{name}"
    );
    assert_eq!(payment["payee"], PAYEE.to_lowercase(), "{name}");
    assert_eq!(page.header("bursar-payment"), payment["id"].as_str(), "{name}");
}

fn assert_unpaid(name: &str, page: &Page, why: &str) {
    assert_eq!(page.status, 402, "{name}: {page:?}");
    let details = format!("bursar; details=\"{why}\"");
    assert_eq!(page.header("proxy-status"), Some(&*details), "{name}");
}

/// `explain --json` of the newest payment: place and reason of each other offer.
fn others(bursar: &Bursar) -> Vec<(String, String)> {
    let id = bursar.payments().pop().unwrap()["id"].as_str().unwrap().to_owned();
    let output = bursar.run(&["explain", &id, "--json"]);
    let explained: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |other: &Value, member: &str| other[member].as_str().unwrap().to_owned();
    let others = explained["others"].as_array().unwrap().iter();
    others.map(|other| (text(other, "at"), text(other, "why"))).collect()
}

/// `HOST` stands for host and port of the request, also inside base64.
fn here(text: &str, host: &str) -> String {
    let inner = STANDARD.decode(text).ok().and_then(|json| String::from_utf8(json).ok());
    match inner {
        Some(json) => STANDARD.encode(json.replace("HOST", host)),
        None => text.replace("HOST", host),
    }
}

#[tokio::test]
async fn challenges_in_the_manner_of_real_sellers_are_paid_as_their_sellers_mean_them() {
    let fixture: Value = serde_json::from_str(include_str!("../../../fixtures/real/402.json")).unwrap();
    let cases = fixture["cases"].as_array().unwrap().clone();
    assert_eq!(cases.len(), 13);
    let answers: HashMap<String, Value> = cases
        .iter()
        .map(|case| (format!("/{}", case["name"].as_str().unwrap()), case.clone()))
        .collect();
    let asks = move |path: &str| {
        let case = &answers[path];
        let headers = case["headers"].as_object().unwrap().iter();
        let headers: Vec<(&str, String)> = headers
            .map(|(name, value)| (name.as_str(), here(value.as_str().unwrap(), "localhost")))
            .collect();
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        answer(402, &headers, here(case["body"].as_str().unwrap(), "localhost"))
    };
    let origin = sells(asks).await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    let mut purchases = 0;
    for case in &cases {
        let name = case["name"].as_str().unwrap();
        let page = agent.get(origin.address, &format!("/{name}")).await;
        match case["expect"]["paid"].as_str() {
            Some(amount) => {
                purchases += 1;
                assert_paid(name, &origin, &bursar, &page, amount, purchases);
            }
            None => assert_unpaid(name, &page, case["expect"]["unpaid"].as_str().unwrap()),
        }
        assert_eq!(origin.payments().len(), purchases, "{name}");
        match name {
            "v1-two-prices" => assert_eq!(others(&bursar), [("x402 1".to_owned(), "first-of-pair".to_owned())]),
            "twenty-offers" => assert_eq!(others(&bursar).len(), 19),
            _ => {}
        }
    }
    // What a realm says instead of a host is not repeated in the log.
    let log = bursar.log();
    let line = "the offer names no public host; it counts as the merchant's";
    assert_eq!(log.matches(line).count(), 1, "{log}");
    assert!(!log.contains("MPP Payment"));
}

#[tokio::test]
async fn an_x402_v1_seller_is_paid_what_it_checks_or_nothing() {
    let entry = |amount: &str| v1_body(amount, "/")["accepts"][0].take();
    let with = |mut entry: Value, member: &str, value: Value| {
        entry[member] = value;
        entry
    };
    let asks = move |path: &str| {
        let foreign = with(entry("10000"), "resource", json!("https://bank.example.com/x"));
        let base = json!({ "name": "USD Coin", "version": "2" });
        let base = with(with(entry("3000"), "network", json!("base")), "extra", base);
        let base = with(base, "asset", json!("0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"));
        let accepts = match path {
            "/dear-first" => [entry("5000000"), entry("10000"), base],
            "/foreign-first" => [foreign, entry("10000"), base],
            "/unknown-token-first" => [with(entry("1"), "asset", json!(PAYEE)), entry("10000"), base],
            _ => [base, entry("20000"), entry("10000")],
        };
        answer(
            402,
            &[("content-type", "application/json")],
            json!({ "x402Version": 1, "accepts": accepts }).to_string(),
        )
    };
    let origin = sells(asks).await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    // The first of the pair decides, and its own reason is what the agent gets.
    let page = agent.get(origin.address, "/dear-first").await;
    assert_eq!((page.status.as_u16(), page.problem()), (403, "over-limit".to_owned()));
    for (path, why) in [
        ("/foreign-first", "resource-host-differs"),
        ("/unknown-token-first", "asset-unknown"),
    ] {
        assert_unpaid(path, &agent.get(origin.address, path).await, why);
    }
    assert_eq!((origin.payments().len(), bursar.payments().len()), (0, 0));
    // Another pair is another offer.
    let page = agent.get(origin.address, "/").await;
    assert_paid("/", &origin, &bursar, &page, "20000", 1);
    let expected = [("x402 0", "network-not-configured"), ("x402 2", "first-of-pair")];
    assert_eq!(
        others(&bursar),
        expected.map(|(at, why)| (at.to_owned(), why.to_owned()))
    );
    let id = bursar.payments()[0]["id"].as_str().unwrap().to_owned();
    let text = String::from_utf8(bursar.run(&["explain", &id]).stdout).unwrap();
    let line = "first-of-pair: An earlier offer of the challenge has the same scheme and network";
    assert!(text.contains(line), "{text}");
    let code = bursar.run(&["explain-code", "first-of-pair"]);
    assert!(code.status.success(), "{code:?}");
}

#[tokio::test]
async fn a_reference_v1_seller_with_two_prices_settles_what_was_signed() {
    let Some(lab) = lab() else { return };
    let buyer = buyer(lab, FUNDS);
    let page = Agent::of(&buyer.bursar).get(site(&lab.v1), "/v1/two-prices").await;
    assert_eq!(
        (page.status.as_u16(), &page.json()["paid"]),
        (200, &json!(true)),
        "{page:?}"
    );
    let payments = buyer.bursar.payments();
    assert_eq!(payments.len(), 1);
    assert_eq!(
        (&payments[0]["amount"], &payments[0]["state"]),
        (&json!("20000"), &json!("settled"))
    );
    let moved = Transfer {
        to: lab.pay_to.to_lowercase(),
        atoms: 20_000,
        tx: payments[0]["tx"].as_str().unwrap().to_owned(),
    };
    assert_eq!(buyer.transfers(), [moved]);
    assert_eq!(
        others(&buyer.bursar),
        [("x402 1".to_owned(), "first-of-pair".to_owned())]
    );
}

#[tokio::test]
async fn the_reference_mpp_server_is_paid_under_its_default_realm_unless_finance_pins_another() {
    let Some(lab) = lab() else { return };
    let only_mpp = format!("rails = [\"mpp.evm\"]\n{LIMITS}");
    let buyer = buyer_within(lab, FUNDS, &only_mpp);
    let agent = Agent::of(&buyer.bursar);
    let page = agent.get(site(&lab.mpp), "/mpp/default-realm").await;
    assert_eq!(
        (page.status.as_u16(), &page.json()["paid"]),
        (200, &json!(true)),
        "{page:?}"
    );
    crate::money::chain::assert_one_cent_moved(&buyer, lab);
    // Signed over by the server for another host: a relayed challenge.
    // What is left is the same server's offer over x402, which these limits do not allow.
    let page = agent.get(site(&lab.mpp), "/mpp/foreign-realm").await;
    assert_eq!(
        (page.status.as_u16(), page.problem()),
        (403, "rail-not-allowed".to_owned())
    );
    assert_eq!(buyer.transfers().len(), 1);

    for (realms, status) in [("[\"MPP Payment\"]", 200), ("[\"MPP\", \"localhost\"]", 403)] {
        let limits = format!("{only_mpp}[merchants.\"localhost\"]\nrealms = {realms}\n");
        let buyer = buyer_within(lab, FUNDS, &limits);
        let page = Agent::of(&buyer.bursar).get(site(&lab.mpp), "/mpp/default-realm").await;
        assert_eq!(page.status, status, "{realms}: {page:?}");
        assert_eq!(buyer.transfers().len(), usize::from(status == 200), "{realms}");
    }
}

#[tokio::test]
async fn hostile_twins_of_odd_resources_and_realms_stay_unpaid() {
    const RESOURCES: [(&str, &str); 12] = [
        ("http://localhost\\@evil.example/", "resource-unreadable"),
        ("http://localhost\\\\@evil.example/", "resource-unreadable"),
        ("http://localhost@evil.example/", "resource-unreadable"),
        ("http://localhost .evil.example/", "resource-unreadable"),
        ("\\\\evil.example/x", "resource-unreadable"),
        ("/\t/evil.example/x", "resource-unreadable"),
        (" https://evil.example/", "resource-unreadable"),
        ("https://local\nhost/", "resource-unreadable"),
        ("https://evil.example/a b", "resource-host-differs"),
        ("https://evil.example/\\@localhost", "resource-host-differs"),
        ("https://evil.example?localhost", "resource-host-differs"),
        ("https://203.0.113.9/x", "resource-host-differs"),
    ];
    const REALMS: [&str; 6] = [
        "evil.example",
        "evil.example/MPP Payment",
        "https://evil.example/a b",
        "https://localhost@evil.example/",
        "user@evil.example",
        "203.0.113.9",
    ];
    let asks = |path: &str| {
        let (kind, index) = path[1..].split_once('/').unwrap();
        let index: usize = index.parse().unwrap();
        match kind {
            "object" => v2(&challenge(RESOURCES[index].0, &[requirement("10000")])),
            "text" => {
                let mut challenge = challenge("/", &[requirement("10000")]);
                challenge["resource"] = RESOURCES[index].0.into();
                v2(&challenge)
            }
            "v1" => {
                let body = v1_body("10000", RESOURCES[index].0).to_string();
                answer(402, &[("content-type", "text/plain")], body)
            }
            _ => mpp::asks(&[evm("10000").with("realm", REALMS[index])]),
        }
    };
    let origin = sells(asks).await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    for (index, (url, why)) in RESOURCES.iter().enumerate() {
        for kind in ["object", "text", "v1"] {
            let page = agent.get(origin.address, &format!("/{kind}/{index}")).await;
            assert_unpaid(&format!("{kind} {url:?}"), &page, why);
        }
    }
    for (index, realm) in REALMS.iter().enumerate() {
        let page = agent.get(origin.address, &format!("/realm/{index}")).await;
        assert_unpaid(realm, &page, "realm-differs");
    }
    assert_eq!((origin.payments().len(), bursar.payments().len()), (0, 0));
}

#[tokio::test]
async fn odd_resources_come_back_as_they_came_and_nothing_of_them_is_on_record() {
    const ODD: [&str; 5] = [
        "https://localhost/artist/Sigur Ros\\x",
        "http://127.0.0.1:3000/internal",
        "http://backend:8080/x",
        "https://app.internal/x",
        "/relative/Sigur Ros",
    ];
    let asks = |path: &str| {
        let (kind, index) = path[1..].split_once('/').unwrap();
        let url = ODD[index.parse::<usize>().unwrap()];
        let mut challenge = challenge(url, &[requirement("10000")]);
        if kind == "text" {
            challenge["resource"] = url.into();
        }
        v2(&challenge)
    };
    let origin = sells(asks).await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    let mut purchases = 0;
    for (index, url) in ODD.iter().enumerate() {
        for kind in ["object", "text"] {
            let page = agent.get(origin.address, &format!("/{kind}/{index}")).await;
            purchases += 1;
            assert_paid(url, &origin, &bursar, &page, "10000", purchases);
            let sent = seller::decoded(origin.payments().last().unwrap());
            let echoed = match kind {
                "text" => &sent["resource"],
                _ => &sent["resource"]["url"],
            };
            assert_eq!(echoed, url);
        }
    }
    // On record is what was asked, not what the seller calls it.
    let journal = serde_json::to_string(&bursar.journal()).unwrap();
    assert!(
        !journal.contains("Sigur") && !journal.contains("backend:8080"),
        "{journal}"
    );
}

#[tokio::test]
async fn bodies_of_other_kinds_and_codings_are_searched() {
    const JSON: (&str, &str) = ("content-type", "application/json");
    let asks = |path: &str| {
        let v1 = v1_body("10000", "/data").to_string();
        let text = [("content-type", "text/plain; charset=utf-8")];
        match path {
            "/text" => answer(402, &text, format!("\r\n\t {v1}")),
            "/no-type" => answer(402, &[], v1),
            "/empty-header" => answer(402, &[("payment-required", ""), JSON], v1),
            "/zstd" => answer(
                402,
                &[JSON, ("content-encoding", "zstd")],
                STANDARD.decode(ZSTD).unwrap(),
            ),
            "/zstd-text" => answer(
                402,
                &[text[0], ("content-encoding", "zstd")],
                STANDARD.decode(ZSTD).unwrap(),
            ),
            _ => answer(402, &[("payment-required", ""), text[0]], "{ pay first }"),
        }
    };
    let origin = sells(asks).await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    let paths = ["/text", "/no-type", "/empty-header", "/zstd", "/zstd-text"];
    for (index, path) in paths.iter().enumerate() {
        let page = agent.get(origin.address, path).await;
        assert_paid(path, &origin, &bursar, &page, "10000", index + 1);
    }
    let page = agent.get(origin.address, "/only-text").await;
    assert_unpaid("only text", &page, "challenge-header-empty");
    assert_eq!(page.body, "{ pay first }");
    assert_eq!(origin.payments().len(), paths.len());
}

#[tokio::test]
async fn text_that_is_no_challenge_streams_on_at_its_first_letter() {
    let (sender, parts) = Parts::new();
    let parts = std::sync::Mutex::new(Some(parts));
    let origin = Origin::https(move |_| {
        let parts = parts.lock().unwrap().take().unwrap();
        async move { streamed(answer(402, &[("content-type", "text/plain")], ""), parts) }
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let mut connection = Agent::of(&bursar).connect(origin.address, &["http/1.1"]).await;
    let part = |text: &'static str| sender.send(Ok(Bytes::from_static(text.as_bytes())));
    part(" \n ").await.unwrap();
    part("Please").await.unwrap();
    // The rest is sent only once the agent has seen the beginning.
    let request = Request::new(Full::default());
    let mut response = connection.open(origin.address, request).await.unwrap();
    let status = response.headers()["proxy-status"].to_str().unwrap();
    assert_eq!(
        (response.status().as_u16(), status),
        (402, "bursar; details=\"no-challenge\"")
    );
    let mut body = String::new();
    while body != " \n Please" {
        let frame = response.body_mut().frame().await.unwrap().unwrap();
        body += std::str::from_utf8(&frame.into_data().unwrap()).unwrap();
    }
    part(" pay.").await.unwrap();
    drop(sender);
    let rest = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(rest, " pay.");
    assert_eq!(bursar.payments().len(), 0);
}

#[tokio::test]
async fn sixty_four_offers_are_paid_and_explained_within_an_entry() {
    // The longest names and rules that a decision can put into an entry.
    const AGENT: &str = "a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a";
    let asks = |path: &str| {
        let count: usize = path[1..].parse().unwrap();
        let dear = requirement("5000000");
        let mut accepts = vec![dear; count - 1];
        accepts.push(requirement("10000"));
        v2(&challenge("/", &accepts))
    };
    let origin = sells(asks).await;
    let limits = format!(
        "timezone = \"UTC\"\n[account]\nday = \"50\"\n[agents.\"{AGENT}\"]\nper_transaction = \"1.00\"\nday = \"100.00\"\n\
         hour = \"9\"\nweek = \"900\"\nmonth = \"900\"\ntotal = \"900\"\n"
    );
    let home = setup().limits(&limits).trust(&origin.ca_pem).home();
    let token = home.add_agent(AGENT);
    let bursar = home.serve();
    let agent = Agent::named(&bursar, AGENT, &token);
    let page = agent.get(origin.address, "/64").await;
    assert_paid("64", &origin, &bursar, &page, "10000", 1);
    let others = others(&bursar);
    let (last, recorded) = others.split_last().unwrap();
    assert!(recorded.len() > 15, "{others:?}");
    assert!(recorded.iter().all(|(_, why)| why == "over-limit"));
    assert_eq!(
        *last,
        (format!("and {} more", 63 - recorded.len()), "not-recorded".to_owned())
    );
    let page = agent.get(origin.address, "/65").await;
    assert_unpaid("65", &page, "too-many-offers");
    assert_eq!(origin.payments().len(), 1);
}

#[tokio::test]
async fn euros_are_paid_in_eurc_at_finances_rate_only() {
    let asks = |_: &str| {
        let mut euros = requirement("1000000");
        euros["asset"] = json!("0x808456652fdb597867f38412077a9182bf77359F");
        euros["extra"] = json!({ "name": "EURC", "version": "2" });
        v2(&challenge("/", &[euros]))
    };
    let origin = sells(asks).await;
    let rate = |usd: &str, until: &str| format!("{LIMITS}[rates.eur]\nusd = \"{usd}\"\nvalid_until = \"{until}\"\n");
    for (limits, code) in [
        (LIMITS.to_owned(), "no-rate"),
        (rate("1.00", "2020-01-01"), "no-rate"),
        (rate("1.25", "2099-12-31"), "over-limit"),
    ] {
        let bursar = setup().limits(&limits).trust(&origin.ca_pem).start();
        let page = Agent::of(&bursar).get(origin.address, "/").await;
        assert_eq!(
            (page.status.as_u16(), page.problem()),
            (403, code.to_owned()),
            "{limits}"
        );
        assert_eq!((origin.payments().len(), bursar.payments().len()), (0, 0));
    }
    let limits = rate("0.90", "2099-12-31").replace("day = \"100.00\"", "day = \"1.00\"");
    let bursar = setup().limits(&limits).trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    let page = agent.get(origin.address, "/").await;
    assert_paid("EURC", &origin, &bursar, &page, "1000000", 1);
    let payment = &bursar.payments()[0];
    assert_eq!(
        (&payment["symbol"], &payment["usd"], &payment["amount_decimal"]),
        (&json!("EURC"), &json!("0.90"), &json!("1"))
    );
    assert_ne!(
        payment["asset"].as_str().unwrap(),
        format!("eip155:84532/erc20:{}", USDC.to_lowercase())
    );
    // Counted in dollars: a second one would pass the day's dollar.
    let page = agent.get(origin.address, "/").await;
    assert_eq!(
        (page.problem(), &page.json()["used"]),
        ("over-limit".to_owned(), &json!("0.90"))
    );
}

#[tokio::test]
async fn ten_thousand_foreign_realms_cost_nothing_and_one_that_is_words_is_one_payment() {
    let foreign: Vec<mpp::Challenge> = (0..63)
        .map(|n| evm("1").with("realm", &format!("h{n}.evil.example")))
        .collect();
    let mut all = foreign.clone();
    all.push(evm("10000").with("realm", "Weather, Inc."));
    let origin = sells(move |path| match path {
        "/foreign" => mpp::asks(&foreign),
        _ => mpp::asks(&all),
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    for _ in 0..160 {
        let page = agent.get(origin.address, "/foreign").await;
        assert_unpaid("foreign", &page, "realm-differs");
    }
    assert_eq!((origin.payments().len(), bursar.payments().len()), (0, 0));
    let page = agent.get(origin.address, "/all").await;
    assert_paid("words", &origin, &bursar, &page, "10000", 1);
    let reasons = others(&bursar);
    assert!(
        reasons
            .iter()
            .all(|(_, why)| why == "realm-differs" || why == "not-recorded"),
        "{reasons:?}"
    );
}

#[tokio::test]
async fn times_and_digests_are_read_in_every_form_of_their_standards() {
    // Of `{"q":"hello"}`, and of something else.
    const OURS: &str = "sha-256=:CFdtBA5fXO1HaQ8sdv75T9kcnF5ed8M5LhPNrKzrx/I=:";
    const OTHER: &str = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:";
    const FORMS: [(&str, &str); 4] = [
        ("9999-12-31t23:59:59z", "2026-04-01t12:04:58z"),
        (
            "2099-01-01T00:00:00.1234567890123456789Z",
            "2026-04-01T12:04:58.123456789012Z",
        ),
        ("2099-01-01T02:00:00+02:00", "2026-04-01t14:04:58.5+02:00"),
        ("2098-12-31t18:30:00.0-05:30", "2016-12-31T23:59:60Z"),
    ];
    let origin = Origin::https(|request: Seen| async move {
        let (kind, index) = request.target[1..].split_once('/').unwrap();
        let (expires, timestamp) = FORMS[index.parse::<usize>().unwrap()];
        if request.is_paid() {
            let receipt = json!({ "method": "evm", "reference": TX, "status": "success", "timestamp": timestamp });
            return answer(200, &[("payment-receipt", &mpp::encoded(&receipt))], "goods");
        }
        let digest = match kind {
            "ours" => format!("sha-512=:AAAA:, {OURS}"),
            "other" => format!("{OTHER}, sha-512=:AAAA:"),
            _ => format!("{OURS}, {OTHER}"),
        };
        mpp::asks(&[evm("10000").with("expires", expires).with("digest", &digest)])
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    let body = &b"{\"q\":\"hello\"}"[..];
    for (index, (expires, _)) in FORMS.iter().enumerate() {
        let page = agent.post(origin.address, &format!("/ours/{index}"), body).await;
        assert_paid(expires, &origin, &bursar, &page, "10000", index + 1);
    }
    for (kind, why) in [("other", "digest-mismatch"), ("both", "digest-unsupported")] {
        let page = agent.post(origin.address, &format!("/{kind}/0"), body).await;
        assert_unpaid(kind, &page, why);
    }
    assert_eq!(origin.payments().len(), FORMS.len());
}
