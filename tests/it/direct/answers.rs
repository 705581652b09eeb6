//! Answers of sites, odd ones included, reach clients as they are, and end as they end.

use super::script::{Step, hear, hear_head, say};
use super::{Situation, Way, assert_as_direct};

const REQUEST: &str = "GET {to}/ HTTP/1.1\r\nHost: {site}\r\nAccept: */*\r\n\r\n";
const BOTH: [Way; 2] = [Way::Tls, Way::Absolute];

/// The site answers one request with these bytes and keeps the connection open; the client reads the whole answer.
fn answered(name: impl Into<String>, answer: impl AsRef<[u8]>) -> Situation {
    asked(name, REQUEST, answer)
}

fn asked(name: impl Into<String>, request: &str, answer: impl AsRef<[u8]>) -> Situation {
    Situation::new(
        name,
        vec![say(request), Step::HearMessages(1)],
        vec![Step::HearMessages(1), say(answer)],
    )
}

/// An answer with these lines in its head.
fn with_fields(name: impl Into<String>, lines: impl AsRef<[u8]>) -> Situation {
    let answer = [
        b"HTTP/1.1 200 OK\r\n",
        lines.as_ref(),
        b"\r\nContent-Length: 2\r\n\r\nok",
    ]
    .concat();
    answered(name, answer)
}

