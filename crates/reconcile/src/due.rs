//! When to ask about each payment next (R216): as soon as something can have become final, then when the last verdict
//! said, and after failures at growing intervals. Pure: the caller passes the time, in Unix seconds.

use std::collections::BTreeMap;

use bursar_ledger::PaymentId;

/// Payments per pass.
const BATCH: usize = 100;
const FIRST_WAIT_S: u64 = 5;
const LONGEST_WAIT_S: u64 = 600;
const SELDOM_S: u64 = 3600;

#[derive(Default)]
pub(crate) struct Due {
    asks: BTreeMap<PaymentId, Ask>,
    /// How far final blocks lag behind our clock: a new payment cannot be proven earlier.
    lag: u64,
}

#[derive(Clone, Copy)]
struct Ask {
    at: u64,
    /// Consecutive attempts without a verdict.
    looks: u32,
}

/// When a payment is worth asking about again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing can be known before that second.
    At(u64),
    /// The evidence was not enough for a verdict.
    Later,
    /// News is unlikely.
    Seldom,
    /// There is nothing to ask.
    Never,
}

impl Due {
    /// The payments to ask about now, earliest first, at most one batch. Payments that are no longer waiting are
    /// dropped.
    pub(crate) fn batch(&mut self, waiting: &[PaymentId], now: u64) -> Vec<PaymentId> {
        let mut asks = BTreeMap::new();
        for rid in waiting {
            let made_at = rid.made_at().and_then(|at| u64::try_from(at.as_second()).ok());
            let first = Ask {
                at: made_at.unwrap_or(0).saturating_add(self.lag),
                looks: 0,
            };
            asks.insert(*rid, self.asks.get(rid).copied().unwrap_or(first));
        }
        self.asks = asks;
        let mut due: Vec<(u64, PaymentId)> = self
            .asks
            .iter()
            .filter(|(_, ask)| ask.at <= now)
            .map(|(rid, ask)| (ask.at, *rid))
            .collect();
        due.sort_unstable();
        due.truncate(BATCH);
        due.into_iter().map(|(_, rid)| rid).collect()
    }

    /// Schedules the next time, after an attempt.
    pub(crate) fn again(&mut self, rid: PaymentId, next: Next, now: u64) {
        let Some(ask) = self.asks.get_mut(&rid) else { return };
        *ask = match next {
            Next::At(at) if at <= now.saturating_add(wait(ask.looks)) => Ask {
                at: at.max(now.saturating_add(FIRST_WAIT_S)),
                looks: 0,
            },
            // An authorization can be cashed at any time before its deadline, so we also look during a long wait.
            Next::At(_) | Next::Later => Ask {
                at: now.saturating_add(wait(ask.looks)),
                looks: ask.looks.saturating_add(1),
            },
            Next::Seldom => Ask {
                at: now.saturating_add(SELDOM_S),
                looks: 0,
            },
            Next::Never => Ask { at: u64::MAX, looks: 0 },
        };
    }

    /// Sets the lag that the heads of the last pass have shown.
    pub(crate) fn set_lag(&mut self, seconds: u64) {
        self.lag = seconds.min(LONGEST_WAIT_S);
    }
}

/// Doubled with each attempt without a verdict.
fn wait(looks: u32) -> u64 {
    let doubled = 1u64
        .checked_shl(looks)
        .and_then(|factor| FIRST_WAIT_S.checked_mul(factor));
    doubled.unwrap_or(LONGEST_WAIT_S).min(LONGEST_WAIT_S)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    const NOW: u64 = 1_795_000_000;

    fn made(seconds_ago: u64, number: u8) -> PaymentId {
        let at = i64::try_from(NOW - seconds_ago).unwrap();
        PaymentId::new(Timestamp::from_second(at).unwrap(), [number; 10])
    }

    #[test]
    fn a_batch_is_the_hundred_that_have_waited_longest() {
        let mut due = Due::default();
        let all: Vec<PaymentId> = (0..=250).rev().map(|ago| made(ago, 1)).collect();
        let mut asked = Vec::new();
        for size in [100, 100, 51, 0] {
            let batch = due.batch(&all, NOW);
            assert_eq!(batch.len(), size);
            for rid in &batch {
                due.again(*rid, Next::At(NOW + 5), NOW);
            }
            asked.extend(batch);
        }
        assert_eq!(asked, all);
        assert_eq!(due.batch(&all, NOW + 4), []);
        assert_eq!(due.batch(&all, NOW + 5).len(), 100);
        // The others were settled in the meantime.
        assert_eq!(due.batch(&all[..3], NOW + 5), all[..3]);
        assert_eq!(due.asks.len(), 3, "nothing is kept about them");
    }

    #[test]
    fn patience_grows_from_five_seconds_to_ten_minutes_and_a_verdict_ends_it() {
        let mut due = Due::default();
        let rid = made(0, 1);
        let mut now = NOW;
        for wait in [5, 10, 20, 40, 80, 160, 320, 600, 600] {
            assert_eq!(due.batch(&[rid], now), [rid]);
            due.again(rid, Next::Later, now);
            assert_eq!(due.batch(&[rid], now + wait - 1), []);
            now += wait;
        }
        assert_eq!(due.batch(&[rid], now), [rid]);
        // A time that is near is waited for, and then the intervals start again; before one that is far away there are
        // attempts in between.
        due.again(rid, Next::At(now), now);
        assert_eq!(due.batch(&[rid], now + 4), []);
        for wait in [5, 5, 10, 20, 20] {
            now += wait;
            assert_eq!(due.batch(&[rid], now - 1), []);
            assert_eq!(due.batch(&[rid], now), [rid]);
            due.again(rid, Next::At(NOW + 1895), now);
        }
        assert_eq!(due.batch(&[rid], now + 5), [rid]);
        due.again(rid, Next::Never, now);
        assert_eq!(due.batch(&[rid], now + 10_000_000), []);
    }

    #[test]
    fn nothing_new_is_asked_about_before_it_can_be_final() {
        let mut due = Due::default();
        due.set_lag(30);
        let (old, new) = (made(30, 1), made(29, 2));
        assert_eq!(due.batch(&[old, new], NOW), [old]);
        assert_eq!(due.batch(&[old, new], NOW + 1), [old, new]);
    }
}
