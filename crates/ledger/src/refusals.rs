//! Folds refusals into few entries (R62): an agent that asks in a loop, or for a million host names, must not fill the
//! log.
//!
//! Equal ones (agent, rule, host) become one entry per ten seconds. Beyond some entries a minute that name a host, what
//! an agent is refused is counted in one entry for each rule, whose host is `*`.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;

use super::model::RefusalRecord;

/// Equal refusals within this time after an entry wait and become one entry.
pub(crate) const FOLD: Duration = Duration::from_secs(10);

/// Entries that name a host, for one agent in one minute.
const NAMED: u32 = 30;
const MINUTE: Duration = Duration::from_secs(60);

/// Entries that may wait for the journal while it takes none. Beyond it no host is named any more.
const WAITING: usize = 512;

/// The host of an entry about refusals for several hosts. No host has this name.
pub const ANY_HOST: &str = "*";

#[derive(Debug, Default)]
pub struct Refusals {
    /// Not in the journal yet, in order of arrival.
    fresh: Vec<(RefusalRecord, u64)>,
    /// Written to the journal within the last ten seconds, and how many equal ones came since. What names a host is
    /// bounded by [`NAMED`] and [`WAITING`], the rest by the agents and rules that finance has written.
    recent: HashMap<Key, Recent>,
    /// By agent: entries of this minute that name a host.
    named: HashMap<String, Named>,
}

/// Agent, rule, host.
type Key = (String, String, String);

#[derive(Debug)]
struct Recent {
    since: Timestamp,
    newest: RefusalRecord,
    count: u64,
}

#[derive(Debug)]
struct Named {
    since: Timestamp,
    entries: u32,
}

impl Refusals {
    pub fn add(&mut self, denial: RefusalRecord, now: Timestamp) {
        if let Some(recent) = self.recent.get_mut(&key(&denial)) {
            recent.count += 1;
            recent.newest = denial;
        } else if self.fresh.len() < WAITING && may_name(&mut self.named, &denial.agent, now) {
            self.write(denial, 1, now);
        } else {
            self.count_only(denial, 1, now);
        }
    }

