//! What can go wrong between a node and the database.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bursar_ledger::{Event, Ledger, LedgerError, Postgres, ReserveError, State};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::postgres::{CENT, access, open, refused, settled};
use crate::postgres_cluster::{Cluster, Database, cluster};
use crate::world::{World, counted};

#[tokio::test]
async fn what_gets_into_the_way_of_a_transaction_is_tried_again() {
    let (world, database) = (World::new(), cluster().database().await);
    let node = open(&world, &database).await;
    // The server itself raises the error, three times; a sequence is not rolled back.
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
    // It does not retry forever.
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
    assert!(error.contains("the ledger's database cannot be used"), "{error}");
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

    // An operation that begins while the database is down waits for it.
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

/// What the relay in between does with the next commit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Cut {
    None,
    /// The database receives it, but its answer is lost.
    After,
    /// The database does not receive it.
    Before,
}

/// A relay between a node and the database that cuts connections in the middle of a commit. Returns its port.
pub(super) async fn between(database: &Database, cut: Arc<Mutex<Cut>>, is_open: Arc<AtomicBool>) -> u16 {
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

pub(super) async fn through(world: &World, database: &Database, port: u16) -> Postgres {
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

        // The connection works again at once: the caller notices nothing, and nothing is booked twice.
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

        // The connection stays cut: the outcome is unknown, so nothing may be signed. What was committed after all is
        // given back later.
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
        // The other way round: an outcome whose commit was unclear is written once.
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
