//! Random steps against a slow model.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Copy, Debug)]
enum Do {
    Hold(u8),
    Ask { n: u8, payment: u8, intent: u8, needed: u8 },
    Grant { n: u8, person: u8, replay: u8, lasts: i64 },
    Refuse { n: u8, lasts: i64 },
    Expire(u8),
    Arm { payment: u8, approval: Option<u8> },
    Release(u8),
    Wait(i64),
}

fn any_do() -> impl Strategy<Value = Do> {
    let few = || 0u8..5;
    prop_oneof![
        3 => few().prop_map(Do::Hold),
        4 => (few(), few(), 0u8..3, 1u8..3)
            .prop_map(|(n, payment, intent, needed)| Do::Ask { n, payment, intent, needed }),
        5 => (few(), 0u8..3, 0u8..4, 0i64..20)
            .prop_map(|(n, person, replay, lasts)| Do::Grant { n, person, replay, lasts }),
        1 => (few(), 0i64..20).prop_map(|(n, lasts)| Do::Refuse { n, lasts }),
        1 => few().prop_map(Do::Expire),
        4 => (few(), prop::option::of(few())).prop_map(|(payment, approval)| Do::Arm { payment, approval }),
        1 => few().prop_map(Do::Release),
        2 => (0i64..8).prop_map(Do::Wait),
    ]
}

/// What was accepted, with its time. Every query goes through all of it.
#[derive(Default)]
struct Slow(Vec<(i64, Do)>);

impl Slow {
    /// The steps since the latest hold of a payment; none if it is not held.
    fn is_held(&self, payment: u8) -> bool {
        let last = self.0.iter().rev().find(
            |(_, step)| matches!(step, Do::Hold(p) | Do::Release(p) | Do::Arm { payment: p, .. } if *p == payment),
        );
        matches!(last, Some((_, Do::Hold(_))))
    }

    fn was_armed(&self, payment: u8) -> bool {
        self.0
            .iter()
            .any(|(_, step)| matches!(step, Do::Arm { payment: p, .. } if *p == payment))
    }

    /// Payment, intent and grant of a live approval: its use-by, if it was granted.
    fn live(&self, n: u8) -> Option<(u8, u8, Option<i64>)> {
        let at = self
            .0
            .iter()
            .rposition(|(_, step)| matches!(step, Do::Ask { n: m, .. } if *m == n))?;
        let Do::Ask {
            payment,
            intent,
            needed,
            ..
        } = self.0[at].1
        else {
            return None;
        };
        let mut ends = Vec::new();
        for (time, step) in &self.0[at..] {
            match *step {
                Do::Grant { n: m, lasts, .. } if m == n => ends.push(time + lasts),
                Do::Refuse { n: m, .. } | Do::Expire(m) if m == n => return None,
                Do::Release(p) | Do::Arm { payment: p, .. } if p == payment => return None,
                _ => {}
            }
        }
        let use_by = ends.iter().copied().min().filter(|_| ends.len() >= usize::from(needed));
        Some((payment, intent, use_by))
    }

    /// Whether this person has voted for the approval that is live now.
    fn has_voted(&self, n: u8, person: u8) -> bool {
        let asked = self
            .0
            .iter()
            .rposition(|(_, step)| matches!(step, Do::Ask { n: m, .. } if *m == n));
        let since = asked.map_or(&[][..], |at| &self.0[at..]);
        since
            .iter()
            .any(|(_, step)| matches!(step, Do::Grant { n: m, person: p, .. } if *m == n && *p == person))
    }

    fn all_live(&self) -> Vec<(u8, u8, u8, Option<i64>)> {
        let live = (0..5).filter_map(|n| {
            self.live(n)
                .map(|(payment, intent, use_by)| (n, payment, intent, use_by))
        });
        live.collect()
    }

    fn is_replayed(&self, replay: u8, now: i64) -> bool {
        self.0.iter().any(|(time, step)| {
            matches!(step, Do::Grant { replay: other, lasts, .. } if *other == replay && time + lasts + MINUTE >= now)
        })
    }

