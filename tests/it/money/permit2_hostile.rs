//! x402 by Permit2 from scripted sellers, honest and not: a standing approval is never signed (threat 1.11), and
//! nothing is reserved for a payment that could not be sent.

use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::money::chain::FUNDS;
use crate::money::permit2::{PERMIT2, RAILS, approve, details, limits};
use crate::support::agent::Agent;
use crate::support::bursar::{LIMITS, setup};
use crate::support::buyer::{buyer_asking, lab, site};
use crate::support::origin::{Answer, Origin, Seen, answer};
use crate::support::seller::{self, TX, challenge, decoded, encoded, requirement, v2};

const FACILITATOR: &str = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8";
const UPTO_PROXY: &str = "0x4020A4f3b7b90ccA423B9fabCc0CE57C6C240002";
const EXACT_PROXY: &str = "0x402085c248EeA27D92E8b30b2C58ed07f9E20001";

fn by_permit2(amount: &str) -> Value {
    let mut requirement = requirement(amount);
    requirement["extra"]["assetTransferMethod"] = json!("permit2");
    requirement
}

fn upto(amount: &str) -> Value {
    let mut requirement = requirement(amount);
    requirement["scheme"] = json!("upto");
    requirement["extra"]["facilitatorAddress"] = json!(FACILITATOR);
    requirement
}

fn asks(requirement: Value) -> Answer {
    v2(&challenge("/", &[requirement]))
}

/// Offers to submit the permit, with `info` about it.
fn sponsored(requirement: Value, info: Value) -> Answer {
    let mut challenge = challenge("/", &[requirement]);
    challenge["extensions"] = json!({ "eip2612GasSponsoring": { "info": info, "schema": { "type": "object" } } });
    v2(&challenge)
}

fn changed(mut requirement: Value, pointer: &str, value: Value) -> Answer {
    *requirement.pointer_mut(pointer).unwrap() = value;
    asks(requirement)
}

/// With another value in `extra`.
fn extra(mut requirement: Value, name: &str, value: Value) -> Answer {
    requirement["extra"][name] = value;
    asks(requirement)
}

/// What is wrong, the reason that the agent gets, and the 402.
type Case = (&'static str, &'static str, fn() -> Answer);

