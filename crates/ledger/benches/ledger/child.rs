//! A start of the ledger in a process of its own: how long it takes, and the peak memory of the process.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use bursar_ledger::Ledger as _;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::market::Market;
use crate::{Fault, embedded, runtime};

/// What a child reports about its start.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Started {
    pub limits_s: f64,
    pub ledger_s: f64,
    /// CPU time during `ledger_s`, all threads.
    pub cpu_s: f64,
    pub peak_mib: f64,
}

/// Starts a ledger on `dir` and stops it again.
pub(crate) fn start(dir: &Path) -> Result<Started, Fault> {
    let output = Command::new(std::env::current_exe()?).arg("start").arg(dir).output()?;
    if !output.status.success() {
        return Err(format!("a start failed: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

pub(crate) fn run(arguments: &[String]) -> Result<(), Fault> {
    let dir = Path::new(arguments.first().ok_or("start needs a directory")?);
    let began = Instant::now();
    let _market = Market::load(dir)?;
    let limits_s = began.elapsed().as_secs_f64();
    let (began, cpu) = (Instant::now(), cpu_s());
    let ledger = embedded::open(dir)?;
    let (ledger_s, cpu_s) = (began.elapsed().as_secs_f64(), cpu_s() - cpu);
    runtime()?.block_on(ledger.close());
    let started = Started {
        limits_s,
        ledger_s,
        cpu_s,
        peak_mib: peak_mib()?,
    };
    println!("{}", serde_json::to_string(&started)?);
    Ok(())
}

pub(crate) fn cpu_s() -> f64 {
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    spent.tv_sec as f64 + spent.tv_nsec as f64 / 1e9
}

/// The peak resident memory of this process.
pub(crate) fn peak_mib() -> Result<f64, Fault> {
    status_mib("VmHWM:")
}

/// The resident memory of this process now.
pub(crate) fn resident_mib() -> Result<f64, Fault> {
    status_mib("VmRSS:")
}

fn status_mib(name: &str) -> Result<f64, Fault> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let kib = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = kib.and_then(|kib| kib.trim().strip_suffix(" kB"));
    let kib = kib.ok_or_else(|| format!("no {name} in /proc/self/status"))?;
    Ok(kib.parse::<f64>()? / 1024.0)
}
