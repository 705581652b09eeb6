//! Opens the ledger that `[store]` names.

use std::sync::Arc;

use thiserror::Error;

use crate::config::operator::{SharedStore, Store};
#[cfg(feature = "postgres")]
use crate::config::secret;
use crate::config::{Config, SecretError};
use bursar_home::Home;
use bursar_ledger::{Embedded, Ledger, OpenError, Options};
use bursar_net::tls::upstream::TrustError;

#[derive(Debug, Error)]
pub enum StoreError {
    #[error(transparent)]
    Ledger(#[from] OpenError),
    #[error("[store]: the password: {0}")]
    Password(#[from] SecretError),
    #[error("[store]: {0}")]
    Trust(#[from] TrustError),
    #[error(
        "{0} belongs to a ledger in a database, so it cannot have a ledger of its own: write the database's url under \
         [store] in bursar.toml, or create another directory with `bursar init --dir DIR`"
    )]
    NotOurs(String),
    #[error(
        "[store]: this bursar was built without the feature `postgres`; build it with `cargo build --release \
         --features postgres`, or write url = \"embedded\""
    )]
    NoDriver,
}

/// Opens the ledger of a data directory, embedded or in a database.
pub(crate) async fn open(config: &Config, home: &Home, options: Options) -> Result<Arc<dyn Ledger>, StoreError> {
    match &config.store {
        Store::Embedded if home.node().exists() => Err(StoreError::NotOurs(home.root().display().to_string())),
        Store::Embedded => Ok(Arc::new(Embedded::open(home.root(), options)?)),
        Store::Shared(shared) => open_shared(shared, config, home, options).await,
    }
}

#[cfg(feature = "postgres")]
async fn open_shared(
    shared: &SharedStore,
    config: &Config,
    home: &Home,
    options: Options,
) -> Result<Arc<dyn Ledger>, StoreError> {
    use bursar_ledger::{Access, Postgres};
    use bursar_net::tls::upstream;

    let password = shared.password.as_ref().map(|source| secret::read(source, home.root()));
    let roots = match &shared.ca {
        Some(path) => upstream::roots_in(path)?,
        None => upstream::roots(&config.trust())?,
    };
    let access = Access {
        database: shared.database.clone(),
        password: password.transpose()?,
        tls: upstream::client_config(roots)?,
    };
    Ok(Arc::new(Postgres::open(home.root(), access, options).await?))
}

#[cfg(not(feature = "postgres"))]
async fn open_shared(_: &SharedStore, _: &Config, _: &Home, _: Options) -> Result<Arc<dyn Ledger>, StoreError> {
    Err(StoreError::NoDriver)
}
