//! The one table at the end.

use std::fmt::Write;

use crate::approved::Approved;
use crate::figures::{Beside, Percentiles, Summary};

/// What the figures are held against. Ratios are bursar's figure divided by the other one.
const PER_SECOND_RATIO: f64 = 8.0;
const CPU_RATIO: f64 = 0.12;
/// From the 402 to the replay, one client: at most so many times a bare fdatasync and what the work beside it may take.
const REPLAY_RATIO: f64 = 2.0;
const REPLAY_WORK_US: f64 = 36.0;
/// With a ping, on loopback, milliseconds.
const PINGED_MS: f64 = 100.0;

pub(crate) fn table(summary: &Summary) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write(&mut text, summary);
    if let Some(approved) = &summary.approved {
        text += "\n";
        text += &self::approved(approved);
    }
    text
}

/// From a person's yes to the first byte of what was bought.
pub(crate) fn approved(approved: &Approved) -> String {
    let mut text = String::new();
    let _ = write_approved(&mut text, approved);
    text
}

fn write_approved(out: &mut String, approved: &Approved) -> std::fmt::Result {
    let Approved {
        interval_s,
        polled,
        pinged,
        file,
        plain,
    } = approved;
    let interval_ms = interval_s * 1e3;
    writeln!(
        out,
        "{:<44}{:>11}{:>11}{:>11}",
        "From a person's yes to the first byte, ms", "p50", "p99", "longest"
    )?;
    let mut row = |what: &str, samples: usize, [p50, p99, longest]: [f64; 3], target: &str| {
        let what = format!("{what} ({samples})");
        writeln!(out, "  {what:<42}{p50:>11.2}{p99:>11.2}{longest:>11.2}{target}")
    };
    let all = |series: &crate::approved::Series| [series.p50, series.p99, series.longest];
    row("bare file and its folder, synced", file.samples, all(file), "")?;
    row("a paid request, nobody asked", plain.samples, all(plain), "")?;
    let target = format!("   target <= {PINGED_MS}: {}", verdict(pinged.longest <= PINGED_MS));
    row("with a ping", pinged.samples, all(pinged), &target)?;
    row(
        "  / a paid request",
        pinged.samples,
        all(pinged).map(|ms| ms / plain.p50),
        "",
    )?;
    row("polled", polled.samples, all(polled), "")?;
    row(
        "  / the interval",
        polled.samples,
        all(polled).map(|ms| ms / interval_ms),
        "",
    )?;
    // The look that brings the token, and the payment: what a ping has, but for the ping.
    let over = polled.longest - interval_ms;
    let target = format!("   target <= longest with a ping: {}", verdict(over <= pinged.longest));
    writeln!(
        out,
        "  {:<42}{:>11}{:>11}{over:>11.2}{target}",
        "longest, polled, less one interval", "-", "-"
    )
}

