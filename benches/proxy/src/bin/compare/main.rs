//! Measures bursar beside floors and a peer, in turns, and compares them with what is aimed at. `benches/proxy/run` builds
//! and starts it.

use std::path::PathBuf;
use std::time::Duration;

use bursar_bench_proxy::Fault;
use clap::Parser;

mod cast;
mod child;
mod figures;
mod rounds;
mod rows;
mod table;
mod targets;
mod tests;

use cast::Cast;
use rows::Row;
use tests::Test;

#[derive(Parser)]
#[command(name = "benches/proxy/run", about = "What bursar costs beside floors and peers")]
struct Arguments {
    /// Rounds; in each, every row runs every test once.
    #[arg(long, default_value_t = 4)]
    rounds: usize,
    /// Seconds for one test of one row.
    #[arg(long, default_value_t = 1.5)]
    secs: f64,
    /// Rows, with commas between them. Without `direct`, `parse` and `hudsucker` there is less to compare with.
    #[arg(long, value_delimiter = ',', value_enum)]
    only: Vec<Row>,
    /// Tests, with commas between them.
    #[arg(long, value_delimiter = ',', value_enum)]
    tests: Vec<Test>,
    /// The bursar to measure, instead of the one in this tree.
    #[arg(long)]
    bursar: PathBuf,
    /// A second bursar, as one more row.
    #[arg(long)]
    against: Option<PathBuf>,
    /// Writes every single figure into this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Given by `run` if every name leads to this machine, and port 53 is free.
    #[arg(long, hide = true)]
    names: bool,
}

fn main() -> Result<(), Fault> {
    let mut arguments = Arguments::parse();
    let mut rows = match arguments.only.is_empty() {
        true => Row::all(),
        false => std::mem::take(&mut arguments.only),
    };
    match arguments.against {
        Some(_) if !rows.contains(&Row::Against) => rows.push(Row::Against),
        None => rows.retain(|row| *row != Row::Against),
        Some(_) => {}
    }
    let mut tests = match arguments.tests.is_empty() {
        true => Test::all(),
        false => std::mem::take(&mut arguments.tests),
    };
    if !arguments.names {
        tests.retain(|test| !test.needs_names());
        eprintln!("proxy: tests with new hosts are left out: `unshare` or `ip` does not work here");
    }
    let runs = arguments.rounds * tests.len() * rows.len();
    child::end_all_after(Duration::from_secs_f64(
        300.0 + runs as f64 * (arguments.secs * 2.0 + 5.0),
    ));

    let programs = cast::Programs::new(arguments.bursar, arguments.against)?;
    let mut cast = Cast::gather(programs, &rows, arguments.names)?;
    let records = rounds::run(&mut cast, &rows, &tests, arguments.rounds, arguments.secs)?;
    drop(cast);
    if let Some(file) = arguments.json {
        std::fs::write(file, serde_json::to_string_pretty(&records)?)?;
    }
    let figures = figures::Figures::new(records);
    print!("{}", table::of(&figures, &rows, &tests, arguments.rounds));
    print!("{}", targets::of(&figures));
    match figures.first_failure() {
        None => Ok(()),
        Some(failure) => Err(format!("not every request succeeded; the first that failed: {failure}").into()),
    }
}