    /// The last second of the denial of an intent, which may be over.
    fn denied_until(&self, intent: u8) -> Option<i64> {
        let mut asked = [0; 5];
        let mut until: Option<i64> = None;
        for (time, step) in &self.0 {
            match *step {
                Do::Ask { n, intent, .. } => asked[usize::from(n)] = intent,
                Do::Refuse { n, lasts } if asked[usize::from(n)] == intent => {
                    // An expired denial is forgotten, and a current one is not shortened.
                    let before = until.filter(|before| before >= time);
                    until = before.max(Some(time + lasts));
                }
                _ => {}
            }
        }
        until
    }

    fn allows(&self, step: Do, now: i64) -> bool {
        let waits = |payment| self.all_live().into_iter().find(|(_, of, ..)| *of == payment);
        match step {
            // The nonce of an armed one stays taken, so it is not held again here.
            Do::Hold(payment) => !self.is_held(payment) && !self.was_armed(payment),
            Do::Ask { n, payment, intent, .. } => {
                let is_asked = self.all_live().iter().any(|(_, _, other, _)| *other == intent);
                self.is_held(payment) && self.live(n).is_none() && waits(payment).is_none() && !is_asked
            }
            Do::Grant { n, person, replay, .. } => {
                let is_open = matches!(self.live(n), Some((_, _, None)));
                is_open && !self.has_voted(n, person) && !self.is_replayed(replay, now)
            }
            Do::Refuse { n, .. } | Do::Expire(n) => self.live(n).is_some(),
            Do::Arm { payment, approval } => {
                self.is_held(payment)
                    && match (approval, waits(payment)) {
                        (None, None) => true,
                        (Some(n), Some((m, _, _, Some(use_by)))) => n == m && now <= use_by,
                        _ => false,
                    }
            }
            Do::Release(payment) => self.is_held(payment),
            Do::Wait(_) => true,
        }
    }
}

fn body(step: Do, now: i64) -> Option<Body> {
    Some(match step {
        Do::Hold(n) => hold(n),
        Do::Ask {
            n,
            payment,
            intent,
            needed,
        } => asks_people(n, payment, intent, needed),
        Do::Grant {
            n,
            person,
            replay,
            lasts,
        } => is_granted_by(person, n, replay, now + lasts),
        Do::Refuse { n, lasts } => refuses(n, now + lasts),
        Do::Expire(n) => expires(n),
        Do::Arm { payment, approval } => arms(payment, approval),
        Do::Release(n) => releases(n),
        Do::Wait(_) => return None,
    })
}

proptest! {
    #[test]
    fn approvals_equal_a_recount_of_all_steps(steps in prop::collection::vec(any_do(), 0..120)) {
        let (mut book, mut slow, mut now) = (Book::default(), Slow::default(), 0);
        for step in steps {
            if let Do::Wait(seconds) = step {
                now += seconds;
                continue;
            }
            // A finished payment may be held again in this model, which forgets its id.
            let Some(body) = body(step, now) else { continue };
            if matches!(step, Do::Hold(payment) if slow.was_armed(payment)) {
                continue;
            }
            let allowed = slow.allows(step, now);
            prop_assert_eq!(apply(&mut book, now, body).is_ok(), allowed, "{:?} at {}", step, now);
            if allowed {
                slow.0.push((now, step));
            }
            let rows = book.approvals().rows().map(|row| {
                let use_by = match row.state {
                    ApprovalState::Granted { use_by, .. } => Some(use_by),
                    ApprovalState::Pending { .. } => None,
                };
                (row.id, row.rid, row.intent[0], use_by)
            });
            let expected = slow.all_live().into_iter().map(|(n, payment, intent, use_by)| {
                (id(n), rid(payment), intent, use_by.map(|second| ts(second).timestamp()))
            });
            prop_assert_eq!(rows.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
            for intent in 0..3 {
                let denied = book.approvals().known_at(ts(now)).denied;
                let denied = denied.iter().find(|denied| denied.intent == [intent; 32]).map(|denied| denied.until);
                let expected = slow.denied_until(intent).filter(|until| *until >= now);
                prop_assert_eq!(denied, expected.map(|second| ts(second).timestamp()));
            }
            prop_assert!(book.adds_up());
        }
    }
}
