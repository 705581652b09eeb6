//! Watches for what nobody else would notice: payments whose outcome stays unknown, and a wallet that runs low.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{Alert, Alerts};
use bursar_core::assets::Network;
use bursar_core::clock::SharedClock;
use bursar_core::money::MicroUsd;
use bursar_ledger::{Ledger, Payment, State};
use bursar_rails::balances::Held;

const EVERY: Duration = Duration::from_secs(60);
/// A payment whose outcome is unknown for longer than this needs a person.
const PATIENCE: SignedDuration = SignedDuration::from_hours(1);
/// After a long outage of a node, hundreds may reach that age within a minute; only the oldest are reported
/// individually.
const ONE_BY_ONE: usize = 10;

/// Checks open payments until `stop`.
pub async fn payments(alerts: Alerts, ledger: std::sync::Arc<dyn Ledger>, clock: SharedClock, stop: CancellationToken) {
    let mut minute = interval(EVERY);
    minute.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = minute.tick() => {}
        }
        // A failed ledger has already raised its own alert.
        if let Ok(open) = ledger.open_items().await {
            look(&alerts, &open, clock.now());
        }
    }
}

/// `open` is sorted by when the payments were made.
pub fn look(alerts: &Alerts, open: &[Payment], now: Timestamp) {
    let outstanding: Vec<&Payment> = open
        .iter()
        .filter(|payment| payment.state == State::Unknown)
        .filter(|payment| now.duration_since(payment.updated_at.timestamp()) > PATIENCE)
        .filter(|payment| !alerts.was_notified_unknown(payment.rid()))
        .collect();
    let (one_by_one, more) = outstanding.split_at(outstanding.len().min(ONE_BY_ONE));
    for payment in one_by_one {
        alerts.raise(Alert::PaymentUnknown {
            rid: payment.rid(),
            agent: payment.reserved.agent.clone(),
            host: payment.reserved.host.clone(),
            usd: MicroUsd::new(payment.reserved.usd_micros.0),
            since: payment.updated_at.timestamp(),
        });
    }
    if !more.is_empty() {
        more.iter().for_each(|payment| alerts.count_as_notified(payment.rid()));
        alerts.raise(Alert::ManyUnknown { more: more.len() });
    }
}

/// Compares the wallet's balance on one network with `[alerts] low_wallet`. A balance that could not be read counts as
/// zero: a token that no node can report must not suppress the alert forever.
pub fn wallet(alerts: &Alerts, threshold: Option<MicroUsd>, network: Network, held: Held) {
    let Some(threshold) = threshold else { return };
    let Held { usd: held, unread } = held;
    if held < threshold {
        alerts.raise(Alert::WalletLow {
            network,
            held,
            threshold,
            unread,
        });
    } else {
        alerts.wallet_recovered(network);
    }
}
