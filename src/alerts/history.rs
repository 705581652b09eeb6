//! The alerts already sent. Kept in memory only: after a restart, alerts that still apply are sent once more.

use std::collections::HashMap;

use alloy_primitives::B256;
use jiff::{SignedDuration, Timestamp};

use super::Alert;
use bursar_approvals::questions::Bound;
use bursar_core::assets::Network;
use bursar_ledger::{Alarm, PaymentId};

/// Capacity; beyond it, the alert sent longest ago is forgotten.
const REMEMBERED: usize = 8192;

const HOUR: SignedDuration = SignedDuration::from_hours(1);

#[derive(Default)]
pub(super) struct AlertHistory(HashMap<Thing, Timestamp>);

/// What makes two alerts the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Thing {
    Window {
        scope: String,
        window: String,
        start: String,
    },
    LowSpace,
    StoreFailed,
    ClockJumped,
    LogUnsigned {
        payments_stopped: bool,
    },
    SegmentOverdue,
    Wallet(Network),
    Unknown(PaymentId),
    Dispute(PaymentId, String),
    Outflow(B256, u64),
    LimitsRejected(String),
    Flood(Bound),
}

/// For how long the same alert is suppressed.
enum Quiet {
    ForGood,
    For(SignedDuration),
}

impl AlertHistory {
    /// Whether the alert is to be sent now; if so, remembers it as sent.
    pub(super) fn is_new(&mut self, alert: &Alert, now: Timestamp) -> bool {
        let Some((thing, quiet)) = Thing::of(alert) else {
            return true;
        };
        let is_new = self.0.get(&thing).is_none_or(|history| match quiet {
            Quiet::ForGood => false,
            // A clock that was set back must not suppress it for longer.
            Quiet::For(span) => now.duration_since(*history).abs() >= span,
        });
        if is_new {
            self.note(thing, now);
        }
        is_new
    }

    pub(super) fn knows_unknown(&self, rid: PaymentId) -> bool {
        self.0.contains_key(&Thing::Unknown(rid))
    }

    pub(super) fn note_unknown(&mut self, rid: PaymentId, now: Timestamp) {
        self.note(Thing::Unknown(rid), now);
    }

    pub(super) fn forget_low_wallet(&mut self, network: Network) {
        self.0.remove(&Thing::Wallet(network));
    }

    fn note(&mut self, thing: Thing, now: Timestamp) {
        if self.0.len() >= REMEMBERED
            && let Some(oldest) = self.0.iter().min_by_key(|(_, history)| **history)
        {
            let oldest = oldest.0.clone();
            self.0.remove(&oldest);
        }
        self.0.insert(thing, now);
    }
}

impl Thing {
    /// `None`: never suppressed, because the code that raises it keeps it rare.
    fn of(alert: &Alert) -> Option<(Self, Quiet)> {
        Some(match alert {
            Alert::Ledger(alarm) => match alarm {
                Alarm::BudgetNearlySpent {
                    scope, window, start, ..
                } => of_window(scope, window, start),
                Alarm::LowSpace => (Self::LowSpace, Quiet::For(HOUR)),
                Alarm::StoreFailed { .. } => (Self::StoreFailed, Quiet::ForGood),
                // The ledger reports each jump once; a clock that jumps back and forth must not cause a flood.
                Alarm::ClockJumped { .. } => (Self::ClockJumped, Quiet::For(SignedDuration::from_mins(1))),
                // Reported as often as it fails anew, but a disk that fails now and then must not cause a flood.
                Alarm::LogUnsigned {
                    payments_stopped: false,
                    ..
                } => (
                    Self::LogUnsigned {
                        payments_stopped: false,
                    },
                    Quiet::For(SignedDuration::from_mins(10)),
                ),
                Alarm::LogUnsigned {
                    payments_stopped: true, ..
                } => (Self::LogUnsigned { payments_stopped: true }, Quiet::For(HOUR)),
                Alarm::SegmentOverdue { .. } => (Self::SegmentOverdue, Quiet::For(HOUR)),
                Alarm::IndexRebuilt { .. } | Alarm::TornWrite { .. } => return None,
            },
            Alert::WalletLow { network, .. } => (Self::Wallet(*network), Quiet::ForGood),
            Alert::PaymentUnknown { rid, .. } => (Self::Unknown(*rid), Quiet::ForGood),
            Alert::Dispute { rid, why } => (Self::Dispute(*rid, why.clone()), Quiet::ForGood),
            Alert::Outflow(outflow) => (Self::Outflow(outflow.tx, outflow.log_index), Quiet::ForGood),
            Alert::LimitsRejected { why, .. } => (Self::LimitsRejected(why.clone()), Quiet::For(HOUR)),
            // How many there are does not make it another one.
            Alert::ApprovalFlood(bound) => (Self::Flood(bound.uncounted()), Quiet::For(HOUR)),
            // Its payments are remembered one by one.
            Alert::ManyUnknown { .. } | Alert::Test => return None,
            // A person did it, each time.
            Alert::PaymentsPaused { .. } | Alert::PaymentsResumed { .. } => return None,
        })
    }
}

