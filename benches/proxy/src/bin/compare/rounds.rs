//! Rounds outside, tests within them, rows innermost and each time in another order: a slow spell of the machine falls on
//! all rows alike.

use std::time::{Duration, Instant};

use bursar_bench_proxy::order::Measured;
use bursar_bench_proxy::{Fault, process};
use serde::Serialize;

use crate::cast::{Cast, Proxy};
use crate::rows::Row;
use crate::tests::Test;

/// Before the window of each test.
const WARMUP: f64 = 0.3;
/// Between the last tunnel, or the last host, and the look at the memory.
const SETTLE: f64 = 1.0;
/// Longer than anybody here keeps a connection for later, but for hudsucker (90 s).
const REST: Duration = Duration::from_secs(65);

#[derive(Serialize)]
pub(crate) struct Record {
    pub(crate) round: usize,
    pub(crate) test: Test,
    pub(crate) row: Row,
    /// Or why there is nothing.
    pub(crate) measured: Result<Measured, String>,
    /// For hosts: before the rest.
    pub(crate) pss_unrested_kib: Option<u64>,
    /// How busy the machine was.
    load_average: String,
}

pub(crate) fn run(
    cast: &mut Cast,
    rows: &[Row],
    tests: &[Test],
    rounds: usize,
    seconds: f64,
) -> Result<Vec<Record>, Fault> {
    let mut records = Vec::new();
    let began = Instant::now();
    for round in 0..rounds {
        for (number, test) in tests.iter().enumerate() {
            if *test == Test::Hosts {
                continue;
            }
            let mut order = rows.to_vec();
            order.rotate_left((round + number) % rows.len());
            for row in order {
                let measured = one(cast, row, *test, seconds);
                records.push(Record::new(round, *test, row, measured));
            }
        }
        eprintln!(
            "proxy: round {} of {rounds}, {} s",
            round + 1,
            began.elapsed().as_secs()
        );
    }
    if tests.contains(&Test::Hosts) {
        records.extend(hosts(cast, rows)?);
    }
    Ok(records)
}

fn one(cast: &mut Cast, row: Row, test: Test, seconds: f64) -> Result<Measured, Fault> {
    if !test.needs_fresh_process() {
        return cast.measure(row, test.work(), WARMUP, seconds);
    }
    match cast.start(row)? {
        Some(proxy) => cast.measure_fresh(&proxy, test.work(), SETTLE),
        None => Ok(Measured::default()),
    }
}

/// Once, for all rows: the visits one after the other, the rest together.
fn hosts(cast: &mut Cast, rows: &[Row]) -> Result<Vec<Record>, Fault> {
    let mut visited: Vec<(Proxy, Result<Measured, Fault>)> = Vec::new();
    for row in rows {
        if let Some(proxy) = cast.start(*row)? {
            let measured = cast.measure_fresh(&proxy, Test::Hosts.work(), SETTLE);
            visited.push((proxy, measured));
            eprintln!("proxy: {} has seen its hosts", row.name());
        }
    }
    std::thread::sleep(REST);
    let records = visited.into_iter().map(|(proxy, measured)| {
        let unrested = measured.as_ref().ok().and_then(|measured| measured.pss_after_kib);
        let rested = measured.and_then(|measured| {
            Ok(Measured {
                pss_after_kib: Some(process::pss_kib(proxy.server.pid())?),
                ..measured
            })
        });
        let mut record = Record::new(0, Test::Hosts, proxy.row, rested);
        record.pss_unrested_kib = unrested;
        record
    });
    Ok(records.collect())
}

impl Record {
    fn new(round: usize, test: Test, row: Row, measured: Result<Measured, Fault>) -> Self {
        let measured = measured.map_err(|fault| fault.to_string());
        let failure = match &measured {
            Ok(measured) => measured.first_failure.as_ref(),
            Err(failure) => Some(failure),
        };
        if let Some(failure) = failure {
            eprintln!("proxy: {} failed in {}: {failure}", row.name(), test.name());
        }
        let load_average = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Self {
            round,
            test,
            row,
            measured,
            pss_unrested_kib: None,
            load_average: load_average.split(' ').next().unwrap_or_default().to_owned(),
        }
    }
}
