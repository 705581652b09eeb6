//! In which time zone commands read days and show times: the one of limits.toml (R265).

use std::fmt;

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use super::output::note;
use super::{Failure, dates};
use crate::config::Config;
use bursar_core::plain::plain;
use bursar_core::policy::Limits;
use bursar_home::Home;

#[derive(Clone, Debug)]
pub(super) struct ShownZone {
    zone: TimeZone,
    name: String,
    source: ZoneSource,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum ZoneSource {
    LimitsFile,
    /// The file names none, so UTC is used.
    NotNamed,
    /// UTC is used.
    Unreadable {
        why: String,
    },
}

impl ShownZone {
    /// Without limits.toml, or with one that has mistakes, people must still be able to see their payments.
    pub(super) fn of(home: &Home) -> Self {
        let limits = Config::load(home.root()).and_then(|config| config.limits.load());
        match limits {
            Ok(limits) => Self::of_limits(&limits),
            Err(error) => {
                let why = error.to_string().lines().next().unwrap_or_default().to_owned();
                Self::utc(ZoneSource::Unreadable { why })
            }
        }
    }

    pub(super) fn of_limits(limits: &Limits) -> Self {
        let calendar = &limits.calendar;
        match calendar.is_named() {
            true => Self {
                zone: calendar.zone().clone(),
                name: calendar.zone_name().to_owned(),
                source: ZoneSource::LimitsFile,
            },
            false => Self::utc(ZoneSource::NotNamed),
        }
    }

    pub(super) fn plain_utc() -> Self {
        Self::utc(ZoneSource::LimitsFile)
    }

    fn utc(source: ZoneSource) -> Self {
        Self {
            zone: TimeZone::UTC,
            name: "UTC".to_owned(),
            source,
        }
    }

    pub(super) fn local(&self, at: Timestamp) -> Zoned {
        at.to_zoned(self.zone.clone())
    }

    /// `2026-11-20 15:30:00`, below a line that names the zone.
    pub(super) fn time(&self, at: Timestamp) -> String {
        self.local(at).strftime("%Y-%m-%d %H:%M:%S").to_string()
    }

    /// `2026-11-20 15:30:00 +01:00`: alone it is still one instant.
    pub(super) fn instant(&self, at: Timestamp) -> String {
        self.local(at).strftime("%Y-%m-%d %H:%M:%S %:z").to_string()
    }

    /// The first instant that `--since` means.
    pub(super) fn since(&self, text: &str) -> Result<Timestamp, Failure> {
        self.doubted(text);
        dates::since(text, &self.zone, Timestamp::now()).map_err(|why| Failure::usage(format!("{text}: {why}")))
    }

    /// The first instant after what `--until` means.
    pub(super) fn until(&self, text: &str) -> Result<Timestamp, Failure> {
        self.doubted(text);
        dates::until(text, &self.zone, Timestamp::now()).map_err(|why| Failure::usage(format!("{text}: {why}")))
    }

    /// A day of another zone than the one that was meant selects other payments.
    fn doubted(&self, text: &str) {
        if dates::is_day(text) && self.source != ZoneSource::LimitsFile {
            note!("bursar: {} is taken as a day in {self}.", plain(text));
        }
    }
}

/// `Europe/Berlin`, or `UTC` and why.
impl fmt::Display for ShownZone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = plain(&self.name);
        match &self.source {
            ZoneSource::LimitsFile => f.write_str(&name),
            ZoneSource::NotNamed => write!(f, "{name} (limits.toml sets no timezone)"),
            ZoneSource::Unreadable { why } => write!(f, "{name} (limits.toml cannot be used: {})", plain(why)),
        }
    }
}
