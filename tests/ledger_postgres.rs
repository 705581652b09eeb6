//! Books that several nodes share, on a real PostgreSQL.
#![cfg(feature = "postgres")]

mod ledger_world;
mod postgres_cluster;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bursar::config::operator::Place;
use bursar::ledger::{
    Access, By, Event, Ledger, LedgerError, OpenError, Outcome, Postgres, Reserve, ReserveError, State,
};
use bursar::policy::budget::{Unit, Window};
use ledger_world::{World, charge, counted};
use postgres_cluster::{Cluster, Database, cluster};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const CENT: u128 = 10_000;

fn access(url: &str) -> Access {
    Access {
        place: Place::parse(url).unwrap(),
        password: None,
        roots: rustls::RootCertStore::empty(),
    }
}

/// Opens once the node that a test has dropped has let go of the directory.
async fn open(world: &World, database: &Database) -> Postgres {
    loop {
        match Postgres::open(world.path(), access(&database.url()), world.options()).await {
            Err(OpenError::InUse(_)) => tokio::task::yield_now().await,
            opened => return opened.unwrap(),
        }
    }
}

async fn refused(world: &World, database: &Database) -> String {
    let opened = Postgres::open(world.path(), access(&database.url()), world.options()).await;
    opened.map(|_| ()).unwrap_err().to_string()
}

/// Waits until the node's own log has `count` entries of a kind.
async fn logged(world: &World, ev: &str, count: usize) {
    let began = std::time::Instant::now();
    while world.count(ev) != count {
        assert!(began.elapsed().as_secs() < 60, "{ev}: {:?}", world.events());
        tokio::task::yield_now().await;
    }
}

