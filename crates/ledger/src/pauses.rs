//! The pauses in force. A book has those on record; the running ledger also those that are not on record yet, because
//! pausing acts before it is recorded (R233).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::text::Moment;
use bursar_core::policy::PauseScope;

/// One pause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pause {
    pub scope: PauseScope,
    pub since: Moment,
    pub who: String,
    pub why: String,
}

/// What [`crate::Ledger::pause`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paused {
    /// The one in force: an earlier one if the scope was paused already.
    pub pause: Pause,
    /// Not yet: it had been paused before.
    pub is_new: bool,
    /// Why the pause is in force and not on record yet.
    pub unrecorded: Option<String>,
}

/// Pauses by the text of their scope.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pauses(BTreeMap<String, Pause>);

impl Pauses {
    /// The widest pause that stops payments by this agent of this group to this host.
    pub fn on(&self, agent: &str, group: Option<&str>, host: &str) -> Option<&Pause> {
        self.all()
            .filter(|pause| pause.scope.covers(agent, group, host))
            .min_by_key(|pause| pause.scope.rank())
    }

    pub fn of(&self, scope: &PauseScope) -> Option<&Pause> {
        self.0.get(&scope.to_string())
    }

    pub fn all(&self) -> impl Iterator<Item = &Pause> {
        self.0.values()
    }

    pub(crate) fn set(&mut self, pause: Pause) {
        self.0.insert(pause.scope.to_string(), pause);
    }

    pub(crate) fn lift(&mut self, scope: &PauseScope) -> Option<Pause> {
        self.0.remove(&scope.to_string())
    }
}

/// What is in force in a running ledger. Callers read and set it without the writer, which a slow disk can hold up.
#[derive(Debug, Default)]
pub struct InForce {
    /// As of the last batch that is durable.
    recorded: Pauses,
    /// In force, and to be recorded.
    unrecorded: Pauses,
}

impl InForce {
    /// What the book of the start has.
    pub(crate) fn of(recorded: Pauses) -> Self {
        let unrecorded = Pauses::default();
        Self { recorded, unrecorded }
    }

    /// The widest pause that stops these payments.
    pub fn on(&self, agent: &str, group: Option<&str>, host: &str) -> Option<&Pause> {
        let recorded = self.recorded.on(agent, group, host);
        let unrecorded = self.unrecorded.on(agent, group, host);
        let all = recorded.into_iter().chain(unrecorded);
        all.min_by_key(|pause| pause.scope.rank())
    }

    /// Puts a pause into force, unless its scope is paused already; then returns that one.
    pub(crate) fn set(&mut self, pause: &Pause) -> Option<Pause> {
        let earlier = self.recorded.of(&pause.scope).or(self.unrecorded.of(&pause.scope));
        let earlier = earlier.cloned();
        if earlier.is_none() {
            self.unrecorded.set(pause.clone());
        }
        earlier
    }

    /// What has to be recorded.
    pub(crate) fn due(&self) -> Vec<Pause> {
        self.unrecorded.all().cloned().collect()
    }

    pub(crate) fn is_due(&self) -> bool {
        self.unrecorded.all().next().is_some()
    }

    pub(crate) fn is_recorded(&self, scope: &PauseScope) -> bool {
        self.recorded.of(scope).is_some()
    }

    /// All of them, oldest first, and whether each is on record.
    pub fn all(&self) -> Vec<(Pause, bool)> {
        let recorded = self.recorded.all().map(|pause| (pause.clone(), true));
        let unrecorded = self.unrecorded.all().map(|pause| (pause.clone(), false));
        let mut all: Vec<_> = recorded.chain(unrecorded).collect();
        all.sort_by_key(|(pause, _)| pause.since);
        all
    }

    /// After a durable batch that has recorded or lifted pauses of `scopes`.
    pub(crate) fn committed(&mut self, recorded: &Pauses, scopes: &[PauseScope]) {
        self.recorded.clone_from(recorded);
        for scope in scopes {
            self.unrecorded.lift(scope);
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn pause(scope: &str, second: i64) -> Pause {
        Pause {
            scope: PauseScope::parse(scope).unwrap(),
            since: Moment::of(Timestamp::from_second(second).unwrap()),
            who: "uid:1".to_owned(),
            why: format!("since {second}"),
        }
    }

    #[test]
    fn of_several_pauses_the_widest_is_named() {
        let mut pauses = Pauses::default();
        for scope in ["merchant:h.example", "agent:a", "group:g"] {
            pauses.set(pause(scope, 1));
        }
        let on = |pauses: &Pauses| {
            let on = pauses.on("a", Some("g"), "h.example");
            on.map(|pause| pause.scope.to_string())
        };
        assert_eq!(on(&pauses).as_deref(), Some("group:g"));
        pauses.set(pause("all", 2));
        assert_eq!(on(&pauses).as_deref(), Some("all"));
        for (scope, left) in [
            ("all", Some("group:g")),
            ("group:g", Some("agent:a")),
            ("agent:a", Some("merchant:h.example")),
            ("merchant:h.example", None),
        ] {
            assert!(pauses.lift(&PauseScope::parse(scope).unwrap()).is_some());
            assert_eq!(on(&pauses).as_deref(), left, "without {scope}");
        }
    }

    #[test]
    fn a_pause_is_in_force_before_it_is_on_record_and_is_recorded_once() {
        let mut force = InForce::default();
        let (all, later) = (pause("all", 1), pause("all", 2));
        assert_eq!(force.set(&all), None);
        assert!(force.on("a", None, "h").is_some());
        assert_eq!(force.due(), std::slice::from_ref(&all));
        assert_eq!(force.set(&later), Some(all.clone()), "the first one stands");
        assert_eq!(force.due(), std::slice::from_ref(&all));

        let mut recorded = Pauses::default();
        recorded.set(all.clone());
        force.committed(&recorded, std::slice::from_ref(&all.scope));
        assert!(!force.is_due());
        assert_eq!(force.all(), [(all.clone(), true)]);
        assert_eq!(force.set(&later), Some(all.clone()));
        assert!(!force.is_due(), "nothing to record");

        recorded.lift(&all.scope);
        force.committed(&recorded, std::slice::from_ref(&all.scope));
        assert_eq!(force.on("a", None, "h"), None);
        assert_eq!(force.set(&later), None);
    }
}
