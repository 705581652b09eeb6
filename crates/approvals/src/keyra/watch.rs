//! The state of open challenges between two polls. In memory only: after a restart polling resumes, and no decision
//! depends on this state.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};

use super::challenge::Attestation;
use super::webhook::{Event, EventKind};
use super::{ChallengeId, Passed, Received};

/// How long an event's id is remembered (approvals §6.2).
const EVENTS_FOR: SignedDuration = SignedDuration::from_hours(24);
/// A challenge that is not polled again is forgotten this long after its end.
const AFTER_THE_END: SignedDuration = SignedDuration::from_hours(1);
/// Limit for challenges and for events; the oldest are dropped first. Only a holder of the webhook secret can fill the
/// events.
const REMEMBERED: usize = 4096;

#[derive(Default)]
pub(super) struct Watches(Mutex<Inside>);

#[derive(Default)]
struct Inside {
    challenges: HashMap<String, Watch>,
    /// SHA-256 of an event's id, and when it arrived.
    events: HashMap<[u8; 32], Timestamp>,
}

/// One open challenge.
#[derive(Clone)]
pub(super) struct Watch {
    ends: Timestamp,
    /// Consecutive unreadable responses.
    pub unreadable: u32,
    /// From a webhook.
    pub attestation: Option<Attestation>,
    /// The last webhook's event id.
    pub event: Option<String>,
}

impl Watches {
    /// Returns the state of a challenge, and starts tracking it if it is new.
    pub(super) fn watch(&self, id: &ChallengeId, ends: Timestamp, now: Timestamp) -> Watch {
        let mut inside = self.inside();
        let challenges = &mut inside.challenges;
        if !challenges.contains_key(id.as_str()) {
            challenges.retain(|_, watch| now.duration_since(watch.ends) < AFTER_THE_END);
            make_room(challenges, |watch| watch.ends);
        }
        let fresh = || Watch {
            ends,
            unreadable: 0,
            attestation: None,
            event: None,
        };
        challenges.entry(id.as_str().to_owned()).or_insert_with(fresh).clone()
    }

    /// Sets the number of consecutive unreadable responses.
    pub(super) fn note_unreadable(&self, id: &ChallengeId, in_a_row: u32) {
        if let Some(watch) = self.inside().challenges.get_mut(id.as_str()) {
            watch.unreadable = in_a_row;
        }
    }

    pub(super) fn forget(&self, id: &ChallengeId) {
        self.inside().challenges.remove(id.as_str());
    }

    /// Handles an authentic event.
    pub(super) fn receive(&self, event: Event, now: Timestamp) -> Received {
        let mut inside = self.inside();
        if let Some(id) = &event.id {
            let events = &mut inside.events;
            events.retain(|_, came| now.duration_since(*came) < EVENTS_FOR);
            make_room(events, |came| *came);
            if events.insert(Sha256::digest(id).into(), now).is_some() {
                return Received::Passed(Passed::Repeated);
            }
        }
        if event.kind == EventKind::Other {
            return Received::Passed(Passed::OtherEvent);
        }
        let known = event
            .challenge
            .and_then(|id| Some((inside.challenges.get_mut(id.as_str())?, id)));
        let Some((watch, id)) = known else {
            return Received::Passed(Passed::UnknownChallenge);
        };
        // What a device signed to reject must not be passed off as what it signed to approve.
        if event.kind == EventKind::Approved && event.attestation.is_some() {
            watch.attestation = event.attestation;
        }
        watch.event = event.id.or_else(|| watch.event.take());
        Received::Wake(id)
    }

    // Ignoring poison is safe: a panic while the lock is held leaves the maps intact.
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn make_room<K: Clone + Eq + std::hash::Hash, V>(map: &mut HashMap<K, V>, age: impl Fn(&V) -> Timestamp) {
    if map.len() < REMEMBERED {
        return;
    }
    let oldest = map
        .iter()
        .min_by_key(|(_, value)| age(value))
        .map(|(key, _)| key.clone());
    if let Some(oldest) = oldest {
        map.remove(&oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn id(text: &str) -> ChallengeId {
        ChallengeId::parse(text).unwrap()
    }

    fn event(event: Option<&str>, kind: EventKind, challenge: &str) -> Event {
        Event {
            id: event.map(str::to_owned),
            kind,
            challenge: ChallengeId::parse(challenge),
            attestation: Some(Attestation {
                attestation: "signed".into(),
                device_id: "dev_1".to_owned(),
            }),
        }
    }

    #[test]
    fn an_event_wakes_once_within_a_day() {
        let watches = Watches::default();
        watches.watch(&id("chl_1"), at(300), at(0));
        let receive = |now| watches.receive(event(Some("evt_1"), EventKind::Ended, "chl_1"), now);
        assert_eq!(receive(at(1)), Received::Wake(id("chl_1")));
        assert_eq!(receive(at(2)), Received::Passed(Passed::Repeated));
        // The day counts from the last time it arrived.
        assert_eq!(receive(at(86_401)), Received::Passed(Passed::Repeated));
        assert_eq!(receive(at(86_401 + 86_400)), Received::Wake(id("chl_1")));
        // Events without an id are never treated as repeats.
        for _ in 0..2 {
            let received = watches.receive(event(None, EventKind::Ended, "chl_1"), at(3));
            assert_eq!(received, Received::Wake(id("chl_1")));
        }
    }

    #[test]
    fn irrelevant_events_have_no_effect() {
        let watches = Watches::default();
        watches.watch(&id("chl_1"), at(300), at(0));
        let unknown = watches.receive(event(None, EventKind::Approved, "chl_2"), at(1));
        assert_eq!(unknown, Received::Passed(Passed::UnknownChallenge));
        let other = watches.receive(event(None, EventKind::Other, "chl_1"), at(1));
        assert_eq!(other, Received::Passed(Passed::OtherEvent));
        watches.receive(event(None, EventKind::Ended, "chl_1"), at(1));
        assert_eq!(watches.watch(&id("chl_1"), at(300), at(1)).attestation, None);
        watches.receive(event(Some("evt_1"), EventKind::Approved, "chl_1"), at(1));
        let watch = watches.watch(&id("chl_1"), at(300), at(1));
        assert!(watch.attestation.is_some());
        assert_eq!(watch.event.as_deref(), Some("evt_1"));
        watches.forget(&id("chl_1"));
        assert_eq!(watches.watch(&id("chl_1"), at(300), at(1)).attestation, None);
    }

    #[test]
    fn memory_is_bounded() {
        let watches = Watches::default();
        for number in 0..i64::try_from(REMEMBERED).unwrap() + 10 {
            watches.watch(&id(&format!("chl_{number}")), at(number), at(0));
            watches.receive(
                event(Some(&format!("evt_{number}")), EventKind::Other, "chl_1"),
                at(number),
            );
        }
        let inside = watches.inside();
        assert_eq!((inside.challenges.len(), inside.events.len()), (REMEMBERED, REMEMBERED));
        assert!(!inside.challenges.contains_key("chl_9") && inside.challenges.contains_key("chl_10"));
        drop(inside);
        watches.watch(&id("chl_new"), at(90_000), at(80_000));
        assert_eq!(watches.inside().challenges.len(), 1);
    }
}
