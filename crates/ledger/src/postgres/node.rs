//! Which node of which shared ledger a data directory is, and whether its log matches what the database has of it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::connect::NoConnection;
use super::log::{Lines, LocalLog};
use super::rows::{id, node_id};
use super::schema;
use super::session::Session;
use crate::entry::Version;
use crate::scan::Chain;
use crate::text::Digest;
use bursar_home::{self as home, Readers};

/// The file `node` in the data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    /// The id of the shared ledger, so that a directory is not pointed at another one by mistake.
    pub store: Uuid,
    pub node: u32,
}

/// How many entries are fetched at once.
const PAGE: i64 = 1000;

impl Identity {
    pub(super) fn path(dir: &Path) -> PathBuf {
        dir.join("node")
    }

    pub(super) fn load(dir: &Path) -> Result<Option<Self>, String> {
        let path = Self::path(dir);
        if !path.exists() {
            return Ok(None);
        }
        let text = home::read_secret(&path).map_err(|error| error.to_string())?;
        let identity = serde_json::from_str(&text);
        identity
            .map(Some)
            .map_err(|error| format!("{} cannot be read: {error}", path.display()))
    }

    fn save(self, dir: &Path) -> Result<(), String> {
        let text = serde_json::to_string(&self).map_err(|error| error.to_string())?;
        let written = home::write_atomic(&Self::path(dir), text.as_bytes(), Readers::Owner);
        written.map_err(|error| error.to_string())
    }
}

/// Creates the tables if needed, and finds out which node we are; a directory without a number gets one.
pub(super) async fn identify(
    session: &Session,
    dir: &Path,
    known: Option<Identity>,
    store: Uuid,
) -> Result<Identity, NoConnection> {
    match known {
        Some(known) if known.store == store => {
            let node = id(known.node);
            let there = session
                .client
                .query_opt("select 1 from bursar.node where node_id = $1", &[&node])
                .await;
            match there.map_err(NoConnection::of)? {
                Some(_) => Ok(known),
                None => Err(NoConnection::Refused(format!(
                    "the database does not know node {}: it was restored from a backup older than this data directory",
                    known.node
                ))),
            }
        }
        Some(known) => Err(NoConnection::Refused(format!(
            "this data directory belongs to the ledger {}, but the database holds the ledger {store}; correct \
             store.url, or use the directory that belongs to it",
            known.store
        ))),
        None => {
            let identity = Identity {
                store,
                node: new_node(session).await?,
            };
            identity.save(dir).map_err(NoConnection::Refused)?;
            Ok(identity)
        }
    }
}

async fn new_node(session: &Session) -> Result<u32, NoConnection> {
    // Two new nodes may ask for the same number at once; the second tries again.
    loop {
        let row = session
            .client
            .query_opt(
                "insert into bursar.node (node_id, epoch, heartbeat) select coalesce(max(node_id), 0) + 1, 0, now() \
                 from bursar.node on conflict do nothing returning node_id",
                &[],
            )
            .await
            .map_err(NoConnection::of)?;
        if let Some(row) = row {
            return Ok(node_id(row.try_get(0).map_err(NoConnection::of)?));
        }
    }
}

/// Makes sure that nothing else writes as this node from here on. Waits for the transaction of a lost connection of
/// ours.
pub(super) async fn begin_epoch(session: &Session, node: u32) -> Result<i64, NoConnection> {
    let row = session
        .client
        .query_one(
            "update bursar.node set epoch = epoch + 1, heartbeat = now(), reads = $2 where node_id = $1 returning epoch",
            &[&id(node), &i32::from(Version::CURRENT.number())],
        )
        .await
        .map_err(NoConnection::of)?;
    row.try_get(0).map_err(NoConnection::of)
}

/// The version of entries that every node reads which was heard from within a day: a proxy of the version before may still be
/// running (R89).
pub(super) async fn entry_version(session: &Session) -> Result<Version, tokio_postgres::Error> {
    let row = session
        .client
        .query_one(
            "select coalesce(min(reads), 1)::int4 from bursar.node where heartbeat > now() - interval '1 day'",
            &[],
        )
        .await?;
    let oldest: i32 = row.try_get(0)?;
    Ok(match u8::try_from(oldest).map(Version::of) {
        Ok(Some(known)) => known,
        // A newer program than this reads ours as well.
        _ if oldest > i32::from(Version::CURRENT.number()) => Version::CURRENT,
        _ => Version::V1,
    })
}

