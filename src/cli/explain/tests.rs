//! The exact output for people and for scripts.

use serde_json::json;

use super::*;
use bursar_ledger::text::Decimal;

const ID: &str = "01a1f8b7-7082-7a04-a377-0dc81aefda02";

fn payment(rail: &str) -> PaymentRecord {
    let time: jiff::Timestamp = "2026-11-20T12:00:00Z".parse().unwrap();
    PaymentRecord {
        id: PaymentId::parse(ID).unwrap(),
        state: State::Settled,
        by: None,
        agent: "research".into(),
        group: None,
        rail: rail.into(),
        scheme: "charge".into(),
        network: "eip155:84532".into(),
        merchant: "api.example.com".into(),
        resource: "https://api.example.com".into(),
        asset: "eip155:84532/erc20:0x036cbd53842c5426634e7929541ec2318f3dcf7e".into(),
        symbol: "USDC".into(),
        amount: "10000".into(),
        amount_decimal: "0.01".into(),
        usd: "0.01".into(),
        taken: None,
        payee: "0x209693bc6afc0c5328ba36faf03c514ef312287c".into(),
        nonce: None,
        valid_before: None,
        tx: None,
        reason: None,
        approval: None,
        disputed: None,
        created_at: time,
        updated_at: time,
    }
}

fn other(at: &str, rail: Option<&str>, usd_micros: Option<u128>, why: &str, rule: Option<&str>) -> Other {
    Other {
        at: at.into(),
        rail: rail.map(str::to_owned),
        rule: rule.map(str::to_owned),
        usd_micros: usd_micros.map(Decimal),
        why: why.into(),
    }
}

fn explained(others: &[Other]) -> Explained {
    Explained {
        payment: payment("mpp.evm"),
        others: others.to_vec(),
    }
}

fn text(others: &[Other]) -> String {
    Explanation::of(&explained(others)).text()
}

#[test]
fn every_kind_of_reason_reads_like_this() {
    let research = |key| Some(format!("agents.research.{key}"));
    let ruled = |at, rail, usd, why, rule: Option<String>| other(at, Some(rail), usd, why, rule.as_deref());
    let all = [
        other("x402", None, None, "challenge-not-json", None),
        other("x402 0", Some("x402"), Some(10_000), "rail-order", None),
        ruled(
            "x402 1",
            "x402",
            Some(5_000),
            "payee-not-allowed",
            research("payees.deny"),
        ),
        ruled(
            "x402 2",
            "x402",
            Some(5_000),
            "network-not-allowed",
            research("networks"),
        ),
        ruled("x402 3", "x402", Some(5_000), "asset-not-allowed", research("assets")),
        ruled(
            "x402 4",
            "x402.permit2",
            Some(1),
            "rail-not-allowed",
            Some("rails".into()),
        ),
        other("x402 5", Some("x402"), Some(10_000), "upfront", None),
        other("mpp 1", Some("mpp.stripe"), Some(1_000_000), "dearer", None),
        other("mpp 2", None, None, "mpp-solana-not-paid", None),
        other("mpp 3", Some("mpp.evm"), Some(10_000), "later", None),
        ruled(
            "mpp 4",
            "mpp.evm",
            Some(1_234_567_000_000),
            "over-limit",
            research("per_transaction"),
        ),
        ruled(
            "mpp 5",
            "mpp.evm",
            Some(700_000),
            "approval-unavailable",
            research("approval_above"),
        ),
        ruled("mpp 6", "mpp.stripe", None, "no-rate", Some("rates.eur".into())),
        other("mpp 7", Some("mpp.evm"), Some(10_000), "challenge-used", None),
        other("mpp 8", None, None, "reason-of-2030", None),
    ];
    assert_eq!(
        text(&all),
        "\
Payment 01a1f8b7-7082-7a04-a377-0dc81aefda02 (settled): 0.01 USD to api.example.com over mpp.evm, the first of the cheapest offers that the limits allow.
Not taken:
  x402    -                          -  challenge-not-json: The challenge is not valid JSON.
  x402 0  x402                0.01 USD  same price; mpp.evm comes before x402 in `rails`
  x402 1  x402               0.005 USD  agents.research.payees.deny in limits.toml did not allow this payee
  x402 2  x402               0.005 USD  agents.research.networks in limits.toml did not allow this network
  x402 3  x402               0.005 USD  agents.research.assets in limits.toml did not allow this asset
  x402 4  x402.permit2    0.000001 USD  rails in limits.toml did not allow this rail
  x402 5  x402                0.01 USD  same price; its seller charges before serving, the chosen offer's seller afterwards
  mpp 1   mpp.stripe          1.00 USD  more expensive
  mpp 2   -                          -  mpp-solana-not-paid: The offer is for MPP's solana method, which bursar does not support.
  mpp 3   mpp.evm             0.01 USD  same price over the same rail; it comes later in the 402
  mpp 4   mpp.evm       1234567.00 USD  over agents.research.per_transaction in limits.toml
  mpp 5   mpp.evm             0.70 USD  over agents.research.approval_above in limits.toml, and no approver was available
  mpp 6   mpp.stripe                 -  no price in US dollars: limits.toml had no valid rates.eur
  mpp 7   mpp.evm             0.01 USD  challenge-used: This challenge was already answered; the site must issue a new one.
  mpp 8   -                          -  reason-of-2030: recorded by a newer version of bursar
"
    );
}

