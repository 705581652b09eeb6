//! Messages of HTTP/1.1: where they end, and what the next hop reads in what is written for it.

use bursar_core::h1::{
    Decoded, Decoder, Encoder, Hop, Length, Malformed, Scan, request_head, request_length, response_head,
    response_length, write_request, write_response,
};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method};

/// An agent's request. What is accepted has one meaning: another parser finds the same fields, and what is written for the
/// site is read as the same request again, by both.
pub fn request(data: &[u8]) {
    let Some(end) = end_of_head(data) else { return };
    let head = Bytes::copy_from_slice(&data[..end]);
    let Ok(request) = request_head(&head) else { return };
    let Ok(length) = request_length(&request) else { return };
    // The other parser takes no other targets.
    let lines = head.split(|byte| *byte == b'\n');
    if lines.take(4).any(|line| std::str::from_utf8(line).is_err()) {
        return;
    }
    let mut fields = [httparse::EMPTY_HEADER; 300];
    let mut second = httparse::Request::new(&mut fields);
    assert_eq!(
        second.parse(&head),
        Ok(httparse::Status::Complete(end)),
        "another parser disagrees"
    );
    assert_eq!(second.method, Some(request.method().as_str()));
    same_fields(request.headers(), second.headers);
    let body = decoded(Decoder::of_request(length), &data[end..]);
    assert_eq!(body, decoded_slowly(Decoder::of_request(length), &data[end..]));

    let target = second.path.map(str::to_owned);
    let mut written = BytesMut::new();
    let framing = framing(length);
    write_request(&request.into_parts().0, framing, &mut written);
    let written = written.freeze();
    assert_eq!(end_of_head(&written), Some(written.len()), "the head has two ends");
    let again = request_head(&written).expect("what we write can be read");
    assert_eq!(request_length(&again), Ok(length));
    let mut fields = [httparse::EMPTY_HEADER; 300];
    let mut second = httparse::Request::new(&mut fields);
    assert_eq!(second.parse(&written), Ok(httparse::Status::Complete(written.len())));
    // An absolute one is never sent to a site as it is.
    if target.as_ref().is_some_and(|target| target.starts_with('/')) {
        assert_eq!(second.path.map(str::to_owned), target, "the target changed");
    }
    same_fields(again.headers(), second.headers);
}

/// A site's answer. It is read more leniently, but what is written for the agent has the same fields to every reader,
/// and a body has one end.
pub fn answer(data: &[u8]) {
    let Some((first, data)) = data.split_first() else {
        return;
    };
    let method = if first & 1 == 0 { Method::GET } else { Method::HEAD };
    let Some(end) = end_of_head(data) else { return };
    let head = Bytes::copy_from_slice(&data[..end]);
    let Ok(response) = response_head(&head) else { return };
    let Ok(length) = response_length(&method, &response) else {
        return;
    };
    let body = decoded(Decoder::of_response(length), &data[end..]);
    assert_eq!(body, decoded_slowly(Decoder::of_response(length), &data[end..]));

    let headers = response.headers().clone();
    let mut written = BytesMut::new();
    write_response(&response.into_parts().0, framing(length), &mut written);
    let written = written.freeze();
    assert_eq!(end_of_head(&written), Some(written.len()), "the head has two ends");
    let again = response_head(&written).expect("what we write can be read");
    assert_eq!(response_length(&method, &again), Ok(length));
    for name in headers.keys().filter(|name| !is_framing(name.as_str())) {
        let values = |headers: &HeaderMap| headers.get_all(name).iter().cloned().collect::<Vec<_>>();
        assert_eq!(values(&again.headers().clone()), values(&headers));
    }
    // A reader that ends lines at a CR alone finds no other fields.
    let returns = written.iter().enumerate().filter(|(_, byte)| **byte == b'\r');
    for (at, _) in returns {
        assert_eq!(written.get(at + 1), Some(&b'\n'), "a CR alone");
    }
}

fn is_framing(name: &str) -> bool {
    ["content-length", "transfer-encoding"].contains(&name)
}

fn framing(length: Length) -> Hop {
    Hop {
        framing: length,
        connection: None,
    }
}

fn end_of_head(data: &[u8]) -> Option<usize> {
    let whole = Scan::default().end(data);
    let (mut scan, mut slowly) = (Scan::default(), None);
    for seen in 1..=data.len().min(whole.unwrap_or(data.len())) {
        assert_eq!(slowly, None, "the end moved");
        slowly = scan.end(&data[..seen]);
    }
    assert_eq!(slowly, whole, "the end depends on how the bytes arrive");
    whole
}

fn same_fields(ours: &HeaderMap, theirs: &[httparse::Header<'_>]) {
    assert_eq!(ours.len(), theirs.len());
    for name in ours.keys() {
        let ours: Vec<&[u8]> = ours.get_all(name).iter().map(|value| value.as_bytes()).collect();
        let theirs: Vec<&[u8]> = theirs
            .iter()
            .filter(|field| field.name.eq_ignore_ascii_case(name.as_str()))
            .map(|field| field.value)
            .collect();
        assert_eq!(ours, theirs, "{name}");
    }
}

/// Body, trailers and what is left over.
type Body = Result<(Vec<u8>, HeaderMap, Vec<u8>), Malformed>;

fn decoded(mut decoder: Decoder, input: &[u8]) -> Body {
    let mut buffer = BytesMut::from(input);
    let (mut body, mut trailers) = (Vec::new(), HeaderMap::new());
    loop {
        match decoder.decode(&mut buffer)? {
            Decoded::Data(data) => {
                assert!(!data.is_empty());
                body.extend_from_slice(&data);
            }
            Decoded::Trailers(fields, _) => trailers = fields,
            Decoded::End => break,
            Decoded::NeedMore => {
                decoder.end_of_input()?;
                break;
            }
        }
    }
    let encoder = Encoder::new(Length::Chunked);
    let mut again = BytesMut::new();
    if !body.is_empty() {
        encoder.begin(body.len(), &mut again);
        again.extend_from_slice(&body);
        encoder.end(&mut again);
    }
    encoder.finish(Some((&trailers, None)), &mut again);
    let mut second = Decoder::of_request(Length::Chunked);
    let mut read = Vec::new();
    while let Decoded::Data(data) = second.decode(&mut again).expect("what we frame can be read") {
        read.extend_from_slice(&data);
    }
    assert!(read == body && second.is_done() && again.is_empty());
    Ok((body, trailers, buffer.to_vec()))
}

fn decoded_slowly(mut decoder: Decoder, input: &[u8]) -> Body {
    let (mut body, mut trailers, mut buffer) = (Vec::new(), HeaderMap::new(), BytesMut::new());
    let mut bytes = input.iter().copied();
    loop {
        match decoder.decode(&mut buffer)? {
            Decoded::Data(data) => body.extend_from_slice(&data),
            Decoded::Trailers(fields, _) => trailers = fields,
            Decoded::End => break,
            Decoded::NeedMore => match bytes.next() {
                Some(byte) => buffer.extend_from_slice(&[byte]),
                None => {
                    decoder.end_of_input()?;
                    break;
                }
            },
        }
    }
    buffer.extend(bytes);
    Ok((body, trailers, buffer.to_vec()))
}
