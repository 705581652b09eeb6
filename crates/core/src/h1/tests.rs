use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, Version};
use proptest::prelude::*;

use super::*;

fn request(head: &str) -> http::Request<()> {
    request_head(&Bytes::copy_from_slice(head.as_bytes())).unwrap()
}

fn refused(head: &[u8]) -> Malformed {
    request_head(&Bytes::copy_from_slice(head)).unwrap_err()
}

fn response(head: &[u8]) -> http::Response<()> {
    response_head(&Bytes::copy_from_slice(head)).unwrap()
}

fn hop(framing: Length) -> Hop {
    Hop {
        framing,
        connection: None,
    }
}

fn written_request(request: http::Request<()>, hop: Hop) -> String {
    let mut out = BytesMut::new();
    write_request(&request.into_parts().0, hop, &mut out);
    String::from_utf8(out.to_vec()).unwrap()
}

fn written_response(response: http::Response<()>, hop: Hop) -> Vec<u8> {
    let mut out = BytesMut::new();
    write_response(&response.into_parts().0, hop, &mut out);
    out.to_vec()
}

#[test]
fn what_nobody_changes_is_written_byte_for_byte() {
    let head = "GET /a?b HTTP/1.1\r\nHost: h\r\nX-One:1\r\nUSER-agent:  x \r\nx-one:2\r\nAccept: */*\r\nX-ONE:\t3\r\nEmpty:\r\n\r\n";
    // Blanks at a line's end are no part of it for any reader, and stay too.
    assert_eq!(written_request(request(head), hop(Length::Empty)), head);
}

#[test]
fn what_is_changed_wins_and_the_rest_keeps_its_place() {
    let mut head =
        request("POST / HTTP/1.1\r\nHost: h\r\nConnection: x\r\nA: 1\r\nB: 2\r\na: 3\r\nContent-Length: 4\r\n\r\n");
    let headers = head.headers_mut();
    headers.remove("connection");
    headers.remove("b");
    headers.insert("a", HeaderValue::from_static("new"));
    headers.insert("payment-signature", HeaderValue::from_static("s"));
    let written = written_request(head, hop(Length::Known(4)));
    assert_eq!(
        written,
        "POST / HTTP/1.1\r\nHost: h\r\nA: new\r\nContent-Length: 4\r\nPayment-Signature: s\r\n\r\n"
    );
}

#[test]
fn a_hop_frames_for_itself() {
    let chunked = "POST / HTTP/1.1\r\nHost: h\r\ntransfer-ENCODING: Chunked\r\nA: 1\r\n\r\n";
    assert_eq!(written_request(request(chunked), hop(Length::Chunked)), chunked);
    let known = "POST / HTTP/1.1\r\nHost: h\r\nA: 1\r\nContent-Length: 7\r\n\r\n";
    assert_eq!(written_request(request(chunked), hop(Length::Known(7))), known);
    let without = "POST / HTTP/1.1\r\nHost: h\r\nA: 1\r\n\r\n";
    assert_eq!(written_request(request(chunked), hop(Length::Empty)), without);
    let closing = Hop {
        framing: Length::Empty,
        connection: Some(Persistence::Close),
    };
    let kept = b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nA: 1\r\n\r\n";
    assert_eq!(
        written_response(response(kept), closing),
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nA: 1\r\n\r\n"
    );
}