#[test]
fn the_first_line_says_what_decided() {
    let dearer = other("mpp 1", Some("mpp.evm"), Some(20_000), "dearer", None);
    let later = other("mpp 2", Some("mpp.evm"), Some(10_000), "later", None);
    let expired = other("x402 0", Some("x402"), Some(1), "challenge-expired", None);
    let begins = format!("Payment {ID} (settled): 0.01 USD to api.example.com over mpp.evm");
    for (others, why, ends) in [
        (
            &[][..],
            "no-others-recorded",
            ".\nNo other offers are recorded: the 402 had none, or an earlier version made the payment.\n",
        ),
        (
            std::slice::from_ref(&expired),
            "only-allowed",
            ", the only payable offer that the limits allow.\n",
        ),
        (
            &[expired.clone(), dearer.clone()],
            "cheapest",
            ", the cheapest offer that the limits allow.\n",
        ),
        (
            &[dearer, later, expired.clone()],
            "preferred",
            ", the first of the cheapest offers that the limits allow.\n",
        ),
    ] {
        let text = text(others);
        let (first, rest) = text.split_once("Not taken:\n").unwrap_or((&text, ""));
        assert_eq!(first, format!("{begins}{ends}"));
        assert_eq!(rest.lines().count(), others.len());
        let explained = explained(others);
        let json = serde_json::to_value(Explanation::of(&explained)).unwrap();
        assert_eq!(json["why"], why);
    }
}

#[test]
fn scripts_get_these_members_in_this_order() {
    let rule = Some("agents.research.networks");
    let explained = explained(&[
        other("x402 0", Some("x402"), Some(5_000), "network-not-allowed", rule),
        other("mpp 1", None, None, "challenge-not-base64", None),
    ]);
    let explanation = serde_json::to_string(&Explanation::of(&explained)).unwrap();
    let head = format!(
        "{{\"id\":\"{ID}\",\"state\":\"settled\",\"merchant\":\"api.example.com\",\"rail\":\"mpp.evm\",\"usd\":\"0.01\",\
         \"why\":\"only-allowed\",\"others\":[{{\"at\":\"x402 0\",\"rail\":\"x402\",\"usd\":\"0.005\",\"why\":"
    );
    assert!(explanation.starts_with(&head), "{explanation}");
    let explanation: serde_json::Value = serde_json::from_str(&explanation).unwrap();
    assert_eq!(
        explanation["others"],
        json!([
            {
                "at": "x402 0", "rail": "x402", "usd": "0.005", "why": "network-not-allowed",
                "rule": "agents.research.networks",
                "detail": "agents.research.networks in limits.toml did not allow this network"
            },
            {
                "at": "mpp 1", "rail": null, "usd": null, "why": "challenge-not-base64", "rule": null,
                "detail": "The challenge is not base64."
            },
        ])
    );
}

/// This version can explain every code that it records.
#[test]
fn every_code_reads_back() {
    for known in NotTaken::ORDER {
        assert_eq!(Reason::read(known.code()), Reason::Behind(known));
    }
    for code in RefusalCode::ALL {
        assert_eq!(Reason::read(code.code()), Reason::Barred(*code));
    }
    for why in Why::ALL {
        assert_eq!(Reason::read(why.code()), Reason::Unpayable(*why));
    }
}

#[test]
fn the_end_of_a_very_long_list_is_a_number() {
    let others = [
        other("x402 1", None, None, "first-of-pair", None),
        other("and 40 more", None, None, "not-recorded", None),
    ];
    let text = text(&others);
    for line in [
        "  x402 1       -  -  first-of-pair: An earlier offer of the challenge has the same scheme and network, and an x402 v1 seller looks only at that one.\n",
        "  and 40 more  -  -  not recorded one by one: the ledger entry had no room for more offers\n",
    ] {
        assert!(text.contains(line), "{line} is missing:\n{text}");
    }
    let json = serde_json::to_value(Explanation::of(&explained(&others))).unwrap();
    assert_eq!(json["others"][1]["why"], "not-recorded");
}
