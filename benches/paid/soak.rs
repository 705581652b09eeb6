//! Payments through the real server for a long time: whether its memory stops growing.
//!
//! They all take place within minutes, so what a ledger keeps for a day or a week after each payment is still there at
//! the end. That much is allowed, and no more.

use std::path::Path;
use std::time::Instant;

use crate::load::{Order, Wanted};
use crate::stage::Stage;
use crate::{Fault, Reference};

const CLIENTS: usize = 32;
const SAMPLES: u64 = 20;
/// How much larger the memory of the second half may be, besides what is kept.
const GROWTH: f64 = 1.05;
/// Bytes in the memory of the ledger for each payment of the last day: its nonce, and its id until the chain confirms it.
const KEPT: f64 = 128.0;

pub(crate) fn measure(program: &Path, dir: &Path, payments: u64) -> Result<(), Fault> {
    let mut stage = Stage::set(program, dir, Reference::LeftOut)?;
    let (began, mut samples) = (Instant::now(), Vec::new());
    let part = payments.div_ceil(SAMPLES).max(1);
    println!(
        "A soak of {} payments through bursar, {CLIENTS} clients",
        part * SAMPLES
    );
    for number in 1..=SAMPLES {
        let load = stage.through(Order::new(Wanted::Paid, CLIENTS, part))?;
        let mib = resident_mib(stage.bursar_pid())?;
        println!(
            "  {:>9} payments  {:>6.0} s  {:>6.0} per second  {mib:>7.1} MiB",
            number * part,
            began.elapsed().as_secs_f64(),
            load.per_second
        );
        samples.push(mib);
    }
    stage.close()?;
    let largest = |samples: &[f64]| samples.iter().copied().fold(0.0, f64::max);
    let (first, second) = samples.split_at(samples.len() / 2);
    let (first, second) = (largest(first), largest(second));
    let kept = (payments / 2) as f64 * KEPT / f64::from(1 << 20);
    println!(
        "  largest of the first half {first:.1} MiB, of the second {second:.1} MiB, of that kept by design {kept:.1} MiB"
    );
    if second > first * GROWTH + kept {
        return Err("the memory grows by more than the ledger keeps by design".into());
    }
    println!("  the memory is flat, but for what is kept by design");
    Ok(())
}

fn resident_mib(pid: u32) -> Result<f64, Fault> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = kib.and_then(|kib| kib.trim().strip_suffix(" kB"));
    Ok(kib.ok_or("no VmRSS of bursar")?.parse::<f64>()? / 1024.0)
}
