//! Strict JSON: what two parsers could read differently is rejected.
//!
//! [`checked`] walks a text once and rejects duplicate members and deep nesting (threat 1.9). [`Object`] then gives
//! access to the members of one object with their text exactly as received, which an echo needs.

use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};
use std::fmt;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::Why;

/// The limit on a body (R34), and on a decoded header.
pub(crate) const MAX_TEXT: usize = 64 * 1024;
const MAX_DEPTH: usize = 32;

/// The text of `bytes`, once it is known to be one JSON value without duplicate members and at most 32 levels deep.
pub fn checked(bytes: &[u8]) -> Result<&str, Why> {
    checked_up_to(bytes, MAX_TEXT)
}

/// Like [`checked`], for documents with another length limit.
pub(crate) fn checked_up_to(bytes: &[u8], longest: usize) -> Result<&str, Why> {
    if bytes.len() > longest {
        return Err(Why::TooLarge);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| Why::NotJson)?;
    let fault = Cell::new(Why::NotJson);
    let mut deserializer = serde_json::Deserializer::from_str(text);
    Node {
        depth: 0,
        fault: &fault,
    }
    .deserialize(&mut deserializer)
    .and_then(|()| deserializer.end())
    .map_err(|_| fault.get())?;
    Ok(text)
}

/// Decodes a header liberally: standard or URL-safe alphabet, with or without padding, with blanks around it
/// (x402 §1.1).
pub fn from_base64(value: &[u8]) -> Result<Vec<u8>, Why> {
    const LIBERAL: GeneralPurpose = GeneralPurpose::new(
        &STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    let value = value.trim_ascii();
    if value.len() > MAX_TEXT.div_ceil(3) * 4 {
        return Err(Why::TooLarge);
    }
    let standard: Vec<u8> = value
        .iter()
        .map(|byte| match byte {
            b'-' => b'+',
            b'_' => b'/',
            other => *other,
        })
        .collect();
    LIBERAL.decode(standard).map_err(|_| Why::NotBase64)
}

/// Whether [`from_base64`] could read `value`, by its alphabet alone.
pub(super) fn is_base64(value: &[u8]) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'-' | b'_' | b'=');
    value.iter().all(plain)
}

/// The members of one JSON object, each with its text as received. `null` counts as absent.
pub struct Object<'a>(BTreeMap<String, &'a RawValue>);

impl<'a> Object<'a> {
    /// `None` for anything but an object.
    pub fn read(text: &'a str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    pub fn member(&self, name: &str) -> Option<&'a RawValue> {
        self.0.get(name).copied().filter(|raw| raw.get() != "null")
    }

    /// Whether the member is present, even as `null`.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub fn object(&self, name: &str) -> Option<Self> {
        Self::read(self.member(name)?.get())
    }

    /// The member as a string; `None` if it is absent or not a JSON string.
    pub fn text(&self, name: &str) -> Option<String> {
        serde_json::from_str(self.member(name)?.get()).ok()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = BTreeMap::new();
                while let Some((name, raw)) = map.next_entry::<String, &'de RawValue>()? {
                    members.insert(name, raw);
                }
                Ok(Object(members))
            }
        }

        deserializer.deserialize_map(Members)
    }
}

/// One value in the walk of [`checked`]. `fault` distinguishes our own errors from those of the JSON parser.
struct Node<'c> {
    depth: usize,
    fault: &'c Cell<Why>,
}

impl Node<'_> {
    fn child<E: Error>(&self) -> Result<Self, E> {
        if self.depth == MAX_DEPTH {
            return Err(self.refuse(Why::TooDeep));
        }
        Ok(Self {
            depth: self.depth + 1,
            fault: self.fault,
        })
    }

    fn refuse<E: Error>(&self, why: Why) -> E {
        self.fault.set(why);
        E::custom(why)
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(self.child()?)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut names = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if !names.insert(name) {
                return Err(self.refuse(Why::DuplicateKey));
            }
            map.next_value_seed(self.child()?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicates_are_found_at_any_depth_and_under_any_spelling() {
        for bad in [
            r#"{"a":1,"a":1}"#,
            r#"{"x":[{"y":{"a":1,"b":2,"a":3}}]}"#,
            r#"{"amount":"1","amoun\u0074":"2"}"#,
        ] {
            assert_eq!(checked(bad.as_bytes()), Err(Why::DuplicateKey), "{bad}");
        }
        assert!(checked(br#"[{"a":1},{"a":1}]"#).is_ok());
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        assert!(checked(nested(32).as_bytes()).is_ok());
        assert_eq!(checked(nested(33).as_bytes()), Err(Why::TooDeep));
        assert!(checked(nested(60_000).as_bytes()).is_err());
    }

    #[test]
    fn only_one_whole_json_value_passes() {
        for bad in ["", "{", "{}{}", "{} x", "{'a':1}", "[1,]", "\u{feff}{}", "NaN", "1e999"] {
            assert_eq!(checked(bad.as_bytes()), Err(Why::NotJson), "{bad:?}");
        }
        assert_eq!(checked(b"\"\xff\""), Err(Why::NotJson));
        assert_eq!(checked(&vec![b' '; MAX_TEXT + 1]), Err(Why::TooLarge));
        // Half of a surrogate pair: some parsers replace it, others reject it.
        assert_eq!(checked(br#"{"a":"\ud800"}"#), Err(Why::NotJson));
    }

    #[test]
    fn base64_is_read_liberally() {
        for same in ["+/+/fw==", "-_-_fw==", "-_-_fw", "  +/+/fw== "] {
            assert_eq!(
                from_base64(same.as_bytes()).as_deref(),
                Ok(&[0xfb, 0xff, 0xbf, 0x7f][..]),
                "{same:?}"
            );
        }
        for bad in ["+/+/fw===", "+/+/ fw==", "+/+/f", "e30=,e30=", "=", "e30=e30="] {
            assert_eq!(from_base64(bad.as_bytes()), Err(Why::NotBase64), "{bad:?}");
        }
        assert_eq!(from_base64(&vec![b'A'; 90_000]), Err(Why::TooLarge));
    }

    #[test]
    fn members_keep_their_text() {
        let object = Object::read(r#"{"a": {"b" : 1.0e0 }, "n": null, "t": "x\u0041"}"#).unwrap();
        assert_eq!(object.member("a").unwrap().get(), r#"{"b" : 1.0e0 }"#);
        assert!(object.member("n").is_none());
        assert_eq!(object.text("t").as_deref(), Some("xA"));
        assert_eq!(object.text("a"), None);
        assert!(Object::read("[1,2]").is_none());
    }
}
