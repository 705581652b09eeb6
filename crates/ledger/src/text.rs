//! How numbers, hashes and times are written in an entry: amounts as decimal strings (JSON numbers are doubles), hashes
//! as 64 hex digits, times in UTC with six decimals.

use std::fmt;
use std::str::FromStr;

use alloy_primitives::hex;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};

/// A SHA-256 value; 64 lower-case hex digits in an entry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The `prev` of the first entry in a log, which has no predecessor.
    pub const ZERO: Self = Self([0; 32]);

    /// The leaf hash of an entry: SHA-256(0x00 || bytes), RFC 6962 §2.1.
    pub fn leaf(entry: &[u8]) -> Self {
        let mut hash = Sha256::new();
        hash.update([0x00]);
        hash.update(entry);
        Self(hash.finalize().into())
    }

    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(hex::Buffer::<32, false>::new().format(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(hex::Buffer::<32, false>::new().format(&self.0))
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text("64 hex digits", |text| {
            let mut bytes = [0; 32];
            hex::decode_to_slice(text, &mut bytes).ok()?;
            Some(Self(bytes))
        }))
    }
}

/// For members that hold a hash as raw bytes: written as [`Digest`] writes it.
pub mod hex32 {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use super::Digest;

    pub fn serialize<S: Serializer>(bytes: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
        Digest(*bytes).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
        Digest::deserialize(deserializer).map(|Digest(bytes)| bytes)
    }
}

/// An integer written as a decimal string.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Decimal<T>(pub T);

impl<T: fmt::Display> Serialize for Decimal<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de, T: FromStr> Deserialize<'de> for Decimal<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text("a decimal number in a string", |text| text.parse().ok().map(Self)))
    }
}

/// Reads a value from its text without copying it: what is expected, and how to read that.
struct Text<T>(&'static str, fn(&str) -> Option<T>);

impl<T> de::Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        self.1(text).ok_or_else(|| E::custom(format_args!("expected {}", self.0)))
    }
}

/// A time with microsecond precision, such as `2026-11-20T08:00:02.000000Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Timestamp);

impl Moment {
    /// Truncates to microseconds, the precision of an entry, so that the live writer and a replay see the same time.
    pub fn of(time: Timestamp) -> Self {
        Self(Timestamp::from_microsecond(time.as_microsecond()).unwrap_or(time))
    }

    pub fn timestamp(self) -> Timestamp {
        self.0
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6}", self.0)
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Timestamp::deserialize(deserializer).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_has_six_decimals_and_no_more() {
        let time: Timestamp = "2026-11-20T08:00:02.1234567Z".parse().unwrap();
        let moment = Moment::of(time);
        assert_eq!(moment.to_string(), "2026-11-20T08:00:02.123456Z");
        let text = serde_json::to_string(&moment).unwrap();
        assert_eq!(serde_json::from_str::<Moment>(&text).unwrap(), moment);
    }

    #[test]
    fn numbers_and_hashes_read_back() {
        let all = Decimal(u128::MAX);
        let text = serde_json::to_string(&all).unwrap();
        assert_eq!(text, "\"340282366920938463463374607431768211455\"");
        assert_eq!(serde_json::from_str::<Decimal<u128>>(&text).unwrap(), all);
        assert!(serde_json::from_str::<Decimal<u128>>("\"-1\"").is_err());
        let hash = Digest::of(b"x");
        let text = serde_json::to_string(&hash).unwrap();
        assert_eq!(serde_json::from_str::<Digest>(&text).unwrap(), hash);
        assert!(serde_json::from_str::<Digest>("\"00\"").is_err());
    }
}