/// The end of this node's log according to the database.
pub(super) async fn chain(session: &Session, node: u32) -> Result<Chain, NoConnection> {
    let newest = session
        .client
        .query_opt(
            "select seq, entry from bursar.outbox where node_id = $1 order by seq desc limit 1",
            &[&id(node)],
        )
        .await
        .map_err(NoConnection::of)?;
    let Some(row) = newest else {
        return Ok(Chain::START);
    };
    let (seq, entry): (i64, &[u8]) = (
        row.try_get(0).map_err(NoConnection::of)?,
        row.try_get(1).map_err(NoConnection::of)?,
    );
    Ok(Chain {
        next_seq: seq.cast_unsigned() + 1,
        tip: Digest::leaf(entry),
    })
}

/// Whether entry `seq` of this node is in the database with exactly these bytes.
pub(super) async fn has(session: &Session, node: u32, seq: u64, bytes: &[u8]) -> Result<bool, NoConnection> {
    let row = session
        .client
        .query_opt(
            "select entry from bursar.outbox where node_id = $1 and seq = $2",
            &[&id(node), &seq.cast_signed()],
        )
        .await
        .map_err(NoConnection::of)?;
    let found: Option<Vec<u8>> = row.map(|row| row.try_get(0)).transpose().map_err(NoConnection::of)?;
    Ok(found.is_some_and(|found| found == bytes))
}

/// Appends to the local log the entries that only the database has. The local log must be a prefix of the one there.
pub(super) async fn fill_up(session: &Session, node: u32, log: &mut LocalLog) -> Result<(), NoConnection> {
    let here = log.chain;
    let there = chain(session, node).await?;
    if here.next_seq > there.next_seq {
        return Err(NoConnection::Refused(format!(
            "the log in this data directory has {} entries, but the database has only {} of them: it has lost what was \
             committed, as happens when it is restored from a backup or a lagging standby takes over. Restore the \
             database; audit/ shows what is missing there",
            here.next_seq, there.next_seq
        )));
    }
    if let Some(last) = here.next_seq.checked_sub(1) {
        let rows = page(session, node, last, 1).await?;
        if rows.first().map(|(_, entry)| Digest::leaf(entry)) != Some(here.tip) {
            return Err(NoConnection::Refused(format!(
                "entry {last} of the log in this data directory is not the one that the database has: one of the two \
                 was changed. Restore audit/ from a backup"
            )));
        }
    }
    while log.chain.next_seq < there.next_seq {
        let mut lines = Lines::after(log.chain, log.version);
        for (seq, entry) in page(session, node, log.chain.next_seq, PAGE).await? {
            lines.push(seq, entry);
        }
        if lines.entries.is_empty() {
            return Err(NoConnection::Refused(format!(
                "entry {} of this node is missing in the database",
                log.chain.next_seq
            )));
        }
        log.append(lines, Vec::new());
    }
    Ok(())
}

async fn page(session: &Session, node: u32, from: u64, limit: i64) -> Result<Vec<(u64, Vec<u8>)>, NoConnection> {
    let rows = session
        .client
        .query(
            "select seq, entry from bursar.outbox where node_id = $1 and seq >= $2 order by seq limit $3",
            &[&id(node), &from.cast_signed(), &limit],
        )
        .await
        .map_err(NoConnection::of)?;
    rows.iter()
        .map(|row| {
            let seq: i64 = row.try_get(0).map_err(NoConnection::of)?;
            Ok((seq.cast_unsigned(), row.try_get(1).map_err(NoConnection::of)?))
        })
        .collect()
}

/// The tables, and the id of the shared ledger in them.
pub(super) async fn tables(
    session_client: &tokio_postgres::Client,
    dialect: super::connect::Dialect,
) -> Result<Uuid, NoConnection> {
    let random =
        bursar_core::clock::random().map_err(|error| NoConnection::Refused(format!("no random numbers: {error}")))?;
    let fresh_name = uuid::Builder::from_random_bytes(random).into_uuid();
    let (version, store) = schema::make(session_client, dialect, fresh_name)
        .await
        .map_err(NoConnection::of)?;
    if version != schema::VERSION {
        return Err(NoConnection::Refused(format!(
            "the tables in the database are of version {version}, but this bursar knows version {}; use the same \
             version of bursar everywhere",
            schema::VERSION
        )));
    }
    Ok(store)
}
