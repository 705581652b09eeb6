//! A seller that repeats the credential in its answer, in whatever field: the agent does not get it (R35). And what only
//! bursar may say, no seller says (R99).

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request};
use http_body::Frame;
use http_body_util::{BodyExt, Full};

use crate::support::agent::Agent;
use crate::support::bursar::setup;
use crate::support::mpp;
use crate::support::origin::{Answer, Origin, Seen, answer};
use crate::support::seller;
use crate::support::wire::Frames;

/// Header fields and trailers that contain `credential` in one form or another, beside two that do not.
fn fields(credential: &str) -> Vec<(&'static str, String)> {
    let (document, signature) = opened(credential);
    vec![
        ("payment-signature", credential.to_owned()),
        ("x-debug-request", format!("you sent: {credential}")),
        ("set-cookie", format!("paid={}; Path=/", credential.replace('=', "%3D"))),
        ("set-cookie", "kept=1".to_owned()),
        ("x-signature", signature.to_owned()),
        ("x-signature-bare", signature.trim_start_matches("0x").to_uppercase()),
        ("x-nested", seller::encoded(&serde_json::json!({ "echo": document }))),
        ("x-kept", "the merchant's own".to_owned()),
        ("x-trace", format!("0x{}", "9".repeat(130))),
    ]
}

/// The credential's JSON and its signature.
fn opened(credential: &str) -> (serde_json::Value, String) {
    let document = match credential.strip_prefix("Payment ") {
        Some(_) => mpp::decoded(credential),
        None => seller::decoded(credential),
    };
    let signature = document["payload"]["signature"].as_str().unwrap().to_owned();
    assert!(signature.len() > 100);
    (document, signature)
}

/// Adds the fields to `sold`, and sends them once more as trailers.
fn echoing(sold: Answer, request: &Seen) -> Answer {
    let (mut head, _) = sold.into_parts();
    let mut trailers = HeaderMap::new();
    for (name, value) in fields(&request.payment().unwrap()) {
        let value = HeaderValue::try_from(value).unwrap();
        head.headers.append(name, value.clone());
        trailers.append(name, value);
    }
    for map in [&mut head.headers, &mut trailers] {
        map.append(
            "bursar-payment",
            HeaderValue::from_static("01a1f8b7-7082-7a04-a377-0dc81aefda02"),
        );
        map.append(
            "proxy-status",
            HeaderValue::from_static("edge; fwd=miss, bursar; details=\"no-offer\""),
        );
        map.append("proxy-status", HeaderValue::from_static("\"bursar\""));
    }
    trailers.append("grpc-status", HeaderValue::from_static("0"));
    let (frames, body) = Frames::new();
    frames.send(Frame::data(Bytes::from_static(b"goods"))).unwrap();
    frames.send(Frame::trailers(trailers)).unwrap();
    Answer::from_parts(head, body.boxed())
}

/// The names of the fields that must be there, and nothing else that the seller wrote.
fn left(map: &HeaderMap) -> Vec<&str> {
    let own = ["x-", "set-cookie", "payment-signature", "proxy-status", "grpc-"];
    let mut names: Vec<&str> = map.keys().map(|name| name.as_str()).collect();
    names.retain(|name| own.iter().any(|own| name.starts_with(own)));
    names.sort_unstable();
    names
}

