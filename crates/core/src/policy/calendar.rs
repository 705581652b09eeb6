//! Where a window starts and ends in the file's time zone.
//!
//! A day is a local day, 23 or 25 hours long when the clocks change. A week starts on Monday. An hour is an hour of the
//! local clock, so the hour that a clock change repeats is two windows (R50).

use std::sync::Arc;

use jiff::civil::{Date, Weekday};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Error, SignedDuration, Timestamp, ToSpan, Zoned};

use super::window::Window;

/// The time zone of limits.toml.
#[derive(Clone, Debug)]
pub struct Calendar {
    zone: TimeZone,
    named: Named,
}

/// Where the zone comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Named {
    ByFile,
    /// The file has no `timezone`, so the zone is UTC.
    Nowhere,
}

/// One window: the name of its start, and its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Period {
    pub(super) start: Arc<str>,
    pub(super) ends: Option<Timestamp>,
}

impl Period {
    pub(super) fn without_end(start: String) -> Self {
        Self {
            start: start.into(),
            ends: None,
        }
    }
}

impl Calendar {
    pub fn new(zone: TimeZone) -> Self {
        let named = Named::ByFile;
        Self { zone, named }
    }

    /// Of a file without `timezone`, which has no calendar windows: UTC.
    pub fn without_zone() -> Self {
        Self {
            zone: TimeZone::UTC,
            named: Named::Nowhere,
        }
    }

    /// The name of the zone, such as `Europe/Berlin`.
    pub fn zone_name(&self) -> &str {
        self.zone.iana_name().unwrap_or("UTC")
    }

    pub const fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// Whether the file names its zone.
    pub fn is_named(&self) -> bool {
        self.named == Named::ByFile
    }

    /// Whether the windows of both begin and end at the same time, as far as the name of the zone says so.
    pub fn is_same_as(&self, other: &Self) -> bool {
        self.zone == other.zone
    }

    /// The next Thursday in the middle of a month, 15:30: far from the ends of all windows but the hour.
    pub(super) fn calm_moment(&self, after: Timestamp) -> Option<Timestamp> {
        let mut date = after.to_zoned(self.zone.clone()).date().tomorrow().ok()?;
        while !((14..=20).contains(&date.day()) && date.weekday() == Weekday::Thursday) {
            date = date.tomorrow().ok()?;
        }
        let moment = date.at(15, 30, 0, 0).to_zoned(self.zone.clone()).ok()?;
        Some(moment.timestamp())
    }

    /// The window that contains `now`. At the very ends of the calendar, the payment counts against a window that never
    /// ends, which is too tight but never too loose.
    pub(super) fn period(&self, window: Window, now: Timestamp) -> Period {
        let Ok(Some(start)) = self.start(window, now) else {
            return Period {
                start: "0".into(),
                ends: None,
            };
        };
        let ends = self.end(window, &start).ok();
        Period {
            start: start.to_string().into(),
            ends,
        }
    }

    fn start(&self, window: Window, now: Timestamp) -> Result<Option<Zoned>, Error> {
        let local = now.to_zoned(self.zone.clone());
        let date = local.date();
        let start = match window {
            Window::Hour => self.start_of_hour(&local)?,
            Window::Day => self.midnight(date)?,
            Window::Week => self.midnight(monday(date)?)?,
            Window::Month => self.midnight(date.first_of_month())?,
            Window::Total | Window::Rolling(_) | Window::Pending | Window::SinceApproval | Window::Payee => {
                return Ok(None);
            }
        };
        Ok(Some(start))
    }

    fn end(&self, window: Window, start: &Zoned) -> Result<Timestamp, Error> {
        let date = start.date();
        let next = match window {
            Window::Hour => return self.end_of_hour(start),
            Window::Day => date.tomorrow()?,
            // Counted from the calendar's Monday and first: `start` itself is later if a clock change skips midnight.
            Window::Week => monday(date)?.checked_add(1.week())?,
            Window::Month => date.first_of_month().checked_add(1.month())?,
            Window::Total | Window::Rolling(_) | Window::Pending | Window::SinceApproval | Window::Payee => {
                return Ok(Timestamp::MAX);
            }
        };
        Ok(self.midnight(next)?.timestamp())
    }

