//! Heads for the next hop.

use bytes::BytesMut;
use http::{HeaderMap, StatusCode, Version, request, response};

use super::head::{RawTarget, Reason};
use super::hop::{Hop, Placed};
use super::lines::{Lines, write_field};

/// The target comes from the request's [`RawTarget`] if it has one, else from its URI in the form that it is in.
pub fn write_request(head: &request::Parts, hop: Hop, out: &mut BytesMut) {
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.extend_from_slice(b" ");
    match (
        head.extensions.get::<RawTarget>(),
        head.uri.authority(),
        head.uri.path_and_query(),
    ) {
        (Some(raw), Some(_), _) => out.extend_from_slice(raw.as_bytes()),
        (Some(raw), None, _) => out.extend_from_slice(&raw.origin_form()),
        (None, None, Some(path)) => out.extend_from_slice(path.as_str().as_bytes()),
        (None, ..) => out.extend_from_slice(head.uri.to_string().as_bytes()),
    }
    out.extend_from_slice(b" ");
    out.extend_from_slice(version(head.version));
    out.extend_from_slice(b"\r\n");
    write_head(&head.headers, head.extensions.get(), &hop, Placed::default(), out);
}

pub fn write_response(head: &response::Parts, hop: Hop, out: &mut BytesMut) {
    out.extend_from_slice(version(head.version));
    out.extend_from_slice(b" ");
    out.extend_from_slice(head.status.as_str().as_bytes());
    match head.extensions.get::<Reason>() {
        Some(reason) => out.extend_from_slice(reason.with_blank()),
        None => {
            out.extend_from_slice(b" ");
            out.extend_from_slice(head.status.canonical_reason().unwrap_or_default().as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
    let placed = Placed {
        // RFC 9112 §6.1: never in these.
        of_answer: !head.status.is_informational() && head.status != StatusCode::NO_CONTENT,
        ..Placed::default()
    };
    write_head(&head.headers, head.extensions.get(), &hop, placed, out);
}

fn version(version: Version) -> &'static [u8] {
    match version {
        Version::HTTP_10 => b"HTTP/1.0",
        _ => b"HTTP/1.1",
    }
}

fn write_head(headers: &HeaderMap, lines: Option<&Lines>, hop: &Hop, mut placed: Placed, out: &mut BytesMut) {
    write_fields(headers, lines, Some(hop), &mut placed, out);
    hop.write_rest(headers, &mut placed, out);
    out.extend_from_slice(b"\r\n");
}

pub(super) fn write_fields(
    headers: &HeaderMap,
    lines: Option<&Lines>,
    hop: Option<&Hop>,
    placed: &mut Placed,
    out: &mut BytesMut,
) {
    if let Some(lines) = lines {
        lines.write(headers, hop, placed, out);
        return;
    }
    for (name, value) in headers {
        if hop.is_none_or(|hop| !hop.replaces(name)) {
            write_field(name, value, out);
        }
    }
}