#[tokio::test]
async fn what_an_answer_repeats_of_the_credential_stays_with_us() {
    let origin = Origin::https(|request: Seen| async move {
        let is_mpp = request.target.starts_with("/mpp");
        match (request.is_paid(), is_mpp) {
            (false, true) => mpp::asks(&[mpp::evm("10000")]),
            (false, false) => seller::asks("10000"),
            (true, true) => echoing(mpp::sold("goods"), &request),
            (true, false) if request.target == "/refused" => echoing(seller::asks("10000"), &request),
            (true, false) if request.target == "/failed" => echoing(answer(500, &[], ""), &request),
            (true, false) => echoing(seller::sold("goods"), &request),
        }
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    // A 402 may be read ahead, with its trailers; the others stream. `/failed` is asked twice: its repeat presents the
    // stored bytes.
    for (number, (target, status)) in [
        ("/", 200),
        ("/mpp", 200),
        ("/refused", 402),
        ("/failed", 500),
        ("/failed", 500),
    ]
    .into_iter()
    .enumerate()
    {
        let mut connection = agent.connect(origin.address, &["h2"]).await;
        let request = Request::get(target)
            .header("te", "trailers")
            .body(Full::default())
            .unwrap();
        let page = connection.open(origin.address, request).await.unwrap();
        let (head, body) = page.into_parts();
        assert_eq!(head.status, status, "{target}");
        let body = body.collect().await.unwrap();
        let trailers = body.trailers().expect("trailers").clone();
        assert_eq!(
            left(&head.headers),
            ["proxy-status", "set-cookie", "x-kept", "x-trace"],
            "{target}"
        );
        assert_eq!(
            left(&trailers),
            ["grpc-status", "proxy-status", "set-cookie", "x-kept", "x-trace"],
            "{target}"
        );
        assert_eq!(body.to_bytes(), "goods", "bodies are not touched");

        let credential = origin.payments().pop().unwrap();
        let (_, signature) = opened(&credential);
        for (name, value) in head.headers.iter().chain(&trailers) {
            let value = value.to_str().unwrap().to_lowercase();
            assert!(
                !value.contains(&signature.trim_start_matches("0x").to_lowercase()),
                "{target} {name}"
            );
            assert!(!value.contains(&credential.to_lowercase()), "{target} {name}");
        }
        let statuses: Vec<&str> = head
            .headers
            .get_all("proxy-status")
            .iter()
            .map(|v| v.to_str().unwrap())
            .collect();
        match status {
            402 => assert_eq!(
                statuses,
                ["edge; fwd=miss", "bursar; details=\"still-402-after-payment\""]
            ),
            _ => assert_eq!(statuses, ["edge; fwd=miss"], "{target}"),
        }
        assert_eq!(trailers["proxy-status"], "edge; fwd=miss");
        let rid = head.headers.get_all("bursar-payment").iter().collect::<Vec<_>>();
        assert_eq!(rid.len(), 1, "{target}");
        assert_ne!(rid[0], "01a1f8b7-7082-7a04-a377-0dc81aefda02");
        assert!(!trailers.contains_key("bursar-payment"));
        assert_eq!(origin.payments().len(), number + 1);
    }
    let log = bursar.log();
    assert_eq!(log.matches("the merchant's answer repeated the credential").count(), 5);
    for credential in origin.payments() {
        assert!(!log.contains(&credential));
    }
    let mut credentials = origin.payments();
    assert_eq!(credentials[3], credentials[4], "the same bytes");
    credentials.dedup();
    assert_eq!(credentials.len(), 4);
}

#[tokio::test]
async fn what_an_agent_says_to_bursar_reaches_no_site_and_changes_no_purchase() {
    let origin = Origin::https(|request: Seen| async move {
        match request.is_paid() {
            true => answer(500, &[], "later"),
            false => seller::asks("10000"),
        }
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    let agent = Agent::of(&bursar);
    for words in ["one", "another"] {
        for alpn in ["http/1.1", "h2"] {
            let mut connection = agent.connect(origin.address, &[alpn]).await;
            let request = Request::get("/")
                .header("bursar-note", words)
                .header("Bursar_Note", words)
                .header("bursary", "kept")
                .body(Full::default())
                .unwrap();
            assert_eq!(connection.send(origin.address, request).await.unwrap().status, 500);
        }
    }
    for seen in origin.seen() {
        let names: Vec<&str> = seen.headers.keys().map(|name| name.as_str()).collect();
        assert!(
            !names
                .iter()
                .any(|name| name.starts_with("bursar-") || name.starts_with("bursar_")),
            "{names:?}"
        );
        assert_eq!(seen.headers["bursary"], "kept");
    }
    // Equal requests but for those fields: one payment, presented four times.
    assert_eq!(bursar.payments().len(), 1);
    let mut credentials = origin.payments();
    credentials.dedup();
    assert_eq!(credentials.len(), 1);
}
