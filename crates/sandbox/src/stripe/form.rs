//! `application/x-www-form-urlencoded` with Rack's brackets, read strictly: a parameter that the call does not take is
//! an error.

use std::cell::RefCell;
use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::faults::Fault;

/// The fields of a form, under their full names with brackets.
#[derive(Clone)]
pub(super) struct Form {
    fields: Vec<(String, String)>,
    taken: RefCell<BTreeSet<usize>>,
}

impl Form {
    pub(super) fn parse(text: &[u8]) -> Result<Self, Fault> {
        let mut fields: Vec<(String, String)> = Vec::new();
        for pair in text.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
            let mut halves = pair.splitn(2, |byte| *byte == b'=');
            let name = halves.next().and_then(unescaped).ok_or_else(Fault::malformed)?;
            let value = halves.next().map_or(Some(String::new()), unescaped);
            let value = value.ok_or_else(Fault::malformed)?;
            // Rack would let the last one win, but a client that sends two has a bug.
            if fields.iter().any(|(known, _)| *known == name) && !name.ends_with("[]") {
                return Err(Fault::twice(&name));
            }
            fields.push((name, value));
        }
        Ok(Self {
            fields,
            taken: RefCell::default(),
        })
    }

    pub(super) fn take(&self, name: &str) -> Option<&str> {
        let at = self.fields.iter().position(|(known, _)| known == name)?;
        self.taken.borrow_mut().insert(at);
        self.fields.get(at).map(|(_, value)| value.as_str())
    }

    /// `name[a]=b` as an object; keys cannot contain brackets.
    pub(super) fn take_map(&self, name: &str) -> Map<String, Value> {
        let inner = |field: &str| -> Option<String> {
            let key = field.strip_prefix(name)?.strip_prefix('[')?.strip_suffix(']')?;
            (!key.is_empty() && !key.contains(['[', ']'])).then(|| key.to_owned())
        };
        let mut map = Map::new();
        for (at, (field, value)) in self.fields.iter().enumerate() {
            if let Some(key) = inner(field) {
                self.taken.borrow_mut().insert(at);
                map.insert(key, value.as_str().into());
            }
        }
        map
    }

    /// Rejects `expand[]`, with or without an index. Nothing here can be expanded.
    pub(super) fn refuse_expansion(&self) -> Result<(), Fault> {
        match self.fields.iter().find(|(name, _)| name.starts_with("expand[")) {
            Some((_, what)) => Err(Fault::not_expandable(what)),
            None => Ok(()),
        }
    }

    /// Fails if a field was not taken.
    pub(super) fn finish(&self) -> Result<(), Fault> {
        self.refuse_expansion()?;
        let taken = self.taken.borrow();
        match (0..self.fields.len()).find(|at| !taken.contains(at)) {
            Some(at) => Err(Fault::unknown(self.fields.get(at).map_or("", |(name, _)| name))),
            None => Ok(()),
        }
    }

    /// Whether both have the same fields, in any order.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let sorted = |form: &Self| {
            let mut fields = form.fields.clone();
            fields.sort();
            fields
        };
        sorted(self) == sorted(other)
    }
}

/// `None` for a malformed escape or invalid UTF-8.
fn unescaped(text: &[u8]) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => {
                let (digits, tail) = rest.split_at_checked(2)?;
                let nibble = |digit: u8| char::from(digit).to_digit(16);
                let byte = nibble(*digits.first()?)? << 4 | nibble(*digits.last()?)?;
                bytes.push(u8::try_from(byte).ok()?);
                rest = tail;
            }
            other => bytes.push(*other),
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(text: &str) -> Form {
        Form::parse(text.as_bytes()).ok().unwrap()
    }

    #[test]
    fn escapes_and_brackets_are_read() {
        let form = form("a%5Bb%5D=x+y%26%C3%A9&m[k]=v&m%5Bl%5D=w&empty=");
        assert_eq!(form.take("a[b]"), Some("x y&é"));
        assert_eq!(form.take("empty"), Some(""));
        assert_eq!(
            Value::from(form.take_map("m")),
            serde_json::json!({ "k": "v", "l": "w" })
        );
        assert!(form.finish().is_ok());
        assert_eq!(form.take("a"), None);
    }

    #[test]
    fn what_is_left_over_or_broken_is_refused() {
        let left = form("a=1&b=2");
        left.take("a");
        let refusal = left.finish().err().unwrap().answer().json;
        assert_eq!(refusal["error"]["code"], "parameter_unknown");
        assert_eq!(refusal["error"]["param"], "b");
        for bad in ["a=%", "a=%4", "a=%zz", "a=%ff", "a=1&a=2", "a=%+1"] {
            assert!(Form::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        let expanding = form("expand[]=payment_method");
        assert_eq!(expanding.finish().err().unwrap().answer().status, 400);
    }

    #[test]
    fn order_makes_no_difference() {
        assert!(form("a=1&b=2").is_same(&form("b=2&a=1")));
        assert!(!form("a=1&b=2").is_same(&form("a=1")));
        assert!(!form("a=1").is_same(&form("a=2")));
    }
}
