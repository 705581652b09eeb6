//! The tables (R207), created by the first proxy that connects. No server-side code.

use tokio_postgres::{Client, Error};

use super::connect::Dialect;

/// The version of the tables below. Tables of a newer version belong to a newer bursar; older ones are upgraded.
pub(super) const VERSION: i32 = 6;

/// All counters of a batch are locked in `win`, in key order. A rolling window has one row there, [`GUARD`], that
/// stands for its buckets. `settled` and `open` are in the budget's unit.
const TABLES: &str = "
create schema if not exists bursar;
create table if not exists bursar.meta (
    one bool primary key default true check (one),
    schema_version int4 not null,
    store uuid not null
);
create table if not exists bursar.node (
    node_id int4 primary key,
    epoch int8 not null,
    heartbeat timestamptz not null
);
create table if not exists bursar.policy (
    one bool primary key default true check (one),
    gen int8 not null,
    sha256 bytea not null
);
create table if not exists bursar.policy_history (
    sha256 bytea primary key,
    gen int8 not null
);
create table if not exists bursar.win (
    scope text not null,
    win text not null,
    start text not null,
    settled numeric(39,0) not null default 0 check (settled >= 0),
    open numeric(39,0) not null default 0 check (open >= 0),
    primary key (scope, win, start)
);
create table if not exists bursar.bucket (
    scope text not null,
    win text not null,
    start text not null,
    settled numeric(39,0) not null check (settled >= 0),
    open numeric(39,0) not null check (open >= 0),
    primary key (scope, win, start)
);
-- `payment` is JSON.
create table if not exists bursar.resv (
    rid uuid primary key,
    state int2 not null,
    owner int4 not null,
    owner_epoch int8 not null,
    counts_until int8,
    unconfirmed bool not null default false,
    payment text not null,
    updated timestamptz not null default now()
);
create index if not exists resv_open on bursar.resv (owner, state) where state in (1, 2, 4);
create index if not exists resv_unconfirmed on bursar.resv (owner) where unconfirmed;
-- `free_at` is null while a payment of version 5 is open.
create table if not exists bursar.nonce (
    key bytea primary key,
    free_at int8
);
-- Which payment was made under which Idempotency-Key, until when in Unix seconds.
create table if not exists bursar.idem (
    idem bytea primary key,
    until int8 not null,
    rid uuid not null,
    fingerprint bytea not null
);
-- What the node `from_node` has yet to write into its log as yielded.
create table if not exists bursar.handover (
    rid uuid not null,
    from_node int4 not null,
    to_node int4 not null,
    primary key (rid, from_node)
);
create table if not exists bursar.outbox (
    node_id int4 not null,
    seq int8 not null,
    entry bytea not null,
    primary key (node_id, seq)
);
";

/// What version 2 adds. It changes nothing of version 1, so proxies of that version keep working until they reconnect.
const APPROVALS: &str = "
-- Live ones. `approval` is JSON, kept as the bytes that were written; the columns beside it are what it is found by, and what
-- there is one of at a time, whichever node asks.
create table if not exists bursar.approval (
    id uuid primary key,
    node int4 not null,
    rid uuid not null unique,
    agent text not null,
    intent bytea not null,
    approval text not null,
    unique (agent, intent)
);
create index if not exists approval_node on bursar.approval (node);
-- Evidence that is used, and refusals that are remembered, up to and including a microsecond of Unix time.
create table if not exists bursar.replay (
    key bytea primary key,
    until int8 not null
);
create table if not exists bursar.denial (
    agent text not null,
    intent bytea not null,
    until int8 not null,
    primary key (agent, intent)
);
";

/// What version 3 adds: the newest version of entries that a node reads. A new one is written once every node reads it (R89).
const READS: &str = "
alter table bursar.node add column if not exists reads int4 not null default 1;
";

/// What version 4 adds: the codes of open questions (R96), as JSON of what opens the commitments to them. An entry never has
/// them.
const CODES: &str = "
alter table bursar.approval add column if not exists codes text;
";

/// What version 5 adds: the pauses in force. `since` is microseconds of Unix time. Every transaction that reserves reads them.
const PAUSES: &str = "
create table if not exists bursar.pause (
    scope text primary key,
    since int8 not null,
    who text not null,
    why text not null
);
";

/// What version 6 adds: the entry that has what was reserved (R281), with which `payment` has only the rest; and the payment that
/// took a nonce, so that `free_at` can be written when it is taken (R282). Rows of version 5 stay as they are.
const NARROW: &str = "
alter table bursar.resv add column if not exists entry_node int4;
alter table bursar.resv add column if not exists entry_seq int8;
alter table bursar.nonce add column if not exists rid uuid;
";

/// The start of the row for a rolling window in `win`; no real window starts like this.
pub(super) const GUARD: &str = "guard";

/// Any number will do, as long as every bursar uses the same: b"bursar" as digits.
const ADVISORY_KEY: &str = "108274576744818";

/// Creates what is missing and returns the version and the id of the shared ledger.
pub(super) async fn make(
    client: &Client,
    dialect: Dialect,
    fresh_name: uuid::Uuid,
) -> Result<(i32, uuid::Uuid), Error> {
    let there = client.query(
        "select 1 from pg_catalog.pg_tables where schemaname = 'bursar' and tablename = 'meta'",
        &[],
    );
    // Two proxies that create a table at once would collide in the catalogue. Without advisory locks, the second one
    // fails, finds the tables created, and tries again.
    let lock = match dialect {
        Dialect::Postgres => format!("select pg_advisory_xact_lock({ADVISORY_KEY});"),
        Dialect::Cockroach => String::new(),
    };
    if there.await?.is_empty() {
        client
            .batch_execute(&format!(
                "begin; {lock} {TABLES} {APPROVALS} {READS} {CODES} {PAUSES} {NARROW} commit"
            ))
            .await?;
    }
    // Tables without a row in `meta` are those of a proxy that died in between, of whatever version: what they may lack is added.
    let complete = format!("begin; {lock} {APPROVALS} {READS} {CODES} {PAUSES} {NARROW} commit");
    if client.query("select 1 from bursar.meta", &[]).await?.is_empty() {
        client.batch_execute(&complete).await?;
    }
    client
        .execute(
            "insert into bursar.meta (schema_version, store) values ($1, $2) on conflict do nothing",
            &[&VERSION, &fresh_name],
        )
        .await?;
    let found = async || -> Result<(i32, uuid::Uuid), Error> {
        let row = client
            .query_one("select schema_version, store from bursar.meta", &[])
            .await?;
        Ok((row.try_get(0)?, row.try_get(1)?))
    };
    let (version, store) = found().await?;
    let steps = match version {
        1 => format!("{APPROVALS} {READS} {CODES} {PAUSES} {NARROW}"),
        2 => format!("{READS} {CODES} {PAUSES} {NARROW}"),
        3 => format!("{CODES} {PAUSES} {NARROW}"),
        4 => format!("{PAUSES} {NARROW}"),
        5 => NARROW.to_owned(),
        _ => return Ok((version, store)),
    };
    tracing::info!("upgrading the tables in the database from version {version} to version {VERSION}");
    // Safe to repeat: several proxies may come at once, and one that died half-way has done nothing.
    let raise = format!("update bursar.meta set schema_version = {VERSION} where schema_version < {VERSION};");
    client
        .batch_execute(&format!("begin; {lock} {steps} {raise} commit"))
        .await?;
    found().await
}