const UNPAID: [Case; 35] = [
    ("facilitator-absent", "facilitator-missing", || {
        let mut requirement = requirement("50000");
        requirement["scheme"] = json!("upto");
        asks(requirement)
    }),
    ("facilitator-null", "facilitator-missing", || {
        extra(upto("50000"), "facilitatorAddress", Value::Null)
    }),
    ("facilitator-zero", "facilitator-missing", || {
        extra(
            upto("50000"),
            "facilitatorAddress",
            json!(format!("0x{}", "0".repeat(40))),
        )
    }),
    ("facilitator-short", "facilitator-missing", || {
        extra(upto("50000"), "facilitatorAddress", json!("0x7099"))
    }),
    ("facilitator-number", "facilitator-missing", || {
        extra(upto("50000"), "facilitatorAddress", json!(7))
    }),
    ("upto-eip3009", "transfer-method-unsupported", || {
        extra(upto("50000"), "assetTransferMethod", json!("eip3009"))
    }),
    ("method-unknown", "transfer-method-unsupported", || {
        extra(requirement("10000"), "assetTransferMethod", json!("permit3"))
    }),
    ("method-upper-case", "transfer-method-unsupported", || {
        extra(requirement("10000"), "assetTransferMethod", json!("Permit2"))
    }),
    ("method-list", "transfer-method-unsupported", || {
        extra(requirement("10000"), "assetTransferMethod", json!(["permit2"]))
    }),
    ("method-empty", "transfer-method-unsupported", || {
        extra(requirement("10000"), "assetTransferMethod", json!(""))
    }),
    ("scheme-upper-case", "scheme-unsupported", || {
        changed(upto("50000"), "/scheme", json!("UpTo"))
    }),
    // v1 has neither.
    ("upto-v1", "scheme-unsupported", || v1("upto", |_| {})),
    ("permit2-v1", "transfer-method-unsupported", || {
        v1("exact", |requirement| {
            requirement["extra"]["assetTransferMethod"] = json!("permit2")
        })
    }),
    ("amount-number", "amount-not-text", || {
        changed(upto("50000"), "/amount", json!(50_000))
    }),
    ("amount-zero", "amount-zero", || asks(upto("0"))),
    ("amount-zero-permit2", "amount-zero", || asks(by_permit2("0"))),
    ("amount-padded", "amount-leading-zero", || asks(by_permit2("010000"))),
    ("amount-negative", "amount-not-decimal", || asks(upto("-1"))),
    ("amount-hex", "amount-not-decimal", || asks(upto("0x10"))),
    ("amount-2-128", "amount-too-large", || {
        asks(upto("340282366920938463463374607431768211456"))
    }),
    ("amount-2-256", "amount-too-large", || {
        asks(by_permit2(
            "115792089237316195423570985008687907853269984665640564039457584007913129639935",
        ))
    }),
    ("other-token", "asset-unknown", || {
        changed(by_permit2("10000"), "/asset", json!(FACILITATOR))
    }),
    ("other-name", "token-domain-mismatch", || {
        extra(by_permit2("10000"), "name", json!("USD Coin"))
    }),
    ("to-token", "payee-is-asset", || {
        changed(upto("50000"), "/payTo", json!(seller::USDC))
    }),
    ("escrow", "payment-flow-unsupported", || {
        extra(by_permit2("10000"), "paymentFlow", json!("escrow"))
    }),
    ("timeout", "timeout-out-of-range", || {
        changed(upto("50000"), "/maxTimeoutSeconds", json!(9))
    }),
    ("not-sponsored", "allowance-missing", || asks(by_permit2("10000"))),
    // Our signature would be combined with the seller's numbers.
    ("sponsored-amount", "allowance-missing", || {
        sponsored(
            by_permit2("10000"),
            json!({ "amount": "115792089237316195423570985008687907853269984665640564039457584007913129639935" }),
        )
    }),
    ("sponsored-spender", "allowance-missing", || {
        sponsored(by_permit2("10000"), json!({ "spender": FACILITATOR }))
    }),
    ("sponsored-deadline", "allowance-missing", || {
        sponsored(upto("50000"), json!({ "deadline": "99999999999" }))
    }),
    ("sponsored-signature", "allowance-missing", || {
        sponsored(by_permit2("10000"), json!({ "signature": null }))
    }),
    ("sponsored-version", "allowance-missing", || {
        sponsored(by_permit2("10000"), json!({ "version": "2" }))
    }),
    ("sponsored-text", "allowance-missing", || {
        sponsored(by_permit2("10000"), json!("yes"))
    }),
    ("sponsored-null", "allowance-missing", || {
        sponsored(by_permit2("10000"), Value::Null)
    }),
    // A standing approval, as a transaction: never signed.
    ("approval", "allowance-missing", || {
        let mut challenge = challenge("/", &[by_permit2("10000")]);
        challenge["extensions"] = json!({ "erc20ApprovalGasSponsoring": { "info": { "version": "1" } } });
        v2(&challenge)
    }),
];

fn v1(scheme: &str, change: impl Fn(&mut Value)) -> Answer {
    let mut body = seller::v1_body("10000", "https://localhost/");
    body["accepts"][0]["scheme"] = json!(scheme);
    change(&mut body["accepts"][0]);
    answer(402, &[("content-type", "application/json")], body.to_string())
}

