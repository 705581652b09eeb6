//! One connection: TLS, what is required of the server, and what its errors mean.

use std::io;
use std::time::Duration;

use rustls::ClientConfig;
use secrecy::{ExposeSecret, SecretString};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::database_url::DatabaseUrl;

/// A database that does not answer for this long counts as down.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// The oldest version that is tested.
const OLDEST: i32 = 140_000;

/// Everything needed to connect again.
pub(super) struct Connector {
    config: Config,
    tls: Option<MakeRustlsConnect>,
}

/// Whose SQL it is. Other servers that speak PostgreSQL's protocol and report that they are PostgreSQL are treated as
/// such.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    Postgres,
    /// Its transactions are serializable; it has no advisory locks and no `fsync` setting.
    Cockroach,
}

impl Dialect {
    pub(super) const fn begin(self) -> &'static str {
        match self {
            Self::Postgres => "begin isolation level read committed",
            Self::Cockroach => "begin",
        }
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum NoConnection {
    /// It may recover by itself.
    Down(String),
    /// An operator has to change something first.
    Refused(String),
}

impl Connector {
    /// `tls` verifies the database's certificate.
    pub(super) fn new(database: &DatabaseUrl, password: Option<&SecretString>, tls: ClientConfig) -> Self {
        let mut config = Config::new();
        config
            .user(&database.user)
            .dbname(&database.database)
            .port(database.port)
            .connect_timeout(PATIENCE)
            .tcp_user_timeout(2 * PATIENCE)
            .application_name("bursar");
        match database.socket() {
            Some(folder) => config.host_path(folder),
            None => config.host(&database.host),
        };
        if let Some(password) = password {
            config.password(password.expose_secret());
        }
        let tls = if !database.is_encrypted() {
            config.ssl_mode(tokio_postgres::config::SslMode::Disable);
            None
        } else {
            config.ssl_mode(tokio_postgres::config::SslMode::Require);
            Some(MakeRustlsConnect::new(tls))
        };
        Self { config, tls }
    }

    /// Connects, and checks that what this server commits stays committed.
    pub(super) async fn connect(&self) -> Result<(Client, Dialect), NoConnection> {
        let connecting = async {
            let client = match &self.tls {
                None => {
                    let (client, connection) = self.config.connect(NoTls).await.map_err(NoConnection::of)?;
                    tokio::spawn(follow(connection));
                    client
                }
                Some(tls) => {
                    let (client, connection) = self.config.connect(tls.clone()).await.map_err(NoConnection::of)?;
                    tokio::spawn(follow(connection));
                    client
                }
            };
            let dialect = examine(&client).await?;
            Ok((client, dialect))
        };
        let late = || Err(NoConnection::Down("it does not answer".to_owned()));
        tokio::time::timeout(2 * PATIENCE, connecting)
            .await
            .unwrap_or_else(|_| late())
    }
}

/// Carries what the client sends. Users of the client notice its end.
async fn follow(connection: impl Future<Output = Result<(), tokio_postgres::Error>>) {
    if let Err(error) = connection.await {
        tracing::debug!(%error, "the connection to the database has ended");
    }
}

async fn examine(client: &Client) -> Result<Dialect, NoConnection> {
    let row = client
        .query_one("select version()", &[])
        .await
        .map_err(NoConnection::of)?;
    let version: String = row.try_get(0).map_err(NoConnection::of)?;
    if version.contains("CockroachDB") {
        return Ok(Dialect::Cockroach);
    }
    let setting = async |name: &str| -> Result<String, NoConnection> {
        let row = client.query_one("select current_setting($1, true)", &[&name]).await;
        let value: Option<String> = row.and_then(|row| row.try_get(0)).map_err(NoConnection::of)?;
        Ok(value.unwrap_or_default())
    };
    let number = setting("server_version_num").await?;
    if number.parse::<i32>().unwrap_or(0) < OLDEST {
        return Err(NoConnection::Refused(format!(
            "the database is {version}; bursar needs PostgreSQL 14 or newer"
        )));
    }
    if setting("fsync").await? == "off" {
        return Err(NoConnection::Refused(
            "the database runs with fsync = off, so a power cut would lose recorded payments; set fsync = on in \
             postgresql.conf and restart the database"
                .to_owned(),
        ));
    }
    // Also waiting for a standby is more than enough; anything less is too little.
    let commit = match setting("synchronous_commit").await?.as_str() {
        "remote_apply" => "remote_apply",
        _ => "on",
    };
    // A lock of a proxy that hangs or was cut off must not block the others forever. Every statement of a batch uses
    // primary keys. Plans are made once for any values and kept, and one that was made while a table was small would later
    // scan the whole of a large table.
    let session = format!(
        "set synchronous_commit = {commit}; set idle_in_transaction_session_timeout = '5s'; \
         set enable_seqscan = off; set enable_hashjoin = off; set enable_mergejoin = off; set jit = off; \
         set plan_cache_mode = force_generic_plan"
    );
    client.batch_execute(&session).await.map_err(NoConnection::of)?;
    Ok(Dialect::Postgres)
}

impl NoConnection {
    pub(super) fn of(error: tokio_postgres::Error) -> Self {
        let text = explain(&error);
        if let Some(code) = error.code() {
            // Starting, stopping, full, or taken over: that passes. Everything else needs an operator.
            let passes = ["08", "40", "53", "57"]
                .iter()
                .any(|class| code.code().starts_with(class));
            return if passes { Self::Down(text) } else { Self::Refused(text) };
        }
        let mut cause = std::error::Error::source(&error);
        while let Some(inner) = cause {
            let is_tls = |inner: &(dyn std::error::Error + 'static)| inner.is::<rustls::Error>();
            let in_io = inner
                .downcast_ref::<io::Error>()
                .and_then(|error| error.get_ref())
                .is_some_and(|inner| inner.is::<rustls::Error>());
            if is_tls(inner) || in_io {
                return Self::Refused(text);
            }
            cause = inner.source();
        }
        if text.contains("does not support TLS") || text.contains("invalid configuration") {
            return Self::Refused(text);
        }
        Self::Down(text)
    }

    pub(super) fn text(&self) -> &str {
        match self {
            Self::Down(text) | Self::Refused(text) => text,
        }
    }
}

/// The full text of an error, because the crate's own text omits the cause.
pub(super) fn explain(error: &tokio_postgres::Error) -> String {
    if let Some(database) = error.as_db_error() {
        return format!("the database says: {} ({})", database.message(), database.code().code());
    }
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

/// Whether the same transaction can be retried unchanged (R209).
pub(super) fn is_to_be_retried(error: &tokio_postgres::Error) -> bool {
    matches!(error.code(), Some(code) if *code == SqlState::T_R_SERIALIZATION_FAILURE || *code == SqlState::T_R_DEADLOCK_DETECTED)
}

/// Whether a statement has failed itself because it wrote other rows than were locked for it (R280).
pub(super) fn is_other_rows(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::DIVISION_BY_ZERO)
}

/// Whether an error in answer to `commit` proves that nothing was committed.
pub(super) fn proves_rollback(error: &tokio_postgres::Error) -> bool {
    // 40003: the server itself does not know. Class 57: it was shut down or interrupted, perhaps after it had
    // committed.
    error.code().is_some_and(|code| {
        let code = code.code();
        code != "40003" && !code.starts_with("57") && !code.starts_with("08") && !code.starts_with("XX")
    })
}
