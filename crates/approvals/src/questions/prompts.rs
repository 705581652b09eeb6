//! Counts how often each agent's questions reach each approver (R38, threat 4.3): a person who is asked all the time
//! stops reading.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

const HOUR: SignedDuration = SignedDuration::from_hours(1);

/// The times of the last hour's questions, by agent and approver. Nobody has a row without a question of the last hour,
/// and no row is longer than the hourly limit.
#[derive(Default)]
pub(super) struct Prompts(HashMap<(String, String), VecDeque<Timestamp>>);

impl Prompts {
    /// Counts one more question, or returns how long until one is allowed.
    pub(super) fn note(&mut self, by: (String, String), most: usize, now: Timestamp) -> Result<(), Duration> {
        self.0.retain(|_, asked| {
            // A clock that was set back must not block an agent for longer than an hour.
            asked.retain(|at| now.duration_since(*at).abs() < HOUR);
            !asked.is_empty()
        });
        let asked = self.0.entry(by).or_default();
        if asked.len() >= most {
            let oldest = asked
                .front()
                .map_or(SignedDuration::ZERO, |at| HOUR - now.duration_since(*at).abs());
            return Err(Duration::try_from(oldest).unwrap_or_default());
        }
        asked.push_back(now);
        Ok(())
    }

    /// The latest question was not asked after all.
    pub(super) fn take_back(&mut self, by: &(String, String)) {
        if let Some(asked) = self.0.get_mut(by) {
            asked.pop_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_agent_has_its_own_hourly_limit() {
        let mut prompts = Prompts::default();
        let by = |agent: &str| (agent.to_owned(), "operator".to_owned());
        let at = |minute: i64| Timestamp::from_second(1_800_000_000 + minute * 60).unwrap();
        assert_eq!(prompts.note(by("a"), 2, at(0)), Ok(()));
        assert_eq!(prompts.note(by("a"), 2, at(10)), Ok(()));
        assert_eq!(prompts.note(by("a"), 2, at(15)), Err(Duration::from_secs(45 * 60)));
        assert_eq!(prompts.note(by("b"), 2, at(15)), Ok(()));
        assert_eq!(prompts.note(by("a"), 2, at(60)), Ok(()));
        assert_eq!(prompts.note(by("a"), 2, at(61)), Err(Duration::from_secs(9 * 60)));
    }

    #[test]
    fn who_has_not_been_asked_for_an_hour_has_no_row() {
        let mut prompts = Prompts::default();
        let at = |minute: i64| Timestamp::from_second(1_800_000_000 + minute * 60).unwrap();
        for number in 0..1000 {
            let by = (format!("agent-{number}"), "operator".to_owned());
            assert_eq!(prompts.note(by.clone(), 2, at(number)), Ok(()));
            assert_eq!(prompts.note(by.clone(), 2, at(number)), Ok(()));
            prompts.note(by, 2, at(number)).unwrap_err();
        }
        assert_eq!(prompts.0.len(), 60);
        assert!(prompts.0.values().all(|asked| asked.len() == 2));
    }
}
