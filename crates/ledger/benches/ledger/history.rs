//! A long history: how long a start takes with and without an index, how much memory it needs, and whether it slows
//! payments down.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bursar_ledger::entry::{Body, Entry, Reserved, Settled, WindowCharge};
use bursar_ledger::scan::{day_of, segment_name};
use bursar_ledger::text::{Decimal, Digest, Moment};
use bursar_ledger::{Ledger as _, Reserve, Source};
use jiff::{SignedDuration, Timestamp};
use tempfile::TempDir;

use crate::market::{Market, furnish};
use crate::report::{Target, heading, held, line, median};
use crate::{Fault, child, embedded, load, runtime};

const DAYS: i64 = 30;
const AGENTS: usize = 100;
const SEGMENT_BYTES: u64 = 64 << 20;

pub(crate) fn measure(root: &Path, rounds: usize, payments: usize) -> Result<(), Fault> {
    let (long, empty) = (TempDir::new_in(root)?, TempDir::new_in(root)?);
    for dir in [&long, &empty] {
        furnish(dir.path(), AGENTS)?;
    }
    let market = Arc::new(Market::of(AGENTS)?);
    let began = Instant::now();
    let bytes = write(&long.path().join("audit"), &market, payments)?;
    heading(&format!("A journal with {payments} payments of {DAYS} days"));
    line("MiB, and s to write it", bytes as f64 / f64::from(1 << 20));
    line("", began.elapsed().as_secs_f64());

    let rebuild = child::start(long.path())?;
    held("start without an index, s", rebuild.ledger_s, &Target::AtMost(30.0));
    line("CPU time of that, all threads, s", rebuild.cpu_s);
    held("its peak memory, MiB", rebuild.peak_mib, &Target::AtMost(300.0));
    line(
        "size of the index, MiB",
        size(&long.path().join("index"))? as f64 / f64::from(1 << 20),
    );
    let starts = (0..rounds)
        .map(|_| child::start(long.path()))
        .collect::<Result<Vec<_>, _>>()?;
    let start = |of: &dyn Fn(&child::Started) -> f64| median(starts.iter().map(of));
    held(
        "start with the index, s",
        start(&|start| start.ledger_s),
        &Target::AtMost(2.0),
    );
    held(
        "its peak memory, MiB",
        start(&|start| start.peak_mib),
        &Target::AtMost(300.0),
    );

    let runtime = runtime()?;
    let (ours, bare) = (embedded::open(long.path())?, embedded::open(empty.path())?);
    let mut taken = Vec::new();
    for _ in 0..rounds {
        let rate = |ledger| runtime.block_on(load::pay(ledger, &market, 32, 32_000, AGENTS));
        let (empty, long) = (rate(&bare)?, rate(&ours)?);
        taken.push((empty.per_second, long.per_second));
    }
    runtime.block_on(async {
        ours.close().await;
        bare.close().await;
    });
    line(
        "32 callers, payments per second, new ledger",
        median(taken.iter().map(|(new, _)| *new)),
    );
    line(
        "32 callers, payments per second, on that history",
        median(taken.iter().map(|(_, old)| *old)),
    );
    held(
        "time of a payment, on that history / new ledger",
        median(taken.iter().map(|(new, old)| new / old)),
        &Target::AtMost(1.2),
    );
    Ok(())
}

/// Writes a long history into a directory that stays.
pub(crate) fn prepare(dir: &Path, payments: usize) -> Result<(), Fault> {
    fs::create_dir_all(dir)?;
    furnish(dir, AGENTS)?;
    write(&dir.join("audit"), &Market::of(AGENTS)?, payments).map(drop)
}

fn size(dir: &Path) -> Result<u64, Fault> {
    let mut bytes = 0;
    for file in fs::read_dir(dir)? {
        let file = file?;
        bytes += if file.file_type()?.is_dir() {
            size(&file.path())?
        } else {
            file.metadata()?.len()
        };
    }
    Ok(bytes)
}