fn settled() -> Outcome {
    Outcome::Settled {
        by: By::Merchant,
        tx: Some("0x01".into()),
    }
}

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
                let rolling = Window::Rolling(bursar::policy::budget::Rolling::of_seconds(3600).unwrap());
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
    // Each log is in the database as the same bytes.
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
    let why = "answer-late";
    gone.finish(doubtful.hold.rid, Outcome::Unknown { why, tx: None })
        .await
        .unwrap();
    gone.finish(paid.hold.rid, settled()).await.unwrap();
    assert!(node.open_items().await.unwrap().is_empty());

    database
        .run("update bursar.node set heartbeat = now() - interval '61 seconds' where node_id = 1")
        .await;
    // Looks around when it begins; that is sooner than its next sign of life.
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

    // It was not dead after all: what its seller said is not lost, and the payment is its own again.
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
    // Both logs make sense by themselves.
    for (world, payments) in [(&lost, 4), (&other, 3)] {
        assert_eq!(
            bursar::ledger::read_payments(world.path()).unwrap().payments.len(),
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
    let arming = bursar::ledger::Arming {
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

    // The old file once more is not a new one; the new one is.
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
async fn a_directory_belongs_to_its_books_and_its_log_to_the_database() {
    let (here, there) = (cluster().database().await, cluster().database().await);
    let world = World::new();
    let node = open(&world, &here).await;
    node.reserve(world.purchase(100 * CENT)).await.unwrap();
    node.close().await;
    assert!(refused(&world, &there).await.contains("belongs to the books"));

    // A log that was lost in part is filled up.
    let whole = world.journal();
    let segment = world.segments().pop().unwrap();
    let first = whole.find('\n').unwrap() + 1;
    std::fs::write(&segment, &whole[..first]).unwrap();
    let node = open(&world, &here).await;
    node.close().await;
    assert!(world.journal().starts_with(&whole));

    // One that knows more than the database is not believed, nor the database.
    let whole = world.journal();
    here.run("delete from bursar.outbox where seq > 0").await;
    assert!(
        refused(&world, &here)
            .await
            .contains("the database has lost what was committed")
    );
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
    assert!(error.contains("has books of its own"), "{error}");
}

#[tokio::test]
async fn a_copied_directory_does_not_make_a_second_node() {
    let (world, database) = (World::new(), cluster().database().await);
    let node = open(&world, &database).await;
    node.reserve(world.purchase(100 * CENT)).await.unwrap();
    // As another process with the same directory would.
    database.run("update bursar.node set epoch = epoch + 1").await;
    for _ in 0..2 {
        let error = node.reserve(world.purchase(100 * CENT)).await.unwrap_err().to_string();
        assert!(error.contains("another bursar runs as this node"), "{error}");
    }
    assert_eq!(database.ask("select count(*) from bursar.resv").await, "1");
}

#[tokio::test]
async fn what_gets_into_the_way_of_a_transaction_is_tried_again() {
    let (world, database) = (World::new(), cluster().database().await);
    let node = open(&world, &database).await;
    // The server itself says so, three times; a sequence is not rolled back.
    for code in ["40001", "40P01"] {
        database
            .run(&format!(
                "create sequence if not exists tries; select setval('tries', 1, false); \
                 create or replace function stumble() returns trigger language plpgsql as $$ begin \
                 if nextval('tries') <= 3 then raise exception 'in the way' using errcode = '{code}'; end if; return new; end $$; \
                 drop trigger if exists stumble on bursar.resv; \
                 create trigger stumble before insert on bursar.resv for each row execute function stumble()"
            ))
            .await;
        node.reserve(world.purchase(100 * CENT)).await.unwrap();
        assert_eq!(database.ask("select last_value from tries").await, "4");
    }
    assert_eq!(counted(&node).await, 2 * CENT);
    // For ever is too long.
    database
        .run("drop sequence tries; create sequence tries minvalue -1000 start -1000")
        .await;
    let error = node.reserve(world.purchase(100 * CENT)).await.unwrap_err();
    assert!(
        matches!(&error, ReserveError::Failed(why) if why.contains("in the way")),
        "{error}"
    );
    database.run("drop trigger stumble on bursar.resv").await;
    node.reserve(world.purchase(100 * CENT)).await.unwrap();
    node.close().await;
    assert_eq!(world.count("pay.reserved"), 3);
}

#[tokio::test]
async fn while_the_database_is_away_ends_are_kept_and_beginnings_refused() {
    let own = Cluster::start();
    let database = own.database().await;
    let world = World::new();
    let node = open(&world, &database).await;
    let purchase = world.purchase(100 * CENT);
    node.reserve(purchase.clone()).await.unwrap();
    own.down();
    let began = std::time::Instant::now();
    let error = node.reserve(world.purchase(100 * CENT)).await.unwrap_err().to_string();
    assert!(error.contains("the database with the books cannot be used"), "{error}");
    assert!(began.elapsed().as_secs() < 10);
    assert!(matches!(
        node.finish(purchase.hold.rid, settled()).await,
        Err(LedgerError::Failed(_))
    ));
    assert!(node.get(purchase.hold.rid).await.is_err());
    own.up();
    while node.get(purchase.hold.rid).await.is_err() {
        tokio::task::yield_now().await;
    }
    let payment = node.get(purchase.hold.rid).await.unwrap().unwrap();
    assert_eq!(payment.state, State::Settled);
    node.reserve(world.purchase(100 * CENT)).await.unwrap();
    node.close().await;
    drop(node);

    // One that begins while it is away waits for it.
    own.down();
    let node = open(&world, &database).await;
    let load = Event::PolicyLoaded {
        generation: 1,
        sha256: [1; 32],
        who: "file".into(),
    };
    node.append(load).await.unwrap();
    assert!(node.reserve(world.purchase(100 * CENT)).await.is_err());
    own.up();
    while node.get(purchase.hold.rid).await.is_err() {
        tokio::task::yield_now().await;
    }
    node.reserve(world.purchase(100 * CENT)).await.unwrap();
    node.close().await;
    assert_eq!(
        (
            world.count("pay.settled"),
            world.count("policy.load"),
            world.count("log.open")
        ),
        (1, 1, 2)
    );
    assert_eq!(world.count("pay.unknown"), 1, "what was armed before the restart");
}

#[tokio::test]
async fn a_server_that_could_forget_is_refused() {
    let careless = Cluster::with("fsync = off");
    let database = careless.database().await;
    let error = refused(&World::new(), &database).await;
    assert!(error.contains("fsync = off"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_payment_is_made_under_a_key_whichever_node_is_asked() {
    let database = cluster().database().await;
    let worlds: Vec<Arc<World>> = (0..3).map(|number| Arc::new(World::numbered(number))).collect();
    let mut nodes = Vec::new();
    for world in &worlds {
        nodes.push(open(world, &database).await);
    }
    // Different agents' counters: nothing but the key is in common.
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
    // Proven dead, it gives its key back; another node may have the proof.
    let why = "not cashed";
    nodes[1]
        .finish(made[0], Outcome::Expired { by: By::Chain, why })
        .await
        .unwrap();
    assert_eq!(nodes[2].keys().await.unwrap(), []);
}

/// What the proxy in between does with the next commit.
#[derive(Clone, Copy, PartialEq)]
enum Cut {
    None,
    /// The database gets it, its answer is lost.
    After,
    /// The database does not get it.
    Before,
}

/// Stands between a node and the database, and cuts connections in the middle of a commit. Returns its port.
async fn between(database: &Database, cut: Arc<Mutex<Cut>>, is_open: Arc<AtomicBool>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, to) = (listener.local_addr().unwrap().port(), database.port);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            if is_open.load(Ordering::SeqCst) {
                tokio::spawn(carry(client, to, cut.clone(), is_open.clone()));
            }
        }
    });
    port
}

async fn carry(client: TcpStream, to: u16, cut: Arc<Mutex<Cut>>, is_open: Arc<AtomicBool>) {
    let server = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let answers = tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
        let sent = &buffer[..length];
        let is_commit = sent.windows(7).any(|part| part == b"commit\0");
        let what = if is_commit {
            std::mem::replace(&mut *cut.lock().unwrap(), Cut::None)
        } else {
            Cut::None
        };
        if what != Cut::None {
            // Only once it is certain that no answer gets through.
            answers.abort();
            let _ = answers.await;
            if what == Cut::After {
                to_server.write_all(sent).await.unwrap();
            }
            is_open.store(false, Ordering::SeqCst);
            return;
        }
        if to_server.write_all(sent).await.is_err() {
            return;
        }
    }
}

async fn through(world: &World, database: &Database, port: u16) -> Postgres {
    let url = format!("postgres://bursar@127.0.0.1:{port}/{}", database.name);
    Postgres::open(world.path(), access(&url), world.options())
        .await
        .unwrap()
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_looked_up() {
    for when in [Cut::After, Cut::Before] {
        let (world, database) = (World::new(), cluster().database().await);
        let (cut, is_open) = (Arc::new(Mutex::new(Cut::None)), Arc::new(AtomicBool::new(true)));
        let port = between(&database, cut.clone(), is_open.clone()).await;
        let node = through(&world, &database, port).await;

        // The way is open again at once: the caller sees nothing of it, and nothing is booked twice.
        *cut.lock().unwrap() = when;
        let purchase = world.purchase(100 * CENT);
        let reopened = tokio::spawn({
            let is_open = is_open.clone();
            async move {
                while is_open.load(Ordering::SeqCst) {
                    tokio::task::yield_now().await;
                }
                is_open.store(true, Ordering::SeqCst);
            }
        });
        node.reserve(purchase.clone()).await.unwrap();
        reopened.await.unwrap();
        assert_eq!(counted(&node).await, CENT);

        // It stays closed: nobody knows, so nobody may sign. What stands after all is taken back later.
        *cut.lock().unwrap() = when;
        let unclear = world.purchase(100 * CENT);
        let rid = unclear.hold.rid;
        assert_eq!(node.reserve(unclear).await.unwrap_err(), ReserveError::Unclear(rid));
        let ended = node.finish(purchase.hold.rid, settled()).await;
        assert!(matches!(ended, Err(LedgerError::Failed(_))), "{ended:?}");
        is_open.store(true, Ordering::SeqCst);
        let began = std::time::Instant::now();
        loop {
            let state = node.get(rid).await.map(|payment| payment.map(|payment| payment.state));
            match (when, state) {
                (Cut::After, Ok(Some(State::Expired))) | (Cut::Before, Ok(None)) => break,
                _ => assert!(began.elapsed().as_secs() < 60),
            }
        }
        // The other way round: an end whose commit was unclear is written once.
        assert_eq!(
            node.get(purchase.hold.rid).await.unwrap().unwrap().state,
            State::Settled
        );
        assert_eq!(counted(&node).await, CENT);
        let last = world.purchase(100 * CENT);
        node.reserve(last.clone()).await.unwrap();
        *cut.lock().unwrap() = when;
        let _ = node.finish(last.hold.rid, settled()).await;
        is_open.store(true, Ordering::SeqCst);
        while !matches!(node.get(last.hold.rid).await, Ok(Some(payment)) if payment.state == State::Settled) {
            assert!(began.elapsed().as_secs() < 60);
        }
        node.close().await;
        let expired = usize::from(when == Cut::After);
        let found = (
            world.count("pay.reserved"),
            world.count("pay.settled"),
            world.count("pay.expired"),
        );
        assert_eq!(found, (2 + expired, 2, expired));
    }
}
