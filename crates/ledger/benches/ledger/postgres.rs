//! A ledger that nodes share, on the benchmark's own PostgreSQL (fsync on): all callers pay as one agent until its
//! limit is reached. Every run must be exact, or the benchmark fails. The floor runs beside it, in the same round.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bursar_core::clock::SystemClock;
use bursar_ledger::database_url::DatabaseUrl;
use bursar_ledger::{Access, Ledger as _, Options, Postgres};
use tempfile::TempDir;

use crate::floor::{self, Floor};
use crate::load::{self, Load};
use crate::market::{Market, furnish, name};
use crate::postgres_cluster::{Cluster, Database};
use crate::report::{Target, heading, held, line, median};
use crate::{Fault, bare};

/// The total of each agent; a payment is one cent.
const DOLLARS: u64 = 200;
const PAYMENTS: usize = DOLLARS as usize * 100;

/// With all callers on one node, and spread over four.
const SIDES: [Side; 2] = [
    Side {
        nodes: 1,
        callers: 32,
        target: 0.8,
    },
    Side {
        nodes: 4,
        callers: 8,
        target: 1.0,
    },
];

struct Side {
    nodes: usize,
    /// On each node.
    callers: usize,
    /// Of its single operations to those of the floor: a payment is reserved and settled.
    target: f64,
}

pub(crate) fn measure(root: &Path, rounds: usize) -> Result<(), Fault> {
    let cluster = Cluster::start();
    let disk = TempDir::new_in(root)?;
    // Like `bursar serve`: nodes do not wait for each other's callers.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let market = Arc::new(Market::within(rounds, DOLLARS)?);
    let (mut syncs, mut taken) = (Vec::new(), [Vec::new(), Vec::new()]);
    let mut floors = [Vec::new(), Vec::new()];
    runtime.block_on(async {
        let bare_tables = cluster.database().await;
        let mut sides = Vec::new();
        for side in &SIDES {
            let database = cluster.database().await;
            let mut nodes = Vec::new();
            for _ in 0..side.nodes {
                nodes.push(Node::open(root, &database).await?);
            }
            sides.push((nodes, side));
        }
        for round in 0..rounds {
            syncs.push(bare::syncs(disk.path(), 300)?.sync.p50);
            for (((nodes, side), taken), floors) in sides.iter().zip(&mut taken).zip(&mut floors) {
                floors.push(floor::run(&bare_tables, side.nodes, side.nodes * side.callers).await?);
                taken.push(run(nodes, side, &market, round).await?);
            }
        }
        for node in sides.iter().flat_map(|(nodes, _)| nodes) {
            node.ledger.close().await;
        }
        Ok::<_, Fault>(())
    })?;

    heading("A ledger that nodes share, one agent with five budgets, on this machine");
    line("bare append and fdatasync, p50, us", median(syncs));
    for ((side, taken), floors) in SIDES.iter().zip(&taken).zip(&floors) {
        let Side { nodes, callers, target } = side;
        let who = format!("{nodes} node(s), {callers} callers each");
        let of = |figure: &dyn Fn(&Load) -> f64| median(taken.iter().map(figure));
        let floor = |figure: &dyn Fn(&Floor) -> f64| median(floors.iter().map(figure));
        line(
            &format!("{who}, floor, operations per second"),
            floor(&|floor| floor.per_second),
        );
        line(&format!("{who}, floor p50, us"), floor(&|floor| floor.one.p50));
        line(&format!("{who}, payments per second"), of(&|load| load.per_second));
        let ratios = taken
            .iter()
            .zip(floors)
            .map(|(load, floor)| 2.0 * load.per_second / floor.per_second);
        held(
            &format!("{who}, two operations a payment / floor"),
            median(ratios),
            &Target::AtLeast(*target),
        );
        line(&format!("{who}, reserve p50, us"), of(&|load| load.reserve.p50));
        line(&format!("{who}, reserve p99, us"), of(&|load| load.reserve.p99));
    }
    println!("  limits: exactly {PAYMENTS} payments granted and settled in each of the runs");
    Ok(())
}

struct Node {
    ledger: Postgres,
    _dir: TempDir,
}

impl Node {
    async fn open(root: &Path, database: &Database) -> Result<Self, Fault> {
        let dir = TempDir::new_in(root)?;
        furnish(dir.path(), 1)?;
        let access = Access {
            database: DatabaseUrl::parse(&database.url()).map_err(|bad| bad.what)?,
            password: None,
            tls: rustls::ClientConfig::builder_with_provider(std::sync::Arc::new(
                rustls::crypto::aws_lc_rs::default_provider(),
            ))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth(),
        };
        let ledger = Postgres::open(dir.path(), access, Options::new(Arc::new(SystemClock))).await?;
        Ok(Self { ledger, _dir: dir })
    }
}

/// Pays until the limit of this round's agent is reached, and checks the ledger against it.
async fn run(nodes: &[Node], side: &Side, market: &Arc<Market>, round: usize) -> Result<Load, Fault> {
    let ledgers: Vec<Postgres> = nodes.iter().map(|node| node.ledger.clone()).collect();
    let spent = tokio::time::timeout(
        Duration::from_secs(120),
        load::spend(&ledgers, market, side.callers, round),
    );
    let load = spent.await.map_err(|_| "a run took more than two minutes")??;
    let scope = format!("agent:{}", name(round));
    let usage = nodes[0].ledger.usage(&[&scope]).await?;
    let booked = usage.iter().map(|row| (row.settled, row.open));
    let all = PAYMENTS as u128 * 10_000;
    if load.payments != PAYMENTS || usage.len() != 5 || booked.clone().any(|row| row != (all, 0)) {
        return Err(format!(
            "{PAYMENTS} payments were allowed, {} were granted, and the ledger counts {:?}",
            load.payments,
            booked.collect::<Vec<_>>()
        )
        .into());
    }
    Ok(load)
}