#[test]
fn targets_that_are_no_uri_pass_as_they_are() {
    for target in [
        "/?q=created:>2024",
        "/\"a\"<b>",
        "/a{b}|c^d`e\\f",
        "/\u{fc}",
        "/a#b",
        "//double",
        "/a/../b;c?",
        "/%zz",
        "*",
    ] {
        let head = format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(written_request(request(&head), hop(Length::Empty)), head, "{target}");
    }
    let absolute = request("GET http://h:1?q=<a> HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(absolute.uri().authority().unwrap(), "h:1");
    let raw = absolute.extensions().get::<RawTarget>().unwrap();
    assert_eq!(raw.origin_form(), "/?q=<a>");
    for bad in ["/a b", "/\u{1}", "/\u{7f}", "", "/a\tb"] {
        let head = format!("GET {bad} HTTP/1.1\r\n\r\n");
        assert!(
            matches!(refused(head.as_bytes()), Malformed::Target | Malformed::RequestLine),
            "{bad:?}"
        );
    }
}

#[test]
fn requests_that_two_servers_could_read_differently_are_refused() {
    let with = |fields: &str| refused(format!("POST / HTTP/1.1\r\n{fields}\r\n").as_bytes());
    assert_eq!(with("A : 1\r\n"), Malformed::BlankBeforeColon);
    assert_eq!(with("A: 1\r\n B: 2\r\n"), Malformed::Folded);
    assert_eq!(with("A: 1\rB: 2\r\n"), Malformed::FieldValue);
    assert_eq!(with("A: \u{1}\r\n"), Malformed::FieldValue);
    assert_eq!(with("no colon\r\n"), Malformed::FieldName);
    assert_eq!(with("\u{fc}: 1\r\n"), Malformed::FieldName);
    assert_eq!(refused(b"GET / HTTP/2.0\r\n\r\n"), Malformed::Version);
    assert_eq!(refused(b"GET /\r\n\r\n"), Malformed::RequestLine);
    assert_eq!(with(&"A: 1\r\n".repeat(257)), Malformed::TooManyFields);
    let length = |fields: &str| request_length(&request(&format!("POST / HTTP/1.1\r\n{fields}\r\n")));
    assert_eq!(
        length("Content-Length: 1\r\nContent-Length: 2\r\n"),
        Err(Malformed::ContentLength)
    );
    assert_eq!(length("Content-Length: +1\r\n"), Err(Malformed::ContentLength));
    assert_eq!(
        length("Content-Length: 99999999999999999999\r\n"),
        Err(Malformed::ContentLength)
    );
    assert_eq!(
        length("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"),
        Err(Malformed::TwoLengths)
    );
    assert_eq!(
        length("Transfer-Encoding: chunked, chunked\r\n"),
        Err(Malformed::TransferEncoding)
    );
    assert_eq!(
        length("Transfer-Encoding: gzip, chunked\r\n"),
        Err(Malformed::TransferEncoding)
    );
    assert_eq!(
        length("Transfer-Encoding: identity\r\n"),
        Err(Malformed::TransferEncoding)
    );
    assert_eq!(length("Content-Length: 5, 5\r\n"), Ok(Length::Known(5)));
    assert_eq!(length("Transfer-Encoding: chunked\r\n"), Ok(Length::Chunked));
    let old = request("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(
        (old.version(), request_length(&old)),
        (Version::HTTP_10, Err(Malformed::TransferEncoding))
    );
}

#[test]
fn answers_are_taken_as_clients_take_them() {
    let head = "HTTP/1.1 200 Alles G\u{fc}t\r\nA: 1\r\n 2\r\nB: \u{1}x\r\nC : 3\r\nno colon\r\nD: 4\r\n\r\n".as_bytes();
    let read = response(head);
    assert_eq!(read.headers()["a"], "1   2");
    assert_eq!(read.headers()["b"], "x");
    assert_eq!(read.headers()["c"], "3");
    assert_eq!(read.headers()["d"], "4");
    let written = written_response(read, hop(Length::Known(0)));
    let expected = "HTTP/1.1 200 Alles G\u{fc}t\r\nA: 1\r\n 2\r\nB: \u{1}x\r\nC : 3\r\nno colon\r\nD: 4\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(String::from_utf8(written).unwrap(), expected);
    for (line, reason) in [("HTTP/1.0 299 ", ""), ("HTTP/1.1 999 x", "x"), ("HTTP/1.1 200", "")] {
        let read = response(format!("{line}\r\n\r\n").as_bytes());
        assert_eq!(read.extensions().get::<Reason>().unwrap().as_bytes(), reason.as_bytes());
        let written = written_response(read, hop(Length::Empty));
        assert_eq!(String::from_utf8(written).unwrap(), format!("{line}\r\n\r\n"));
    }
    for bad in [
        "HTTP/1.1 20 x",
        "HTTP/2 200 OK",
        "ICY 200 OK",
        "HTTP/1.1 2000 x",
        "HTTP/1.1  200 x",
    ] {
        assert!(response_head(&format!("{bad}\r\n\r\n").into()).is_err(), "{bad}");
    }
}

#[test]
fn a_line_that_is_no_field_passes_unless_it_could_be_taken_for_one_that_matters() {
    let passed = |line: &str| {
        let head = format!("HTTP/1.1 200 OK\r\nA: 1\r\n{line}\r\nB: 2\r\n\r\n");
        let written = written_response(response(head.as_bytes()), hop(Length::Empty));
        written == head.as_bytes()
    };
    for line in [
        "X Odd: 1",
        "X-Zo\u{eb}: 1",
        "nonsense",
        ": empty",
        "(c): d",
        "nonsense\r\n goes on",
    ] {
        assert!(passed(line), "{line:?}");
    }
    for line in [
        "Bursar Payment: x",
        "Bursar-(Payment: x",
        "Bursar-Pay ment: x",
        " Bursar_\u{eb}: x",
        "Content-Length\r: 5",
        "Content- Length: 5",
        "(Transfer-Encoding: chunked",
        "Transfer-Encoding",
        "connection close",
        "proxy status: x",
        "nonsense\r\n Content-Length : 5",
        "X\r: 1",
        "\r",
    ] {
        if line.starts_with(' ') {
            // Behind another line it would go on with that one.
            let head = format!("HTTP/1.1 200 OK\r\n{line}\r\nB: 2\r\n\r\n");
            let written = written_response(response(head.as_bytes()), hop(Length::Empty));
            assert_eq!(written, b"HTTP/1.1 200 OK\r\nB: 2\r\n\r\n", "{line:?}");
        } else {
            assert!(!passed(line), "{line:?}");
        }
    }
    let mut paid = response(b"HTTP/1.1 200 OK\r\nX Echo: secret\r\nB: 2\r\n\r\n");
    let lines = paid.extensions().get::<Lines>().unwrap().fields_only();
    paid.extensions_mut().insert(lines);
    let written = written_response(paid, hop(Length::Empty));
    assert_eq!(written, b"HTTP/1.1 200 OK\r\nB: 2\r\n\r\n");
}

#[test]
fn what_frames_an_answer_is_written_plainly() {
    let odd = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip,\r\n chunked\x14\r\nA: \x01\r\n\r\n";
    let read = response(odd);
    assert_eq!(response_length(&Method::GET, &read), Ok(Length::Chunked));
    let written = written_response(read, hop(Length::Chunked));
    let plain = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip,   chunked\r\nA: \x01\r\n\r\n";
    assert_eq!(String::from_utf8_lossy(&written), String::from_utf8_lossy(plain));
}

#[test]
fn a_return_alone_starts_no_line_for_the_agent() {
    let begins = refused(b"\rGET / HTTP/1.1\r\n\r\n");
    assert_eq!(begins, Malformed::RequestLine);
    let written = written_response(
        response(b"HTTP/1.1 200 OK\r\nA: 1\rBursar-Payment: x\r\n\r\n"),
        hop(Length::Empty),
    );
    assert_eq!(written, b"HTTP/1.1 200 OK\r\nA: 1 Bursar-Payment: x\r\n\r\n");
}

#[test]
fn the_length_of_an_answer() {
    let length =
        |method: Method, head: &str| response_length(&method, &response(format!("HTTP/1.1 {head}\r\n\r\n").as_bytes()));
    assert_eq!(length(Method::GET, "200 OK"), Ok(Length::UntilClose));
    assert_eq!(length(Method::GET, "200 OK\r\nContent-Length: 3"), Ok(Length::Known(3)));
    assert_eq!(length(Method::HEAD, "200 OK\r\nContent-Length: 3"), Ok(Length::Empty));
    assert_eq!(
        length(Method::GET, "204 No Content\r\nContent-Length: 3"),
        Ok(Length::Empty)
    );
    assert_eq!(
        length(Method::GET, "304 Not Modified\r\nTransfer-Encoding: chunked"),
        Ok(Length::Empty)
    );
    assert_eq!(
        length(
            Method::GET,
            "200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 3"
        ),
        Ok(Length::Known(3))
    );
    assert_eq!(
        length(Method::GET, "200 OK\r\nTransfer-Encoding: identity"),
        Ok(Length::UntilClose)
    );
    assert_eq!(
        length(
            Method::GET,
            "200 OK\r\nTransfer-Encoding: gzip, Chunked\r\nContent-Length: 3"
        ),
        Ok(Length::Chunked)
    );
    assert_eq!(
        length(Method::GET, "200 OK\r\nTransfer-Encoding: chunked, gzip"),
        Ok(Length::UntilClose)
    );
    assert_eq!(
        length(Method::GET, "200 OK\r\nContent-Length: 3\r\nContent-Length: 4"),
        Err(Malformed::ContentLength)
    );
}

/// A body, its trailers, and what is left over.
type Body = (Vec<u8>, Option<http::HeaderMap>, Vec<u8>);

/// Everything that a decoder yields, with the input in parts of `step` bytes.
fn decoded(length: Length, input: &[u8], step: usize) -> Result<Body, Malformed> {
    let mut decoder = Decoder::of_response(length);
    let (mut body, mut trailers, mut buffer) = (Vec::new(), None, BytesMut::new());
    let mut parts = input.chunks(step);
    loop {
        match decoder.decode(&mut buffer)? {
            Decoded::Data(data) => body.extend_from_slice(&data),
            Decoded::Trailers(fields, _) => trailers = Some(fields),
            Decoded::End => break,
            Decoded::NeedMore => match parts.next() {
                Some(part) => buffer.extend_from_slice(part),
                None => {
                    decoder.end_of_input()?;
                    break;
                }
            },
        }
    }
    buffer.extend_from_slice(&parts.collect::<Vec<_>>().concat());
    Ok((body, trailers, buffer.to_vec()))
}

#[test]
fn chunks_and_trailers_in_any_parts() {
    let input = b"5\r\nhello\r\n6;ext=\"1\"\r\n world\r\n0\r\nX-Sum: 7\r\nY: 8\r\n\r\nNEXT";
    for step in 1..input.len() {
        let (body, trailers, rest) = decoded(Length::Chunked, input, step).unwrap();
        assert_eq!(
            (body.as_slice(), rest.as_slice()),
            (&b"hello world"[..], &b"NEXT"[..]),
            "{step}"
        );
        assert_eq!(trailers.unwrap()["x-sum"], "7");
    }
    for (bad, why) in [
        (&b"x\r\n"[..], Malformed::ChunkSize),
        (b"\r\n", Malformed::ChunkSize),
        (b"5\nhello\r\n", Malformed::ChunkSize),
        (b"0x5\r\nhello\r\n", Malformed::ChunkSize),
        (b"-5\r\nhello\r\n", Malformed::ChunkSize),
        (b"10000000000000000\r\n", Malformed::ChunkSize),
        (b"5\r\nhelloX\r\n", Malformed::ChunkEnd),
        (b"5\r\nhello\n0\r\n\r\n", Malformed::ChunkEnd),
        (b"5\r\nhel", Malformed::Incomplete),
        (b"0\r\nX: 1\r\n", Malformed::Incomplete),
    ] {
        for step in 1..=bad.len() {
            assert_eq!(
                decoded(Length::Chunked, bad, step).unwrap_err(),
                why,
                "{:?}",
                String::from_utf8_lossy(bad)
            );
        }
    }
    assert_eq!(decoded(Length::UntilClose, b"all", 2).unwrap().0, b"all");
    assert_eq!(decoded(Length::Known(2), b"all", 1).unwrap().2, b"l");
    assert_eq!(decoded(Length::Known(4), b"all", 1).unwrap_err(), Malformed::Incomplete);
    let endless = [
        &b"0\r\n"[..],
        &b"A: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n".repeat(2000),
    ]
    .concat();
    assert_eq!(
        decoded(Length::Chunked, &endless, 1000).unwrap_err(),
        Malformed::TrailersTooLong
    );
    assert_eq!(
        decoded(Length::Chunked, &b"0;".repeat(5000), 7).unwrap_err(),
        Malformed::ChunkSize
    );
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..6), step in 1usize..50) {
        let encoder = Encoder::new(Length::Chunked);
        let mut out = BytesMut::new();
        for part in &parts {
            encoder.begin(part.len(), &mut out);
            out.extend_from_slice(part);
            encoder.end(&mut out);
        }
        let mut trailers = http::HeaderMap::new();
        trailers.insert("x", HeaderValue::from_static("1"));
        encoder.finish(Some((&trailers, None)), &mut out);
        let (body, read, rest) = decoded(Length::Chunked, &out, step).unwrap();
        prop_assert_eq!((body, read, rest.len()), (parts.concat(), Some(trailers), 0));
    }

    #[test]
    fn the_end_of_a_head_does_not_depend_on_how_it_arrives(head in "(\r\n){0,2}GET / HTTP/1.1(\r?\n[A-Z]: [a-z]{0,5}){0,4}\r?\n\r?\n", step in 1usize..9) {
        let whole = Scan::default().end(head.as_bytes());
        prop_assert_eq!(whole, Some(head.len()));
        let (mut scan, mut input, mut found) = (Scan::default(), Vec::new(), None);
        for part in head.as_bytes().chunks(step) {
            prop_assert_eq!(found, None);
            input.extend_from_slice(part);
            found = scan.end(&input);
        }
        prop_assert_eq!(found, whole);
    }

    #[test]
    fn no_bytes_make_it_panic_and_what_is_written_is_read_the_same(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let head = Bytes::from([b"GET / HTTP/1.1\r\n".as_slice(), &bytes, b"\r\n\r\n"].concat());
        if let Ok(request) = request_head(&head) {
            let again = written_request_bytes(request_head(&head).unwrap());
            let end = Scan::default().end(&again);
            prop_assert_eq!(end, Some(again.len()));
            let read = request_head(&Bytes::from(again)).unwrap();
            prop_assert_eq!(read.headers(), request.headers());
        }
        let head = Bytes::from([b"HTTP/1.1 200 OK\r\n".as_slice(), &bytes, b"\r\n\r\n"].concat());
        if let Ok(response) = response_head(&head) {
            let again = Bytes::from(written_response(response_head(&head).unwrap(), hop(Length::Empty)));
            prop_assert_eq!(Scan::default().end(&again), Some(again.len()));
            let read = response_head(&again).unwrap();
            prop_assert_eq!(read.headers(), response.headers());
        }
    }
}

fn written_request_bytes(request: http::Request<()>) -> Vec<u8> {
    let mut out = BytesMut::new();
    write_request(&request.into_parts().0, hop(Length::Empty), &mut out);
    out.to_vec()
}
