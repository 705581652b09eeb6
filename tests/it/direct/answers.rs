//! Answers of sites, odd ones included, reach clients as they are.

use super::script::{Step, hear_head, say};
use super::{Situation, Way, assert_as_direct};

const REQUEST: &str = "GET {to}/ HTTP/1.1\r\nHost: {site}\r\nAccept: */*\r\n\r\n";

/// The site answers one request with these bytes and keeps the connection open; the client reads the whole answer.
fn answered(name: &str, answer: impl AsRef<[u8]>) -> Situation {
    asked(name, REQUEST, answer)
}

fn asked(name: &str, request: &str, answer: impl AsRef<[u8]>) -> Situation {
    Situation::new(
        name,
        vec![say(request), Step::HearMessages(1)],
        vec![Step::HearMessages(1), say(answer)],
    )
}

/// The same with something done by the site after the answer, and the client waits for the end.
fn ended(name: &str, answer: impl AsRef<[u8]>, by: Step) -> Situation {
    Situation::new(
        name,
        vec![say(REQUEST), Step::HearEnd],
        vec![Step::HearMessages(1), say(answer), by],
    )
}

#[tokio::test]
async fn answers_end_as_the_site_ends_them() {
    let close_delimited = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nuntil the end";
    let with_close = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/plain\r\n\r\nuntil the end";
    let old = "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nuntil the end";
    let with_length = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole";
    let cut_short = "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\ntoo short";
    let chunks_cut = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n";
    let mut rows = Vec::new();
    for (name, answer) in [
        ("close-delimited", close_delimited),
        ("close-delimited with Connection: close", with_close),
        ("close-delimited HTTP/1.0", old),
        ("a whole answer", with_length),
        ("shorter than its length", cut_short),
        ("chunks without an end", chunks_cut),
    ] {
        for (how, step) in [
            ("close_notify", Step::HalfClose),
            ("FIN alone", Step::Cut),
            ("RST", Step::Reset),
        ] {
            // A reset throws away what the client has not read yet, so the client says that it has the bytes.
            let mut row = ended(&format!("{name}, ended by {how}"), answer, step.clone());
            if step == Step::Reset {
                let last = &answer.as_bytes()[answer.len() - 4..];
                row.client = vec![say(REQUEST), super::script::hear(last), Step::Mark("read"), Step::HearEnd];
                row.site[0].insert(2, Step::Await("read"));
            }
            rows.push(row.clone());
            if step != Step::Cut {
                rows.push(row.by(Way::Absolute));
            }
        }
    }
    assert_as_direct(rows).await;
}

#[tokio::test]
async fn heads_of_answers_pass_as_they_are() {
    let mut rows = vec![answered(
        "a plain answer",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    )];
    let _ = hear_head;
    for (name, reason) in [
        ("a reason in UTF-8", "HTTP/1.1 200 Très bien ✓".as_bytes()),
        ("a reason in Latin-1", b"HTTP/1.1 200 Tr\xe8s bien"),
        ("an empty reason", b"HTTP/1.1 200 "),
        ("no reason and no space", b"HTTP/1.1 200"),
        ("a reason of its own", b"HTTP/1.1 200 All right then"),
        ("status 299", b"HTTP/1.1 299 Odd"),
        ("status 600", b"HTTP/1.1 600 Odder"),
        ("status 999", b"HTTP/1.1 999 Request denied"),
    ] {
        let answer = [reason, b"\r\nContent-Length: 2\r\n\r\nok"].concat();
        rows.push(answered(name, answer));
    }
    assert_as_direct(rows).await;
}
