//! What a payment through bursar costs, beside the reference client and beside doing without: `cargo bench --bench paid`.
//!
//! One program in three roles, so that the CPU of each can be read apart (R69): the stage (this file), a seller that
//! costs little itself, and a load of agents. bursar is the real binary, the reference client is `@x402/fetch` on Node.
//! How to read the result: `benches/README.md`.

mod approved;
#[path = "../../tests/it/support/bkey.rs"]
mod bkey;
mod figures;
mod load;
mod neighbour;
mod pairs;
mod process;
mod proxy;
mod report;
mod seller;
mod soak;
mod stage;
mod wire;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use figures::Run;
use load::{Order, Wanted};
use stage::Stage;

type Fault = Box<dyn std::error::Error + Send + Sync>;

/// The whole run ends by then, whatever happens.
const DEADLINE: Duration = Duration::from_secs(180);
/// No round begins after this: one takes 25 s on two busy cores.
const LAST_ROUND: Duration = Duration::from_secs(120);
/// A pair of rounds with `--against` ends by then.
const PAIR: Duration = Duration::from_secs(60);

/// A soak ends by then.
const SOAK: Duration = Duration::from_secs(1800);

/// What the command line asks for.
struct Asked {
    json: bool,
    rounds: usize,
    /// Another build of bursar than the one Cargo made for this benchmark, to compare two.
    bursar: PathBuf,
    /// A second build, measured in turns with `bursar`.
    against: Option<PathBuf>,
    /// Where the data directories are made.
    dir: PathBuf,
    reference: Reference,
    only: Option<Only>,
    /// Of the soak.
    payments: u64,
}

/// A part of it alone.
#[derive(Clone, Copy)]
enum Only {
    /// Over and over, for a profiler.
    Load {
        wanted: Wanted,
        clients: usize,
    },
    Approved,
    Neighbour,
    Soak,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reference {
    Measured,
    LeftOut,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let done = match arguments.first().map(String::as_str) {
        Some("seller") => seller::run(),
        Some("load") => load::run(),
        // `cargo test --all-targets` comes by here; figures of an unoptimised build say nothing.
        _ if cfg!(debug_assertions) => {
            eprintln!("paid: nothing measured, this build is not optimised: use `cargo bench --bench paid`");
            Ok(())
        }
        _ => asked(&arguments).and_then(|asked| bench(&asked)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("paid: {fault}");
            ExitCode::FAILURE
        }
    }
}

fn asked(arguments: &[String]) -> Result<Asked, Fault> {
    let mut asked = Asked {
        json: false,
        rounds: 3,
        bursar: env!("CARGO_BIN_EXE_bursar").into(),
        against: None,
        dir: env!("CARGO_TARGET_TMPDIR").into(),
        reference: Reference::Measured,
        only: None,
        payments: 100_000,
    };
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--json" => asked.json = true,
            "--no-reference" => asked.reference = Reference::LeftOut,
            "--only" => asked.only = Some(only(arguments.next())?),
            "--rounds" => asked.rounds = arguments.next().ok_or("--rounds needs a number")?.parse()?,
            "--payments" => asked.payments = arguments.next().ok_or("--payments needs a number")?.parse()?,
            "--bursar" => asked.bursar = arguments.next().ok_or("--bursar needs a path")?.into(),
            "--dir" => asked.dir = arguments.next().ok_or("--dir needs a path")?.into(),
            "--against" => asked.against = Some(arguments.next().ok_or("--against needs a path")?.into()),
            other => return Err(format!("unknown argument {other}; see benches/README.md").into()),
        }
    }
    if asked.rounds == 0 {
        return Err("--rounds must be at least 1".into());
    }
    Ok(asked)
}

fn only(load: Option<&String>) -> Result<Only, Fault> {
    let (wanted, clients) = match load.map(String::as_str) {
        Some("approved") => return Ok(Only::Approved),
        Some("neighbour") => return Ok(Only::Neighbour),
        Some("soak") => return Ok(Only::Soak),
        Some("free-1") => (Wanted::Free, 1),
        Some("free-32") => (Wanted::Free, 32),
        Some("paid-1") => (Wanted::Paid, 1),
        Some("paid-32") => (Wanted::Paid, 32),
        _ => return Err("--only needs free-1, free-32, paid-1, paid-32, approved, neighbour or soak".into()),
    };
    Ok(Only::Load { wanted, clients })
}

