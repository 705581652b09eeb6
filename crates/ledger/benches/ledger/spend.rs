//! What was spent, added up from a long journal: how long it takes, and the peak memory of the process.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use bursar_ledger::spend::{By, SpendQuestion, read_spending};
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::report::{Target, heading, held, line, median};
use crate::{Fault, child, history};

/// What a child reports.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Folded {
    seconds: f64,
    cpu_s: f64,
    peak_mib: f64,
    payments: u64,
    rows: usize,
}

pub(crate) fn measure(root: &Path, rounds: usize, payments: usize) -> Result<(), Fault> {
    let dir = TempDir::new_in(root)?;
    history::prepare(dir.path(), payments)?;
    // A start signs it.
    child::start(dir.path())?;
    let folded = (0..rounds).map(|_| fold(dir.path())).collect::<Result<Vec<_>, _>>()?;
    heading(&format!(
        "bursar spend --by agent,merchant,day over {payments} payments"
    ));
    let all = |of: &dyn Fn(&Folded) -> f64| median(folded.iter().map(of));
    held("s", all(&|fold| fold.seconds), &Target::AtMost(1.0));
    line("CPU time of that, all threads, s", all(&|fold| fold.cpu_s));
    held(
        "its peak memory, MiB",
        all(&|fold| fold.peak_mib),
        &Target::AtMost(64.0),
    );
    line("rows", all(&|fold| fold.rows as f64));
    match folded.iter().all(|fold| fold.payments == payments as u64) {
        true => Ok(()),
        false => Err("spend did not count every payment".into()),
    }
}

fn fold(dir: &Path) -> Result<Folded, Fault> {
    let output = Command::new(std::env::current_exe()?).arg("spend").arg(dir).output()?;
    if !output.status.success() {
        return Err(format!("spend failed: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// In the child.
pub(crate) fn run(arguments: &[String]) -> Result<(), Fault> {
    let dir = Path::new(arguments.first().ok_or("spend needs a directory")?);
    let question = SpendQuestion {
        by: vec![By::Agent, By::Merchant, By::Day],
        since: None,
        until: None,
        agent: None,
        merchant: None,
        zone: TimeZone::get("Europe/Berlin")?,
    };
    let (began, cpu) = (Instant::now(), child::cpu_s());
    let read = read_spending(dir, &question)?.read;
    let folded = Folded {
        seconds: began.elapsed().as_secs_f64(),
        cpu_s: child::cpu_s() - cpu,
        peak_mib: child::peak_mib()?,
        payments: read.total.count,
        rows: read.rows.len(),
    };
    println!("{}", serde_json::to_string(&folded)?);
    Ok(())
}