/// Writes the segments that the ledger would have written. The following start checks every byte of them.
fn write(audit: &Path, market: &Market, payments: usize) -> Result<u64, Fault> {
    let end = Timestamp::now();
    let begin = end - SignedDuration::from_hours(DAYS * 24);
    let step = SignedDuration::from_micros(DAYS * 24 * 3_600_000_000 / i64::try_from(payments)?);
    let mut segments = Segments::new(audit);
    let mut now = begin;
    for number in 0..payments {
        let Reserve { hold, arm } = market.purchase(number % AGENTS, now)?;
        let rid = hold.rid;
        let terms = &hold.terms;
        let charges = hold.charges.iter().map(|charge| {
            let (scope, window) = (charge.scope.to_string(), charge.window_name().into_owned());
            let start = charge.start.to_string();
            WindowCharge(scope, window, start, Decimal(charge.amount), Decimal(charge.cap))
        });
        let reserved = Reserved {
            amount: Decimal(terms.amount.get()),
            arm: Some((&arm).into()),
            asset: terms.asset.caip19(),
            decimals: terms.asset.decimals(),
            facilitator: None,
            fee: None,
            fp: Digest(hold.fingerprint),
            idem: None,
            network: terms.asset.network().to_string(),
            offer_sha256: Digest(hold.offer_sha256),
            others: Vec::new(),
            payee: terms.payee.clone(),
            policy_gen: hold.policy_gen,
            rail: terms.rail.to_string(),
            rid,
            scheme: terms.rail.scheme().to_owned(),
            sd: vec!["AUsHjcbWT-FgKRhiEqKjVNtVF2ksvIWx6U8d1c4ltFU".to_owned()],
            symbol: terms.asset.symbol().to_owned(),
            usd_micros: Decimal(terms.usd.get()),
            windows: charges.collect(),
            agent: hold.agent,
            group: hold.group,
            host: hold.host,
        };
        let settled = Settled {
            back: Vec::new(),
            by: Source::Merchant,
            rid,
            taken: None,
            tx: arm.nonce.known().map(|nonce| nonce.to_string()),
            why: None,
        };
        segments.push(now, Body::Reserved(Arc::new(reserved)))?;
        segments.push(now + step / 2, Body::Settled(settled))?;
        now += step;
    }
    segments.finish()
}

struct Segments<'a> {
    audit: &'a Path,
    file: Option<BufWriter<File>>,
    day: i64,
    len: u64,
    total: u64,
    seq: u64,
    tip: Digest,
    line: Vec<u8>,
}

impl<'a> Segments<'a> {
    fn new(audit: &'a Path) -> Self {
        Self {
            audit,
            file: None,
            day: 0,
            len: 0,
            total: 0,
            seq: 0,
            tip: Digest::ZERO,
            line: Vec::new(),
        }
    }

    fn push(&mut self, now: Timestamp, body: Body) -> Result<(), Fault> {
        if self.file.is_none() || day_of(now) > self.day || self.len >= SEGMENT_BYTES {
            if let Some(file) = &mut self.file {
                file.flush()?;
            }
            self.file = Some(BufWriter::new(File::create(self.audit.join(segment_name(self.seq)))?));
            (self.day, self.len) = (day_of(now), 0);
        }
        let (seq, ts) = (self.seq, Moment::of(now));
        self.line.clear();
        Entry { seq, ts, body }.encode(&self.tip, &mut self.line)?;
        self.tip = Digest::leaf(&self.line);
        self.seq += 1;
        self.line.push(b'\n');
        self.len += self.line.len() as u64;
        self.total += self.line.len() as u64;
        let file = self.file.as_mut().ok_or("no segment")?;
        Ok(file.write_all(&self.line)?)
    }

    fn finish(mut self) -> Result<u64, Fault> {
        if let Some(file) = &mut self.file {
            file.flush()?;
        }
        Ok(self.total)
    }
}
