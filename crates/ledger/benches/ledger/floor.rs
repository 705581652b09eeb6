//! The floor of a shared ledger: what the pattern of its transactions costs bare, without bursar.
//!
//! A plain program on tables of its own. Each node is one connection and one task, which takes what is queued, locks the
//! four counters of the one agent in order, decides, updates them with one statement, inserts a row of 100 bytes and an
//! entry of 400 bytes for each operation, and commits. It has no payments that end, no nonces, no epoch, no pauses, no hash
//! chain and no log. One operation of the floor is a reservation; a payment is two operations, because it is settled, too.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::{join, try_join};
use tokio_postgres::Client;

use crate::Fault;
use crate::postgres_cluster::Database;
use crate::report::Lap;

const TABLES: &str = "
drop table if exists win, resv, audit;
create table win (
    scope text not null,
    win_id int8 not null,
    starts int8 not null,
    spent numeric(39,0) not null default 0,
    primary key (scope, win_id, starts),
    check (spent >= 0)
);
create table resv (id uuid primary key, agent text not null, amount numeric(39,0) not null, state int2 not null, body text not null);
create table audit (id uuid primary key, node int4 not null, seq int8 not null, leaf bytea not null, unique (node, seq));
insert into win (scope, win_id, starts) select 'agent/0', n, 0 from generate_series(0, 3) as n;
";
const WINDOWS: i64 = 4;
const AMOUNT: u64 = 1_000;
const NEVER: u64 = u64::MAX / 4;
/// The most operations in one transaction, as in the ledger.
const BATCH: usize = 256;
/// How long one run takes.
const RUN: Duration = Duration::from_secs(4);

pub(crate) struct Floor {
    /// Single operations.
    pub per_second: f64,
    pub one: Lap,
}

struct Ask {
    number: u64,
    granted: oneshot::Sender<bool>,
}

/// `callers` in all, spread over `nodes`.
pub(crate) async fn run(database: &Database, nodes: usize, callers: usize) -> Result<Floor, Fault> {
    database.run(TABLES).await;
    let mut batchers = JoinSet::new();
    let mut queues = Vec::new();
    for _ in 0..nodes {
        let (queue, asked) = mpsc::channel(1024);
        queues.push(queue);
        let client = database.client().await;
        batchers.spawn(batch(client, asked));
    }
    let number = Arc::new(AtomicU64::new(1));
    let began = Instant::now();
    let mut running = JoinSet::new();
    for caller in 0..callers {
        let (queue, number) = (queues[caller % nodes].clone(), number.clone());
        running.spawn(async move {
            let mut laps = Vec::new();
            while began.elapsed() < RUN {
                let (granted, answer) = oneshot::channel();
                let number = number.fetch_add(1, Ordering::Relaxed);
                let asked = Instant::now();
                queue.send(Ask { number, granted }).await?;
                if !answer.await? {
                    return Err("the floor refused within its limit".into());
                }
                laps.push(asked.elapsed());
            }
            Ok::<_, Fault>(laps)
        });
    }
    drop(queues);
    let mut laps = Vec::new();
    while let Some(done) = running.join_next().await {
        laps.extend(done??);
    }
    let per_second = laps.len() as f64 / began.elapsed().as_secs_f64();
    while let Some(done) = batchers.join_next().await {
        done??;
    }
    let counted = database
        .ask("select max(spent) / 1000 = (select count(*) from resv) from win")
        .await;
    if counted != "t" {
        return Err("the floor lost count".into());
    }
    Ok(Floor {
        per_second,
        one: Lap::of(laps),
    })
}

async fn batch(mut client: Client, mut asked: mpsc::Receiver<Ask>) -> Result<(), Fault> {
    let (lock, update, insert, audit) = try_join!(
        client.prepare(
            "select scope, win_id, starts, spent::text from win where (scope, win_id, starts) in \
             (select * from unnest($1::text[], $2::int8[], $3::int8[])) order by scope, win_id, starts for update"
        ),
        client.prepare(
            "update win w set spent = v.s::numeric from unnest($1::text[], $2::int8[], $3::int8[], $4::text[]) \
             as v(scope, win_id, starts, s) where (w.scope, w.win_id, w.starts) = (v.scope, v.win_id, v.starts)"
        ),
        client.prepare(
            "insert into resv select a::uuid, b, c::numeric, 1, d from unnest($1::text[], $2::text[], $3::text[], $4::text[]) \
             as v(a, b, c, d)"
        ),
        client.prepare("insert into audit select a::uuid, 0, b, c from unnest($1::text[], $2::int8[], $3::bytea[]) as v(a, b, c)"),
    )?;
    let scopes = vec!["agent/0"; WINDOWS as usize];
    let (windows, starts) = ((0..WINDOWS).collect::<Vec<i64>>(), vec![0_i64; WINDOWS as usize]);
    let mut asks = Vec::new();
    while asked.recv_many(&mut asks, BATCH).await > 0 {
        let transaction = client.transaction().await?;
        let rows = transaction.query(&lock, &[&scopes, &windows, &starts]).await?;
        let mut spent = BTreeMap::new();
        for row in &rows {
            spent.insert(row.try_get::<_, i64>(1)?, row.try_get::<_, &str>(3)?.parse::<u64>()?);
        }
        let (mut ids, mut seqs, mut granted) = (Vec::new(), Vec::new(), Vec::new());
        for ask in &asks {
            let fits = spent.len() == WINDOWS as usize && spent.values().all(|spent| spent + AMOUNT <= NEVER);
            if fits {
                spent.values_mut().for_each(|spent| *spent += AMOUNT);
                ids.push(format!("00000000-0000-4000-8000-{:012x}", ask.number));
                seqs.push(ask.number.cast_signed());
            }
            granted.push(fits);
        }
        let now: Vec<String> = spent.values().map(u64::to_string).collect();
        let (agents, amounts) = (vec!["agent/0"; ids.len()], vec!["1000"; ids.len()]);
        let (bodies, leaves) = (vec!["x".repeat(100); ids.len()], vec![vec![7_u8; 400]; ids.len()]);
        let counters: Parameters<'_> = &[&scopes, &windows, &starts, &now];
        let payments: Parameters<'_> = &[&ids, &agents, &amounts, &bodies];
        let entries: Parameters<'_> = &[&ids, &seqs, &leaves];
        let (counted, paid, entered) = join!(
            transaction.execute(&update, counters),
            transaction.execute(&insert, payments),
            transaction.execute(&audit, entries),
        );
        let _written = (counted?, paid?, entered?);
        transaction.commit().await?;
        for (ask, granted) in asks.drain(..).zip(granted) {
            // A caller waits for every answer.
            let _ = ask.granted.send(granted);
        }
    }
    Ok(())
}

type Parameters<'a> = &'a [&'a (dyn tokio_postgres::types::ToSql + Sync)];
