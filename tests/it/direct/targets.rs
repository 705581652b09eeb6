//! Request targets reach sites byte for byte.

use super::script::{Step, say};
use super::{Situation, Way, assert_as_direct};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const WAYS: [Way; 3] = [Way::Tls, Way::Absolute, Way::PlainTunnel];

fn asked(name: &str, request_line: &[u8]) -> Situation {
    let request = [request_line, b" HTTP/1.1\r\nHost: {site}\r\nAccept: */*\r\n\r\n"].concat();
    Situation::new(
        name,
        vec![say(request), Step::HearMessages(1)],
        vec![Step::HearMessages(1), say(OK)],
    )
}

/// Paths with what clients send that no RFC allows, and with what only seems to mean something.
pub(super) const PATHS: [(&str, &[u8]); 24] = [
    ("a quotation mark", b"/a\"b?c=\"d\""),
    ("less than", b"/a<b?c=<d"),
    ("greater than", b"/search?q=created:>2024"),
    ("a backtick", b"/a`b?c=`d"),
    ("braces", b"/a{b}?c={d}"),
    ("a bar", b"/a|b?c=d|e"),
    ("a caret", b"/a^b?c=^d"),
    ("a backslash", b"/a\\b?c=\\d"),
    ("square brackets", b"/a[b]?c[]=d&e[f]=g"),
    ("UTF-8", "/zoë/✓?q=naïve".as_bytes()),
    ("bytes that are not UTF-8", b"/a\xffb?c=\xe9"),
    ("a percent sign alone", b"/100%?q=%"),
    ("a percent sign before letters", b"/%zz?q=%u00e9"),
    ("escapes in lower case", b"/%e2%9c%93%2f?q=%2F%2f"),
    ("an escaped NUL", b"/a%00b"),
    ("two slashes", b"//double//path"),
    ("dots", b"/a/../b/./c"),
    ("semicolons", b"/a;b=c;d?e;f"),
    ("an empty query", b"/?"),
    ("question marks", b"/a?b?c=d??"),
    ("a fragment", b"/a#b?c"),
    ("an apostrophe and a star", b"/it's*(fine)!$&+,=@:~"),
    ("a URL", b"/http://other.example/?u=https://x:1/y"),
    ("a plus and spaces escaped", b"/a+b?c+d=%20+e"),
];

#[tokio::test]
async fn targets_reach_the_site_byte_for_byte() {
    let mut rows = Vec::new();
    for (name, path) in PATHS {
        let line = [b"GET {to}", path].concat();
        rows.extend(asked(name, &line).each(&WAYS));
    }
    let long = format!("GET {{to}}/{}?q={}", "a".repeat(8 << 10), "b".repeat(8 << 10));
    rows.extend(asked("16 KiB", long.as_bytes()).each(&WAYS));
    rows.extend(asked("OPTIONS *", b"OPTIONS {to*}").each(&WAYS));
    rows.extend(asked("OPTIONS /", b"OPTIONS {to}/").each(&WAYS));
    rows.extend(asked("a query without a path", b"GET {to/}?x=1").each(&[Way::Absolute]));
    rows.extend(asked("no path", b"GET {to/}").each(&[Way::Absolute]));
    // What only one reader would take for a target may be refused.
    rows.extend(asked("a space", b"GET {to}/a b").or_refused(400).each(&WAYS));
    rows.extend(asked("a control byte", b"GET {to}/a\x01b").or_refused(400).each(&WAYS));
    rows.extend(asked("DEL", b"GET {to}/a\x7fb").or_refused(400).each(&WAYS));
    rows.extend(asked("a tab", b"GET {to}/a\tb").or_refused(400).each(&WAYS));
    rows.extend(
        asked("no slash", b"GET relative/path")
            .or_refused(400)
            .each(&[Way::Tls]),
    );
    rows.extend(asked("GET *", b"GET *").or_refused(400).each(&[Way::Tls]));
    assert_as_direct(rows).await;
}
