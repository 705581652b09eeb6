//! Requests of clients reach sites as they are: fields, bodies, waiting for 100, pipelining, versions.

use super::script::{Step, hear, hear_head, say};
use super::{Situation, Way, assert_as_direct};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const BOTH: [Way; 2] = [Way::Tls, Way::Absolute];

fn asked(name: impl Into<String>, request: impl AsRef<[u8]>) -> Situation {
    Situation::new(
        name,
        vec![say(request), Step::HearMessages(1)],
        vec![Step::HearMessages(1), say(OK)],
    )
}

fn with_fields(name: impl Into<String>, lines: impl AsRef<[u8]>) -> Situation {
    asked(
        name,
        [b"GET {to}/ HTTP/1.1\r\nHost: {site}\r\n", lines.as_ref(), b"\r\n\r\n"].concat(),
    )
}

#[tokio::test]
async fn fields_of_requests_pass_as_they_are() {
    let mut rows = vec![
        with_fields(
            "names in several cases",
            "accept: */*\r\nX-UPPER: 1\r\nx-MiXeD: 2\r\nDNT: 1",
        ),
        asked(
            "Host last",
            "GET {to}/ HTTP/1.1\r\nAccept: */*\r\nX-A: 1\r\nHost: {site}\r\n\r\n",
        ),
        with_fields("equal names apart", "A: 1\r\nB: 2\r\nA: 3\r\nC: 4\r\nB: 5"),
        with_fields(
            "two lines of cookies",
            "Cookie: a=1\r\nX-Between: 1\r\ncookie: b=2; c=3",
        ),
        with_fields(
            "odd token characters in a name",
            "!#$%&'*+-.^_`|~09: odd\r\nunder_score: 1",
        ),
        with_fields("empty values", "X-Empty:\r\nX-Spaces:   \r\nX-After: 1"),
        with_fields("values outside ASCII", b"X-Utf8: Zo\xc3\xab\r\nX-Latin: Zo\xeb"),
        with_fields("a value of 20 KiB", format!("X-Long: {}", "v".repeat(20 << 10))),
        with_fields("TE: trailers", "TE: trailers\r\nConnection: TE"),
        with_fields(
            "a client's own Via and forwarding",
            "Via: 1.0 fred\r\nForwarded: for=10.0.0.1\r\nX-Forwarded-For: 10.0.0.1",
        ),
        with_fields("keep-alive", "Connection: keep-alive\r\nAccept-Encoding: gzip, br"),
        with_fields(
            "Max-Forwards and Range",
            "Max-Forwards: 3\r\nRange: bytes=0-1, 5-6\r\nIf-None-Match: \"1\", W/\"2\"",
        ),
        with_fields("other schemes", "Authorization: Bearer abc\r\nX-Api-Key: k"),
        with_fields("a tab and odd bytes in a value", b"X-Odd: a\tb\x7fc").or_refused(400),
        with_fields("control bytes in a value", b"X-Odd: a\x01b\x1fc").or_refused(400),
    ];
    for count in [101, 250] {
        let lines: Vec<String> = (0..count).map(|number| format!("X-{number}: {number}")).collect();
        rows.push(with_fields(format!("{count} fields"), lines.join("\r\n")));
    }
    for method in [
        "PROPFIND",
        "M-SEARCH",
        "get",
        "PATCH",
        "QUERY",
        "TRACE",
        "A!#$%&'*+-.^_`|~9",
    ] {
        rows.push(asked(
            format!("method {method}"),
            format!("{method} {{to}}/ HTTP/1.1\r\nHost: {{site}}\r\n\r\n"),
        ));
    }
    let rows = rows.into_iter().flat_map(|row| row.each(&BOTH));
    assert_as_direct(rows.collect()).await;
}