fn write(out: &mut String, summary: &Summary) -> std::fmt::Result {
    let rounds = summary.rounds.len();
    writeln!(
        out,
        "bursar {}, {} CPUs, medians of {rounds} rounds; ratio: bursar / other, within a round\n",
        summary.version, summary.cpus
    )?;

    heading(out, "Free requests", "direct", "bursar")?;
    row(out, "1 client, p50, us", &summary.free_us_1, "")?;
    row(out, "1 client, p99, us", &summary.free_p99_us_1, "")?;
    row(out, "32 clients, requests per second", &summary.free_per_second_32, "")?;
    row(out, "1 client, CPU of the client, us", &summary.free_load_cpu_us_1, "")?;
    line(out, "1 client, CPU of bursar, s per 10k", summary.free_cpu_s_per_10k_1)?;
    line(
        out,
        "32 clients, CPU of bursar, s per 10k",
        summary.free_cpu_s_per_10k_32,
    )?;
    let store = summary.free_written;
    let written = store.written_bytes.map_or("?".to_owned(), |bytes| bytes.to_string());
    writeln!(
        out,
        "  store: {} files changed, journal {} bytes longer, {written} bytes written by the process; target none: {}\n",
        store.changed_files,
        store.journal_bytes,
        verdict(!summary.free_traffic_stored)
    )?;

    writeln!(
        out,
        "{:<44}{:>11}{:>11}",
        "From the 402 to the replay, us", "p50", "p99"
    )?;
    percentiles(out, "bare fdatasync of 1200 bytes", &summary.sync_us, "")?;
    let most = REPLAY_RATIO * (summary.sync_us.p50 + REPLAY_WORK_US);
    let target = format!("p50 <= {most:.0}: {}", verdict(summary.to_replay_us.p50 <= most));
    percentiles(out, "1 client, one durable write in it", &summary.to_replay_us, &target)?;
    let over = summary.to_replay_us.p50 - summary.sync_us.p50;
    line(out, "1 client, p50 less the bare fdatasync's", over)?;
    percentiles(out, "32 clients", &summary.to_replay_us_32, "")?;
    if let Some(reference) = &summary.reference_to_replay_us {
        percentiles(out, "reference client, 1 client, records nothing", reference, "")?;
    }
    writeln!(out)?;

    match &summary.beside_reference {
        Some(beside) => {
            heading(out, "Paid requests", "reference", "bursar")?;
            row(out, "1 client, per second", &beside.per_second_1, "")?;
            row(out, "1 client, CPU per payment, us", &beside.cpu_us_1, "")?;
            let met = verdict(beside.per_second_32.ratio >= PER_SECOND_RATIO);
            row(
                out,
                "32 clients, per second",
                &beside.per_second_32,
                &format!(">= {PER_SECOND_RATIO}: {met}"),
            )?;
            let met = verdict(beside.cpu_us_32.ratio <= CPU_RATIO);
            row(
                out,
                "32 clients, CPU per payment, us",
                &beside.cpu_us_32,
                &format!("<= {CPU_RATIO}: {met}"),
            )?;
            row(out, "32 clients, p99, us", &beside.p99_us_32, "")?;
        }
        None => {
            writeln!(out, "{:<44}{:>11}{:>11}", "Paid requests", "reference", "bursar")?;
            line(out, "1 client, per second", summary.paid_per_second_1)?;
            line(out, "1 client, CPU per payment, us", summary.paid_cpu_us_1.bursar)?;
            line(out, "32 clients, per second", summary.paid_per_second_32)?;
            line(out, "32 clients, CPU per payment, us", summary.paid_cpu_us_32.bursar)?;
        }
    }
    line(out, "32 clients, CPU of the agents, us", summary.paid_cpu_us_32.load)?;
    line(out, "32 clients, CPU of the seller, us", summary.paid_cpu_us_32.seller)?;
    let books = summary.books;
    writeln!(
        out,
        "  ledger: {} sold by the seller, {} recorded, {} settled",
        books.sold_by_seller, books.recorded, books.settled
    )
}

fn heading(out: &mut String, what: &str, other: &str, bursar: &str) -> std::fmt::Result {
    writeln!(out, "{what:<44}{other:>11}{bursar:>11}{:>9}", "ratio")
}

fn row(out: &mut String, what: &str, beside: &Beside, target: &str) -> std::fmt::Result {
    let Beside { other, bursar, ratio } = beside;
    let target = if target.is_empty() {
        String::new()
    } else {
        format!("   target {target}")
    };
    writeln!(
        out,
        "  {what:<42}{:>11}{:>11}{ratio:>9.2}{target}",
        figure(*other),
        figure(*bursar)
    )
}

fn line(out: &mut String, what: &str, bursar: f64) -> std::fmt::Result {
    writeln!(out, "  {what:<42}{:>11}{:>11}", "-", figure(bursar))
}

fn percentiles(out: &mut String, what: &str, lap: &Percentiles, target: &str) -> std::fmt::Result {
    let target = if target.is_empty() {
        String::new()
    } else {
        format!("   target {target}")
    };
    writeln!(
        out,
        "  {what:<42}{:>11}{:>11}{target}",
        figure(lap.p50),
        figure(lap.p99)
    )
}

fn figure(value: f64) -> String {
    if value.abs() < 10.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.0}")
    }
}

fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "MISSED" }
}
