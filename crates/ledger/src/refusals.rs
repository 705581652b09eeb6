//! Folds equal refusals into one entry per ten seconds (R62): an agent that asks in a loop must not fill the log.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;

use super::model::RefusalRecord;

/// Equal refusals within this time after an entry wait and become one entry.
pub(crate) const FOLD: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub struct Refusals {
    /// Not in the journal yet, in order of arrival.
    fresh: Vec<(RefusalRecord, u64)>,
    /// Written to the journal within the last ten seconds, and how many equal ones came since.
    recent: HashMap<Key, Recent>,
}

/// Agent, rule, host.
type Key = (String, String, String);

#[derive(Debug)]
struct Recent {
    since: Timestamp,
    newest: RefusalRecord,
    count: u64,
}

impl Refusals {
    pub fn add(&mut self, denial: RefusalRecord, now: Timestamp) {
        let key = (denial.agent.clone(), denial.rule.clone(), denial.host.clone());
        if let Some(recent) = self.recent.get_mut(&key) {
            recent.count += 1;
            recent.newest = denial;
            return;
        }
        self.recent.insert(
            key,
            Recent {
                since: now,
                newest: denial.clone(),
                count: 0,
            },
        );
        self.fresh.push((denial, 1));
    }

    /// The refusals to record at `now`, each with its count.
    pub fn due(&mut self, now: Timestamp) -> Vec<(RefusalRecord, u64)> {
        let mut due = std::mem::take(&mut self.fresh);
        self.recent.retain(|_, recent| {
            // In both directions: callers and writer read the clock at slightly different moments, and a clock that
            // went far back must not hold refusals for longer than the fold.
            if now.duration_since(recent.since).unsigned_abs() < FOLD {
                return true;
            }
            let waited = recent.count > 0;
            if waited {
                due.push((recent.newest.clone(), recent.count));
                (recent.since, recent.count) = (now, 0);
            }
            waited
        });
        due
    }

    /// Everything that waits, when the ledger closes.
    pub fn all(&mut self) -> Vec<(RefusalRecord, u64)> {
        let mut all = std::mem::take(&mut self.fresh);
        let waiting = self.recent.drain().filter(|(_, recent)| recent.count > 0);
        all.extend(waiting.map(|(_, recent)| (recent.newest, recent.count)));
        all
    }

    /// Whether refusals will be due later even if nobody calls.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.recent.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denial(host: &str) -> RefusalRecord {
        RefusalRecord {
            agent: "research".into(),
            group: None,
            host: host.into(),
            reason: "over-limit".into(),
            rule: "agents.research.day".into(),
            asked: None,
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_795_161_600 + second).unwrap()
    }

    #[test]
    fn the_first_is_due_at_once_and_equal_ones_after_ten_seconds_as_one() {
        let mut refusals = Refusals::default();
        refusals.add(denial("a"), at(0));
        refusals.add(denial("b"), at(0));
        assert_eq!(refusals.due(at(0)), [(denial("a"), 1), (denial("b"), 1)]);
        for second in 1..=5 {
            refusals.add(denial("a"), at(second));
        }
        assert_eq!(refusals.due(at(9)), []);
        assert!(refusals.is_waiting());
        assert_eq!(refusals.due(at(10)), [(denial("a"), 5)]);
        assert_eq!(refusals.due(at(20)), []);
        assert!(!refusals.is_waiting());
    }

    #[test]
    fn none_is_lost_at_the_end_or_when_the_clock_goes_back() {
        let mut refusals = Refusals::default();
        refusals.add(denial("a"), at(0));
        refusals.add(denial("a"), at(0));
        assert_eq!(refusals.all(), [(denial("a"), 1), (denial("a"), 1)]);
        refusals.add(denial("a"), at(100));
        refusals.add(denial("a"), at(100));
        assert_eq!(refusals.due(at(50)), [(denial("a"), 1), (denial("a"), 1)]);
    }
}