#[tokio::test]
async fn what_must_not_be_paid_is_passed_on_with_a_reason_and_nothing_is_set_aside() {
    let Some(lab) = lab() else { return };
    let origin = Origin::https(|request: Seen| async move {
        let case = UNPAID.iter().find(|(name, ..)| request.target[1..] == **name);
        case.unwrap().2()
    })
    .await;
    let nodes = std::slice::from_ref(&lab.rpc);
    let buyer = buyer_asking(lab, FUNDS, &limits(), nodes, &origin.ca_pem);
    let agent = Agent::of(&buyer.bursar);
    for (name, why, _) in &UNPAID {
        let page = agent.get(origin.address, &format!("/{name}")).await;
        assert_eq!(page.status, 402, "{name}: {page:?}");
        assert_eq!(page.header("proxy-status"), Some(&*details(why)), "{name}");
    }
    assert_eq!((origin.payments().len(), origin.seen().len()), (0, UNPAID.len()));
    let reserved = buyer
        .bursar
        .journal()
        .into_iter()
        .filter(|entry| entry["ev"] == "pay.reserved");
    assert_eq!(reserved.count(), 0);
}

#[tokio::test]
async fn an_offer_without_its_allowance_gives_way_to_another() {
    let Some(lab) = lab() else { return };
    let origin = Origin::https(|request: Seen| async move {
        match request.is_paid() {
            true => seller::sold("goods"),
            false => v2(&challenge(
                "/",
                &[by_permit2("9000"), requirement("10000"), upto("11000")],
            )),
        }
    })
    .await;
    for (rails, allowed, rail) in [
        (RAILS, 0, "x402"),
        (RAILS, 9_000, "x402.permit2"),
        ("", 9_000, "x402"),
        ("rails = [\"x402.upto\"]\n", 11_000, "x402.upto"),
    ] {
        let nodes = std::slice::from_ref(&lab.rpc);
        let buyer = buyer_asking(lab, FUNDS, &format!("{rails}{LIMITS}"), nodes, &origin.ca_pem);
        approve(lab, &buyer.wallet, allowed);
        assert_eq!(Agent::of(&buyer.bursar).get(origin.address, "/").await.status, 200);
        let payments = buyer.bursar.payments();
        assert_eq!(
            (payments.len(), &payments[0]["rail"]),
            (1, &json!(rail)),
            "{rails}{allowed}"
        );
    }
    // If the limits refuse the other offer, the site's 402 is passed on.
    let limits =
        format!("{RAILS}timezone = \"UTC\"\n[agents.research]\nday = \"1.00\"\nper_transaction = \"0.0095\"\n");
    let buyer = buyer_asking(lab, FUNDS, &limits, std::slice::from_ref(&lab.rpc), &origin.ca_pem);
    let page = Agent::of(&buyer.bursar).get(origin.address, "/").await;
    assert_eq!(
        (page.status.as_u16(), page.header("proxy-status")),
        (402, Some(&*details("allowance-missing")))
    );
    assert_eq!(buyer.bursar.payments(), Vec::<Value>::new());
}