#[tokio::test]
async fn answers_end_as_the_site_ends_them() {
    let mut rows = Vec::new();
    for (name, answer) in [
        (
            "close-delimited",
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nuntil the end",
        ),
        (
            "close-delimited with Connection: close",
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/plain\r\n\r\nuntil the end",
        ),
        (
            "close-delimited HTTP/1.0",
            "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nuntil the end",
        ),
        (
            "close-delimited identity",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nuntil the end",
        ),
        ("whole", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole"),
        (
            "whole with Connection: close",
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nwhole",
        ),
        (
            "shorter than its length",
            "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\ntoo short",
        ),
        (
            "chunks without an end",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n",
        ),
        (
            "half a chunk",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40\r\npart",
        ),
        (
            "chunks whose trailers are cut",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n0\r\nX: y",
        ),
    ] {
        for (how, step) in [
            ("close_notify", Step::HalfClose),
            ("FIN alone", Step::Cut),
            ("RST", Step::Reset),
        ] {
            // A reset throws away what has not been read yet, so the client says that it has the bytes.
            let last = &answer.as_bytes()[answer.len() - 4..];
            let (listening, waiting) = if step == Step::Reset && name != "chunks whose trailers are cut" {
                (
                    vec![say(REQUEST), hear(last), Step::Mark("read"), Step::HearEnd],
                    vec![Step::Await("read")],
                )
            } else {
                (vec![say(REQUEST), Step::HearEnd], Vec::new())
            };
            if step == Step::Reset && waiting.is_empty() {
                continue;
            }
            let site = [vec![Step::HearMessages(1), say(answer)], waiting, vec![step.clone()]].concat();
            let row = Situation::new(format!("{name}, then {how}"), listening, site);
            // Without TLS there is no `close_notify`.
            rows.extend(row.each(if step == Step::Cut { &BOTH[..1] } else { &BOTH }));
        }
    }
    assert_as_direct(rows).await;
}

#[tokio::test]
async fn status_lines_pass_as_they_are() {
    let mut rows = Vec::new();
    for (name, line) in [
        ("an ordinary one", &b"HTTP/1.1 200 OK"[..]),
        ("a reason in UTF-8", "HTTP/1.1 200 Très bien ✓".as_bytes()),
        ("a reason in Latin-1", b"HTTP/1.1 200 Tr\xe8s bien"),
        ("an empty reason", b"HTTP/1.1 200 "),
        ("no reason and no space", b"HTTP/1.1 200"),
        ("a reason of the site's own", b"HTTP/1.1 200 All right then"),
        ("299", b"HTTP/1.1 299 Odd"),
        ("418", b"HTTP/1.1 418 I'm a teapot"),
        ("600", b"HTTP/1.1 600 Odder"),
        ("999", b"HTTP/1.1 999 Request denied"),
        ("HTTP/1.0", b"HTTP/1.0 200 OK"),
        ("HTTP/1.0 with keep-alive", b"HTTP/1.0 200 OK\r\nConnection: keep-alive"),
    ] {
        let answer = [line, b"\r\nContent-Length: 2\r\n\r\nok"].concat();
        rows.extend(answered(name, answer).each(&BOTH));
    }
    assert_as_direct(rows).await;
}

#[tokio::test]
async fn fields_of_answers_pass_as_they_are() {
    let mut rows = vec![
        with_fields(
            "names in several cases",
            "ETag: \"1\"\r\nx-lower: 1\r\nX-UPPER: 2\r\nX-MiXeD: 3",
        ),
        with_fields("equal names apart", "A: 1\r\nB: 2\r\nA: 3\r\nC: 4\r\nB: 5"),
        with_fields("equal names in different cases", "X-A: 1\r\nB: 2\r\nx-a: 3"),
        with_fields("odd token characters in a name", "!#$%&'*+-.^_`|~09: odd"),
        with_fields("empty values", "X-Empty:\r\nX-Spaces:    \r\nX-After: 1"),
        with_fields("spaces around values", "X-None:1\r\nX-Tab:\t2\t\r\nX-Many:    3   "),
        with_fields("a value in UTF-8", "X-Name: Zoë ✓"),
        with_fields("a value in Latin-1", b"X-Name: Zo\xeb"),
        with_fields("DEL in a value", b"X-Odd: a\x7fb"),
        with_fields("a value of 20 KiB", format!("X-Long: {}", "v".repeat(20 << 10))),
        with_fields("a folded value", "X-Folded: one\r\n two\r\n\tthree\r\nX-After: 1"),
        with_fields(
            "several cookies",
            "Set-Cookie: a=1; Path=/\r\nX-Between: 1\r\nSet-Cookie: b=\"2, 3\"; Expires=Wed, 09 Jun 2027 10:18:14 GMT\r\nset-cookie: c=3",
        ),
        with_fields(
            "other proxies' marks",
            "Via: 1.1 cdn\r\nProxy-Status: cdn; error=\"x\"\r\nAge: 5\r\nX-Cache: HIT",
        ),
        with_fields("a stale Date and no Server", "Date: Thu, 01 Jan 1970 00:00:00 GMT"),
        with_fields("NUL in a value", b"X-Odd: a\0b").or_refused(502),
        with_fields("a space before the colon", "X-Odd : 1").or_refused(502),
        with_fields("a name with a space", "X Odd: 1").or_refused(502),
        with_fields("a name outside ASCII", "X-Zoë: 1").or_refused(502),
        with_fields("a line without a colon", "nonsense").or_refused(502),
    ];
    let controls = (1..0x20).filter(|byte| !matches!(byte, b'\n' | b'\r'));
    let controls: Vec<Vec<u8>> = controls
        .map(|byte| vec![b'X', b'-', b'C', b':', b' ', b'a', byte, b'b'])
        .collect();
    rows.push(with_fields("every control byte", controls.join(&b"\r\n"[..])));
    for count in [101, 253] {
        let lines: Vec<String> = (0..count).map(|number| format!("X-{number}: {number}")).collect();
        rows.push(with_fields(format!("{count} fields"), lines.join("\r\n")));
    }
    let rows = rows.into_iter().flat_map(|row| row.each(&BOTH));
    assert_as_direct(rows.collect()).await;
}

#[tokio::test]
async fn bodies_of_answers_pass_as_they_are() {
    let head = "HEAD {to}/ HTTP/1.1\r\nHost: {site}\r\n\r\n";
    let with_te = "GET {to}/ HTTP/1.1\r\nHost: {site}\r\nTE: trailers\r\nConnection: TE\r\n\r\n";
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let with_trailers =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\nx-low: 2\r\nX-Sum: 3\r\n\r\n";
    let announced =
        "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n";
    let rows = vec![
        answered(
            "chunks",
            format!("{chunked}1\r\na\r\n2\r\nbc\r\nA\r\n0123456789\r\n0\r\n\r\n"),
        ),
        answered(
            "chunk extensions",
            format!("{chunked}2;a=b;c=\"d\"\r\nok\r\n0;last\r\n\r\n"),
        ),
        answered(
            "sizes with leading zeros",
            format!("{chunked}0002\r\nok\r\n000\r\n\r\n"),
        ),
        answered("chunks without content", format!("{chunked}0\r\n\r\n")),
        answered(
            "Chunked in capitals",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ),
        answered("trailers that nobody announced", with_trailers),
        answered("trailers that were announced", announced),
        asked("trailers that the client asked for", with_te, with_trailers),
        asked("announced trailers that the client asked for", with_te, announced),
        answered(
            "identity with a length",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nok",
        ),
        answered("an empty body", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        answered("204", "HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n"),
        answered(
            "204 with a length of zero",
            "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
        ),
        answered(
            "204 with a length",
            "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
        ),
        answered(
            "304 with a length",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\nETag: \"1\"\r\n\r\n",
        ),
        answered("205", "HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n"),
        asked(
            "HEAD with a length",
            head,
            "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n",
        ),
        asked("HEAD with chunks", head, chunked),
        asked("HEAD without either", head, "HTTP/1.1 200 OK\r\nX-A: 1\r\n\r\n"),
        asked(
            "HEAD and 404",
            head,
            "HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\n",
        ),
        answered(
            "bytes that are compressed",
            [
                b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 20\r\n\r\n".as_slice(),
                b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00",
            ]
            .concat(),
        ),
        Situation::new(
            "one byte a write",
            vec![say(REQUEST), Step::HearMessages(1)],
            vec![Step::HearMessages(1), Step::SayBytewise(with_trailers.into())],
        ),
        Situation::new(
            "two answers on one connection",
            vec![say(head), Step::HearMessages(1), say(REQUEST), Step::HearMessages(2)],
            vec![
                Step::HearMessages(1),
                say("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"),
                Step::HearMessages(2),
                say(with_trailers),
            ],
        ),
    ];
    let rows = rows.into_iter().flat_map(|row| row.each(&BOTH));
    assert_as_direct(rows.collect()).await;
}

#[tokio::test]
async fn interim_answers_pass_at_once() {
    const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nX-Case: 1\r\n\r\n";
    let mut rows = Vec::new();
    for (name, interim, marks) in [
        ("103", vec![HINTS], vec!["1"]),
        (
            "103 twice",
            vec![
                HINTS,
                "HTTP/1.1 103 Early Hints\r\nLink: </b.css>\r\nLink: </c.css>\r\n\r\n",
            ],
            vec!["1", "2"],
        ),
        ("100 unasked", vec!["HTTP/1.1 100 Continue\r\n\r\n"], vec!["1"]),
        ("102", vec!["HTTP/1.1 102 Processing\r\n\r\n"], vec!["1"]),
        (
            "102 then 103",
            vec!["HTTP/1.1 102 Processing\r\nX-A: 1\r\n\r\n", HINTS],
            vec!["1", "2"],
        ),
        ("199", vec!["HTTP/1.1 199 Odd\r\nX-A: 1\r\n\r\n"], vec!["1"]),
    ] {
        let (mut client, mut site) = (vec![say(REQUEST)], vec![Step::HearMessages(1)]);
        for (interim, mark) in interim.into_iter().zip(marks) {
            // Each has arrived before the next is sent.
            client.extend([hear_head(), Step::Mark(mark)]);
            site.extend([say(interim), Step::Await(mark)]);
        }
        client.push(Step::HearMessages(1));
        site.push(say(OK));
        rows.extend(Situation::new(name, client, site).each(&BOTH));
    }
    let together = format!("{HINTS}{OK}");
    rows.extend(answered("103 and the answer in one segment", together).each(&BOTH));
    assert_as_direct(rows).await;
}
