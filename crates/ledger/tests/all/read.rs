//! The ledger as other processes read it.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::world::{NOON, World, charge, files, granted};
use alloy_primitives::{Address, B256};
use bursar_core::challenge::Rail;
use bursar_core::money::Atoms;
use bursar_core::policy::budget::{Unit, Window};
use bursar_ledger::findings::Findings;
use bursar_ledger::{
    ApprovalStep, Arm, Arming, Event, Finding, Ledger, Outcome, Outflow, PaymentId, Reason, Source, State,
    read_payments,
};

const CENT: u128 = 10_000;

#[tokio::test]
async fn a_payment_has_every_field_of_the_list() {
    let world = World::new();
    let ledger = world.open();
    let purchase = world.purchase(CENT);
    ledger.reserve(purchase.clone()).await.unwrap();
    world.clock.set("2026-11-20T12:00:01.5Z".parse().unwrap());
    let settled = Outcome::Settled {
        by: Source::Merchant,
        tx: Some("0xab".into()),
    };
    ledger.finish(purchase.hold.rid, settled).await.unwrap();
    let recorded = read_payments(world.path()).unwrap().read;
    let nonce = format!("{:#x}", purchase.arm.nonce.known().unwrap());
    let expected = serde_json::json!({
        "id": purchase.hold.rid.to_string(), "state": "settled", "by": "merchant", "agent": "research", "group": "eng",
        "rail": "x402", "scheme": "exact", "network": "eip155:84532", "merchant": "api.example.com",
        "resource": "https://api.example.com/v1/report", "asset": purchase.hold.terms.asset.caip19(),
        "symbol": purchase.hold.terms.asset.symbol(), "amount": "10000", "amount_decimal": "0.01", "usd": "0.01", "taken": null,
        "payee": "0x2222222222222222222222222222222222222222", "nonce": nonce, "valid_before": "2026-11-20T12:05:00Z",
        "tx": "0xab", "reason": null, "approval": null, "disputed": null,
        "created_at": "2026-11-20T12:00:00Z", "updated_at": "2026-11-20T12:00:01.5Z",
    });
    assert_eq!(
        serde_json::to_value(&recorded.payments).unwrap(),
        serde_json::json!([expected])
    );
    let line = serde_json::to_string(&recorded.payments[0]).unwrap();
    assert!(line.starts_with("{\"id\":"), "{line}");
}

#[tokio::test]
async fn paths_are_private_and_can_be_erased() {
    let world = World::new();
    let ledger = world.open();
    ledger.reserve(world.purchase(CENT)).await.unwrap();
    ledger.close().await;
    let journal = world.journal();
    for part in ["/v1/report", "customer", "zoe-4711"] {
        assert!(!journal.contains(part), "{part}: {journal}");
    }
    let private = &files(&world.path().join("private"), "seg-")[0];
    assert_eq!(private.file_name().unwrap(), "seg-00000000000000000000.jsonl");
    assert_eq!(fs::metadata(private).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_to_string(private).unwrap().lines().count(), 2);
    fs::write(private, "").unwrap();
    let recorded = read_payments(world.path()).unwrap().read;
    assert_eq!(recorded.payments[0].resource, "https://api.example.com");
    world.open().close().await;
}

#[tokio::test]
async fn a_port_is_named_where_it_is_not_the_usual_one_and_is_private_like_a_path() {
    let world = World::new();
    let ledger = world.open();
    let mut purchase = world.purchase(CENT);
    purchase.hold.origin = Some("http://api.example.com:8402".into());
    ledger.reserve(purchase).await.unwrap();
    ledger.close().await;
    assert!(!world.journal().contains("8402"), "{}", world.journal());
    let resource = || {
        let recorded = read_payments(world.path()).unwrap().read;
        recorded.payments[0].resource.clone()
    };
    assert_eq!(resource(), "http://api.example.com:8402/v1/report");
    fs::write(&files(&world.path().join("private"), "seg-")[0], "").unwrap();
    assert_eq!(resource(), "https://api.example.com");
}

