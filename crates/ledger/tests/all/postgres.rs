//! A ledger that several nodes share, on a real PostgreSQL.
#![cfg(feature = "postgres")]

mod approvals;
mod faults;
mod nodes;

use crate::postgres_cluster::Database;
use crate::world::World;
use bursar_ledger::database_url::DatabaseUrl;
use bursar_ledger::{Access, OpenError, Outcome, Postgres, Source};

const CENT: u128 = 10_000;

fn access(url: &str) -> Access {
    Access {
        database: DatabaseUrl::parse(url).unwrap(),
        password: None,
        tls: rustls::ClientConfig::builder_with_provider(std::sync::Arc::new(
            rustls::crypto::aws_lc_rs::default_provider(),
        ))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth(),
    }
}

/// Waits until the node that a test has dropped has released the directory, then opens it.
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
        by: Source::Merchant,
        tx: Some("0x01".into()),
    }
}
