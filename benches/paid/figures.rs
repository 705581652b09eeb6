//! What was measured, per round, and the medians over the rounds.

use serde::{Deserialize, Serialize};

use crate::approved::Approved;

/// Percentiles of one series, in nanoseconds.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Lap {
    pub samples: usize,
    pub p50: u64,
    pub p99: u64,
}

/// CPU per request of each process, in microseconds.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct Cpu {
    pub bursar: f64,
    pub load: f64,
    pub seller: f64,
}

/// One load of agents.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct Load {
    pub per_second: f64,
    pub latency: Lap,
    pub cpu_us: Cpu,
    /// As the seller saw it; empty for free requests.
    pub to_replay: Lap,
    pub store: Store,
}

/// What happened to bursar's files while a load ran.
#[derive(Clone, Copy, Default, Serialize)]
pub(crate) struct Store {
    /// Files of the ledger that were made, changed or removed.
    pub changed_files: usize,
    /// Growth of the journal's entries.
    pub journal_bytes: u64,
    /// What the kernel charges to the process; `None` where it does not say.
    pub written_bytes: Option<u64>,
}

/// The reference client.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct Reference {
    pub per_second: f64,
    pub latency: Lap,
    pub cpu_us: f64,
    pub seller_cpu_us: f64,
    /// Only with one client: all of its requests have the same target.
    pub to_replay: Lap,
}

#[derive(Serialize)]
pub(crate) struct Round {
    pub sync: Lap,
    pub direct_1: Load,
    pub through_1: Load,
    pub direct_32: Load,
    pub through_32: Load,
    pub paid_1: Load,
    pub paid_32: Load,
    pub reference_1: Option<Reference>,
    pub reference_32: Option<Reference>,
}

/// What bursar's books say at the end, after a stop.
#[derive(Clone, Copy, Default, Serialize)]
pub(crate) struct LedgerTotals {
    pub sold_by_seller: u64,
    pub recorded: u64,
    pub settled: u64,
}

#[derive(Default)]
pub(crate) struct Run {
    pub rounds: Vec<Round>,
    pub books: LedgerTotals,
    pub approved: Option<Approved>,
}

/// A figure on two sides, and the second divided by the first.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct Beside {
    pub other: f64,
    pub bursar: f64,
    pub ratio: f64,
}

#[derive(Serialize)]
pub(crate) struct Summary {
    pub version: &'static str,
    pub cpus: usize,
    pub free_us_1: Beside,
    pub free_p99_us_1: Beside,
    pub free_per_second_32: Beside,
    pub free_load_cpu_us_1: Beside,
    /// Of bursar alone: a direct connection has no such part.
    pub free_cpu_s_per_10k_1: f64,
    pub free_cpu_s_per_10k_32: f64,
    pub free_written: Store,
    pub free_traffic_stored: bool,
    pub sync_us: Percentiles,
    pub to_replay_us: Percentiles,
    pub to_replay_us_32: Percentiles,
    pub reference_to_replay_us: Option<Percentiles>,
    pub paid_us_1: Percentiles,
    pub paid_us_32: Percentiles,
    pub paid_cpu_us_1: Cpu,
    pub paid_cpu_us_32: Cpu,
    pub paid_per_second_1: f64,
    pub paid_per_second_32: f64,
    pub beside_reference: Option<BesideReference>,
    pub books: LedgerTotals,
    pub approved: Option<Approved>,
    pub rounds: Vec<Round>,
}

#[derive(Clone, Copy, Serialize)]
pub(crate) struct BesideReference {
    pub per_second_1: Beside,
    pub cpu_us_1: Beside,
    pub per_second_32: Beside,
    pub cpu_us_32: Beside,
    pub p99_us_32: Beside,
}

#[derive(Clone, Copy, Serialize)]
pub(crate) struct Percentiles {
    pub p50: f64,
    pub p99: f64,
}

impl Lap {
    pub(crate) fn of(mut nanoseconds: Vec<u64>) -> Self {
        nanoseconds.sort_unstable();
        let rank = |percent: usize| (nanoseconds.len() * percent).div_ceil(100).saturating_sub(1);
        let at = |percent| nanoseconds.get(rank(percent)).copied().unwrap_or_default();
        Self {
            samples: nanoseconds.len(),
            p50: at(50),
            p99: at(99),
        }
    }

    pub(crate) fn p50_us(&self) -> f64 {
        self.p50 as f64 / 1e3
    }

    pub(crate) fn p99_us(&self) -> f64 {
        self.p99 as f64 / 1e3
    }
}

impl Store {
    fn is_touched(&self) -> bool {
        self.changed_files > 0 || self.journal_bytes > 0 || self.written_bytes.unwrap_or_default() > 0
    }
}