#[tokio::test]
async fn a_directory_without_a_journal_has_no_payments() {
    let world = World::new();
    let recorded = read_payments(world.path()).unwrap().read;
    assert!(recorded.payments.is_empty() && recorded.refusals.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_beside_the_running_ledger_sees_all_that_was_acknowledged() {
    let world = World::new();
    // Small segments, so that the reader meets new files too.
    let ledger = world.open_with(|options| options.segment_bytes = 20_000);
    let dir = world.path().to_owned();
    let (acknowledged, newest) = tokio::sync::watch::channel(0usize);
    let reader = std::thread::spawn(move || {
        loop {
            let least = *newest.borrow();
            let recorded = read_payments(&dir).unwrap().read;
            assert!(recorded.payments.len() >= least);
            assert!(
                recorded
                    .payments
                    .iter()
                    .all(|payment| payment.created_at == NOON.parse().unwrap())
            );
            if least == 300 {
                return recorded;
            }
        }
    });
    for number in 1..=300 {
        let rid = ledger.reserve(world.purchase(1_000 * CENT)).await.unwrap().rid();
        if number % 3 == 0 {
            ledger
                .finish(
                    rid,
                    Outcome::Unknown {
                        why: Reason::NoReceipt,
                        tx: None,
                    },
                )
                .await
                .unwrap();
        }
        acknowledged.send_replace(number);
    }
    let recorded = tokio::task::spawn_blocking(|| reader.join().unwrap()).await.unwrap();
    assert_eq!(recorded.payments.len(), 300);
    assert_eq!(
        recorded
            .payments
            .iter()
            .filter(|payment| payment.state == State::Unknown)
            .count(),
        100
    );
    assert!(world.segments().len() > 3);
}

/// What a comparison with the chain reads: held and armed, reserved in one step, declared dead, confirmed or disputed,
/// and transfers.
#[tokio::test]
async fn the_journal_shows_which_transfers_its_payments_explain() {
    let world = World::new();
    let ledger = world.open();
    let day = |amount| charge("agent:research", Window::Day, Unit::MicroUsd, amount, 1_000_000);
    let [at_once, approved, dead, only_held] = [(); 4].map(|()| world.purchase(1_000_000));
    let (asset, payee, amount) = (
        at_once.hold.terms.asset.caip19(),
        at_once.hold.terms.payee.address().unwrap(),
        Atoms::new(10_000),
    );
    let arms: Vec<Arm> = [&at_once, &approved, &dead, &only_held]
        .map(|purchase| purchase.arm.clone())
        .to_vec();
    let rids: Vec<PaymentId> = [&at_once, &approved, &dead].map(|purchase| purchase.hold.rid).to_vec();
    ledger.reserve(at_once).await.unwrap();
    let requested = world.question(&approved.hold, 1);
    ledger.hold(approved.hold).await.unwrap();
    ledger
        .approval(ApprovalStep::Requested(requested.clone()))
        .await
        .unwrap();
    let use_by = NOON.parse::<jiff::Timestamp>().unwrap();
    ledger.approval(granted(requested.id, 1, use_by)).await.unwrap();
    let arming = Arming {
        arm: approved.arm,
        charges: vec![day(10_000)],
        approval: Some(requested.id.to_string()),
    };
    ledger.arm(rids[1], arming).await.unwrap();
    ledger.reserve(dead).await.unwrap();
    ledger.hold(only_held.hold).await.unwrap();
    for rid in &rids[..2] {
        let (by, tx) = (Source::Merchant, Some("0x01".to_owned()));
        ledger.finish(*rid, Outcome::Settled { by, tx }).await.unwrap();
    }
    let (by, why) = (Source::Us, bursar_ledger::Reason::NeverSigned);
    ledger.finish(rids[2], Outcome::Expired { by, why }).await.unwrap();
    let finding = Finding::Disputed {
        why: "never cashed".into(),
        tx: None,
    };
    ledger.record_finding(rids[1], finding).await.unwrap();
    let outflow = Outflow {
        asset: asset.clone(),
        network: "eip155:84532".into(),
        symbol: "USDC".into(),
        amount,
        payee,
        tx: B256::repeat_byte(9),
        log_index: 3,
        block: 7,
    };
    ledger.append(Event::Outflow(outflow.clone())).await.unwrap();

    let findings = Findings::read(world.path(), |_, _| 0).unwrap();
    let explains = |arm: &Arm| findings.count(&asset, &wallet(arm), &arm.nonce.known().unwrap(), payee, amount);
    assert_eq!(
        arms.iter().map(explains).collect::<Vec<_>>(),
        [true, true, false, false]
    );
    let arm = &arms[0];
    assert!(!findings.count(&asset, &wallet(arm), &arm.nonce.known().unwrap(), wallet(arm), amount));
    assert!(!findings.count(
        &asset,
        &wallet(arm),
        &arm.nonce.known().unwrap(),
        payee,
        Atoms::new(9_999)
    ));
    assert!(!findings.count(
        "eip155:1/erc20:0x",
        &wallet(arm),
        &arm.nonce.known().unwrap(),
        payee,
        amount
    ));
    assert_eq!(findings.began, Some(NOON.parse().unwrap()));
    assert_eq!(
        findings.wallets.iter().collect::<Vec<_>>(),
        [&("eip155:84532".to_owned(), wallet(arm))]
    );
    assert_eq!(findings.awaiting_chain.keys().collect::<Vec<_>>(), [&rids[0]]);
    assert_eq!(findings.disputes.keys().collect::<Vec<_>>(), [&rids[1]]);
    assert_eq!(findings.outflows, [(NOON.parse().unwrap(), outflow)]);
    assert!(findings.has("eip155:84532", &B256::repeat_byte(9), 3));
    assert!(!findings.has("eip155:84532", &B256::repeat_byte(9), 4));
    assert!(!findings.has("eip155:8453", &B256::repeat_byte(9), 3));

    // Searched up to its deadline: it cannot explain a transfer that is still to be found.
    let deadline = arm.valid_before;
    let read = |searched: u64| Findings::read(world.path(), move |_, _| searched).unwrap();
    assert!(read(deadline).count(&asset, &wallet(arm), &arm.nonce.known().unwrap(), payee, amount));
    assert!(!read(deadline + 1).count(&asset, &wallet(arm), &arm.nonce.known().unwrap(), payee, amount));
}

/// A Permit2 transfer reveals no nonce: it is in the transaction's input, and explains what its payment may move.
#[tokio::test]
async fn the_journal_shows_what_the_nonces_in_a_transaction_explain() {
    let world = World::new();
    let ledger = world.open();
    let all = [
        Rail::X402UpTo,
        Rail::X402Permit2,
        Rail::X402UpTo,
        Rail::X402UpTo,
        Rail::X402UpTo,
        Rail::X402,
    ]
    .map(|rail| {
        let mut purchase = world.purchase(1_000_000);
        purchase.hold.terms.rail = rail;
        purchase
    });
    let (asset, payee) = (
        all[0].hold.terms.asset.caip19(),
        all[0].hold.terms.payee.address().unwrap(),
    );
    let (nonces, from) = (
        all.each_ref().map(|purchase| purchase.arm.nonce.known().unwrap()),
        wallet(&all[0].arm),
    );
    let [_, _, part, idle, dead, _] = all.each_ref().map(|purchase| purchase.hold.rid);
    for purchase in all {
        ledger.reserve(purchase).await.unwrap();
    }
    let taken = Outcome::Taken {
        by: Source::Chain,
        tx: None,
        taken: Atoms::new(4_000),
    };
    ledger.finish(part, taken).await.unwrap();
    let (by, tx) = (Source::Merchant, None);
    ledger.finish(idle, Outcome::Settled { by, tx }).await.unwrap();
    let finding = Finding::Taken {
        by: Source::Chain,
        tx: None,
        block: Some(7),
        taken: Atoms::new(0),
        of: Box::new(ledger.get(idle).await.unwrap().unwrap()),
    };
    ledger.record_finding(idle, finding).await.unwrap();
    let (by, why) = (Source::Chain, bursar_ledger::Reason::NeverCashed);
    ledger.finish(dead, Outcome::Expired { by, why }).await.unwrap();

    let findings = Findings::read(world.path(), |_, _| 0).unwrap();
    let network = asset.split('/').next().unwrap();
    assert!(findings.has_permits_on(network) && !findings.has_permits_on("eip155:42431"));
    assert!(findings.awaiting_chain.is_empty());
    // At no particular offset.
    let input = [&[1, 2, 3][..], nonces.map(|nonce| nonce.0).as_flattened(), &[4]].concat();
    let [upto, exact, part, ..] = nonces;
    let borne = |payee, atoms| findings.borne(&input, &asset, &from, payee, Atoms::new(atoms));
    // Exactly the recorded amount first, then what is allowed.
    assert_eq!(borne(payee, 10_000), [exact, upto]);
    assert_eq!(borne(payee, 4_000), [part, upto]);
    assert_eq!(borne(payee, 9_999), [upto]);
    assert!(borne(payee, 10_001).is_empty());
    assert!(borne(from, 4_000).is_empty());
    let elsewhere = |asset: &str, from| findings.borne(&input, asset, from, payee, Atoms::new(4_000));
    assert!(elsewhere(&asset, &payee).is_empty() && elsewhere("eip155:1/erc20:0x", &from).is_empty());
    let cut = findings.borne(&input[..40], &asset, &from, payee, Atoms::new(4_000));
    assert_eq!(cut, [upto]);
}

fn wallet(arm: &Arm) -> Address {
    arm.from.address().unwrap()
}
