//! Challenges that must not be paid: the agent gets the original answer with a reason added, or a refusal; the seller
//! gets nothing, and the ledger stays empty.

use std::collections::HashMap;
use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::support::agent::{Agent, Page};
use crate::support::bursar::{Bursar, setup};
use crate::support::origin::{Answer, Origin, Parts, Speaks, answer, certificate, read_request, streamed};
use crate::support::seller::{self, challenge, encoded, requirement, v1_body, v2};

/// Fixed, so that an answer can be compared byte for byte.
const DATE: &str = "Tue, 17 Nov 2026 08:00:00 GMT";

#[derive(Debug)]
enum Reaction {
    /// The original answer, with this in `Proxy-Status`.
    Passed(&'static str),
    /// 403 with this problem.
    Refused(&'static str),
    /// The strange member is read in one way only, so the seller gets its money: this many atoms.
    Paid(&'static str),
}
use Reaction::{Paid, Passed, Refused};

const BAD: [(&str, Reaction); 41] = [
    ("malformed/not-base64", Passed("challenge-not-base64")),
    ("malformed/not-json", Passed("challenge-not-json")),
    ("malformed/json-array", Passed("challenge-not-object")),
    ("malformed/empty-header", Passed("challenge-header-empty")),
    ("malformed/no-accepts", Passed("offers-missing")),
    ("malformed/empty-accepts", Passed("offers-empty")),
    ("malformed/amount-number", Passed("amount-not-text")),
    ("malformed/amount-negative", Passed("amount-not-decimal")),
    ("malformed/amount-hex", Passed("amount-not-decimal")),
    ("malformed/amount-decimal", Passed("amount-not-decimal")),
    ("malformed/amount-exponent", Passed("amount-not-decimal")),
    ("malformed/amount-overflow", Passed("amount-too-large")),
    ("malformed/amount-empty", Passed("amount-not-decimal")),
    ("malformed/amount-spaces", Passed("amount-not-decimal")),
    ("malformed/amount-plus", Passed("amount-not-decimal")),
    ("malformed/amount-zero", Passed("amount-zero")),
    ("malformed/amount-leading-zeros", Passed("amount-leading-zero")),
    ("malformed/payto-short", Passed("payee-malformed")),
    ("malformed/payto-zero", Passed("payee-zero")),
    ("malformed/payto-bad-checksum", Passed("payee-checksum")),
    ("malformed/no-extra", Passed("token-domain-missing")),
    ("malformed/timeout-zero", Passed("timeout-out-of-range")),
    ("malformed/timeout-negative", Passed("timeout-out-of-range")),
    ("malformed/timeout-string", Passed("timeout-not-integer")),
    // Ten years count as a day, and what is signed is valid for less.
    ("malformed/timeout-huge", Paid("10000")),
    ("malformed/version-3", Passed("version-unsupported")),
    ("malformed/v1-object-in-v2-header", Passed("version-unsupported")),
    ("malformed/caip2-junk", Passed("network-malformed")),
    ("malformed/bare-402", Passed("no-challenge")),
    ("malformed/v1-truncated-body", Passed("challenge-not-json")),
    ("price-far-above", Refused("over-limit")),
    ("wrong-asset", Passed("asset-unknown")),
    ("wrong-domain", Passed("token-domain-mismatch")),
    ("unknown-network", Passed("network-unsupported")),
    ("mainnet-network", Passed("network-not-configured")),
    ("unknown-scheme", Passed("scheme-unsupported")),
    ("unknown-transfer-method", Passed("transfer-method-unsupported")),
    ("unknown-payment-flow", Passed("payment-flow-unsupported")),
    ("resource-mismatch", Passed("resource-host-differs")),
    ("payto-self", Passed("payee-is-payer")),
    ("html-paywall", Passed("no-challenge")),
];

/// A 402 that can be sent repeatedly.
#[derive(Clone)]
struct Reply {
    headers: HeaderMap,
    body: Bytes,
}

impl Reply {
    fn of(headers: &[(&str, &str)], body: impl Into<Bytes>) -> Self {
        let mut map = HeaderMap::new();
        map.insert("date", HeaderValue::from_static(DATE));
        for (name, value) in headers {
            let name: HeaderName = name.parse().unwrap();
            map.append(name, HeaderValue::from_str(value).unwrap());
        }
        Self {
            headers: map,
            body: body.into(),
        }
    }

    fn answer(&self) -> Answer {
        let mut answer = answer(402, &[], self.body.clone());
        *answer.headers_mut() = self.headers.clone();
        answer
    }

    /// Status, headers and body are unchanged; only `Proxy-Status` and `Bursar-Note` are added.
    fn is_passed_on(&self, name: &str, page: &Page, why: &str) {
        assert_eq!(page.status, 402, "{name}: {page:?}");
        assert_eq!(page.body, self.body, "{name}");
        let status = page.header("proxy-status").unwrap_or_default();
        assert_eq!(status, format!("bursar; details=\"{why}\""), "{name}");
        let mut headers = page.headers.clone();
        headers.remove("proxy-status");
        let note = headers.remove("bursar-note").expect(name);
        assert!(
            note.to_str().unwrap().starts_with(&format!("Not paid ({why}): ")),
            "{name}"
        );
        let mut expected = self.headers.clone();
        expected.insert("content-length", HeaderValue::from(self.body.len()));
        assert_eq!(headers, expected, "{name}");
    }
}

async fn serve_cases(all: HashMap<String, Reply>) -> Origin {
    Origin::https(move |request| {
        let reply = match request.is_paid() {
            true => seller::sold("goods"),
            false => all[&request.target[1..]].answer(),
        };
        async move { reply }
    })
    .await
}

fn nothing_left_us(origin: &Origin, bursar: &Bursar) {
    assert_eq!(origin.payments(), [""; 0]);
    assert_eq!(bursar.payments(), [Value::Null; 0]);
}

/// The fixture's cases, served from `localhost`: only the port of the lab that recorded them is replaced.
fn bad_challenges() -> HashMap<String, Reply> {
    let here = |text: &str| text.replace("http://127.0.0.1:21020", "https://localhost:8443");
    let text = std::fs::read_to_string("fixtures/x402/bad-challenges.json").unwrap();
    let fixture: Value = serde_json::from_str(&text).unwrap();
    let cases = fixture["cases"].as_array().unwrap().iter().map(|case| {
        let headers = case["response"]["headers"].as_object().unwrap();
        let headers: Vec<(&str, String)> = headers
            .iter()
            .map(|(name, value)| {
                let value = value.as_str().unwrap();
                let adapted = STANDARD
                    .decode(value)
                    .ok()
                    .and_then(|json| String::from_utf8(json).ok());
                let value = adapted.map_or(value.to_owned(), |json| STANDARD.encode(here(&json)));
                (name.as_str(), value)
            })
            .collect();
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let reply = Reply::of(&headers, here(case["response"]["body"].as_str().unwrap()));
        (case["name"].as_str().unwrap().to_owned(), reply)
    });
    cases.collect()
}

#[tokio::test]
async fn every_bad_challenge_of_the_specification_is_passed_on_or_refused() {
    let cases = bad_challenges();
    assert_eq!(cases.len(), BAD.len());
    let origin = serve_cases(cases.clone()).await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    let mut paid = Vec::new();
    for (name, reaction) in &BAD {
        let page = agent.get(origin.address, &format!("/{name}")).await;
        match reaction {
            Passed(why) => cases[*name].is_passed_on(name, &page, why),
            Refused(code) => {
                assert_eq!(page.status, 403, "{name}");
                assert_eq!(page.problem(), *code, "{name}");
            }
            Paid(amount) => {
                assert_eq!(page.status, 200, "{name}: {page:?}");
                paid.push(*amount);
            }
        }
    }
    let signed: Vec<String> = origin.payments().iter().map(|sent| seller::signed(sent).1).collect();
    assert_eq!(signed, paid);
    assert_eq!(bursar.states(), vec!["settled"; paid.len()]);
    assert_eq!(origin.seen().len(), BAD.len() + paid.len(), "asked once each");
}

/// One frame with a window of 8 MiB, of blocks that repeat a blank 128 Ki times: 4 bytes each.
fn zstd_bomb() -> Vec<u8> {
    let block = |is_last: u32| {
        let header = ((128 << 10) << 3) | 0b010 | is_last;
        [&u32::to_le_bytes(header)[..3], b" "].concat()
    };
    let head = [&0xFD2F_B528_u32.to_le_bytes()[..], &[0, 13 << 3]].concat();
    [head, block(0).repeat(9_000), block(1)].concat()
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn what_two_readers_could_read_differently_is_not_paid() {
    const JSON: (&str, &str) = ("content-type", "application/json");
    let good = encoded(&challenge("/", &[requirement("10000")]));
    let many = encoded(&challenge("/", &vec![requirement("10000"); 65]));
    let merged = format!("{good}, {good}");
    let twice = challenge("/", &[requirement("10000")])
        .to_string()
        .replace(r#""amount":"10000""#, r#""amount":"10000","amount":"1""#);
    let deep = format!(
        r#"{{"x402Version":2,"x":{}{},"accepts":[]}}"#,
        "[".repeat(5000),
        "]".repeat(5000)
    );
    let v1 = v1_body("10000", "/").to_string();
    let v1_twice = v1.replace(r#""asset""#, r#""payTo":"0x00","asset""#);
    let bomb = gzip(&vec![b' '; 8 << 20]);
    let layers = gzip(&gzip(v1.as_bytes()));
    let long = format!("{}{v1}", " ".repeat(1 << 20));
    let mpp = ("www-authenticate", r#"Payment id="x", realm="localhost""#);
    let cases: [(&str, &str, Reply); 24] = [
        (
            "65-offers",
            "too-many-offers",
            Reply::of(&[("payment-required", &many)], ""),
        ),
        (
            "merged",
            "challenge-header-repeated",
            Reply::of(&[("payment-required", &merged)], ""),
        ),
        (
            "repeated",
            "challenge-header-repeated",
            Reply::of(&[("payment-required", &good), ("payment-required", &good)], ""),
        ),
        (
            "duplicate-key",
            "challenge-duplicate-key",
            Reply::of(&[("payment-required", &STANDARD.encode(twice))], ""),
        ),
        (
            "deep",
            "challenge-too-deep",
            Reply::of(&[("payment-required", &STANDARD.encode(deep))], ""),
        ),
        (
            "v1-duplicate-key",
            "challenge-duplicate-key",
            Reply::of(&[JSON], v1_twice),
        ),
        (
            "gzip-bomb",
            "challenge-not-decodable",
            Reply::of(&[JSON, ("content-encoding", "gzip")], bomb),
        ),
        (
            "two-layers",
            "challenge-not-decodable",
            Reply::of(&[JSON, ("content-encoding", "gzip, gzip")], layers),
        ),
        (
            "unknown-coding",
            "challenge-not-decodable",
            Reply::of(&[JSON, ("content-encoding", "compress")], v1.clone()),
        ),
        (
            "zstd-bomb",
            "challenge-not-decodable",
            Reply::of(&[JSON, ("content-encoding", "zstd")], zstd_bomb()),
        ),
        (
            "not-zstd-after-all",
            "challenge-not-decodable",
            Reply::of(&[JSON, ("content-encoding", "zstd")], v1.clone()),
        ),
        (
            "not-gzip-after-all",
            "challenge-not-decodable",
            Reply::of(&[JSON, ("content-encoding", "gzip")], v1.clone()),
        ),
        ("one-mebibyte", "challenge-too-large", Reply::of(&[JSON], long.clone())),
        ("mpp-alone", "mpp-parameter-missing", Reply::of(&[mpp], "{}")),
        (
            "mpp-and-json",
            "mpp-parameter-missing",
            Reply::of(&[mpp, JSON], r#"{"error":"pay"}"#),
        ),
        (
            "v2-in-the-body",
            "v2-in-body",
            Reply::of(&[JSON], challenge("/", &[requirement("10000")]).to_string()),
        ),
        (
            "v1-as-html",
            "no-challenge",
            Reply::of(&[("content-type", "text/html")], v1.clone()),
        ),
        (
            "text-in-an-unknown-coding",
            "no-challenge",
            Reply::of(
                &[("content-type", "text/plain"), ("content-encoding", "compress")],
                v1.clone(),
            ),
        ),
        (
            "text-of-one-mebibyte",
            "no-challenge",
            Reply::of(&[("content-type", "text/plain")], format!("x{long}")),
        ),
        (
            "blanks-of-one-mebibyte",
            "no-challenge",
            Reply::of(&[("content-type", "text/plain")], long),
        ),
        (
            "not-encoded",
            "challenge-not-base64",
            Reply::of(
                &[("payment-required", &challenge("/", &[requirement("1")]).to_string())],
                "",
            ),
        ),
        (
            "json-of-another-kind",
            "no-challenge",
            Reply::of(&[JSON], r#"{"error":"payment required"}"#),
        ),
        // If there is a header only it counts, so a good body does not repair a bad header.
        (
            "bad-header-good-body",
            "challenge-not-base64",
            Reply::of(&[("payment-required", "???"), JSON], v1),
        ),
        ("nothing", "no-challenge", Reply::of(&[], "")),
    ];
    let all = cases.iter().map(|(name, _, reply)| ((*name).to_owned(), reply.clone()));
    let origin = serve_cases(all.collect()).await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    for (name, why, reply) in &cases {
        let page = agent.get(origin.address, &format!("/{name}")).await;
        let why = if *name == "json-of-another-kind" {
            "no-challenge"
        } else {
            why
        };
        reply.is_passed_on(name, &page, why);
    }
    nothing_left_us(&origin, &bursar);
}

/// The v1 challenge of `v1_body("10000", "/data")` by Node's `zlib.brotliCompressSync`.
const BROTLI: &str = "G28BoBwH5dYxJyaDWn4IQQgBWFfqywenwFeC0DosXX0tbqYuL3D3/4jbm9Ix6ixvQq6/uWSzfvbBiyi270pUg5IVbrrQzAZ+Beab6e7vU0QU1EkDkIlh\
    +C1DMAp2p6gMx8HkT5oC96hcRxR4Ce/Ly/mwncpx+tkaleuDKmkSf0Om9/vygeQTaT6bsgiWCswoO1dUlbQdTOXw8553yGX6bX/MS8Rqlc+yceaJK1HmTeujR7om\
    eTsTULKHONMQ03AKW0R/dtwelwoSpKXY0bEDPMNYeBValVyENv7kEIjvmuYhQki+ZP4d";

#[tokio::test]
async fn a_compressed_v1_challenge_is_paid_and_v2_goes_before_v1() {
    let origin = Origin::https(|request| async move {
        if request.is_paid() {
            return seller::sold("goods");
        }
        const JSON: (&str, &str) = ("content-type", "application/json");
        let v1 = v1_body("10000", "/data").to_string();
        match request.target.as_str() {
            "/gzip" => answer(402, &[JSON, ("content-encoding", "gzip")], gzip(v1.as_bytes())),
            "/br" => answer(
                402,
                &[JSON, ("content-encoding", "br")],
                STANDARD.decode(BROTLI).unwrap(),
            ),
            _ => {
                let v2 = encoded(&challenge("/", &[requirement("20000")]));
                answer(402, &[JSON, ("payment-required", &v2)], v1)
            }
        }
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    for path in ["/gzip", "/br", "/both"] {
        let page = agent.get(origin.address, path).await;
        assert_eq!((page.status.as_u16(), &page.body[..]), (200, &b"goods"[..]), "{path}");
    }
    let seen = origin.seen();
    let named: Vec<_> = seen
        .iter()
        .filter(|request| request.is_paid())
        .map(|request| {
            let v1 = request.headers.contains_key("x-payment");
            assert_ne!(v1, request.headers.contains_key("payment-signature"));
            (request.target.as_str(), v1)
        })
        .collect();
    assert_eq!(named, [("/gzip", true), ("/br", true), ("/both", false)]);
    let amounts: Vec<_> = bursar.payments().iter().map(|p| p["amount"].clone()).collect();
    assert_eq!(amounts, ["10000", "10000", "20000"]);
}

#[tokio::test]
async fn a_402_that_drips_is_no_challenge_and_still_arrives() {
    let origin = Origin::https(|_| async {
        let (sender, parts) = Parts::new();
        // Never complete within the time limit for a challenge, yet never silent either.
        tokio::spawn(async move {
            let whole = v1_body("10000", "/").to_string();
            for byte in whole.into_bytes() {
                if sender.send(Ok(Bytes::from(vec![byte]))).await.is_err() {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(30)).await;
            }
        });
        streamed(answer(402, &[("content-type", "application/json")], ""), parts)
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let page = Agent::of(&bursar).get(origin.address, "/").await;
    assert_eq!(page.status, 402);
    assert_eq!(
        page.header("proxy-status"),
        Some("bursar; details=\"challenge-cut-off\"")
    );
    assert_eq!(page.body, v1_body("10000", "/").to_string());
    nothing_left_us(&origin, &bursar);
}

#[tokio::test]
async fn a_402_that_is_cut_off_does_not_look_whole_to_the_agent() {
    let origin = Origin::raw(|mut stream, _| async move {
        read_request(&mut stream).await;
        let head =
            "HTTP/1.1 402 Payment Required\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
        let part = "12\r\n{\"x402Version\": 1,\r\n";
        stream.write_all(format!("{head}{part}").as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let mut connection = Agent::of(&bursar).connect(origin.address, &["http/1.1"]).await;
    let request = Request::get("/").body(Full::default()).unwrap();
    let page = connection.send(origin.address, request).await;
    assert!(page.is_err(), "a clean end: {:?}", page.unwrap());
    nothing_left_us(&origin, &bursar);
}

#[tokio::test]
async fn requests_that_ask_for_no_content_are_not_paid() {
    let origin = Origin::https(|_| async { seller::asks("10000") }).await;
    let bursar = setup().trust(&origin.ca_pem).start();
    for method in ["HEAD", "OPTIONS", "TRACE"] {
        let request = Request::builder().method(method).uri("/");
        let page = Agent::of(&bursar).request(origin.address, request).await;
        assert_eq!(page.status, 402, "{method}");
        assert_eq!(page.header("proxy-status"), Some("bursar; details=\"method-not-paid\""));
        assert!(page.headers.contains_key("payment-required"), "{method}");
    }
    nothing_left_us(&origin, &bursar);
}

#[tokio::test]
async fn a_handshake_for_another_protocol_is_not_paid() {
    let origin = Origin::https(|_| async { seller::asks("10000") }).await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let request = Request::get("/")
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    let page = Agent::of(&bursar).request(origin.address, request).await;
    assert_eq!(page.status, 402);
    assert_eq!(
        page.header("proxy-status"),
        Some("bursar; details=\"upgrade-not-paid\"")
    );
    nothing_left_us(&origin, &bursar);
}

#[tokio::test]
async fn nothing_is_paid_without_tls_unless_the_operator_says_so() {
    let script = |request: crate::support::origin::Seen| async move {
        if request.is_paid() {
            seller::sold("goods")
        } else {
            v2(&challenge("/", &[requirement("10000")]))
        }
    };
    let origin = Origin::start(Speaks::Plain, certificate(&["localhost"], |_| {}), script).await;
    let url = format!("http://127.0.0.1:{}/x", origin.address.port());

    let strict = setup().start();
    let page = Agent::of(&strict).get_plain(&url).await;
    assert_eq!(page.status, 402);
    assert_eq!(page.header("proxy-status"), Some("bursar; details=\"not-over-tls\""));
    nothing_left_us(&origin, &strict);

    let lenient = setup().upstream("allow_http_payments = [\"127.0.0.1\"]\n").start();
    let page = Agent::of(&lenient).get_plain(&url).await;
    assert_eq!((page.status.as_u16(), &page.body[..]), (200, &b"goods"[..]));
    assert_eq!(lenient.states(), ["settled"]);
    assert_eq!(origin.payments().len(), 1);
}

#[tokio::test]
async fn without_a_wallet_a_402_is_passed_on() {
    let origin = Origin::https(|_| async { seller::asks("10000") }).await;
    let home = setup().trust(&origin.ca_pem).home();
    let file = home.path().join("bursar.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let text = text.replace("[wallet.evm]\nkey = \"env:BURSAR_TEST_WALLET\"\n", "");
    assert!(!text.contains("wallet"));
    std::fs::write(&file, text).unwrap();
    let bursar = home.serve();
    let page = Agent::of(&bursar).get(origin.address, "/").await;
    assert_eq!(page.status, 402);
    assert_eq!(page.header("proxy-status"), Some("bursar; details=\"no-wallet\""));
    assert_eq!(
        seller::decoded(page.header("payment-required").unwrap())["accepts"],
        json!([requirement("10000")])
    );
    nothing_left_us(&origin, &bursar);
}
