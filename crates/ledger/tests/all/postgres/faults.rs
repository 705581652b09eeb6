//! What can go wrong between a node and the database.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bursar_ledger::{Event, Ledger, LedgerError, Postgres, ReserveError, State};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

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

/// What the relay in between does with the next commit, which comes together with the writes before it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Cut {
    None,
    /// The database does it, but all answers are lost.
    After,
    /// The database does it and answers the writes, but the answer to the commit is lost.
    Answered,
    /// The database receives neither the writes nor the commit.
    Before,
    /// The database receives the writes, but not the commit.
    Between,
}

impl Cut {
    pub(super) const ALL: [Self; 4] = [Self::After, Self::Answered, Self::Before, Self::Between];

    pub(super) fn is_committed(self) -> bool {
        matches!(self, Self::After | Self::Answered)
    }
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
    let ((mut from_client, to_client), (from_server, mut to_server)) = (client.into_split(), server.into_split());
    let stop = Arc::new(Notify::new());
    let answers = tokio::spawn(pass_on(from_server, to_client, stop.clone()));
    let mut buffer = vec![0; 256 << 10];
    while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
        let sent = &buffer[..length];
        let commit = place_of(sent, b"commit\0");
        let what = match commit {
            Some(_) => std::mem::replace(&mut *cut.lock().unwrap(), Cut::None),
            None => Cut::None,
        };
        if let (Some(commit), true) = (commit, what != Cut::None) {
            stop.notify_one();
            // No answer gets through any more. None is left unread, or the database would not read all that it was sent.
            let (mut from_server, mut to_client) = answers.await.unwrap();
            match what {
                Cut::Before => {}
                Cut::Between => {
                    to_server.write_all(&sent[..commit]).await.unwrap();
                    to_server.shutdown().await.unwrap();
                    while let Ok(1..) = from_server.read(&mut buffer).await {}
                }
                Cut::None | Cut::After | Cut::Answered => {
                    to_server.write_all(sent).await.unwrap();
                    loop {
                        let length = from_server.read(&mut buffer).await.unwrap();
                        let done = place_of(&buffer[..length], b"COMMIT\0");
                        if what == Cut::Answered {
                            to_client.write_all(&buffer[..done.unwrap_or(length)]).await.unwrap();
                        }
                        if done.is_some() || length == 0 {
                            break;
                        }
                    }
                }
            }
            is_open.store(false, Ordering::SeqCst);
            return;
        }
        if to_server.write_all(sent).await.is_err() {
            return;
        }
    }
}

/// Where the message with this text begins: after its type and its length comes the text.
fn place_of(bytes: &[u8], text: &[u8]) -> Option<usize> {
    let at = bytes.windows(text.len()).position(|part| part == text)?;
    at.checked_sub(5)
}

/// Passes answers on until it is stopped or one end is gone.
async fn pass_on(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    stop: Arc<Notify>,
) -> (OwnedReadHalf, OwnedWriteHalf) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = tokio::select! {
            biased;
            () = stop.notified() => break,
            length = from.read(&mut buffer) => length.unwrap_or(0),
        };
        if length == 0 || to.write_all(&buffer[..length]).await.is_err() {
            let _ = to.shutdown().await;
            break;
        }
    }
    (from, to)
}

pub(super) async fn through(world: &World, database: &Database, port: u16) -> Postgres {
    let url = format!("postgres://bursar@127.0.0.1:{port}/{}", database.name);
    Postgres::open(world.path(), access(&url), world.options())
        .await
        .unwrap()
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_looked_up() {
    for when in Cut::ALL {
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
            match (when.is_committed(), state) {
                (true, Ok(Some(State::Expired))) | (false, Ok(None)) => break,
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
        let expired = usize::from(when.is_committed());
        let found = (
            world.count("pay.reserved"),
            world.count("pay.settled"),
            world.count("pay.expired"),
        );
        assert_eq!(found, (2 + expired, 2, expired));
    }
}

/// `commit` is sent with the writes, so a row that was not written must fail its own statement (R280).
#[tokio::test]
async fn a_write_that_is_lost_takes_the_whole_transaction_with_it() {
    let (world, database) = (World::new(), cluster().database().await);
    let node = open(&world, &database).await;
    let paid = world.purchase(100 * CENT);
    node.reserve(paid.clone()).await.unwrap();
    database
        .run("create function lose() returns trigger language plpgsql as 'begin return null; end'")
        .await;
    let everything = "select (select sum(open + settled) from bursar.win) || ' ' || (select count(*) from bursar.resv) \
                      || ' ' || (select count(*) from bursar.nonce) || ' ' || (select max(seq) from bursar.outbox)";
    let before = database.ask(everything).await;
    for (when, table) in [
        ("update", "win"),
        ("insert", "resv"),
        ("insert", "nonce"),
        ("insert", "outbox"),
        ("update", "resv"),
    ] {
        database
            .run(&format!(
                "create trigger lose before {when} on bursar.{table} for each row execute function lose()"
            ))
            .await;
        let failed = match (when, table) {
            ("update", "resv") => node.finish(paid.hold.rid, settled()).await.is_err(),
            _ => node.reserve(world.purchase(100 * CENT)).await.is_err(),
        };
        assert!(failed, "{when} {table}");
        assert_eq!(database.ask(everything).await, before, "{when} {table}");
        database.run(&format!("drop trigger lose on bursar.{table}")).await;
    }
    // The end of the payment was kept.
    while node.get(paid.hold.rid).await.unwrap().unwrap().state != State::Settled {
        tokio::task::yield_now().await;
    }
    node.reserve(world.purchase(100 * CENT)).await.unwrap();
    node.close().await;
    assert_eq!((world.count("pay.reserved"), world.count("pay.settled")), (2, 1));
}

/// A plan that is kept must be right for large tables, too.
#[tokio::test]
async fn no_payment_reads_a_whole_table() {
    let (world, database) = (World::new(), cluster().database().await);
    let node = open(&world, &database).await;
    for _ in 0..20 {
        let purchase = world.purchase(100 * CENT);
        node.reserve(purchase.clone()).await.unwrap();
        node.finish(purchase.hold.rid, settled()).await.unwrap();
    }
    node.close().await;
    // Each process of the server tells its numbers when it ends.
    let written = "select n_tup_upd from pg_stat_user_tables where relname = 'resv'";
    let began = std::time::Instant::now();
    while stats(&database, written).await < 20 {
        assert!(began.elapsed().as_secs() < 60);
        tokio::task::yield_now().await;
    }
    // The start and its heartbeat look for what has expired.
    let scanned = "select string_agg(relname || ' ' || seq_scan, ', ') from pg_stat_user_tables where seq_scan > 9 and relname <> 'pause'";
    assert_eq!(database.ask(scanned).await, "");
}

async fn stats(database: &Database, sql: &str) -> i64 {
    database.ask(sql).await.parse().unwrap()
}