#[tokio::test]
async fn bodies_of_requests_pass_as_they_are() {
    let chunked = "POST {to}/ HTTP/1.1\r\nHost: {site}\r\nTransfer-Encoding: chunked\r\n";
    let rows = vec![
        asked("POST", "POST {to}/ HTTP/1.1\r\nHost: {site}\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nabc"),
        asked("POST of nothing", "POST {to}/ HTTP/1.1\r\nHost: {site}\r\nContent-Length: 0\r\n\r\n"),
        asked("POST without a length", "POST {to}/ HTTP/1.1\r\nHost: {site}\r\n\r\n"),
        asked("GET with a body", "GET {to}/ HTTP/1.1\r\nHost: {site}\r\nContent-Length: 3\r\n\r\nabc"),
        asked("GET with a length of zero", "GET {to}/ HTTP/1.1\r\nHost: {site}\r\nContent-Length: 0\r\n\r\n"),
        asked(
            "GET with chunks",
            "GET {to}/ HTTP/1.1\r\nHost: {site}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        ),
        asked("DELETE with a body", "DELETE {to}/ HTTP/1.1\r\nHost: {site}\r\nContent-Length: 3\r\n\r\nabc"),
        Situation::new(
            "HEAD with a body",
            vec![
                say("HEAD {to}/ HTTP/1.1\r\nHost: {site}\r\nContent-Length: 3\r\n\r\nabc"),
                Step::HearMessages(1),
            ],
            vec![
                Step::HearMessages(1),
                say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"),
            ],
        ),
        asked("chunks", format!("{chunked}\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n")),
        asked("chunks without content", format!("{chunked}\r\n0\r\n\r\n")),
        asked("trailers that nobody announced", format!("{chunked}\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\nx-low: 2\r\n\r\n")),
        asked(
            "trailers that were announced",
            format!("{chunked}Trailer: X-Sum, X-Two\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\nX-Two: 2\r\n\r\n"),
        ),
        Situation::new(
            "chunks that come one by one",
            vec![
                say(format!("{chunked}\r\n")),
                Step::Await("head"),
                say("3\r\none\r\n"),
                Step::Await("one"),
                say("3\r\ntwo\r\n"),
                Step::Await("two"),
                say("0\r\n\r\n"),
                Step::HearMessages(1),
            ],
            vec![
                hear_head(),
                Step::Mark("head"),
                hear("one"),
                Step::Mark("one"),
                hear("two"),
                Step::Mark("two"),
                Step::HearMessages(1),
                say(OK),
            ],
        ),
        Situation::new(
            "a body that comes part by part",
            vec![
                say("PUT {to}/ HTTP/1.1\r\nHost: {site}\r\nContent-Length: 6\r\n\r\n"),
                Step::Await("head"),
                say("one"),
                Step::Await("one"),
                say("two"),
                Step::HearMessages(1),
            ],
            vec![
                hear_head(),
                Step::Mark("head"),
                hear("one"),
                Step::Mark("one"),
                Step::HearMessages(1),
                say(OK),
            ],
        ),
        Situation::new(
            "one byte a write",
            vec![
                Step::SayBytewise(b"POST {to}/ HTTP/1.1\r\nHost: {site}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: 1\r\n\r\n".to_vec()),
                Step::HearMessages(1),
            ],
            vec![Step::HearMessages(1), say(OK)],
        ),
        Situation::new(
            "an answer before the body has come",
            vec![
                say("POST {to}/ HTTP/1.1\r\nHost: {site}\r\nContent-Length: 6\r\n\r\none"),
                Step::HearMessages(1),
                say("two"),
                Step::Mark("sent"),
                Step::Await("heard"),
            ],
            vec![hear("one"), say("HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno"), Step::HearMessages(1), Step::Mark("heard")],
        ),
        Situation::new(
            "an answer before the body has come, and the end",
            vec![
                say("POST {to}/ HTTP/1.1\r\nHost: {site}\r\nContent-Length: 6\r\n\r\none"),
                Step::HearEnd,
            ],
            vec![
                hear("one"),
                say("HTTP/1.1 401 Unauthorized\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno"),
                Step::HalfClose,
            ],
        ),
        Situation::new(
            "an upload that stops in the middle",
            vec![
                say("POST {to}/ HTTP/1.1\r\nHost: {site}\r\nContent-Length: 6\r\n\r\none"),
                Step::Await("one"),
                Step::Leave,
            ],
            vec![hear("one"), Step::Mark("one"), Step::HearEnd],
        ),
        Situation::new(
            "chunks that stop in the middle",
            vec![say(format!("{chunked}\r\n3\r\none\r\n")), Step::Await("one"), Step::Leave],
            vec![hear("one"), Step::Mark("one"), Step::HearEnd],
        ),
    ];
    let rows = rows.into_iter().flat_map(|row| row.each(&BOTH));
    assert_as_direct(rows.collect()).await;
}

#[tokio::test]
async fn who_expects_100_gets_what_the_site_says() {
    let head = "POST {to}/ HTTP/1.1\r\nHost: {site}\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n";
    let capital = "POST {to}/ HTTP/1.1\r\nHost: {site}\r\nContent-Length: 3\r\nexpect: 100-Continue\r\n\r\n";
    let go_on = "HTTP/1.1 100 Continue\r\n\r\n";
    let rows = vec![
        Situation::new(
            "100",
            vec![say(head), hear_head(), say("abc"), Step::HearMessages(1)],
            vec![hear_head(), say(go_on), Step::HearMessages(1), say(OK)],
        ),
        Situation::new(
            "100 in other words",
            vec![say(capital), hear_head(), say("abc"), Step::HearMessages(1)],
            vec![
                hear_head(),
                say("HTTP/1.1 100 Go ahead\r\nX-A: 1\r\n\r\n"),
                Step::HearMessages(1),
                say(OK),
            ],
        ),
        Situation::new(
            "103 and then 100",
            vec![
                say(head),
                hear_head(),
                Step::Mark("hints"),
                hear_head(),
                say("abc"),
                Step::HearMessages(1),
            ],
            vec![
                hear_head(),
                say("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"),
                Step::Await("hints"),
                say(go_on),
                Step::HearMessages(1),
                say(OK),
            ],
        ),
        Situation::new(
            "417",
            vec![say(head), Step::HearMessages(1)],
            vec![
                hear_head(),
                say("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\n\r\nno"),
            ],
        ),
        Situation::new(
            "417 and the end",
            vec![say(head), Step::HearEnd],
            vec![
                hear_head(),
                say("HTTP/1.1 417 Expectation Failed\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno"),
                Step::HalfClose,
            ],
        ),
        Situation::new(
            "the final answer at once, and then the body",
            vec![say(head), Step::HearMessages(1), say("abc"), Step::Await("heard")],
            vec![hear_head(), say(OK), Step::HearMessages(1), Step::Mark("heard")],
        ),
        Situation::new(
            "a client that does not wait",
            vec![say(format!("{head}abc")), Step::HearMessages(1)],
            vec![Step::HearMessages(1), say(OK)],
        ),
        Situation::new(
            "a site that never says 100",
            vec![say(head), Step::Await("head"), say("abc"), Step::HearMessages(1)],
            vec![hear_head(), Step::Mark("head"), Step::HearMessages(1), say(OK)],
        ),
    ];
    let rows = rows.into_iter().flat_map(|row| row.each(&BOTH));
    assert_as_direct(rows.collect()).await;
}

#[tokio::test]
async fn several_requests_on_one_connection_are_answered_in_order() {
    let get = |path: &str| format!("GET {{to}}{path} HTTP/1.1\r\nHost: {{site}}\r\n\r\n");
    let post = "POST {to}/p HTTP/1.1\r\nHost: {site}\r\nContent-Length: 3\r\n\r\nabc";
    let page = |text: &str| {
        say(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}",
            text.len()
        ))
    };
    let close = "GET {to}/ HTTP/1.1\r\nHost: {site}\r\nConnection: close\r\n\r\n";
    let old = "GET {to}/ HTTP/1.0\r\nHost: {site}\r\n\r\n";
    let old_kept = "GET {to}/ HTTP/1.0\r\nHost: {site}\r\nConnection: keep-alive\r\n\r\n";
    let mut many = (Vec::new(), Vec::new());
    for number in 1..=20 {
        many.0
            .extend([say(get(&format!("/{number}"))), Step::HearMessages(number)]);
        many.1.extend([Step::HearMessages(number), page(&number.to_string())]);
    }
    let mut rows = vec![
        Situation::new("twenty in turn", many.0, many.1),
        Situation::new(
            "GET and GET in one segment",
            vec![say(get("/a") + &get("/b")), Step::HearMessages(2)],
            vec![Step::HearMessages(1), page("a"), Step::HearMessages(2), page("b")],
        ),
        Situation::new(
            "GET, POST and GET in one segment",
            vec![say(get("/a") + post + &get("/b")), Step::HearMessages(3)],
            vec![
                Step::HearMessages(1),
                page("a"),
                Step::HearMessages(2),
                page("p"),
                Step::HearMessages(3),
                page("b"),
            ],
        ),
        Situation::new(
            "a client that wants the connection closed",
            vec![say(close), Step::HearEnd],
            vec![Step::HearMessages(1), page("bye"), Step::HalfClose],
        ),
        Situation::new(
            "a site that wants the connection closed",
            vec![say(get("/")), Step::HearEnd],
            vec![
                Step::HearMessages(1),
                say("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbye"),
                Step::HalfClose,
            ],
        ),
        Situation::new(
            "HTTP/1.0",
            vec![say(old), Step::HearEnd],
            vec![
                Step::HearMessages(1),
                say("HTTP/1.0 200 OK\r\n\r\nold"),
                Step::HalfClose,
            ],
        ),
        Situation::new(
            "HTTP/1.0 answered by HTTP/1.1",
            vec![say(old), Step::HearEnd],
            vec![Step::HearMessages(1), page("new"), Step::HalfClose],
        ),
        Situation::new(
            "HTTP/1.0 kept alive",
            vec![
                say(old_kept),
                Step::HearMessages(1),
                say(old_kept),
                Step::HearMessages(2),
            ],
            vec![
                Step::HearMessages(1),
                say("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\n1"),
                Step::HearMessages(2),
                say("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\n2"),
            ],
        ),
        Situation::new(
            "a client that ends its direction after the request",
            vec![say(get("/")), Step::HalfClose, Step::HearMessages(1)],
            vec![Step::HearMessages(1), page("half"), Step::HalfClose],
        ),
        Situation::new(
            "a client that ends its direction after an upload",
            vec![say(post), Step::HalfClose, Step::HearEnd],
            vec![
                Step::HearMessages(1),
                say("HTTP/1.1 200 OK\r\n\r\nuntil the end"),
                Step::HalfClose,
            ],
        ),
        // Not here: a client that ends its direction with a FIN and no `close_notify`. In TLS nobody ends a stream like
        // that who still wants an answer, so it counts as gone.
        Situation::new(
            "an empty line before a request",
            vec![say(format!("\r\n{}", get("/"))), Step::HearMessages(1)],
            vec![hear("GET"), hear_head(), page("ok")],
        ),
    ];
    // In the absolute form the client's connection is not the site's: a POST may go to a new connection.
    let to_closed = Situation::new(
        "a POST on a connection that the site has just closed",
        vec![
            say(get("/")),
            Step::HearMessages(1),
            Step::Mark("answered"),
            Step::Await("closed"),
            say(post),
            Step::HearEnd,
        ],
        vec![
            Step::HearMessages(1),
            page("last"),
            Step::Await("answered"),
            Step::Leave,
            Step::Mark("closed"),
        ],
    );
    // The proxy may say that the site broke off.
    rows.push(
        Situation::new(
            "a POST that the site reads and does not answer",
            vec![say(get("/")), Step::HearMessages(1), say(post), Step::HearMessages(2)],
            vec![Step::HearMessages(1), page("last"), Step::HearMessages(2), Step::Leave],
        )
        .or_refused(502),
    );
    let rows = rows.into_iter().flat_map(|row| row.each(&BOTH));
    assert_as_direct(rows.chain([to_closed.by(Way::Tls)]).collect()).await;
}