impl Run {
    pub(crate) fn summary(self) -> Summary {
        let rounds = &self.rounds;
        let lap = |of: &dyn Fn(&Round) -> Lap| Percentiles {
            p50: median_of(rounds, |round| of(round).p50_us()),
            p99: median_of(rounds, |round| of(round).p99_us()),
        };
        let cpu = |of: &dyn Fn(&Round) -> Cpu| Cpu {
            bursar: median_of(rounds, |round| of(round).bursar),
            load: median_of(rounds, |round| of(round).load),
            seller: median_of(rounds, |round| of(round).seller),
        };
        let free = rounds
            .iter()
            .flat_map(|round| [round.through_1.store, round.through_32.store]);
        let free_written = free.fold(Store::default(), |all, one| Store {
            changed_files: all.changed_files + one.changed_files,
            journal_bytes: all.journal_bytes + one.journal_bytes,
            written_bytes: one
                .written_bytes
                .map(|bytes| bytes + all.written_bytes.unwrap_or_default()),
        });
        // Two rounds of a series are compared within the round: the machine's mood falls out.
        let beside = |other: &dyn Fn(&Round) -> f64, bursar: &dyn Fn(&Round) -> f64| Beside {
            other: median_of(rounds, other),
            bursar: median_of(rounds, bursar),
            ratio: median_of(rounds, |round| bursar(round) / other(round)),
        };
        let all_have_reference = rounds
            .iter()
            .all(|round| round.reference_1.is_some() && round.reference_32.is_some());
        let one = |round: &Round, of: &dyn Fn(&Reference) -> f64| round.reference_1.as_ref().map_or(f64::NAN, of);
        let many = |round: &Round, of: &dyn Fn(&Reference) -> f64| round.reference_32.as_ref().map_or(f64::NAN, of);
        let beside_reference = all_have_reference.then(|| BesideReference {
            per_second_1: beside(&|round| one(round, &|it| it.per_second), &|round| {
                round.paid_1.per_second
            }),
            cpu_us_1: beside(&|round| one(round, &|it| it.cpu_us), &|round| {
                round.paid_1.cpu_us.bursar
            }),
            per_second_32: beside(&|round| many(round, &|it| it.per_second), &|round| {
                round.paid_32.per_second
            }),
            cpu_us_32: beside(&|round| many(round, &|it| it.cpu_us), &|round| {
                round.paid_32.cpu_us.bursar
            }),
            p99_us_32: beside(&|round| many(round, &|it| it.latency.p99_us()), &|round| {
                round.paid_32.latency.p99_us()
            }),
        });
        Summary {
            version: env!("CARGO_PKG_VERSION"),
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            free_us_1: beside(&|round| round.direct_1.latency.p50_us(), &|round| {
                round.through_1.latency.p50_us()
            }),
            free_p99_us_1: beside(&|round| round.direct_1.latency.p99_us(), &|round| {
                round.through_1.latency.p99_us()
            }),
            free_per_second_32: beside(&|round| round.direct_32.per_second, &|round| {
                round.through_32.per_second
            }),
            free_load_cpu_us_1: beside(&|round| round.direct_1.cpu_us.load, &|round| {
                round.through_1.cpu_us.load
            }),
            free_cpu_s_per_10k_1: median_of(rounds, |round| round.through_1.cpu_us.bursar / 100.0),
            free_cpu_s_per_10k_32: median_of(rounds, |round| round.through_32.cpu_us.bursar / 100.0),
            free_written,
            free_traffic_stored: free_written.is_touched(),
            sync_us: lap(&|round| round.sync),
            to_replay_us: lap(&|round| round.paid_1.to_replay),
            to_replay_us_32: lap(&|round| round.paid_32.to_replay),
            reference_to_replay_us: all_have_reference
                .then(|| lap(&|round| round.reference_1.map(|it| it.to_replay).unwrap_or_default())),
            paid_us_1: lap(&|round| round.paid_1.latency),
            paid_us_32: lap(&|round| round.paid_32.latency),
            paid_cpu_us_1: cpu(&|round| round.paid_1.cpu_us),
            paid_cpu_us_32: cpu(&|round| round.paid_32.cpu_us),
            paid_per_second_1: median_of(rounds, |round| round.paid_1.per_second),
            paid_per_second_32: median_of(rounds, |round| round.paid_32.per_second),
            beside_reference,
            books: self.books,
            approved: self.approved,
            rounds: self.rounds,
        }
    }
}

fn median_of(rounds: &[Round], of: impl Fn(&Round) -> f64) -> f64 {
    median(rounds.iter().map(of).collect())
}

/// Not a number if there is no value.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        even if even % 2 == 0 => f64::midpoint(values[middle - 1], values[middle]),
        _ => values[middle],
    }
}
