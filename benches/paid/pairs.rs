//! Two builds of bursar in turns, and whether they differ: the median of the ratios, with its confidence interval.

use std::fmt::Write;
use std::path::Path;

use serde::Serialize;

use crate::figures::{Load, median};
use crate::load::{Order, Wanted};
use crate::stage::Stage;
use crate::{Fault, Reference};

/// Fewer rounds have no interval at this confidence.
const FEWEST: usize = 6;
const CONFIDENCE: f64 = 0.95;

/// The same three loads on one build.
#[derive(Serialize)]
struct Side {
    free_1: Load,
    paid_1: Load,
    paid_32: Load,
}

#[derive(Serialize)]
struct Pair {
    bursar: Side,
    other: Side,
}

/// A figure of both builds, and bursar's divided by the other's.
#[derive(Serialize)]
struct Compared {
    what: &'static str,
    bursar: f64,
    other: f64,
    ratio: f64,
    ratio_from: f64,
    ratio_to: f64,
}

#[derive(Serialize)]
pub(crate) struct Pairs {
    compared: Vec<Compared>,
    rounds: Vec<Pair>,
}

pub(crate) fn measure(builds: [&Path; 2], dir: &Path, rounds: usize) -> Result<Pairs, Fault> {
    if rounds < FEWEST {
        return Err(format!("--against needs at least {FEWEST} rounds for an interval: --rounds 20").into());
    }
    let [bursar, other] = builds;
    let mut stages = [
        Stage::set(bursar, dir, Reference::LeftOut)?,
        Stage::set(other, dir, Reference::LeftOut)?,
    ];
    let mut pairs = Vec::new();
    for round in 0..rounds {
        eprintln!("paid: pair {} of {rounds}", round + 1);
        let [bursar, other] = &mut stages;
        // The second one finds a warmer machine, so they change places.
        pairs.push(if round % 2 == 0 {
            let bursar = side(bursar)?;
            Pair {
                bursar,
                other: side(other)?,
            }
        } else {
            let other = side(other)?;
            Pair {
                bursar: side(bursar)?,
                other,
            }
        });
    }
    for stage in stages {
        stage.close()?;
    }
    Ok(Pairs {
        compared: FIGURES.iter().map(|(what, of)| compare(what, &pairs, *of)).collect(),
        rounds: pairs,
    })
}

fn side(stage: &mut Stage) -> Result<Side, Fault> {
    Ok(Side {
        free_1: stage.through(Order::new(Wanted::Free, 1, 4_000))?,
        paid_1: stage.through(Order::new(Wanted::Paid, 1, 600))?,
        paid_32: stage.through(Order::new(Wanted::Paid, 32, 4_000))?,
    })
}

type Figure = fn(&Side) -> f64;

const FIGURES: [(&str, Figure); 7] = [
    ("free, 1 client, p50, us", |side| side.free_1.latency.p50_us()),
    ("free, 1 client, CPU of bursar, us", |side| side.free_1.cpu_us.bursar),
    ("402 to the replay, 1 client, p50, us", |side| {
        side.paid_1.to_replay.p50_us()
    }),
    ("paid, 1 client, per second", |side| side.paid_1.per_second),
    ("paid, 1 client, CPU per payment, us", |side| side.paid_1.cpu_us.bursar),
    ("paid, 32 clients, per second", |side| side.paid_32.per_second),
    ("paid, 32 clients, CPU per payment, us", |side| {
        side.paid_32.cpu_us.bursar
    }),
];

fn compare(what: &'static str, pairs: &[Pair], of: Figure) -> Compared {
    let mut ratios: Vec<f64> = pairs.iter().map(|pair| of(&pair.bursar) / of(&pair.other)).collect();
    ratios.sort_by(f64::total_cmp);
    let below = left_out(ratios.len());
    Compared {
        what,
        bursar: median(pairs.iter().map(|pair| of(&pair.bursar)).collect()),
        other: median(pairs.iter().map(|pair| of(&pair.other)).collect()),
        ratio: median(ratios.clone()),
        ratio_from: ratios[below],
        ratio_to: ratios[ratios.len() - 1 - below],
    }
}

/// How many values at each end of `count` sorted ones lie outside of the median's interval. A value is below the
/// median as a coin falls, whatever the distribution, so this asks the binomial one.
fn left_out(count: usize) -> usize {
    let mut probability = 0.5_f64.powi(i32::try_from(count).unwrap_or(i32::MAX));
    let mut tail = probability;
    let mut outside = 0;
    while tail + (probability * (count - outside) as f64 / (outside + 1) as f64) <= (1.0 - CONFIDENCE) / 2.0 {
        probability *= (count - outside) as f64 / (outside + 1) as f64;
        tail += probability;
        outside += 1;
    }
    outside
}

pub(crate) fn table(pairs: &Pairs) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{} pairs of rounds; ratio: bursar / other, median within a pair, and its {:.0} % interval\n\n{:<42}{:>11}{:>11}{:>9}   interval",
        pairs.rounds.len(),
        CONFIDENCE * 100.0,
        "",
        "other",
        "bursar",
        "ratio",
    );
    for row in &pairs.compared {
        let verdict = match (row.ratio_from, row.ratio_to) {
            (from, _) if from > 1.0 => "more",
            (_, to) if to < 1.0 => "less",
            _ => "no difference shown",
        };
        let _ = writeln!(
            text,
            "{:<42}{:>11.0}{:>11.0}{:>9.3}   {:.3} to {:.3}: {verdict}",
            row.what, row.other, row.bursar, row.ratio, row.ratio_from, row.ratio_to
        );
    }
    text
}
