//! The windows that payments are counted in: calendar windows, rolling windows, and counts that no time bounds.

use jiff::Timestamp;

/// Which payments count together against one cap (R50).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Window {
    /// A calendar hour in the file's time zone. The next three follow the calendar too.
    Hour,
    Day,
    Week,
    Month,
    /// Never ends.
    Total,
    /// The last n seconds at any moment.
    Rolling(Rolling),
    /// Not a span of time: what is held, armed or unknown at this moment (`max_pending`). Settled payments leave it.
    Pending,
    /// Since a person last approved a payment of the scope that exceeded it (`approval_every`, threat 1.3).
    SinceApproval,
    /// Not a span of time: what was ever paid to one payee (`approval_first_time_payee`). It has no cap: it only
    /// requires that an earlier payment was settled.
    Payee,
}

/// A rolling window of n seconds in 60 buckets of n/60 seconds, aligned to the Unix epoch.
///
/// The sum covers the 61 newest buckets. The oldest is counted whole although only part of it lies in the window. So
/// never more than the cap is spent within any n seconds, but room returns up to n/60 seconds late (R218).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rolling {
    bucket_s: u32,
}

impl Window {
    /// The windows that have a key of their own and may appear under `count`.
    pub const NAMED: [Self; 5] = [Self::Hour, Self::Day, Self::Week, Self::Month, Self::Total];

    /// The key in limits.toml; for a rolling window the section's.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Total => "total",
            Self::Rolling(_) => "rolling",
            Self::Pending => "max_pending",
            Self::SinceApproval => "approval_every",
            Self::Payee => "approval_first_time_payee",
        }
    }

    /// Whether it needs a time zone to know where it starts.
    pub const fn is_calendar(self) -> bool {
        match self {
            Self::Hour | Self::Day | Self::Week | Self::Month => true,
            Self::Total | Self::Rolling(_) | Self::Pending | Self::SinceApproval | Self::Payee => false,
        }
    }
}

impl Rolling {
    const BUCKETS: u32 = 60;

    /// `None` for zero, or if it is not a whole number of minutes, because buckets must be whole seconds.
    pub const fn of_seconds(seconds: u32) -> Option<Self> {
        if seconds == 0 || !seconds.is_multiple_of(Self::BUCKETS) {
            return None;
        }
        Some(Self {
            bucket_s: seconds / Self::BUCKETS,
        })
    }

    pub const fn seconds(self) -> u32 {
        self.bucket_s * Self::BUCKETS
    }

    /// The start of the oldest bucket that counts together with the one that starts at `newest`.
    pub fn oldest(self, newest: &str) -> String {
        let newest: u64 = newest.parse().unwrap_or(0);
        Self::text(newest.saturating_sub(u64::from(self.seconds())))
    }

    /// Start and end of the bucket that holds `now`.
    pub(super) fn bucket(self, now: Timestamp) -> (String, Option<Timestamp>) {
        let now = u64::try_from(now.as_second()).unwrap_or(0);
        let start = now - now % u64::from(self.bucket_s);
        let end = i64::try_from(start + u64::from(self.bucket_s));
        (
            Self::text(start),
            end.ok().and_then(|end| Timestamp::from_second(end).ok()),
        )
    }

    /// After so many more buckets nothing counts any more that counts now.
    pub(super) const UNTIL_EMPTY: u32 = Self::BUCKETS + 1;

    /// Name and start of the bucket that begins `count` buckets after the one that starts at `newest`.
    pub(super) fn bucket_after(self, newest: &str, count: u32) -> Option<(String, Timestamp)> {
        let later = u64::from(count) * u64::from(self.bucket_s);
        let start = newest.parse::<u64>().ok()?.checked_add(later)?;
        let at = Timestamp::from_second(i64::try_from(start).ok()?).ok()?;
        Some((Self::text(start), at))
    }

    fn text(start: u64) -> String {
        format!("{start:010}")
    }
}