/// What an origin receives from us: a permit for one amount, for Permit2 and one of the two contracts, until the
/// deadline.
#[tokio::test]
async fn no_standing_approval_is_ever_signed() {
    let Some(lab) = lab() else { return };
    let origin = Origin::https(|request: Seen| async move {
        match (request.is_paid(), request.target.as_str()) {
            (true, _) => seller::sold("goods"),
            (false, "/exact") => sponsored(
                by_permit2("10000"),
                json!({ "description": "free of charge", "version": "1" }),
            ),
            (false, _) => sponsored(upto("50000"), json!({})),
        }
    })
    .await;
    let buyer = buyer_asking(lab, FUNDS, &limits(), std::slice::from_ref(&lab.rpc), &origin.ca_pem);
    let agent = Agent::of(&buyer.bursar);
    for (path, amount, spender) in [("/exact", "10000", EXACT_PROXY), ("/upto", "50000", UPTO_PROXY)] {
        assert_eq!(agent.get(origin.address, path).await.status, 200, "{path}");
        let payment = buyer.bursar.payments().pop().unwrap();
        let credential = decoded(&origin.payments().pop().unwrap());
        let authorization = &credential["payload"]["permit2Authorization"];
        let permitted = json!({ "token": lab.token, "amount": amount });
        assert_eq!(
            (&authorization["permitted"], &authorization["spender"]),
            (&permitted, &json!(spender))
        );
        let mut witness = json!({ "to": seller::PAYEE, "validAfter": "0" });
        if path == "/upto" {
            witness["facilitator"] = json!(FACILITATOR);
        }
        assert_eq!(
            (&authorization["witness"], &authorization["from"]),
            (&witness, &json!(buyer.wallet))
        );
        let deadline = payment["valid_before"]
            .as_str()
            .unwrap()
            .parse::<jiff::Timestamp>()
            .unwrap();
        assert_eq!(authorization["deadline"], deadline.as_second().to_string());
        let nonce = authorization["nonce"]
            .as_str()
            .unwrap()
            .parse::<alloy_primitives::U256>()
            .unwrap();
        assert_eq!(format!("{nonce:#066x}"), payment["nonce"].as_str().unwrap());

        let info = &credential["extensions"]["eip2612GasSponsoring"]["info"];
        for (member, value) in [
            ("amount", json!(amount)),
            ("spender", json!(PERMIT2)),
            ("asset", json!(lab.token)),
            ("from", json!(buyer.wallet)),
            ("deadline", authorization["deadline"].clone()),
            ("nonce", json!("0")),
            ("version", json!("1")),
        ] {
            assert_eq!(info[member], value, "{path} {member}");
        }
        let said = if path == "/exact" {
            json!("free of charge")
        } else {
            Value::Null
        };
        assert_eq!(info["description"], said);
        assert_eq!(
            credential["extensions"]["eip2612GasSponsoring"]["schema"],
            json!({ "type": "object" })
        );
    }
    // With an allowance, no permit for the token is signed, even if the seller would take one.
    approve(lab, &buyer.wallet, 10_000);
    assert_eq!(agent.get(origin.address, "/exact").await.status, 200);
    let credential = decoded(&origin.payments().pop().unwrap());
    let offered = json!({ "description": "free of charge", "version": "1" });
    assert_eq!(credential["extensions"]["eip2612GasSponsoring"]["info"], offered);
}

/// A seller that keeps a permit and stays silent delays the next permit for a while, and nothing else.
#[tokio::test]
async fn a_silent_seller_does_not_hold_up_all_others() {
    let Some(lab) = lab() else { return };
    let (held, mut arrived) = mpsc::unbounded_channel();
    let origin = Origin::https(move |request: Seen| {
        let held = held.clone();
        async move {
            if request.is_paid() {
                held.send(()).unwrap();
                std::future::pending::<()>().await;
            }
            sponsored(by_permit2("10000"), json!({}))
        }
    })
    .await;
    let mut buyer = buyer_asking(lab, FUNDS, &limits(), std::slice::from_ref(&lab.rpc), &origin.ca_pem);
    let home = buyer.bursar.kill();
    let config = std::fs::read_to_string(home.path().join("bursar.toml")).unwrap();
    std::fs::write(
        home.path().join("bursar.toml"),
        config + "[timeouts]\nsettle_wait_s = 1\n",
    )
    .unwrap();
    let bursar = home.serve();
    let (agent, address) = (Agent::of(&bursar), origin.address);
    let hanging = Agent::of(&bursar);
    let _hanging = tokio::spawn(async move { hanging.get(address, "/").await });
    arrived.recv().await.unwrap();
    assert_eq!(agent.get(site(&lab.v2), "/paid").await.status, 200);
    // The next turn comes `settle_wait` after the payment was sent to the silent seller, although its answer is still
    // pending.
    let page = agent.get(site(&lab.v2), "/permit2-sponsored").await;
    assert_eq!(page.status, 200, "{page:?}");
    approve(lab, &buyer.wallet, 10_000);
    assert_eq!(agent.get(site(&lab.v2), "/permit2-sponsored").await.status, 200);
    assert_eq!(bursar.states(), ["armed", "settled", "settled", "settled"]);
}

