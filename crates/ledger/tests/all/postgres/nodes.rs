//! Several nodes on one database, and one that comes back.

use std::sync::Arc;

use bursar_core::policy::budget::{Charge, Unit, Window};
use bursar_ledger::{Event, Ledger, Outcome, Reserve, ReserveError, Source, State};

use crate::postgres::{CENT, logged, open, refused, settled};
use crate::postgres_cluster::cluster;
use crate::world::{World, charge, counted};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nodes_together_never_pass_a_limit() {
    let database = cluster().database().await;
    let worlds: Vec<Arc<World>> = (0..4).map(|number| Arc::new(World::numbered(number))).collect();
    let mut nodes = Vec::new();
    for world in &worlds {
        nodes.push(open(world, &database).await);
    }
    let callers: Vec<_> = (0..128u64)
        .map(|number| {
            let (world, node) = (worlds[number as usize % 4].clone(), nodes[number as usize % 4].clone());
            tokio::spawn(async move {
                let rolling = Window::Rolling(bursar_core::policy::budget::Rolling::of_seconds(3600).unwrap());
                let mut rolling = charge("agent:research", rolling, Unit::MicroUsd, CENT, 30 * CENT);
                rolling.start = "1795176000".into();
                let charges = vec![
                    charge("account", Window::Month, Unit::MicroUsd, CENT, 1_000 * CENT),
                    charge("agent:research", Window::Hour, Unit::Payments, 1, 40),
                    rolling,
                ];
                let purchase = world.charged(charges);
                let reserved = node.reserve(purchase).await;
                if let Ok(reservation) = &reserved
                    && number % 2 == 0
                {
                    node.finish(reservation.rid(), settled()).await.unwrap();
                }
                reserved.map(|_| ())
            })
        })
        .collect();
    let mut granted = 0;
    for caller in callers {
        match caller.await.unwrap() {
            Ok(()) => granted += 1,
            Err(ReserveError::Denied { charge, settled, open }) => {
                assert_eq!((charge, settled + open), (2, 30 * CENT));
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(granted, 30);
    let usage = nodes[3].usage(&["account", "agent:research"]).await.unwrap();
    let rows: Vec<_> = usage
        .iter()
        .map(|row| (row.window.as_str(), row.settled + row.open))
        .collect();
    assert_eq!(
        rows,
        [("month", 30 * CENT), ("count.hour", 30), ("rolling.3600", 30 * CENT)]
    );
    let mut reserved = 0;
    for (world, node) in worlds.iter().zip(&nodes) {
        node.close().await;
        reserved += world.count("pay.reserved");
        assert_eq!(world.events().first().unwrap(), "log.open");
        assert_eq!(world.events().last().unwrap(), "log.close");
    }
    assert_eq!(reserved, 30);
    // The database has each log with the same bytes.
    let client = database.client().await;
    for (number, world) in worlds.iter().enumerate() {
        let rows = client
            .query(
                "select entry from bursar.outbox where node_id = $1 order by seq",
                &[&(number as i32 + 1)],
            )
            .await
            .unwrap();
        let outbox: Vec<String> = rows.iter().map(|row| String::from_utf8(row.get(0)).unwrap()).collect();
        assert_eq!(world.journal(), outbox.join("\n"));
    }
}

#[tokio::test]
async fn a_node_comes_back_with_what_it_left() {
    let (world, database) = (World::new(), cluster().database().await);
    let node = open(&world, &database).await;
    let (armed, held, paid) = (
        world.purchase(100 * CENT),
        world.purchase(100 * CENT),
        world.purchase(100 * CENT),
    );
    node.reserve(armed.clone()).await.unwrap();
    node.hold(held.hold.clone()).await.unwrap();
    node.reserve(paid.clone()).await.unwrap();
    node.finish(paid.hold.rid, settled()).await.unwrap();
    assert_eq!(counted(&node).await, 3 * CENT);
    assert_eq!(node.unconfirmed().await.unwrap(), [paid.hold.rid]);
    assert_eq!(node.open_items().await.unwrap().len(), 2);
    drop(node);

    let node = open(&world, &database).await;
    let state = async |rid| node.get(rid).await.unwrap().unwrap().state;
    assert_eq!(state(armed.hold.rid).await, State::Unknown);
    assert_eq!(state(held.hold.rid).await, State::Released);
    assert_eq!(state(paid.hold.rid).await, State::Settled);
    assert_eq!(counted(&node).await, 2 * CENT);
    node.finish(armed.hold.rid, settled()).await.unwrap();
    assert_eq!(node.reserve(armed.clone()).await.unwrap_err(), ReserveError::RidTaken);
    let same_nonce = Reserve {
        arm: armed.arm,
        ..world.purchase(100 * CENT)
    };
    assert_eq!(node.reserve(same_nonce).await.unwrap_err(), ReserveError::NonceTaken);
    node.close().await;
    assert_eq!(world.count("log.open"), 2);
}

#[tokio::test]
async fn a_silent_node_s_items_go_to_another_and_it_learns_of_that() {
    let database = cluster().database().await;
    let (lost, other) = (World::numbered(1), World::numbered(2));
    let (gone, node) = (open(&lost, &database).await, open(&other, &database).await);
    let [armed, doubtful, held, paid] = [1, 2, 3, 4].map(|_| lost.purchase(100 * CENT));
    for purchase in [&armed, &doubtful, &paid] {
        gone.reserve(purchase.clone()).await.unwrap();
    }
    gone.hold(held.hold.clone()).await.unwrap();
    let why = bursar_ledger::Reason::AnswerLate;
    gone.finish(doubtful.hold.rid, Outcome::Unknown { why, tx: None })
        .await
        .unwrap();
    gone.finish(paid.hold.rid, settled()).await.unwrap();
    assert!(node.open_items().await.unwrap().is_empty());

    database
        .run("update bursar.node set heartbeat = now() - interval '61 seconds' where node_id = 1")
        .await;
    // It checks the other nodes when it starts, which is sooner than its next heartbeat.
    node.close().await;
    let node = open(&other, &database).await;
    let state = async |rid| node.get(rid).await.unwrap().unwrap().state;
    let began = std::time::Instant::now();
    while state(armed.hold.rid).await != State::Unknown {
        assert!(began.elapsed().as_secs() < 60);
        database
            .run("update bursar.node set heartbeat = now() - interval '61 seconds' where node_id = 1")
            .await;
    }
    assert_eq!(state(doubtful.hold.rid).await, State::Unknown);
    assert_eq!(state(held.hold.rid).await, State::Released);
    assert_eq!(state(paid.hold.rid).await, State::Settled);
    assert_eq!(node.open_items().await.unwrap().len(), 2);
    assert_eq!(counted(&node).await, 3 * CENT);
    logged(&other, "pay.adopted", 3).await;
    logged(&other, "pay.unknown", 1).await;
    logged(&other, "pay.released", 1).await;

    // It was not dead after all: its seller's answer is not lost, and the payment is its own again.
    gone.finish(armed.hold.rid, settled()).await.unwrap();
    assert_eq!(state(armed.hold.rid).await, State::Settled);
    logged(&lost, "pay.adopted", 1).await;
    logged(&lost, "pay.yielded", 1).await;
    gone.close().await;
    let gone = open(&lost, &database).await;
    logged(&lost, "pay.yielded", 3).await;
    node.close().await;
    let node = open(&other, &database).await;
    logged(&other, "pay.yielded", 1).await;
    gone.close().await;
    node.close().await;
    // Each log is consistent by itself.
    for (world, payments) in [(&lost, 4), (&other, 3)] {
        assert_eq!(
            bursar_ledger::read_payments(world.path()).unwrap().read.payments.len(),
            payments
        );
    }
    assert_eq!(database.ask("select count(*) from bursar.handover").await, "0");
}

#[tokio::test]
async fn limits_that_another_node_has_replaced_reserve_nothing() {
    let database = cluster().database().await;
    let (first, second) = (World::numbered(1), World::numbered(2));
    let (old, new) = (open(&first, &database).await, open(&second, &database).await);
    let load = |generation, file| Event::PolicyLoaded {
        generation,
        sha256: [file; 32],
        who: "file".into(),
    };
    old.append(load(1, 1)).await.unwrap();
    new.append(load(1, 1)).await.unwrap();
    old.reserve(first.purchase(100 * CENT)).await.unwrap();
    let waiting = first.purchase(100 * CENT);
    old.hold(waiting.hold.clone()).await.unwrap();

    new.append(load(2, 2)).await.unwrap();
    let stale = ReserveError::StalePolicy { have: 1, need: 2 };
    assert_eq!(old.reserve(first.purchase(100 * CENT)).await.unwrap_err(), stale);
    let arming = bursar_ledger::Arming {
        arm: waiting.arm,
        charges: waiting.hold.charges.clone(),
        approval: None,
    };
    assert_eq!(old.arm(waiting.hold.rid, arming.clone()).await.unwrap_err(), stale);
    let mut planned = second.purchase(100 * CENT);
    assert_eq!(
        new.reserve(planned.clone()).await.unwrap_err(),
        stale,
        "planned under the old file"
    );
    planned.hold.policy_gen = 2;
    new.reserve(planned.clone()).await.unwrap();
    assert_eq!(new.get(planned.hold.rid).await.unwrap().unwrap().reserved.policy_gen, 2);

    // Loading the old file again does not make it a new one; the new one is.
    old.append(load(2, 1)).await.unwrap();
    let mut late = first.purchase(100 * CENT);
    late.hold.policy_gen = 2;
    assert_eq!(old.reserve(late).await.unwrap_err(), stale);
    old.append(load(3, 2)).await.unwrap();
    let mut fresh = first.purchase(100 * CENT);
    fresh.hold.policy_gen = 3;
    old.reserve(fresh).await.unwrap();
    old.arm(waiting.hold.rid, arming).await.unwrap();
}

#[tokio::test]
async fn a_directory_belongs_to_its_ledger_and_its_log_to_the_database() {
    let (here, there) = (cluster().database().await, cluster().database().await);
    let world = World::new();
    let node = open(&world, &here).await;
    node.reserve(world.purchase(100 * CENT)).await.unwrap();
    node.close().await;
    assert!(refused(&world, &there).await.contains("belongs to the ledger"));

    // A log that was partly lost is filled up.
    let whole = world.journal();
    let segment = world.segments().pop().unwrap();
    let first = whole.find('\n').unwrap() + 1;
    std::fs::write(&segment, &whole[..first]).unwrap();
    let node = open(&world, &here).await;
    node.close().await;
    assert!(world.journal().starts_with(&whole));

    // If the log has more than the database, neither is trusted.
    let whole = world.journal();
    here.run("delete from bursar.outbox where seq > 0").await;
    assert!(refused(&world, &here).await.contains("it has lost what was committed"));
    std::fs::write(&segment, &whole[..first]).unwrap();
    here.run("update bursar.outbox set entry = 'x' where seq = 0").await;
    assert!(
        refused(&world, &here)
            .await
            .contains("is not the one that the database has")
    );

    let own = World::new();
    let embedded = own.open();
    embedded.close().await;
    drop(embedded);
    let error = loop {
        let error = refused(&own, &here).await;
        if !error.contains("another bursar uses") {
            break error;
        }
    };
    assert!(error.contains("already holds a ledger of its own"), "{error}");
}

#[tokio::test]
async fn a_copied_directory_does_not_make_a_second_node() {
    let (world, database) = (World::new(), cluster().database().await);
    let node = open(&world, &database).await;
    node.reserve(world.purchase(100 * CENT)).await.unwrap();
    // As another process with the same directory would do.
    database.run("update bursar.node set epoch = epoch + 1").await;
    for _ in 0..2 {
        let error = node.reserve(world.purchase(100 * CENT)).await.unwrap_err().to_string();
        assert!(error.contains("another bursar runs as this node"), "{error}");
    }
    assert_eq!(database.ask("select count(*) from bursar.resv").await, "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_payment_is_made_under_a_key_whichever_node_is_asked() {
    let database = cluster().database().await;
    let worlds: Vec<Arc<World>> = (0..3).map(|number| Arc::new(World::numbered(number))).collect();
    let mut nodes = Vec::new();
    for world in &worlds {
        nodes.push(open(world, &database).await);
    }
    // Different agents' counters: only the key is shared.
    let asking: Vec<_> = (0..24)
        .map(|number| {
            let (world, node) = (worlds[number % 3].clone(), nodes[number % 3].clone());
            let scope = format!("agent:{number}");
            tokio::spawn(async move {
                let mut purchase = world.charged(vec![charge(&scope, Window::Day, Unit::MicroUsd, CENT, CENT)]);
                purchase.hold.idempotency = Some([7; 32]);
                node.reserve(purchase).await.map(|reservation| reservation.rid())
            })
        })
        .collect();
    let (mut made, mut taken) = (Vec::new(), Vec::new());
    for asked in asking {
        match asked.await.unwrap() {
            Ok(rid) => made.push(rid),
            Err(ReserveError::KeyTaken(rid)) => taken.push(rid),
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!((made.len(), taken.len()), (1, 23));
    assert!(taken.iter().all(|rid| *rid == made[0]));
    let held = nodes[0].keys().await.unwrap();
    assert_eq!((held.len(), held[0].rid, held[0].idem), (1, made[0], [7; 32]));
    // Once proven dead, it releases its key; another node may have the proof.
    let why = bursar_ledger::Reason::NeverCashed;
    nodes[1]
        .finish(made[0], Outcome::Expired { by: Source::Chain, why })
        .await
        .unwrap();
    assert_eq!(nodes[2].keys().await.unwrap(), []);
}

/// Sellers decide which payees exist: each unpaid 402 may name another one.
#[tokio::test]
async fn payees_that_nobody_paid_do_not_stay_in_the_database() {
    let database = cluster().database().await;
    let world = World::new();
    let node = open(&world, &database).await;
    for payee in 0..50 {
        let stranger = Charge {
            start: format!("0x{payee:040x}").into(),
            ..charge("agent:research", Window::Payee, Unit::Payments, 1, u128::MAX)
        };
        let denied = node.reserve(world.charged(vec![stranger])).await;
        assert!(matches!(denied, Err(ReserveError::Denied { .. })));
    }
    let client = database.client().await;
    let began = std::time::Instant::now();
    loop {
        let rows = client
            .query_one("select count(*) from bursar.win where win = 'count.payee'", &[])
            .await
            .unwrap();
        let rows: i64 = rows.get(0);
        if rows == 0 {
            break;
        }
        // Two heartbeats, which delete old rows.
        assert!(
            began.elapsed().as_secs() < 25,
            "{rows} rows of payees that were never paid"
        );
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
}

/// R89: a proxy of the version before may still be running.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn new_entry_names_are_written_once_every_node_reads_them() {
    let database = cluster().database().await;
    let (world, older) = (World::numbered(0), World::numbered(1));
    open(&older, &database).await.close().await;
    // As the version before left its row.
    let others = "node_id = (select max(node_id) from bursar.node)";
    database
        .run(&format!(
            "update bursar.node set reads = 1, heartbeat = now() where {others}"
        ))
        .await;
    let refusal = || bursar_ledger::RefusalRecord {
        agent: "research".to_owned(),
        group: None,
        host: "api.example.com".to_owned(),
        reason: "over-limit".to_owned(),
        rule: "agents.research.day".to_owned(),
        asked: None,
    };
    let node = open(&world, &database).await;
    node.refused(refusal());
    node.close().await;
    drop(node);
    assert_eq!([world.count("pay.denied"), world.count("pay.refused")], [1, 0]);

    database.run("update bursar.node set reads = 2").await;
    let node = open(&world, &database).await;
    node.refused(refusal());
    node.close().await;
    drop(node);
    assert_eq!([world.count("pay.denied"), world.count("pay.refused")], [1, 1]);
    // Both kinds are one log.
    let read = bursar_ledger::read_payments(world.path()).unwrap().read;
    assert_eq!(read.refusals.len(), 2);
}