    /// The refusals to record at `now`, each with its count.
    pub fn due(&mut self, now: Timestamp) -> Vec<(RefusalRecord, u64)> {
        let (mut due, mut counted) = (Vec::new(), Vec::new());
        let named = &mut self.named;
        self.recent.retain(|_, recent| {
            if !is_over(recent.since, FOLD, now) {
                return true;
            }
            let count = std::mem::replace(&mut recent.count, 0);
            if count == 0 {
                return false;
            }
            let is_written = recent.newest.host == ANY_HOST || may_name(named, &recent.newest.agent, now);
            if is_written {
                due.push((recent.newest.clone(), count));
                recent.since = now;
            } else {
                counted.push((recent.newest.clone(), count));
            }
            is_written
        });
        self.named.retain(|_, named| !is_over(named.since, MINUTE, now));
        for (denial, count) in counted {
            self.count_only(denial, count, now);
        }
        let mut all = std::mem::take(&mut self.fresh);
        all.append(&mut due);
        all
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

    /// Without the host and the amount, which are different ones.
    fn count_only(&mut self, denial: RefusalRecord, count: u64, now: Timestamp) {
        let denial = RefusalRecord {
            host: ANY_HOST.to_owned(),
            asked: None,
            ..denial
        };
        match self.recent.get_mut(&key(&denial)) {
            Some(recent) => {
                recent.count += count;
                recent.newest = denial;
            }
            None => self.write(denial, count, now),
        }
    }

    fn write(&mut self, denial: RefusalRecord, count: u64, now: Timestamp) {
        self.recent.insert(
            key(&denial),
            Recent {
                since: now,
                newest: denial.clone(),
                count: 0,
            },
        );
        self.fresh.push((denial, count));
    }
}

fn key(denial: &RefusalRecord) -> Key {
    (denial.agent.clone(), denial.rule.clone(), denial.host.clone())
}

/// Whether the agent may have another entry that names a host; if so, counts it.
fn may_name(named: &mut HashMap<String, Named>, agent: &str, now: Timestamp) -> bool {
    let fresh = Named { since: now, entries: 0 };
    let of_agent = named.entry(agent.to_owned()).or_insert(fresh);
    if is_over(of_agent.since, MINUTE, now) {
        *of_agent = Named { since: now, entries: 0 };
    }
    let may = of_agent.entries < NAMED;
    of_agent.entries += u32::from(may);
    may
}

/// In both directions: callers and writer read the clock at slightly different moments, and a clock that went far back
/// must not hold refusals for longer.
fn is_over(since: Timestamp, span: Duration, now: Timestamp) -> bool {
    now.duration_since(since).unsigned_abs() >= span
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

    /// A hundred thousand hosts within `seconds`, and all that the journal gets of it.
    fn many_hosts(seconds: i64) -> Vec<(RefusalRecord, u64)> {
        const HOSTS: i64 = 100_000;
        let (mut refusals, mut written) = (Refusals::default(), Vec::new());
        for number in 0..HOSTS {
            let now = at(number * seconds / HOSTS);
            refusals.add(denial(&format!("{number}.example.com")), now);
            // The writer is woken up by each, and takes what is due with its next batch.
            if number % 7 == 0 {
                written.extend(refusals.due(now));
            }
            assert!(
                refusals.recent.len() <= 2 * NAMED as usize + 1,
                "{}",
                refusals.recent.len()
            );
            assert!(refusals.fresh.len() <= WAITING && refusals.named.len() <= 1);
        }
        written.extend(refusals.all());
        assert_eq!(written.iter().map(|(_, count)| count).sum::<u64>(), HOSTS as u64);
        written
    }

    #[test]
    fn an_agent_that_is_refused_on_a_hundred_thousand_hosts_writes_few_entries_and_none_is_lost() {
        for (seconds, most) in [(9, 32), (60, 30 + 7 + 1), (600, 10 * (30 + 7) + 1)] {
            let written = many_hosts(seconds);
            assert!(written.len() <= most, "{} entries in {seconds} s", written.len());
            let (summed, named): (Vec<_>, Vec<_>) = written.iter().partition(|(denial, _)| denial.host == ANY_HOST);
            assert!(named.len() >= 30 && !summed.is_empty());
            assert!(
                summed
                    .iter()
                    .all(|(denial, _)| denial.asked.is_none() && denial.agent == "research")
            );
        }
    }

    #[test]
    fn hosts_that_are_refused_again_and_again_count_against_the_same_minute() {
        let (mut refusals, mut written) = (Refusals::default(), Vec::new());
        // Thirty new hosts a minute that are all asked for again every second.
        for second in 0..600 {
            for host in 0..=second / 2 {
                refusals.add(denial(&host.to_string()), at(second));
            }
            written.extend(refusals.due(at(second)));
        }
        assert!(
            written.len() <= 10 * (30 + 7) + 1,
            "{} entries in ten minutes",
            written.len()
        );
        assert!(refusals.recent.len() <= 2 * NAMED as usize + 1);
        written.extend(refusals.all());
        let sum: u64 = written.iter().map(|(_, count)| count).sum();
        assert_eq!(sum, (0..600).map(|second| second / 2 + 1).sum::<u64>());
    }

    #[test]
    fn one_agents_hosts_do_not_take_another_agents_entries() {
        let mut refusals = Refusals::default();
        for number in 0..1000 {
            refusals.add(denial(&number.to_string()), at(0));
        }
        let other = RefusalRecord {
            agent: "shopping".into(),
            ..denial("shop.example.com")
        };
        refusals.add(other.clone(), at(0));
        assert!(refusals.due(at(0)).contains(&(other, 1)));
    }

    #[test]
    fn what_waits_for_a_journal_that_takes_nothing_is_bounded_and_none_is_lost() {
        let mut refusals = Refusals::default();
        // A day, in which the writer asks for nothing.
        for minute in 0..24 * 60 {
            for host in 0..40 {
                refusals.add(denial(&format!("{minute}-{host}")), at(minute * 60));
            }
        }
        assert!(refusals.fresh.len() <= WAITING + 1 && refusals.recent.len() <= WAITING + 1);
        let sum: u64 = refusals.due(at(86_400)).iter().map(|(_, count)| count).sum();
        let rest: u64 = refusals.all().iter().map(|(_, count)| count).sum();
        assert_eq!(sum + rest, 24 * 60 * 40);
    }
}
