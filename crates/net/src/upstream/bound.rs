//! Logins that hold for a connection and not for a request (RFC 4559 §6): what comes later on such a connection is
//! answered as if the one who has logged in had asked, so nobody else may have it.

use http::HeaderMap;
use http::header::{AUTHORIZATION, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, WWW_AUTHENTICATE};

/// Whether the fields of a request begin or continue such a login.
pub(super) fn asks(headers: &HeaderMap) -> bool {
    any(headers, [AUTHORIZATION, PROXY_AUTHORIZATION])
}

/// Whether the fields of an answer do.
pub(super) fn offers(headers: &HeaderMap) -> bool {
    any(headers, [WWW_AUTHENTICATE, PROXY_AUTHENTICATE])
}

fn any(headers: &HeaderMap, names: [HeaderName; 2]) -> bool {
    let lines = names.into_iter().flat_map(|name| headers.get_all(name));
    lines.into_iter().any(|line| names_one(line.as_bytes()))
}

/// A line may hold several challenges, and their parameters are separated by commas as well. A parameter that begins
/// with such a word costs one kept connection.
fn names_one(line: &[u8]) -> bool {
    line.split(|byte| *byte == b',').any(|member| {
        let scheme = member.trim_ascii_start();
        let end = scheme.iter().position(u8::is_ascii_whitespace).unwrap_or(scheme.len());
        let scheme = &scheme[..end];
        scheme.eq_ignore_ascii_case(b"NTLM") || scheme.eq_ignore_ascii_case(b"Negotiate")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: HeaderName, lines: &[&str]) -> HeaderMap {
        lines.iter().map(|line| (name.clone(), line.parse().unwrap())).collect()
    }

    #[test]
    fn a_login_of_a_connection_is_seen_in_any_line_and_case() {
        for line in ["NTLM TlRMTVNTUAAB", "ntlm", "Negotiate YII=", " nEgOtIaTe  x"] {
            assert!(asks(&headers(AUTHORIZATION, &[line])), "{line}");
            assert!(asks(&headers(PROXY_AUTHORIZATION, &[line])), "{line}");
            assert!(
                offers(&headers(WWW_AUTHENTICATE, &["Basic realm=\"a\"", line])),
                "{line}"
            );
            assert!(offers(&headers(PROXY_AUTHENTICATE, &[line])), "{line}");
        }
        let list = "Basic realm=\"a, b\", charset=\"UTF-8\",Negotiate, NTLM";
        assert!(offers(&headers(WWW_AUTHENTICATE, &[list])));
    }

    #[test]
    fn a_login_of_a_request_is_none() {
        for line in [
            "Bearer NTLM",
            "Basic bnRsbTpuZWdvdGlhdGU=",
            "Payment id=\"x\"",
            "NTLMv2 x",
            "Negotiate2",
            "",
        ] {
            assert!(!asks(&headers(AUTHORIZATION, &[line])), "{line}");
            assert!(!offers(&headers(WWW_AUTHENTICATE, &[line])), "{line}");
        }
    }
}
