//! What each hop decides anew: how a body is framed, and whether the connection stays (RFC 9110 §7.6.1).

use std::fmt::Write;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderName, TRANSFER_ENCODING};
use http::{HeaderMap, Version};

/// Where a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// No body, and no field says how long it is.
    Empty,
    Known(u64),
    Chunked,
    /// The end of the connection (RFC 9112 §6.3).
    UntilClose,
}

/// What a hop decides by itself: how the body is framed, and whether the connection stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    pub framing: Length,
    /// `None`: what the version of HTTP means without a `Connection` field.
    pub connection: Option<Persistence>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    Close,
    KeepAlive,
}

/// Which of its fields a hop has written where the other side had them.
#[derive(Default)]
pub(super) struct Placed {
    pub(super) of_answer: bool,
    pub(super) coding: bool,
    pub(super) connection: bool,
}

impl Persistence {
    /// What the sender of a head says about its connection; `None` where only the version of HTTP says it
    /// (RFC 9112 §9.3).
    pub fn said(version: Version, headers: &HeaderMap) -> Option<Self> {
        let says = |option: &[u8]| {
            let lines = headers.get_all(CONNECTION).iter();
            let mut options = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
            options.any(|said| said.trim_ascii().eq_ignore_ascii_case(option))
        };
        match (says(b"close"), says(b"keep-alive")) {
            (true, _) => Some(Self::Close),
            (false, true) => Some(Self::KeepAlive),
            (false, false) if version == Version::HTTP_11 => None,
            (false, false) => Some(Self::Close),
        }
    }
}

impl Hop {
    pub(super) fn replaces(&self, name: &HeaderName) -> bool {
        match is_hops(name) {
            false => false,
            // A length without a body, as in an answer to HEAD, says something about the resource.
            true if *name == CONTENT_LENGTH => matches!(self.framing, Length::Chunked | Length::UntilClose),
            true if *name == CONNECTION => self.connection.is_some(),
            true => true,
        }
    }

    /// At the place of a line that this hop decides about. `identity` says nothing and stays, and so does what an answer
    /// without a body says about the body that a GET would have.
    pub(super) fn write_at(&self, name: &HeaderName, raw: &Bytes, placed: &mut Placed, out: &mut BytesMut) {
        if *name == TRANSFER_ENCODING {
            let ends_with = |coding: &[u8]| {
                let end = raw.get(raw.len().saturating_sub(coding.len())..);
                end.is_some_and(|end| end.eq_ignore_ascii_case(coding))
            };
            let stays = match self.framing {
                // An answer may have other codings, also on lines before this one.
                Length::Chunked if placed.of_answer => {
                    placed.coding |= ends_with(b"chunked");
                    true
                }
                Length::Chunked => !std::mem::replace(&mut placed.coding, true),
                Length::Empty => placed.of_answer,
                Length::Known(_) => ends_with(b"identity"),
                Length::UntilClose => placed.of_answer,
            };
            match (stays, self.framing) {
                // Not as the agent spelled it, where a site may be looser or stricter than we are.
                (true, Length::Chunked) if !placed.of_answer && (!ends_with(b"chunked") || raw.contains(&b'\t')) => {
                    out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
                }
                (true, _) => {
                    out.extend_from_slice(raw);
                    out.extend_from_slice(b"\r\n");
                }
                (false, _) => {}
            }
        } else if *name == CONNECTION && !placed.connection {
            self.write_connection(placed, out);
        }
    }

    fn write_connection(&self, placed: &mut Placed, out: &mut BytesMut) {
        let Some(connection) = self.connection else { return };
        placed.connection = true;
        out.extend_from_slice(match connection {
            Persistence::Close => b"Connection: close\r\n",
            Persistence::KeepAlive => b"Connection: keep-alive\r\n",
        });
    }

    /// What no line of the other side gave a place to.
    pub(super) fn write_rest(&self, headers: &HeaderMap, placed: &mut Placed, out: &mut BytesMut) {
        match self.framing {
            Length::Chunked if !placed.coding => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
            Length::Known(length) if !headers.contains_key(CONTENT_LENGTH) => {
                // Writing to a buffer that grows cannot fail.
                let _ = write!(out, "Content-Length: {length}\r\n");
            }
            _ => {}
        }
        if !placed.connection {
            self.write_connection(placed, out);
        }
    }
}

/// The fields that a hop decides about.
fn is_hops(name: &HeaderName) -> bool {
    *name == CONNECTION || *name == TRANSFER_ENCODING || *name == CONTENT_LENGTH
}
