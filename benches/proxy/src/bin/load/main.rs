//! The load: what agents do, in one thread, so that it never takes more than one core from what it measures.
//!
//! `load ORDER` with an `Order` in JSON; it prints a `Measured`.

use std::time::{Duration, Instant};

use bursar_bench_proxy::order::{Measured, Order, Work};
use bursar_bench_proxy::{Fault, process, sockets};
use tokio::task::LocalSet;
use tokio::time::sleep;

mod agent;
mod http1;
mod http2;
mod laps;
mod tunnel;

use laps::Laps;

/// Opening everything takes no longer than this.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often it looks whether everything is open.
const LOOK: Duration = Duration::from_millis(2);

fn main() -> Result<(), Fault> {
    let order: Order = serde_json::from_str(&std::env::args().nth(1).ok_or("usage: load ORDER")?)?;
    sockets::raise_limit()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let measured = LocalSet::new().block_on(&runtime, measure(order))?;
    println!("{}", serde_json::to_string(&measured)?);
    // Connections that are still open end with the process.
    std::process::exit(0);
}

async fn measure(order: Order) -> Result<Measured, Fault> {
    let memory = |watch: Option<u32>| match order.work {
        Work::Idle { .. } | Work::Visit { .. } => watch.map(process::pss_kib).transpose(),
        _ => Ok(None),
    };
    let cpu = |watch: Option<u32>| watch.map(process::cpu).transpose();
    let pss_before_kib = memory(order.watch)?;
    let laps = Laps::new(order.first_host);
    let clients = agent::start(&order, &laps)?;
    let opening = Instant::now();
    while laps.ready() < clients && laps.failed() == 0 {
        if opening.elapsed() > PATIENCE {
            return Err(format!("only {} of {clients} were ready in time", laps.ready()).into());
        }
        sleep(LOOK).await;
    }
    sleep(Duration::from_secs_f64(order.warmup_s)).await;

    let (cpu_before, own_before) = (cpu(order.watch)?, process::cpu(std::process::id())?);
    let began = Instant::now();
    laps.begin();
    sleep(Duration::from_secs_f64(order.window_s)).await;
    laps.end();
    let seconds = began.elapsed().as_secs_f64();
    let (cpu_after, own_after) = (cpu(order.watch)?, process::cpu(std::process::id())?);

    let mut measured = Measured {
        seconds,
        cpu_s: cpu_after.zip(cpu_before).map(|(after, before)| after - before),
        load_cpu_s: own_after - own_before,
        pss_before_kib,
        pss_after_kib: memory(order.watch)?,
        ..Measured::default()
    };
    laps.sum_up(&mut measured);
    Ok(measured)
}
