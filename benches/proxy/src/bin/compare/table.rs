//! One block for each test, one line in it for each row.

use std::fmt::Write;

use bursar_bench_proxy::order::Measured;

use crate::figures::Figures;
use crate::rows::Row;
use crate::tests::{Figure, Test};

/// What each row is divided by.
const BASES: [Row; 3] = [Row::Direct, Row::Parse, Row::Hudsucker];

pub(crate) fn of(figures: &Figures, rows: &[Row], tests: &[Test], rounds: usize) -> String {
    let mut text = String::new();
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let _ = writeln!(
        text,
        "{cpus} CPUs, medians of {rounds} rounds; x: the median of the ratios within a round; CPU: seconds of the proxy for \
         10000 requests"
    );
    for test in tests {
        block(&mut text, figures, rows, *test);
    }
    text
}

fn block(text: &mut String, figures: &Figures, rows: &[Row], test: Test) {
    let figure = test.figure();
    let _ = writeln!(
        text,
        "\n{:<36}{:>11}{:>19}{:>10}{:>9}{:>12}{:>9}{:>9}{:>7}{:>9}",
        format!("{} ({})", test.title(), test.name()),
        figure.unit(),
        "least - most",
        "x direct",
        "x parse",
        "x hudsucker",
        "p50, us",
        "p99, us",
        "CPU",
        "failed"
    );
    for row in rows {
        let of = |measured: &Measured| figure.of(measured);
        let failed = figures.failures(test, *row);
        let Some(spread) = figures.each(test, *row, of) else {
            if failed > 0 {
                let _ = writeln!(text, "  {:<34}{:>106}", row.name(), failed);
            }
            continue;
        };
        let [direct, parse, hudsucker] = BASES.map(|base| {
            let ratio = (base != *row).then(|| figures.ratio(test, (*row, base), of)).flatten();
            number(ratio.map(|ratio| ratio.median), 2)
        });
        let timed = !matches!(figure, Figure::KibEach(_));
        let lap = |of: fn(&Measured) -> f64| {
            let lap = timed
                .then(|| figures.each(test, *row, |measured| Some(of(measured))))
                .flatten();
            number(lap.map(|lap| lap.median), 0)
        };
        let cpu = timed.then(|| figures.each(test, *row, Measured::cpu_per_10k)).flatten();
        let _ = writeln!(
            text,
            "  {:<34}{:>11}{:>19}{direct:>10}{parse:>9}{hudsucker:>12}{:>9}{:>9}{:>7}{failed:>9}",
            row.name(),
            number(Some(spread.median), digits(spread.median)),
            format!(
                "{} - {}",
                number(Some(spread.least), digits(spread.median)),
                number(Some(spread.most), digits(spread.median))
            ),
            lap(|measured| measured.p50_us),
            lap(|measured| measured.p99_us),
            number(cpu.map(|cpu| cpu.median), 2),
        );
        if let Some(unrested) = (test == Test::Hosts).then(|| figures.unrested(*row)).flatten() {
            let _ = writeln!(text, "    {:<32}{unrested:>11.1}", "before the rest");
        }
    }
}

pub(crate) fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

fn digits(value: f64) -> usize {
    if value >= 100.0 { 0 } else { 1 }
}
