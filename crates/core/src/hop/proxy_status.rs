//! `Proxy-Status` in an answer (RFC 9209). Its members `bursar` are ours alone; those of other proxies stay (R99).

use http::{HeaderMap, HeaderName, HeaderValue};

use super::list_elements;

const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
const OURS: &str = "bursar";

/// Removes the members that a reader could take for ours. A line with a quoted string that does not end goes as a
/// whole: a reader that joins the lines would find our own member inside that string.
pub(super) fn remove_ours(headers: &mut HeaderMap) {
    let speaks_for_us = |line: &HeaderValue| !ends_its_strings(line) || list_elements(line).any(claims_to_be_us);
    if !headers.get_all(PROXY_STATUS).iter().any(speaks_for_us) {
        return;
    }
    let kept: Vec<HeaderValue> = headers.get_all(PROXY_STATUS).iter().filter_map(others).collect();
    headers.remove(PROXY_STATUS);
    for line in kept {
        headers.append(PROXY_STATUS, line);
    }
}

/// The line without our members; `None` if nothing is left.
fn others(line: &HeaderValue) -> Option<HeaderValue> {
    if !ends_its_strings(line) {
        return None;
    }
    let others: Vec<&[u8]> = list_elements(line).filter(|member| !claims_to_be_us(member)).collect();
    match others.is_empty() {
        true => None,
        false => HeaderValue::from_bytes(&others.join(&b", "[..])).ok(),
    }
}

/// Whether a reader that splits at every comma finds our name in this member, as a token or as a string.
fn claims_to_be_us(member: &[u8]) -> bool {
    member.split(|byte| *byte == b',').any(|piece| {
        let name = piece.trim_ascii();
        let name = name.strip_prefix(b"\"").unwrap_or(name);
        let (head, rest) = name.split_at(name.len().min(OURS.len()));
        head.eq_ignore_ascii_case(OURS.as_bytes()) && rest.first().is_none_or(|byte| !continues_token(*byte))
    })
}

/// RFC 8941 §3.3.4.
fn continues_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&byte)
}

fn ends_its_strings(line: &HeaderValue) -> bool {
    let (mut quoted, mut escaped) = (false, false);
    for byte in line.as_bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ => {}
        }
    }
    !quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(lines: &[&str]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(PROXY_STATUS, HeaderValue::from_str(line).unwrap());
        }
        remove_ours(&mut headers);
        let left = headers.get_all(PROXY_STATUS).iter();
        left.map(|line| line.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn only_members_that_speak_for_us_are_removed() {
        let none: [&str; 0] = [];
        for line in [
            "bursar",
            "bursar; details=\"no-offer\"",
            " Bursar ;details=x",
            "\"bursar\"; error=http_request_denied",
            "bursar;details=\"a, b\", BURSAR",
            // Read with quoted strings in mind it is another's member; split at every comma it is ours.
            "cache; details=\"x, bursar; details=y\"",
            "cache; details=\"x",
        ] {
            assert_eq!(left(&[line]), none, "{line}");
        }
        assert_eq!(
            left(&["cdn.example; fwd=miss, bursar; details=\"x\", \"Other, Inc\"; hit"]),
            ["cdn.example; fwd=miss, \"Other, Inc\"; hit"]
        );
        assert_eq!(left(&["a;hit", "bursar", "b ,  c"]), ["a;hit", "b, c"]);
        let untouched = [
            "cache ;hit  ,,b",
            "bursar.example; hit",
            "bursary",
            "x; details=\"bursar\"",
        ];
        assert_eq!(left(&untouched), untouched);
    }
}
