//! Approvals on a ledger that several nodes share: who may ask, whose evidence counts, and what happens to a node's
//! questions when the node is gone (R44 and R45).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bursar_ledger::{
    ApprovalError, ApprovalState, ApprovalStep, Approvals, Arming, Event, Ledger, LedgerError, Outcome, PaymentId,
    Postgres, Requested, Reserve, ReserveError, State, read_payments,
};
use jiff::{SignedDuration, Timestamp};
use tokio::task::JoinSet;

use crate::postgres::faults::{Cut, between, through};
use crate::postgres::{CENT, logged, open, refused as not_opened, settled};
use crate::postgres_cluster::{Database, cluster};
use crate::world::{NOON, World, counted, granted};

const MINUTE: SignedDuration = SignedDuration::from_mins(1);

fn use_by() -> Timestamp {
    NOON.parse::<Timestamp>().unwrap() + MINUTE
}

fn refused(error: ApprovalError) -> Result<(), LedgerError> {
    Err(LedgerError::Approval(error))
}

fn arming(purchase: &Reserve, approval: PaymentId) -> Arming {
    Arming {
        arm: purchase.arm.clone(),
        charges: purchase.hold.charges.clone(),
        approval: Some(approval.to_string()),
    }
}

/// Held, and not asked about yet.
async fn held(world: &World, node: &Postgres, intent: u8) -> (Reserve, Requested) {
    let purchase = world.purchase(1_000 * CENT);
    node.hold(purchase.hold.clone()).await.unwrap();
    let requested = world.question(&purchase.hold, intent);
    (purchase, requested)
}

async fn asked(world: &World, node: &Postgres, intent: u8) -> (Reserve, PaymentId) {
    let (purchase, requested) = held(world, node, intent).await;
    let id = requested.id;
    node.approval(ApprovalStep::Requested(requested)).await.unwrap();
    (purchase, id)
}

fn expired(id: PaymentId) -> ApprovalStep {
    let why = "timeout".to_owned();
    ApprovalStep::Expired { id, why }
}

/// Ids of the questions of this node and of the others.
async fn waiting(node: &Postgres) -> (Vec<PaymentId>, Vec<PaymentId>) {
    let Approvals { live, elsewhere, .. } = node.approvals().await.unwrap();
    let ids = |rows: Vec<bursar_ledger::ApprovalRow>| rows.iter().map(|row| row.id).collect();
    (ids(live), ids(elsewhere))
}

async fn two(database: &Database) -> ([Arc<World>; 2], [Arc<Postgres>; 2]) {
    let worlds = [1, 2].map(|number| Arc::new(World::numbered(number)));
    let nodes = [
        Arc::new(open(&worlds[0], database).await),
        Arc::new(open(&worlds[1], database).await),
    ];
    (worlds, nodes)
}

/// As if a node had sent no heartbeat for a minute.
async fn silence(database: &Database, node: u32) {
    let silent = format!("update bursar.node set heartbeat = now() - interval '61 seconds' where node_id = {node}");
    database.run(&silent).await;
}

