//! The pauses in force, in a table that every transaction reads.

use tokio_postgres::{Client, Error, Statement};

use super::Session;
use crate::pauses::Pause;
use crate::postgres::batch::Batch;
use crate::postgres::rows::TransactionError;
use crate::text::Moment;
use bursar_core::policy::PauseScope;

pub(super) struct PauseStatements {
    read: Statement,
    set: Statement,
    lift: Statement,
}

impl PauseStatements {
    pub(super) async fn prepare(client: &Client) -> Result<Self, Error> {
        Ok(Self {
            read: client
                .prepare("select scope, since, who, why from bursar.pause")
                .await?,
            // Another node may have been first: its pause stands.
            set: client
                .prepare(
                    "insert into bursar.pause (scope, since, who, why) values ($1, $2, $3, $4) on conflict do nothing",
                )
                .await?,
            lift: client.prepare("delete from bursar.pause where scope = $1").await?,
        })
    }
}

/// Pauses as JSON: a list of scope, since, who and why.
pub(super) fn read_pauses(json: &str) -> Result<Vec<Pause>, TransactionError> {
    let rows: Vec<(String, i64, String, String)> = serde_json::from_str(json)
        .map_err(|error| TransactionError::Down(format!("the pauses in the database cannot be read: {error}")))?;
    let read = |(scope, since, who, why): (String, i64, _, _)| pause(&scope, since, who, why);
    Ok(rows.into_iter().map(read).collect())
}

/// What cannot be read, from a newer bursar, stops everything: it may.
fn pause(scope: &str, since: i64, who: String, why: String) -> Pause {
    Pause {
        scope: PauseScope::parse(scope).unwrap_or(PauseScope::All),
        since: Moment::of(jiff::Timestamp::from_microsecond(since).unwrap_or_default()),
        who,
        why,
    }
}

impl Session {
    /// All pauses in force on the shared ledger.
    pub(in crate::postgres) async fn pauses(&self) -> Result<Vec<Pause>, Error> {
        let rows = self.client.query(&self.pauses.read, &[]).await?;
        let read = |row: &tokio_postgres::Row| {
            let (scope, since): (&str, i64) = (row.try_get(0)?, row.try_get(1)?);
            Ok(pause(scope, since, row.try_get(2)?, row.try_get(3)?))
        };
        rows.iter().map(read).collect()
    }

    pub(super) async fn write_pauses(&self, batch: &Batch<'_>) -> Result<(), TransactionError> {
        for (scope, pause) in &batch.changes.pauses {
            let scope = scope.to_string();
            match pause {
                Some(Pause { since, who, why, .. }) => {
                    let since = since.timestamp().as_microsecond();
                    let statement = &self.pauses.set;
                    self.client.execute(statement, &[&scope, &since, who, why]).await?;
                }
                None => {
                    self.client.execute(&self.pauses.lift, &[&scope]).await?;
                }
            }
        }
        Ok(())
    }
}
