//! The engines, each with a world of its own.

use std::sync::{Arc, Mutex};

use bursar_ledger::memory::Memory;
use bursar_ledger::{Alarm, Alarms, Ledger, LedgerError, Usage};

use crate::world::World;

pub(super) struct Engine {
    pub world: World,
    pub ledger: Arc<dyn Ledger>,
    pub alarms: Arc<Mutex<Vec<Alarm>>>,
    kind: Kind,
}

enum Kind {
    Memory,
    Embedded,
    #[cfg(feature = "postgres")]
    Postgres(crate::postgres_cluster::Database),
}

pub(super) async fn memory() -> Engine {
    let (world, (alarms, sink)) = (World::new(), alarm_sink());
    let ledger = Arc::new(Memory::new(world.clock.clone(), sink));
    Engine {
        world,
        ledger,
        alarms,
        kind: Kind::Memory,
    }
}

pub(super) async fn embedded() -> Engine {
    let (world, (alarms, sink)) = (World::new(), alarm_sink());
    let ledger = Arc::new(world.open_with(|options| options.alarms = sink.clone()));
    Engine {
        world,
        ledger,
        alarms,
        kind: Kind::Embedded,
    }
}

#[cfg(feature = "postgres")]
pub(super) async fn postgres() -> Engine {
    let (world, (alarms, sink)) = (World::new(), alarm_sink());
    let database = crate::postgres_cluster::cluster().database().await;
    let ledger = Arc::new(connected(&world, &database, Some(sink)).await);
    Engine {
        world,
        ledger,
        alarms,
        kind: Kind::Postgres(database),
    }
}

#[cfg(feature = "postgres")]
async fn connected(
    world: &World,
    database: &crate::postgres_cluster::Database,
    sink: Option<Alarms>,
) -> bursar_ledger::Postgres {
    let access = bursar_ledger::Access {
        database: bursar_ledger::database_url::DatabaseUrl::parse(&database.url()).unwrap(),
        password: None,
        tls: rustls::ClientConfig::builder_with_provider(std::sync::Arc::new(
            rustls::crypto::aws_lc_rs::default_provider(),
        ))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth(),
    };
    let mut options = world.options();
    options.alarms = sink.unwrap_or(options.alarms);
    bursar_ledger::Postgres::open(world.path(), access, options)
        .await
        .unwrap()
}

fn alarm_sink() -> (Arc<Mutex<Vec<Alarm>>>, Alarms) {
    let raised_alarms = Arc::new(Mutex::new(Vec::new()));
    let sink: Alarms = {
        let raised_alarms = raised_alarms.clone();
        Arc::new(move |alarm| raised_alarms.lock().unwrap().push(alarm))
    };
    (raised_alarms, sink)
}

impl Engine {
    /// The same ledger after a restart. A ledger in memory does not restart; then nothing has changed.
    pub(super) async fn reopened(self) -> (Self, bool) {
        match self.kind {
            Kind::Memory => (self, false),
            Kind::Embedded => {
                self.ledger.close().await;
                let ledger = Arc::new(self.world.open());
                (Self { ledger, ..self }, true)
            }
            #[cfg(feature = "postgres")]
            Kind::Postgres(ref database) => {
                self.ledger.close().await;
                let ledger = Arc::new(connected(&self.world, database, None).await);
                (Self { ledger, ..self }, true)
            }
        }
    }

    pub(super) fn keeps_a_journal(&self) -> bool {
        !matches!(self.kind, Kind::Memory)
    }

    /// The counter of one window of a scope: settled, open.
    pub(super) async fn holds(&self, scope: &str, window: &str) -> (u128, u128) {
        let rows: Vec<Usage> = self.ledger.usage(&[scope]).await.unwrap();
        rows.iter()
            .filter(|row| row.window == window)
            .fold((0, 0), |(settled, open), row| (settled + row.settled, open + row.open))
    }

    pub(super) async fn day(&self) -> (u128, u128) {
        self.holds("agent:research", "day").await
    }

    pub(super) fn raised_alarms(&self) -> Vec<Alarm> {
        self.alarms.lock().unwrap().clone()
    }
}

pub(super) fn is_failed(error: &LedgerError) -> bool {
    matches!(error, LedgerError::Failed(_))
}
