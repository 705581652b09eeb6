//! Parses `WWW-Authenticate`: every `Payment` challenge in it, with its parameters (RFC 9110 §11.6.1, MPP §2).
//!
//! Challenges of all schemes may share one field, separated by the same commas as their parameters. A new challenge
//! starts only with a scheme at the start of a list element, outside quoted strings: `realm="a, Payment id=x"` is one
//! realm. A syntax error affects only the challenge that contains it.

use std::collections::BTreeMap;

use super::super::Why;

/// Parameters by name, in lower case; values are unquoted.
pub(super) type Parameters = BTreeMap<String, String>;

/// The `Payment` challenges of one field, in order.
pub(super) fn challenges(value: &[u8]) -> Vec<Result<Parameters, Why>> {
    let mut found = Found::default();
    let mut scan = Scan { rest: value };
    loop {
        scan.skip(|byte| byte.is_ascii_whitespace() || byte == b',');
        if scan.rest.is_empty() {
            return found.payment;
        }
        match element(&mut scan, &mut found) {
            Some(()) if scan.is_at_element_end() => {}
            _ => {
                found.spoil(Why::MppMalformed);
                scan.leave_element();
            }
        }
    }
}

/// Reads one list element: a scheme, with or without its first parameter, or another parameter of the previous scheme.
fn element(scan: &mut Scan<'_>, found: &mut Found) -> Option<()> {
    let word = scan.token()?;
    let after_word = scan.rest;
    scan.skip(is_blank);
    if scan.rest.first() == Some(&b'=') {
        return parameter(word, scan, found);
    }
    let at_end = scan.is_at_element_end();
    // A blank must separate a scheme from what follows. This is no scheme, then, and may be a parameter of the challenge
    // before: without it and those after it, that challenge would say something else.
    let is_broken = !at_end && after_word.len() == scan.rest.len();
    if is_broken {
        found.spoil(Why::MppMalformed);
    }
    if at_end {
        found.begin_alone(word);
        return Some(());
    }
    found.begin(word);
    if is_broken {
        return None;
    }
    if !found.in_payment {
        // The token68 or first parameter of another scheme does not concern us.
        scan.leave_element();
        return Some(());
    }
    let name = scan.token()?;
    scan.skip(is_blank);
    parameter(name, scan, found)
}

fn parameter(name: &[u8], scan: &mut Scan<'_>, found: &mut Found) -> Option<()> {
    scan.rest = scan.rest.strip_prefix(b"=")?;
    scan.skip(is_blank);
    let value = match scan.rest.strip_prefix(b"\"") {
        Some(quoted) => {
            scan.rest = quoted;
            scan.quoted()?
        }
        None => latin1(scan.token()?),
    };
    found.add(name, value);
    Some(())
}

#[derive(Default)]
struct Found {
    payment: Vec<Result<Parameters, Why>>,
    /// Whether the next parameters belong to the last challenge in `payment`.
    in_payment: bool,
    /// Whether schemes that stand alone, such as `Negotiate`, are all that came since.
    alone_after_payment: bool,
}

impl Found {
    /// A scheme without parameters, or what a stray comma has left of a parameter's name.
    fn begin_alone(&mut self, scheme: &[u8]) {
        let after_payment = self.in_payment || self.alone_after_payment;
        self.begin(scheme);
        self.alone_after_payment = after_payment && !self.in_payment;
    }

    fn begin(&mut self, scheme: &[u8]) {
        self.alone_after_payment = false;
        self.in_payment = scheme.eq_ignore_ascii_case(b"payment");
        if self.in_payment {
            self.payment.push(Ok(Parameters::new()));
        }
    }

    fn add(&mut self, name: &[u8], value: String) {
        if self.alone_after_payment {
            // A blank separates a scheme from its first parameter, so this was one of the challenge before.
            self.in_payment = true;
            self.spoil(Why::MppMalformed);
        }
        if !self.in_payment {
            return;
        }
        let name = latin1(name).to_ascii_lowercase();
        if let Some(Ok(parameters)) = self.payment.last_mut()
            && parameters.insert(name, value).is_some()
        {
            self.spoil(Why::MppParameterTwice);
        }
    }

    fn spoil(&mut self, why: Why) {
        if self.in_payment
            && let Some(last) = self.payment.last_mut()
            && last.is_ok()
        {
            *last = Err(why);
        }
    }
}

struct Scan<'a> {
    rest: &'a [u8],
}

impl<'a> Scan<'a> {
    fn skip(&mut self, unwanted: impl Fn(u8) -> bool) {
        let end = self.rest.iter().position(|byte| !unwanted(*byte));
        self.rest = &self.rest[end.unwrap_or(self.rest.len())..];
    }

    fn token(&mut self) -> Option<&'a [u8]> {
        let end = self.rest.iter().position(|byte| !is_token(*byte));
        let (token, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        (!token.is_empty()).then_some(token)
    }

    fn is_at_element_end(&self) -> bool {
        let next = self.rest.iter().find(|byte| !is_blank(**byte));
        next.is_none_or(|byte| *byte == b',')
    }

    /// Skips to the comma that ends this element.
    fn leave_element(&mut self) {
        let (mut quoted, mut escaped) = (false, false);
        let end = self.rest.iter().position(|byte| {
            let was_escaped = std::mem::take(&mut escaped);
            match byte {
                b'\\' if quoted && !was_escaped => escaped = true,
                b'"' if !was_escaped => quoted = !quoted,
                _ => {}
            }
            *byte == b',' && !quoted
        });
        self.rest = &self.rest[end.unwrap_or(self.rest.len())..];
    }