fn receipt(members: Value) -> Answer {
    answer(200, &[("payment-response", &encoded(&members))], "goods")
}

/// The answer to the paid request, and the resulting state for `upto` and for `exact`.
type After = (&'static str, fn() -> Answer, [&'static str; 2]);

const AFTER: [After; 10] = [
    (
        "taken",
        || receipt(json!({ "success": true, "transaction": TX, "amount": "20000" })),
        ["settled", "settled"],
    ),
    (
        "nothing-taken",
        || receipt(json!({ "success": true, "transaction": "", "amount": "0" })),
        ["settled", "unknown"],
    ),
    (
        "no-transaction",
        || receipt(json!({ "success": true, "amount": "0" })),
        ["settled", "unknown"],
    ),
    (
        "no-amount",
        || receipt(json!({ "success": true, "transaction": "" })),
        ["unknown", "unknown"],
    ),
    (
        "some-amount",
        || receipt(json!({ "success": true, "transaction": "", "amount": "1" })),
        ["unknown", "unknown"],
    ),
    (
        "amount-number",
        || receipt(json!({ "success": true, "transaction": "", "amount": 0 })),
        ["unknown", "unknown"],
    ),
    (
        "amount-padded",
        || receipt(json!({ "success": true, "transaction": "", "amount": "00" })),
        ["unknown", "unknown"],
    ),
    (
        "odd-transaction",
        || receipt(json!({ "success": true, "transaction": "0x", "amount": "0" })),
        ["unknown", "unknown"],
    ),
    (
        "failed",
        || receipt(json!({ "success": false, "transaction": "", "amount": "0" })),
        ["unknown", "unknown"],
    ),
    ("none", || answer(200, &[], "goods"), ["unknown", "unknown"]),
];

/// R10 and R12: a receipt settles, but does not lower the counted amount.
#[tokio::test]
async fn a_success_without_a_transaction_settles_an_upto_over_nothing_and_no_other() {
    let Some(lab) = lab() else { return };
    let origin = Origin::https(|request: Seen| async move {
        let (scheme, name) = request.target[1..].split_once('/').unwrap();
        match (request.is_paid(), scheme) {
            (true, _) => AFTER.iter().find(|(known, ..)| *known == name).unwrap().1(),
            (false, "upto") => asks(upto("50000")),
            (false, _) => asks(by_permit2("50000")),
        }
    })
    .await;
    let buyer = buyer_asking(lab, FUNDS, &limits(), std::slice::from_ref(&lab.rpc), &origin.ca_pem);
    approve(lab, &buyer.wallet, FUNDS);
    let agent = Agent::of(&buyer.bursar);
    for (name, _, states) in &AFTER {
        for (scheme, state) in ["upto", "exact"].iter().zip(states) {
            let page = agent.get(origin.address, &format!("/{scheme}/{name}")).await;
            assert_eq!(page.status, 200, "{scheme} {name}");
            let payment = buyer.bursar.payments().pop().unwrap();
            assert_eq!(
                (&payment["state"], &payment["usd"]),
                (&json!(state), &json!("0.05")),
                "{scheme} {name}"
            );
        }
    }
    assert_eq!(origin.payments().len(), AFTER.len() * 2);
}

#[tokio::test]
async fn an_upto_for_a_network_that_is_not_named_is_passed_on() {
    let origin = Origin::https(|_| async { asks(upto("50000")) }).await;
    let bursar = setup()
        .limits(&limits())
        .trust(&origin.ca_pem)
        .config("[networks.\"eip155:8453\"]\nrpc = []\n")
        .start();
    let page = Agent::of(&bursar).get(origin.address, "/").await;
    assert_eq!(page.header("proxy-status"), Some(&*details("network-not-configured")));
}
