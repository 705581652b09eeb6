//! Reads the head members of a line and the members of its event in one pass over its JSON.
//!
//! The head members lie between the others, because an entry is sorted by name. `Sorting` keeps them back, and passes
//! the rest on to the event's own `Deserialize`.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserializer as _;
use serde::de::value::{BorrowedStrDeserializer, MapAccessDeserializer};
use serde::de::{Deserialize, DeserializeSeed, IgnoredAny, MapAccess, Visitor};

use super::{Digest, Moment};

/// The head members that were found, besides `ev`.
#[derive(Default)]
pub(super) struct Found {
    pub v: Option<u8>,
    pub seq: Option<u64>,
    pub ts: Option<Moment>,
    pub prev: Option<Digest>,
}

/// The members of an event, and those of the head.
pub(super) fn members<'de, T: Deserialize<'de>>(line: &'de [u8]) -> Result<(T, Found), serde_json::Error> {
    let mut json = serde_json::Deserializer::from_slice(line);
    let mut found = Found::default();
    let whole = Whole {
        found: &mut found,
        event: PhantomData,
    };
    let event = json.deserialize_map(whole)?;
    json.end()?;
    Ok((event, found))
}

struct Whole<'f, T> {
    found: &'f mut Found,
    event: PhantomData<T>,
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Whole<'_, T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an entry")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        let sorting = Sorting { map, found: self.found };
        T::deserialize(MapAccessDeserializer::new(sorting))
    }
}

struct Sorting<'f, A> {
    map: A,
    found: &'f mut Found,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Sorting<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        // A name with an escape in it cannot be borrowed. No event has such a name, and it would not be canonical.
        while let Some(name) = self.map.next_key::<&'de str>()? {
            match name {
                "v" => self.found.v = Some(self.map.next_value()?),
                "seq" => self.found.seq = Some(self.map.next_value()?),
                "ts" => self.found.ts = Some(self.map.next_value()?),
                "prev" => self.found.prev = Some(self.map.next_value()?),
                "ev" => drop(self.map.next_value::<IgnoredAny>()?),
                name => return seed.deserialize(BorrowedStrDeserializer::new(name)).map(Some),
            }
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.map.next_value_seed(seed)
    }
}