    /// Reads the rest of a quoted string, including its closing quote. Bytes are ISO 8859-1. A backslash, `u` and four
    /// hex digits are a UTF-16 code unit: the reference server writes other characters that way (MPP §2).
    fn quoted(&mut self) -> Option<String> {
        let mut units = Vec::new();
        loop {
            let (&byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            match byte {
                b'"' => return String::from_utf16(&units).ok(),
                b'\\' => match code_unit(rest) {
                    Some(unit) => {
                        units.push(unit);
                        self.rest = &rest[5..];
                    }
                    None => {
                        let (&escaped, rest) = rest.split_first()?;
                        self.rest = rest;
                        units.push(escaped.into());
                    }
                },
                other => units.push(other.into()),
            }
        }
    }
}

fn code_unit(after_backslash: &[u8]) -> Option<u16> {
    let digits = after_backslash.strip_prefix(b"u")?.get(..4)?;
    let digits = std::str::from_utf8(digits).ok()?;
    // `from_str_radix` would accept a sign.
    digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(())?;
    u16::from_str_radix(digits, 16).ok()
}

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// `tchar` (RFC 9110 §5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(value: &[u8]) -> Result<Vec<(String, String)>, Why> {
        let mut all = challenges(value);
        assert_eq!(all.len(), 1, "{}", String::from_utf8_lossy(value));
        all.remove(0).map(|parameters| parameters.into_iter().collect())
    }

    fn names(value: &str) -> Vec<Result<String, Why>> {
        let ids = |parameters: Parameters| parameters.get("id").cloned().unwrap_or_default();
        challenges(value.as_bytes())
            .into_iter()
            .map(|challenge| challenge.map(ids))
            .collect()
    }

    #[test]
    fn values_are_unquoted_and_names_have_no_case() {
        let expected = |name: &str, value: &str| Ok(vec![(name.to_owned(), value.to_owned())]);
        for (value, name, unquoted) in [
            (&b"Payment id=a"[..], "id", "a"),
            (b"payment ID = \"a b\"", "id", "a b"),
            (b"PAYMENT \t id\t=\t\"a\" , ", "id", "a"),
            (b"Payment r=\"caf\xe9\"", "r", "caf\u{e9}"),
            (b"Payment r=\"a, Payment id=x\"", "r", "a, Payment id=x"),
            (
                br#"Payment r="\"\\\u2014\ud83d\ude00\x\u12g4""#,
                "r",
                "\"\\\u{2014}\u{1f600}xu12g4",
            ),
            (b"Payment r=\"\"", "r", ""),
        ] {
            assert_eq!(
                one(value),
                expected(name, unquoted),
                "{}",
                String::from_utf8_lossy(value)
            );
        }
    }

    #[test]
    fn what_does_not_parse_is_refused() {
        for value in [
            "Payment id=\"a",
            "Payment id=\"a\\",
            "Payment id=",
            "Payment id=,x=y",
            "Payment id=a b=c",
            "Payment id=\"a\"b",
            "Payment \"id\"=a",
            "Payment token68==",
            "Payment id=\"\\ud800\"",
            "Payment id=caf\u{e9}",
            "Payment(id=a)",
            // What follows is not of another scheme: without it the challenge would never expire.
            "Payment id=a, de\u{e9}=x, expires=b",
            "Payment id=a, realm:x, expires=b",
            "Payment id=a, realm\"x\", expires=b",
            "Payment id=a, descriptio,n=x, expires=b",
            "Payment id=a, one, two, expires=b",
        ] {
            assert_eq!(one(value.as_bytes()), Err(Why::MppMalformed), "{value}");
        }
        for value in ["Payment id=a, id=a", "Payment id=a, x=y, ID=b"] {
            assert_eq!(one(value.as_bytes()), Err(Why::MppParameterTwice), "{value}");
        }
    }

    #[test]
    fn challenges_are_separated_and_errors_stay_in_theirs() {
        let ok = |id: &str| Ok(id.to_owned());
        for (value, expected) in [
            ("Payment id=a, x=y, Payment id=b", vec![ok("a"), ok("b")]),
            ("Payment id=a,Payment id=b", vec![ok("a"), ok("b")]),
            (",, Payment id=a ,,", vec![ok("a")]),
            (
                "Bearer realm=\"x, Payment id=no\", error=\"e\", Payment id=a, Basic realm=\"x\", id=z",
                vec![ok("a")],
            ),
            (
                "Negotiate, Payment id=a, NTLM dG9rZW4=, Payment id=b",
                vec![ok("a"), ok("b")],
            ),
            (
                "Payment id=a, Negotiate, Payment id=b, Negotiate, Basic realm=x, y=z",
                vec![ok("a"), ok("b")],
            ),
            ("Basic a=\"x\\\", Payment id=no\", Payment id=a", vec![ok("a")]),
            (
                "Payment id=a, id=b, Payment id=c",
                vec![Err(Why::MppParameterTwice), ok("c")],
            ),
            ("Payment id=a b, Payment id=c", vec![Err(Why::MppMalformed), ok("c")]),
            ("Basic a=b, c:d, Payment id=a", vec![ok("a")]),
            ("Payment id=a, b:c, Payment id=d", vec![Err(Why::MppMalformed), ok("d")]),
            ("Payment", vec![ok("")]),
            ("PaymentX id=a", vec![]),
            ("id=a, Bearer Payment=1", vec![]),
            ("", vec![]),
        ] {
            assert_eq!(names(value), expected, "{value}");
        }
    }
}
