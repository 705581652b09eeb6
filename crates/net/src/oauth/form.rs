//! Forms, Basic and Bearer authentication, and a check for JSON objects.

use std::fmt::Write as _;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use zeroize::Zeroizing;

use super::Secret;

/// `application/x-www-form-urlencoded` as browsers write it, in this order. Wiped on drop: it may hold a secret.
pub fn urlencoded(fields: &[(&str, &str)]) -> Zeroizing<String> {
    // Allocated once: a buffer that grows leaves unwiped copies behind.
    let room = fields
        .iter()
        .map(|(name, value)| 3 * (name.len() + value.len()) + 2)
        .sum();
    let mut form = Zeroizing::new(String::with_capacity(room));
    for (name, value) in fields {
        if !form.is_empty() {
            form.push('&');
        }
        escape(&mut form, name);
        form.push('=');
        escape(&mut form, value);
    }
    form
}

/// Both parts are form-encoded before they are joined (RFC 6749 §2.3.1).
pub fn basic(client_id: &str, secret: &Secret) -> Option<HeaderValue> {
    let room = 3 * (client_id.len() + secret.expose().len()) + 1;
    let mut joined = Zeroizing::new(String::with_capacity(room));
    escape(&mut joined, client_id);
    joined.push(':');
    escape(&mut joined, secret.expose());
    let encoded = Zeroizing::new(STANDARD.encode(joined.as_bytes()));
    sensitive(&Zeroizing::new(format!("Basic {}", encoded.as_str())))
}

/// `None` for a token with characters that a header cannot carry.
pub fn bearer(token: &Secret) -> Option<HeaderValue> {
    sensitive(&Zeroizing::new(format!("Bearer {}", token.expose())))
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn escape(form: &mut String, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'*' | b'-' | b'.' | b'_' => form.push(char::from(byte)),
            b' ' => form.push('+'),
            // Writing to a String cannot fail.
            _ => _ = write!(form, "%{byte:02X}"),
        }
    }
}

/// The text, if it is UTF-8 and starts like a JSON object. Checked first because `serde_json` accepts invalid UTF-8 in
/// members that it skips (approvals §11), and reads an array as a struct.
pub fn object(bytes: &[u8]) -> Option<&str> {
    let text = str::from_utf8(bytes).ok()?;
    text.trim_ascii_start().starts_with('{').then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_but_letters_digits_and_four_marks_is_escaped() {
        assert_eq!(
            urlencoded(&[("a[b]", "x y&=é"), ("c", "*-._")]).as_str(),
            "a%5Bb%5D=x+y%26%3D%C3%A9&c=*-._"
        );
        assert_eq!(urlencoded(&[("a", ""), ("b", "~")]).as_str(), "a=&b=%7E");
    }
}