/// R96: the codes are in the table as long as the question is open, and never in the outbox or a log.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_codes_of_open_questions_are_in_the_table_and_in_no_entry() {
    let database = cluster().database().await;
    let world = World::numbered(1);
    let node = open(&world, &database).await;
    let (_, requested) = held(&world, &node, 1).await;
    let (id, codes) = (requested.id, requested.codes.clone());
    node.approval(ApprovalStep::Requested(requested)).await.unwrap();
    let stored = || async {
        database
            .ask(&format!("select codes from bursar.approval where id = '{id}'"))
            .await
    };
    assert_eq!(stored().await, serde_json::to_string(&codes).unwrap());
    assert_eq!(codes[0].open().unwrap().1, "0BY5GS4N");
    // A vote changes the row, not its codes.
    node.approval(granted(id, 1, use_by())).await.unwrap();
    assert_eq!(stored().await, serde_json::to_string(&codes).unwrap());
    node.approval(expired(id)).await.unwrap();
    assert_eq!(stored().await, "");
    node.close().await;
    let journal = world.journal();
    assert!(journal.contains(&codes[0].digest()), "{journal}");
    assert!(!journal.contains("0BY5GS4N"), "{journal}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_nodes_that_ask_the_same_at_once_one_asks() {
    let database = cluster().database().await;
    let (worlds, nodes) = two(&database).await;
    let mut asking = JoinSet::new();
    for intent in 0..24 {
        for (world, node) in worlds.iter().zip(&nodes) {
            let (world, node) = (world.clone(), node.clone());
            asking.spawn(async move {
                let (_, requested) = held(&world, &node, intent).await;
                let id = requested.id;
                (intent, id, node.approval(ApprovalStep::Requested(requested)).await)
            });
        }
    }
    let mut answers = asking.join_all().await;
    answers.sort_by_key(|(intent, _, outcome)| (*intent, outcome.is_err()));
    for pair in answers.chunks(2) {
        let [(_, asked, Ok(())), (_, _, late)] = pair else {
            panic!("{pair:?}");
        };
        assert_eq!(*late, refused(ApprovalError::AskedAlready(*asked)));
    }
    // Each node sees its own question and the other's.
    let (here, there) = waiting(&nodes[0]).await;
    assert_eq!(
        (here.len() + there.len(), waiting(&nodes[1]).await),
        (24, (there, here.clone()))
    );
    // Once it has ended, any node can ask again.
    if let Some(id) = here.first() {
        nodes[0].approval(expired(*id)).await.unwrap();
        let intent = answers.iter().find(|(_, asked, _)| asked == id).unwrap().0;
        asked(&worlds[1], &nodes[1], intent).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn evidence_is_used_once_whichever_node_has_it() {
    let database = cluster().database().await;
    let (worlds, nodes) = two(&database).await;
    let mut granting = JoinSet::new();
    for replay in 0..24u8 {
        for (number, (world, node)) in worlds.iter().zip(&nodes).enumerate() {
            let (world, node) = (world.clone(), node.clone());
            granting.spawn(async move {
                let (purchase, id) = asked(&world, &node, replay * 2 + number as u8).await;
                let outcome = node.approval(granted(id, replay, use_by())).await;
                let armed = node.arm(purchase.hold.rid, arming(&purchase, id)).await;
                (replay, id, outcome, armed.map(|_| ()))
            });
        }
    }
    let mut answers = granting.join_all().await;
    answers.sort_by_key(|(replay, _, outcome, _)| (*replay, outcome.is_err()));
    for pair in answers.chunks(2) {
        let [(_, _, Ok(()), Ok(())), (_, id, late, not_armed)] = pair else {
            panic!("{pair:?}");
        };
        assert_eq!(*late, refused(ApprovalError::Replayed(*id)));
        let not_granted = ReserveError::Approval(ApprovalError::NotGranted(*id));
        assert_eq!(*not_armed, Err(not_granted));
    }
    // Nor by a node that joins later.
    let late = World::numbered(3);
    let node = open(&late, &database).await;
    let (_, id) = asked(&late, &node, 200).await;
    for replay in 0..24 {
        let again = node.approval(granted(id, replay, use_by())).await;
        assert_eq!(again, refused(ApprovalError::Replayed(id)));
    }
}

#[tokio::test]
async fn only_the_node_that_asked_records_an_approval() {
    let database = cluster().database().await;
    let (worlds, nodes) = two(&database).await;
    let (purchase, id) = asked(&worlds[0], &nodes[0], 1).await;
    let rid = purchase.hold.rid;
    let denied = ApprovalStep::Refused {
        id,
        by: None,
        why: "denied".into(),
        until: use_by(),
    };
    for step in [granted(id, 1, use_by()), denied, expired(id)] {
        assert_eq!(nodes[1].approval(step).await, refused(ApprovalError::NotLive(id)));
    }
    nodes[0].approval(granted(id, 1, use_by())).await.unwrap();
    let elses = nodes[1].arm(rid, arming(&purchase, id)).await.unwrap_err();
    assert_eq!(elses, ReserveError::NotHeld(rid));

    // If both arm it at once, one signs.
    let (one, other) = tokio::join!(
        nodes[0].arm(rid, arming(&purchase, id)),
        nodes[0].arm(rid, arming(&purchase, id))
    );
    let failed: Vec<_> = [one, other].into_iter().filter_map(Result::err).collect();
    assert_eq!(failed, [ReserveError::NotHeld(rid)]);
    nodes[1].close().await;
    assert_eq!(worlds[1].events(), ["log.open", "log.close"], "it recorded nothing");
}

#[tokio::test]
async fn what_one_node_was_denied_no_other_asks_until_it_ends() {
    let database = cluster().database().await;
    let (worlds, nodes) = two(&database).await;
    let (_, id) = asked(&worlds[0], &nodes[0], 1).await;
    let until = use_by();
    let step = ApprovalStep::Refused {
        id,
        by: Some("uid:0".into()),
        why: "denied".into(),
        until,
    };
    nodes[0].approval(step).await.unwrap();
    let denied = nodes[1].approvals().await.unwrap().denied;
    assert_eq!((denied.len(), denied[0].intent, denied[0].until), (1, [1; 32], until));
    let (_, again) = held(&worlds[1], &nodes[1], 1).await;
    let ask = || nodes[1].approval(ApprovalStep::Requested(again.clone()));
    assert_eq!(ask().await, refused(ApprovalError::Refused { until }));
    worlds[1].clock.set(until);
    assert_eq!(ask().await, refused(ApprovalError::Refused { until }));
    worlds[1].clock.set(until + SignedDuration::from_micros(1));
    ask().await.unwrap();
}

#[tokio::test]
async fn a_node_that_comes_back_in_time_finds_its_questions() {
    let database = cluster().database().await;
    let (worlds, nodes) = two(&database).await;
    let [world, _] = worlds;
    let [node, other] = nodes;
    let ((waits, pending), (ready, decided)) = (asked(&world, &node, 1).await, asked(&world, &node, 2).await);
    node.approval(granted(decided, 1, use_by())).await.unwrap();
    let (forgotten, _) = held(&world, &node, 3).await;
    let before = node.approvals().await.unwrap();
    // Killed, not closed.
    drop(node);
    let node = open(&world, &database).await;
    assert_eq!(node.approvals().await.unwrap(), before);
    let state = async |rid| node.get(rid).await.unwrap().unwrap().state;
    assert_eq!(state(waits.hold.rid).await, State::Held);
    assert_eq!(state(forgotten.hold.rid).await, State::Released);
    assert_eq!(waiting(&other).await, (vec![], vec![pending, decided]));
    assert_eq!(counted(&node).await, 2 * CENT);
    node.arm(ready.hold.rid, arming(&ready, decided)).await.unwrap();
    node.approval(expired(pending)).await.unwrap();
}

#[tokio::test]
async fn a_silent_node_s_questions_end_and_their_money_comes_back() {
    let database = cluster().database().await;
    let (lost, other) = (World::numbered(1), World::numbered(2));
    let (gone, node) = (open(&lost, &database).await, open(&other, &database).await);
    let ((waits, pending), (ready, decided)) = (asked(&lost, &gone, 1).await, asked(&lost, &gone, 2).await);
    gone.approval(granted(decided, 1, use_by())).await.unwrap();
    // It checks the other nodes when it starts, which is sooner than its next heartbeat.
    node.close().await;
    drop(node);
    silence(&database, 1).await;
    let node = open(&other, &database).await;
    let began = Instant::now();
    for rid in [waits.hold.rid, ready.hold.rid] {
        while node.get(rid).await.unwrap().unwrap().state != State::Released {
            assert!(began.elapsed().as_secs() < 60);
            silence(&database, 1).await;
        }
    }
    assert_eq!((counted(&node).await, waiting(&node).await), (0, (vec![], vec![])));
    assert_eq!(database.ask("select count(*) from bursar.approval").await, "0");
    logged(&other, "pay.adopted", 2).await;
    assert_eq!(other.count("approval.expired"), 0, "its log never contained them");
    // Another node can ask now.
    let (_, elses) = asked(&other, &node, 1).await;

    database
        .run("update bursar.node set heartbeat = now() where node_id = 1")
        .await;
    // It was not dead after all. What its approvers answer now is too late, and nothing is signed for it.
    assert_eq!(
        gone.approval(granted(pending, 2, use_by())).await,
        refused(ApprovalError::NotLive(pending))
    );
    let late = gone.arm(ready.hold.rid, arming(&ready, decided)).await.unwrap_err();
    assert_eq!(late, ReserveError::NotHeld(ready.hold.rid));
    let (again, requested) = held(&lost, &gone, 1).await;
    let ask = || gone.approval(ApprovalStep::Requested(requested.clone()));
    assert_eq!(ask().await, refused(ApprovalError::AskedAlready(elses)));
    node.approval(expired(elses)).await.unwrap();
    ask().await.unwrap();
    // Evidence that was used stays used; evidence that came too late was not used.
    let (id, replayed) = (requested.id, ApprovalError::Replayed(requested.id));
    assert_eq!(gone.approval(granted(id, 1, use_by())).await, refused(replayed));
    gone.approval(granted(id, 2, use_by())).await.unwrap();
    gone.arm(again.hold.rid, arming(&again, id)).await.unwrap();
    gone.finish(again.hold.rid, settled()).await.unwrap();
    gone.close().await;
    node.close().await;

    // Each log is consistent by itself: the end of the old question comes before the new one.
    let found = |ev: &String| ev == "pay.yielded" || ev.starts_with("approval.");
    let events: Vec<String> = lost.events().into_iter().filter(found).collect();
    assert_eq!(
        events,
        [
            "approval.requested",
            "approval.requested",
            "approval.granted",
            "pay.yielded",
            "pay.yielded",
            "approval.requested",
            "approval.granted"
        ]
    );
    let payments = read_payments(lost.path()).unwrap().read.payments;
    let last = payments.last().unwrap();
    assert_eq!(
        (last.state, last.approval.clone()),
        (State::Settled, Some(id.to_string()))
    );
    assert_eq!(read_payments(other.path()).unwrap().read.payments.len(), 3);
    assert_eq!(database.ask("select count(*) from bursar.handover").await, "0");
}

#[tokio::test]
async fn limits_that_another_node_has_replaced_arm_nothing_and_end_no_approval() {
    let database = cluster().database().await;
    let (worlds, nodes) = two(&database).await;
    let load = |generation, file| Event::PolicyLoaded {
        generation,
        sha256: [file; 32],
        who: "file".into(),
    };
    for node in &nodes {
        node.append(load(1, 1)).await.unwrap();
    }
    let (purchase, id) = asked(&worlds[0], &nodes[0], 1).await;
    nodes[1].append(load(2, 2)).await.unwrap();
    // A person's decision is recorded whatever the limits are; they are checked when it is used.
    nodes[0].approval(granted(id, 1, use_by())).await.unwrap();
    let stale = ReserveError::StalePolicy { have: 1, need: 2 };
    let armed = nodes[0].arm(purchase.hold.rid, arming(&purchase, id)).await;
    assert_eq!(armed.unwrap_err(), stale);
    assert_eq!(waiting(&nodes[0]).await.0, [id]);
    nodes[0].append(load(2, 2)).await.unwrap();
    nodes[0].arm(purchase.hold.rid, arming(&purchase, id)).await.unwrap();
}

/// A node whose connection can be cut at the next commit.
struct Cuttable {
    world: World,
    node: Postgres,
    cut: Arc<Mutex<Cut>>,
    is_open: Arc<AtomicBool>,
}

impl Cuttable {
    async fn new(database: &Database) -> Self {
        let world = World::new();
        let (cut, is_open) = (Arc::new(Mutex::new(Cut::None)), Arc::new(AtomicBool::new(true)));
        let port = between(database, cut.clone(), is_open.clone()).await;
        let node = through(&world, database, port).await;
        Self {
            world,
            node,
            cut,
            is_open,
        }
    }

    /// The next commit loses its connection, and no new one can be made.
    fn cut(&self, when: Cut) {
        *self.cut.lock().unwrap() = when;
    }

    async fn back(&self) -> Approvals {
        self.is_open.store(true, Ordering::SeqCst);
        let began = Instant::now();
        loop {
            match self.node.approvals().await {
                Ok(approvals) => return approvals,
                Err(error) => assert!(began.elapsed().as_secs() < 60, "{error}"),
            }
        }
    }
}

fn is_failed(outcome: Result<(), LedgerError>) {
    assert!(matches!(outcome, Err(LedgerError::Failed(_))), "{outcome:?}");
}

#[tokio::test]
async fn a_question_whose_commit_is_unclear_is_not_put() {
    for when in Cut::ALL {
        let database = cluster().database().await;
        let way = Cuttable::new(&database).await;
        let (purchase, requested) = held(&way.world, &way.node, 1).await;
        way.cut(when);
        is_failed(way.node.approval(ApprovalStep::Requested(requested.clone())).await);
        // The asking process releases the money, and need not know.
        let why = bursar_ledger::Reason::ApprovalNotRecorded;
        let released = way.node.finish(purchase.hold.rid, Outcome::Released { why }).await;
        is_failed(released);
        assert_eq!(way.back().await, Approvals::default(), "{when:?}");
        assert_eq!(counted(&way.node).await, 0);
        asked(&way.world, &way.node, 1).await;
        way.node.close().await;
        let asked = 1 + usize::from(when.is_committed());
        assert_eq!(way.world.count("approval.requested"), asked);
        read_payments(way.world.path()).unwrap();
    }
}

#[tokio::test]
async fn a_grant_whose_commit_is_unclear_is_found_or_brought_again() {
    for when in Cut::ALL {
        let database = cluster().database().await;
        let way = Cuttable::new(&database).await;
        let (purchase, id) = asked(&way.world, &way.node, 1).await;
        let (_, other) = asked(&way.world, &way.node, 2).await;
        way.cut(when);
        is_failed(way.node.approval(granted(id, 1, use_by())).await);
        let away = way.node.arm(purchase.hold.rid, arming(&purchase, id)).await;
        assert!(matches!(away, Err(ReserveError::Failed(_))), "{away:?}");
        let live = way.back().await.live;
        let is_granted = matches!(live[0].state, ApprovalState::Granted { .. });
        assert_eq!(is_granted, when.is_committed());
        let again = way.node.approval(granted(id, 1, use_by())).await;
        match when.is_committed() {
            true => assert_eq!(again, refused(ApprovalError::GrantedBefore(id))),
            false => again.unwrap(),
        }
        let replayed = way.node.approval(granted(other, 1, use_by())).await;
        assert_eq!(replayed, refused(ApprovalError::Replayed(other)));
        way.node.arm(purchase.hold.rid, arming(&purchase, id)).await.unwrap();
        way.node.close().await;
        assert_eq!(way.world.count("approval.granted"), 1);
    }
}

#[tokio::test]
async fn a_denial_whose_commit_is_unclear_is_written_once() {
    for when in Cut::ALL {
        let database = cluster().database().await;
        let way = Cuttable::new(&database).await;
        let (purchase, id) = asked(&way.world, &way.node, 1).await;
        way.cut(when);
        let (by, why, until) = (None, "denied".to_owned(), use_by());
        is_failed(way.node.approval(ApprovalStep::Refused { id, by, why, until }).await);
        let why = bursar_ledger::Reason::ApprovalDenied;
        is_failed(way.node.finish(purchase.hold.rid, Outcome::Released { why }).await);
        let found = way.back().await;
        assert_eq!((found.live.len(), found.denied.len()), (0, 1), "{when:?}");
        assert_eq!(counted(&way.node).await, 0);
        way.node.close().await;
        let counts = ["approval.denied", "pay.released"].map(|ev| way.world.count(ev));
        assert_eq!(counts, [1, 1]);
    }
}

#[tokio::test]
async fn an_arming_whose_commit_is_unclear_is_not_signed() {
    for when in Cut::ALL {
        let database = cluster().database().await;
        let way = Cuttable::new(&database).await;
        let (purchase, id) = asked(&way.world, &way.node, 1).await;
        let rid = purchase.hold.rid;
        way.node.approval(granted(id, 1, use_by())).await.unwrap();
        way.cut(when);
        let unclear = way.node.arm(rid, arming(&purchase, id)).await.unwrap_err();
        assert_eq!(unclear, ReserveError::Unclear(rid));
        let live = way.back().await.live;
        let state = way.node.get(rid).await.unwrap().unwrap().state;
        let again = way.node.arm(rid, arming(&purchase, id)).await.map(|_| ());
        match when.is_committed() {
            // It had used the approval up. No caller received the reservation, so nothing can have been signed.
            true => {
                assert_eq!(live.len(), 0);
                assert_eq!(again, Err(ReserveError::NotHeld(rid)));
                let began = Instant::now();
                while way.node.get(rid).await.unwrap().unwrap().state != State::Expired {
                    assert!(began.elapsed().as_secs() < 60);
                }
                assert_eq!(counted(&way.node).await, 0);
            }
            false => assert_eq!((live.len(), state, again), (1, State::Held, Ok(()))),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tables_of_the_previous_version_are_upgraded() {
    let database = cluster().database().await;
    let worlds = [1, 2].map(World::numbered);
    let node = open(&worlds[0], &database).await;
    let paid = worlds[0].purchase(100 * CENT);
    node.reserve(paid.clone()).await.unwrap();
    node.finish(paid.hold.rid, settled()).await.unwrap();
    let left = worlds[0].purchase(100 * CENT);
    node.reserve(left.clone()).await.unwrap();
    node.close().await;
    drop(node);
    // As version 1 created it, with whole payments in their rows.
    database
        .run(
            "update bursar.nonce n set free_at = null from bursar.resv r where r.rid = n.rid and r.state = 2; \
             update bursar.resv r set payment = \
             (jsonb_build_object('arm', o.entry -> 'arm', 'reserved', o.entry) || r.payment::jsonb)::text \
             from (select node_id, seq, convert_from(entry, 'UTF8')::jsonb as entry from bursar.outbox) o \
             where o.node_id = r.entry_node and o.seq = r.entry_seq; \
             drop table bursar.approval, bursar.replay, bursar.denial, bursar.pause; alter table bursar.node drop column reads; \
             alter table bursar.resv drop column entry_node, drop column entry_seq; alter table bursar.nonce drop column rid; \
             update bursar.meta set schema_version = 1",
        )
        .await;
    let (one, other) = tokio::join!(open(&worlds[0], &database), open(&worlds[1], &database));
    assert_eq!(database.ask("select schema_version from bursar.meta").await, "6");
    assert_eq!(counted(&other).await, 2 * CENT);
    let state = async |rid| other.get(rid).await.unwrap().unwrap().state;
    assert_eq!(state(paid.hold.rid).await, State::Settled);
    // A row of an older version stays whole, and its nonce is free one day after its end.
    assert_eq!(state(left.hold.rid).await, State::Unknown);
    one.finish(left.hold.rid, settled()).await.unwrap();
    assert_eq!(state(left.hold.rid).await, State::Settled);
    let whole = "select count(*) from bursar.resv where entry_seq is null and payment::json -> 'reserved' is not null";
    assert_eq!(database.ask(whole).await, "2");
    assert_eq!(
        database
            .ask("select count(*) from bursar.nonce where free_at is null")
            .await,
        "0"
    );
    let same_nonce = Reserve {
        arm: left.arm,
        ..worlds[1].purchase(100 * CENT)
    };
    assert_eq!(other.reserve(same_nonce).await.unwrap_err(), ReserveError::NonceTaken);
    let (purchase, id) = asked(&worlds[0], &one, 1).await;
    assert_eq!(waiting(&other).await, (vec![], vec![id]));
    one.approval(granted(id, 1, use_by())).await.unwrap();
    one.arm(purchase.hold.rid, arming(&purchase, id)).await.unwrap();

    // A proxy of version 1 that still runs may take a payment over, and knows nothing of its approval.
    let (held, orphan) = asked(&worlds[0], &one, 2).await;
    database
        .run(&format!(
            "update bursar.resv set state = 5 where rid = '{}'",
            held.hold.rid
        ))
        .await;
    other.close().await;
    drop(other);
    let other = open(&worlds[1], &database).await;
    let began = Instant::now();
    while waiting(&other).await.1 == [orphan] {
        assert!(began.elapsed().as_secs() < 60);
        tokio::task::yield_now().await;
    }

    database.run("update bursar.meta set schema_version = 7").await;
    let error = not_opened(&World::numbered(3), &database).await;
    assert!(
        error.contains("of version 7") && error.contains("knows version 6"),
        "{error}"
    );
}
