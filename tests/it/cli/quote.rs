//! `bursar quote`: a price without a payment.

use std::path::Path;

use serde_json::Value;

use super::{DONE, NEGATIVE, UNAVAILABLE, USAGE, fails, stderr, stdout};
use crate::support::agent::Agent;
use crate::support::bursar::{bursar, setup};
use crate::support::origin::{Origin, answer};
use crate::support::seller;

const PENDING: i32 = 4;

const LIMITS: &str = "timezone = \"UTC\"\n[agents.research]\nper_transaction = \"1.00\"\nday = \"5.00\"\n\
                      approval_above = \"0.50\"\n";

async fn shop() -> Origin {
    Origin::https(|request| async move {
        match (request.target.as_str(), request.is_paid()) {
            ("/free", _) => answer(200, &[], "free"),
            ("/gone", _) => answer(410, &[], "gone"),
            ("/odd", _) => answer(402, &[], "pay somehow"),
            ("/dear", _) => seller::asks("2000000"),
            ("/asked", _) => seller::asks("700000"),
            (_, false) => seller::asks("10000"),
            (_, true) => seller::sold("goods"),
        }
    })
    .await
}

fn quote(dir: &Path, url: &str, more: &[&str]) -> (i32, Value) {
    let arguments = [&["quote", url, "--agent", "research", "--json"], more].concat();
    let output = bursar(dir, &arguments);
    let text = stdout(&output);
    let value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text} {}", stderr(&output)));
    (output.status.code().unwrap(), value)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_is_asked_and_nothing_is_paid() {
    let origin = shop().await;
    let mut server = setup()
        .trust(&origin.ca_pem)
        .limits(LIMITS)
        .config("[approval]\nbackend = \"operator\"\n")
        .start();
    let dir = server.path().to_owned();
    let url = |path: &str| format!("https://localhost:{}{path}", origin.address.port());
    let agent = Agent::of(&server);
    assert_eq!(agent.get(origin.address, "/goods").await.status, 200);
    let paid = origin.payments().len();
    let recorded = server.journal().len();

    let (code, said) = quote(&dir, &url("/goods?key=secret"), &[]);
    assert_eq!(
        (code, &said["verdict"], &said["usd"]),
        (DONE, &"pay".into(), &"0.01".into()),
        "{said:#}"
    );
    assert_eq!(
        (&said["status"], &said["url"]),
        (&402.into(), &url("/goods").into()),
        "no query"
    );
    let day = said["rules"]
        .as_array()
        .unwrap()
        .iter()
        .find(|rule| rule["rule"] == "agents.research.day");
    assert_eq!(day.unwrap()["asked"], "0.01");
    let offers = said["offers"].as_array().unwrap();
    assert_eq!(
        (offers.len(), &offers[0]["amount"], &offers[0]["why"]),
        (1, &"0.01".into(), &Value::Null)
    );

    let (code, said) = quote(&dir, &url("/asked"), &[]);
    assert_eq!((code, &said["verdict"]), (PENDING, &"ask".into()), "{said:#}");
    let (code, said) = quote(&dir, &url("/dear"), &[]);
    let refused = (&said["verdict"], &said["code"], &said["rule"]);
    let by = "agents.research.per_transaction";
    assert_eq!(
        (code, refused),
        (NEGATIVE, (&"refuse".into(), &"over-limit".into(), &by.into())),
        "{said:#}"
    );
    assert_eq!(said["offers"][0]["why"], format!("refused by {by}"));
    let (code, said) = quote(&dir, &url("/odd"), &[]);
    assert_eq!((code, &said["verdict"]), (NEGATIVE, &"unpaid".into()), "{said:#}");
    for (path, verdict, exit) in [("/free", "free", DONE), ("/gone", "no-price", NEGATIVE)] {
        let (code, said) = quote(&dir, &url(path), &[]);
        assert_eq!((code, &said["verdict"]), (exit, &verdict.into()), "{said:#}");
    }
    // A pause, and a body.
    assert!(server.run(&["pause", "--all", "--why", "a leak"]).status.success());
    let (code, said) = quote(&dir, &url("/goods"), &["--data", "{}"]);
    assert_eq!((code, &said["code"]), (NEGATIVE, &"paused".into()), "{said:#}");
    let posted = origin.seen().into_iter().last().unwrap();
    assert_eq!((posted.method.as_str(), &*posted.body), ("POST", &b"{}"[..]));
    assert!(server.run(&["resume", "--all", "--why", "a new key"]).status.success());

    assert_eq!(origin.payments().len(), paid, "a quote is not a purchase");
    let since = &server.journal()[recorded..];
    let mut events: Vec<&str> = since.iter().map(|entry| entry["ev"].as_str().unwrap()).collect();
    events.retain(|ev| *ev != "alert.raised");
    assert_eq!(events, ["pause.set", "pause.lifted"], "only what this test did itself");
    assert_eq!(server.stop(), DONE);
    let words = ["no server is running", "bursar serve --dir"];
    fails(
        &dir,
        &["quote", &url("/goods"), "--agent", "research"],
        UNAVAILABLE,
        &words,
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quote_goes_no_further_than_an_agents_request() {
    let origin = shop().await;
    let mut server = setup().trust(&origin.ca_pem).limits(LIMITS).start();
    let dir = server.path().to_owned();
    let ask = |url: &str, more: &[&str]| quote(&dir, url, more);
    let own = format!("http://{}/", server.address);
    for (url, code) in [
        ("https://169.254.169.254/latest", "destination-not-allowed"),
        (&*own, "loop"),
    ] {
        let (exit, said) = ask(url, &[]);
        let said = (&said["verdict"], &said["code"], &said["status"]);
        assert_eq!(
            (exit, said),
            (NEGATIVE, (&"no-price".into(), &code.into(), &Value::Null))
        );
    }
    let goods = format!("https://localhost:{}/goods", origin.address.port());
    let (_, said) = ask(&goods, &["--header", "X-PAYMENT: e30="]);
    assert_eq!(said["code"], "agent-payment");
    assert!(origin.seen().is_empty(), "none of these reached a site");

    let asked = |url: &str, agent: &str, words: &[&str]| {
        fails(&dir, &["quote", url, "--agent", agent], USAGE, words);
    };
    asked(&goods, "reserch", &["no agent reserch", "did you mean research?"]);
    asked("example.com", "research", &["write https://HOST/PATH"]);
    asked("ftp://example.com/", "research", &["write https://HOST/PATH"]);
    assert_eq!(server.stop(), DONE);
}
