//! What the ledger costs compared with the disk alone, and the effect of a long history: `cargo bench -p bursar-ledger --bench ledger`.
//!
//! One module per subject. Starts are measured in child processes, so that their memory can be measured separately. How
//! to read the result: `benches/README.md`.

mod agents;
mod bare;
mod child;
mod embedded;
#[cfg(feature = "postgres")]
mod floor;
mod history;
mod load;
mod market;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "postgres")]
#[path = "../../tests/all/postgres_cluster.rs"]
mod postgres_cluster;
mod report;
mod soak;
mod spend;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

type Fault = Box<dyn std::error::Error + Send + Sync>;

struct Asked {
    rounds: usize,
    /// Payments in the long history.
    payments: usize,
    only: Option<String>,
    /// Of the soak: days on the ledger's clock, and the seconds after which no payment begins.
    days: i64,
    seconds: u64,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let done = match arguments.first().map(String::as_str) {
        Some("start") => child::run(&arguments[1..]),
        Some("spend") => spend::run(&arguments[1..]),
        Some("write") => write(&arguments[1..]),
        // `cargo test --all-targets` runs this too; figures of an unoptimised build mean nothing.
        _ if cfg!(debug_assertions) => {
            eprintln!(
                "ledger: nothing measured, this build is not optimised: use `cargo bench -p bursar-ledger --bench ledger`"
            );
            Ok(())
        }
        _ => asked(&arguments).and_then(|asked| bench(&asked)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("ledger: {fault}");
            ExitCode::FAILURE
        }
    }
}

/// Writes a long history into a new directory, for a profiler: `write DIR PAYMENTS`; `start DIR` then starts on it.
fn write(arguments: &[String]) -> Result<(), Fault> {
    let [dir, payments] = arguments else {
        return Err("write needs a directory and the number of payments".into());
    };
    history::prepare(Path::new(dir), payments.parse()?)
}

fn asked(arguments: &[String]) -> Result<Asked, Fault> {
    let mut asked = Asked {
        rounds: 5,
        payments: 1_000_000,
        only: None,
        days: 30,
        seconds: 900,
    };
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--rounds" => asked.rounds = value()?.parse()?,
            "--payments" => asked.payments = value()?.parse()?,
            "--only" => asked.only = Some(value()?.clone()),
            "--days" => asked.days = value()?.parse()?,
            "--seconds" => asked.seconds = value()?.parse()?,
            other => return Err(format!("unknown argument {other}; see benches/README.md").into()),
        }
    }
    if asked.rounds == 0 {
        return Err("--rounds must be at least 1".into());
    }
    Ok(asked)
}

fn bench(asked: &Asked) -> Result<(), Fault> {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    println!(
        "bursar {}, {cpus} CPUs, medians of {} rounds",
        env!("CARGO_PKG_VERSION"),
        asked.rounds
    );
    let wanted = |subject| asked.only.as_deref().is_none_or(|only| only == subject);
    if wanted("embedded") {
        embedded::measure(root, asked.rounds)?;
    }
    if wanted("agents") {
        agents::measure(root, asked.rounds)?;
    }
    if wanted("history") {
        history::measure(root, asked.rounds, asked.payments)?;
    }
    // Only when they are asked for.
    if asked.only.as_deref() == Some("spend") {
        spend::measure(root, asked.rounds, asked.payments)?;
    }
    if asked.only.as_deref() == Some("soak") {
        let soak = soak::Soak {
            payments: asked.payments,
            days: asked.days,
            at_most: Duration::from_secs(asked.seconds),
        };
        soak::measure(root, soak)?;
    }
    #[cfg(feature = "postgres")]
    if wanted("postgres") {
        postgres::measure(root, asked.rounds)?;
    }
    #[cfg(not(feature = "postgres"))]
    if asked.only.as_deref() == Some("postgres") {
        return Err("built without PostgreSQL: add `--features postgres` before `--bench`".into());
    }
    Ok(())
}

/// The callers' runtime: one thread, so that they cost little compared with the ledger.
fn runtime() -> Result<tokio::runtime::Runtime, Fault> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}