/// A calendar window is reported once. A rolling window and `max_pending` have no end: they are reported again after
/// the window's length and after an hour.
fn of_window(scope: &str, window: &str, start: &str) -> (Thing, Quiet) {
    let rolling = window
        .rsplit_once("rolling.")
        .and_then(|(_, seconds)| seconds.parse().ok());
    let (start, quiet) = match rolling {
        Some(seconds) => ("", Quiet::For(SignedDuration::from_secs(seconds))),
        None if window == bursar_core::policy::budget::PENDING => ("", Quiet::For(HOUR)),
        None => (start, Quiet::ForGood),
    };
    let thing = Thing::Window {
        scope: scope.to_owned(),
        window: window.to_owned(),
        start: start.to_owned(),
    };
    (thing, quiet)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn budget(window: &str, start: &str) -> Alert {
        Alert::Ledger(Alarm::BudgetNearlySpent {
            scope: "agent:research".into(),
            window: window.into(),
            start: start.into(),
            rule: "agents.research.day".into(),
            counted: 8,
            cap: 10,
        })
    }

    #[test]
    fn a_calendar_window_alerts_once_and_the_next_one_again() {
        let mut history = AlertHistory::default();
        let (noon, next) = (at("2026-11-20T12:00:00Z"), at("2026-11-21T12:00:00Z"));
        assert!(history.is_new(&budget("day", "2026-11-20"), noon));
        assert!(
            !history.is_new(&budget("day", "2026-11-20"), next),
            "the counter fell and rose again"
        );
        assert!(history.is_new(&budget("day", "2026-11-21"), next));
        assert!(history.is_new(&budget("hour", "2026-11-20"), noon), "another window");
    }

    #[test]
    fn a_rolling_window_alerts_once_per_length_whatever_its_bucket() {
        let mut history = AlertHistory::default();
        assert!(history.is_new(&budget("rolling.3600", "1"), at("2026-11-20T12:00:00Z")));
        assert!(!history.is_new(&budget("rolling.3600", "2"), at("2026-11-20T12:59:59Z")));
        assert!(history.is_new(&budget("rolling.3600", "3"), at("2026-11-20T13:00:00Z")));
        assert!(history.is_new(&budget("count.rolling.3600", "3"), at("2026-11-20T13:00:00Z")));
    }

    #[test]
    fn a_flood_of_questions_alerts_once_an_hour_for_each_bound() {
        let mut history = AlertHistory::default();
        let flood = |agent: &str, open| {
            Alert::ApprovalFlood(Bound::OfAgent {
                agent: agent.into(),
                open,
            })
        };
        let hourly = Alert::ApprovalFlood(Bound::OfHour {
            agent: "research".into(),
            approver: "operator".into(),
            count: 10,
        });
        let noon = at("2026-11-20T12:00:00Z");
        assert!(history.is_new(&flood("research", 3), noon));
        assert!(!history.is_new(&flood("research", 4), noon), "the same bound");
        assert!(history.is_new(&flood("writer", 3), noon), "another agent");
        assert!(history.is_new(&hourly, noon), "another bound");
        assert!(!history.is_new(&flood("research", 3), at("2026-11-20T12:59:59Z")));
        assert!(history.is_new(&flood("research", 3), at("2026-11-20T13:00:00Z")));
    }

    #[test]
    fn a_full_disk_alerts_once_an_hour() {
        let mut history = AlertHistory::default();
        let low = Alert::Ledger(Alarm::LowSpace);
        assert!(history.is_new(&low, at("2026-11-20T12:00:00Z")));
        assert!(!history.is_new(&low, at("2026-11-20T12:59:59Z")));
        assert!(history.is_new(&low, at("2026-11-20T13:00:00Z")));
    }

    #[test]
    fn an_unsigned_log_alerts_when_it_begins_and_again_when_payments_stop() {
        let mut history = AlertHistory::default();
        let unsigned = |payments_stopped| {
            Alert::Ledger(Alarm::LogUnsigned {
                why: "no room".into(),
                max_s: 600,
                payments_stopped,
            })
        };
        assert!(history.is_new(&unsigned(false), at("2026-11-20T12:00:00Z")));
        assert!(!history.is_new(&unsigned(false), at("2026-11-20T12:09:59Z")));
        assert!(history.is_new(&unsigned(true), at("2026-11-20T12:10:00Z")));
        assert!(!history.is_new(&unsigned(true), at("2026-11-20T13:09:59Z")));
        assert!(
            history.is_new(&unsigned(false), at("2026-11-20T13:00:00Z")),
            "it failed anew"
        );
    }

    #[test]
    fn a_low_wallet_alerts_again_once_it_has_recovered() {
        let mut history = AlertHistory::default();
        let now = at("2026-11-20T12:00:00Z");
        let usd = bursar_core::money::MicroUsd::new;
        let low = |network, held| Alert::WalletLow {
            network: Network::Eip155(network),
            held: usd(held),
            threshold: usd(10),
            unread: Vec::new(),
        };
        assert!(history.is_new(&low(1, 9), now));
        assert!(!history.is_new(&low(1, 8), now));
        assert!(history.is_new(&low(2, 8), now));
        history.forget_low_wallet(Network::Eip155(1));
        assert!(history.is_new(&low(1, 7), now));
        assert!(!history.is_new(&low(2, 7), now));
    }

    #[test]
    fn memory_is_bounded_and_forgets_the_oldest() {
        let mut history = AlertHistory::default();
        let start = at("2026-11-20T12:00:00Z");
        for number in 0..=REMEMBERED {
            let now = start + SignedDuration::from_secs(i64::try_from(number).unwrap());
            assert!(history.is_new(&budget("day", &number.to_string()), now));
        }
        assert_eq!(history.0.len(), REMEMBERED);
        assert!(!history.is_new(&budget("day", "1"), start));
        assert!(history.is_new(&budget("day", "0"), start));
    }
}