fn bench(asked: &Asked) -> Result<(), Fault> {
    if let Some(other) = &asked.against {
        return compare(asked, other);
    }
    if let Some(Only::Soak) = asked.only {
        process::end_all_after(SOAK);
        return soak::measure(&asked.bursar, &asked.dir, asked.payments);
    }
    let began = Instant::now();
    process::end_all_after(DEADLINE);
    match asked.only {
        Some(Only::Load { wanted, clients }) => return repeat(asked, wanted, clients),
        Some(Only::Approved) => {
            let approved = approved::measure(&asked.bursar)?;
            match asked.json {
                true => println!("{}", serde_json::to_string_pretty(&approved)?),
                false => print!("{}", report::approved(&approved)),
            }
            return Ok(());
        }
        Some(Only::Neighbour) => {
            let neighbour = neighbour::measure(&asked.bursar, asked.rounds)?;
            match asked.json {
                true => println!("{}", serde_json::to_string_pretty(&neighbour)?),
                false => print!("{}", neighbour::table(&neighbour)),
            }
            return Ok(());
        }
        Some(Only::Soak) | None => {}
    }
    let mut stage = Stage::set(&asked.bursar, &asked.dir, asked.reference)?;
    let mut run = Run::default();
    for round in 1..=asked.rounds {
        if began.elapsed() > LAST_ROUND {
            eprintln!("paid: stopped after {} rounds, the time is used up", round - 1);
            break;
        }
        eprintln!("paid: round {round} of {}", asked.rounds);
        run.rounds.push(round_of(&mut stage)?);
    }
    run.books = stage.close()?;
    eprintln!("paid: approvals");
    run.approved = Some(approved::measure(&asked.bursar)?);
    let summary = run.summary();
    if asked.json {
        println!("{}", serde_json::to_string_pretty(&summary)?);
    } else {
        print!("{}", report::table(&summary));
    }
    if summary.free_traffic_stored {
        return Err("free traffic reached the store".into());
    }
    Ok(())
}

fn compare(asked: &Asked, other: &Path) -> Result<(), Fault> {
    process::end_all_after(PAIR * u32::try_from(asked.rounds)?);
    let pairs = pairs::measure([&asked.bursar, other], &asked.dir, asked.rounds)?;
    match asked.json {
        true => println!("{}", serde_json::to_string_pretty(&pairs)?),
        false => print!("{}", pairs::table(&pairs)),
    }
    Ok(())
}

fn repeat(asked: &Asked, wanted: Wanted, clients: usize) -> Result<(), Fault> {
    let mut stage = Stage::set(&asked.bursar, &asked.dir, Reference::LeftOut)?;
    eprintln!("paid: bursar is process {}", stage.bursar_pid());
    for _ in 0..asked.rounds {
        let count = match (wanted, clients) {
            (Wanted::Free, 1) => 40_000,
            (Wanted::Free, _) => 100_000,
            (Wanted::Paid, 1) => 4_000,
            (Wanted::Paid, _) => 20_000,
        };
        let load = stage.through(Order::new(wanted, clients, count))?;
        println!("{}", serde_json::to_string(&load)?);
    }
    stage.close().map(|_| ())
}

/// Ours and the others take turns, so that a slow minute of the machine falls on both.
fn round_of(stage: &mut Stage) -> Result<figures::Round, Fault> {
    let free = |clients, count| Order::new(Wanted::Free, clients, count);
    let paid = |clients, count| Order::new(Wanted::Paid, clients, count);
    Ok(figures::Round {
        sync: stage.bare_syncs()?,
        direct_1: stage.direct(free(1, 4_000))?,
        through_1: stage.through(free(1, 4_000))?,
        direct_32: stage.direct(free(32, 20_000))?,
        through_32: stage.through(free(32, 20_000))?,
        reference_1: stage.reference(1, 1_500)?,
        paid_1: stage.through(paid(1, 1_000))?,
        reference_32: stage.reference(32, 4_000)?,
        paid_32: stage.through(paid(32, 6_000))?,
    })
}