    /// The first instant of a local date: 00:00, or what follows if the clocks skip it.
    fn midnight(&self, date: Date) -> Result<Zoned, Error> {
        date.to_zoned(self.zone.clone())
    }

    fn start_of_hour(&self, local: &Zoned) -> Result<Zoned, Error> {
        let hour = local
            .datetime()
            .with()
            .minute(0)
            .second(0)
            .subsec_nanosecond(0)
            .build()?;
        let candidates = self.zone.to_ambiguous_zoned(hour);
        match candidates.offset() {
            AmbiguousOffset::Fold { after, .. } if after == local.offset() => candidates.later(),
            _ => candidates.compatible(),
        }
    }

    fn end_of_hour(&self, start: &Zoned) -> Result<Timestamp, Error> {
        // Zones that shift their clocks by half an hour have one hour of 90 minutes a year.
        let step = SignedDuration::from_mins(30);
        let mut later = start.checked_add(step * 2)?;
        loop {
            let next = self.start_of_hour(&later)?;
            if next.timestamp() > start.timestamp() {
                return Ok(next.timestamp());
            }
            later = later.checked_add(step)?;
        }
    }
}

fn monday(date: Date) -> Result<Date, Error> {
    let past = date.weekday().to_monday_zero_offset();
    date.checked_sub(i64::from(past).days())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn period(zone: &str, window: Window, now: &str) -> (String, String) {
        let calendar = Calendar::new(TimeZone::get(zone).unwrap());
        let period = calendar.period(window, now.parse().unwrap());
        let ends = period.ends.map(|t| t.to_string()).unwrap_or_default();
        (period.start.to_string(), ends)
    }

    #[track_caller]
    fn check(zone: &str, window: Window, now: &str, start: &str, ends: &str) {
        assert_eq!(period(zone, window, now), (start.into(), ends.into()));
    }

    #[test]
    fn windows_start_at_local_midnight_and_name_their_zone() {
        let now = "2026-11-20T14:35:10.5Z";
        let berlin = "Europe/Berlin";
        check(
            berlin,
            Window::Hour,
            now,
            "2026-11-20T15:00:00+01:00[Europe/Berlin]",
            "2026-11-20T15:00:00Z",
        );
        check(
            berlin,
            Window::Day,
            now,
            "2026-11-20T00:00:00+01:00[Europe/Berlin]",
            "2026-11-20T23:00:00Z",
        );
        check(
            berlin,
            Window::Week,
            now,
            "2026-11-16T00:00:00+01:00[Europe/Berlin]",
            "2026-11-22T23:00:00Z",
        );
        check(
            berlin,
            Window::Month,
            now,
            "2026-11-01T00:00:00+01:00[Europe/Berlin]",
            "2026-11-30T23:00:00Z",
        );
        check(berlin, Window::Total, now, "0", "");
    }

    #[test]
    fn a_day_has_23_or_25_hours_when_the_clocks_change() {
        check(
            "Europe/Berlin",
            Window::Day,
            "2026-03-29T12:00:00Z",
            "2026-03-29T00:00:00+01:00[Europe/Berlin]",
            "2026-03-29T22:00:00Z", // 23 h after 2026-03-28T23:00Z
        );
        check(
            "Europe/Berlin",
            Window::Day,
            "2026-10-25T12:00:00Z",
            "2026-10-25T00:00:00+02:00[Europe/Berlin]",
            "2026-10-25T23:00:00Z", // 25 h after 2026-10-24T22:00Z
        );
        // A week or month with a clock change in it keeps the offset of its start.
        check(
            "Europe/Berlin",
            Window::Month,
            "2026-10-31T12:00:00Z",
            "2026-10-01T00:00:00+02:00[Europe/Berlin]",
            "2026-10-31T23:00:00Z",
        );
    }

    #[test]
    fn the_repeated_hour_is_two_windows_and_the_skipped_one_none() {
        let hour = |now| period("Europe/Berlin", Window::Hour, now);
        assert_eq!(
            hour("2026-10-25T00:30:00Z"),
            (
                "2026-10-25T02:00:00+02:00[Europe/Berlin]".into(),
                "2026-10-25T01:00:00Z".into()
            )
        );
        assert_eq!(
            hour("2026-10-25T01:30:00Z"),
            (
                "2026-10-25T02:00:00+01:00[Europe/Berlin]".into(),
                "2026-10-25T02:00:00Z".into()
            )
        );
        assert_eq!(
            hour("2026-03-29T00:59:59Z").0,
            "2026-03-29T01:00:00+01:00[Europe/Berlin]"
        );
        assert_eq!(
            hour("2026-03-29T01:00:00Z").0,
            "2026-03-29T03:00:00+02:00[Europe/Berlin]"
        );
    }

    #[test]
    fn weeks_start_on_monday_and_months_on_the_first() {
        let week = |now| period("UTC", Window::Week, now).0;
        assert_eq!(week("2026-11-15T23:59:59Z"), "2026-11-09T00:00:00+00:00[UTC]");
        assert_eq!(week("2026-11-16T00:00:00Z"), "2026-11-16T00:00:00+00:00[UTC]");
        assert_eq!(week("2027-01-01T00:00:00Z"), "2026-12-28T00:00:00+00:00[UTC]");
        check(
            "UTC",
            Window::Month,
            "2028-02-29T23:59:59Z",
            "2028-02-01T00:00:00+00:00[UTC]",
            "2028-03-01T00:00:00Z",
        );
        check(
            "UTC",
            Window::Month,
            "2026-12-31T23:59:59Z",
            "2026-12-01T00:00:00+00:00[UTC]",
            "2027-01-01T00:00:00Z",
        );
    }

    #[test]
    fn odd_zones_keep_their_own_clocks() {
        // Half-hour offset: the hour follows the local clock.
        check(
            "Asia/Kolkata",
            Window::Hour,
            "2026-05-05T10:15:00Z",
            "2026-05-05T15:00:00+05:30[Asia/Kolkata]",
            "2026-05-05T10:30:00Z",
        );
        // Clocks shift by 30 minutes, so this hour has 90.
        check(
            "Australia/Lord_Howe",
            Window::Hour,
            "2026-04-04T15:15:00Z",
            "2026-04-05T01:00:00+11:00[Australia/Lord_Howe]",
            "2026-04-04T15:30:00Z",
        );
        // Midnight is skipped: the day starts at 01:00.
        check(
            "Africa/Cairo",
            Window::Day,
            "2026-04-24T12:00:00Z",
            "2026-04-24T01:00:00+03:00[Africa/Cairo]",
            "2026-04-24T21:00:00Z",
        );
    }

    #[test]
    fn at_the_edge_of_time_everything_is_one_window() {
        let calendar = Calendar::new(TimeZone::get("Europe/Berlin").unwrap());
        assert_eq!(&*calendar.period(Window::Week, Timestamp::MIN).start, "0");
        assert_eq!(calendar.period(Window::Month, Timestamp::MAX).ends, None);
    }

    fn zone() -> impl Strategy<Value = TimeZone> {
        prop::sample::select(vec![
            "UTC",
            "Europe/Berlin",
            "America/New_York",
            "Asia/Kolkata",
            "Africa/Cairo",
            "Australia/Lord_Howe",
            "Pacific/Apia",
            "America/Havana",
        ])
        .prop_map(|name| TimeZone::get(name).unwrap())
    }

    proptest! {
        // The years 2000 to 2037 use every rule of these zones.
        #[test]
        fn windows_tile_time(zone in zone(), second in 946_684_800i64..2_114_380_800) {
            let calendar = Calendar::new(zone);
            let now = Timestamp::from_second(second).unwrap();
            for window in Window::NAMED.into_iter().filter(|window| window.is_calendar()) {
                let period = calendar.period(window, now);
                let start = period.start.parse::<Zoned>().unwrap().timestamp();
                let ends = period.ends.unwrap();
                prop_assert!(start <= now && now < ends, "{window:?} {now} {period:?}");
                prop_assert_eq!(&calendar.period(window, start), &period);
                prop_assert_eq!(&calendar.period(window, ends - SignedDuration::from_nanos(1)), &period);
                let next = calendar.period(window, ends).start.parse::<Zoned>().unwrap();
                prop_assert_eq!(next.timestamp(), ends);
            }
        }
    }
}
