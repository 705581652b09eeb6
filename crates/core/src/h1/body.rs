//! Where bodies end: lengths, chunks, trailers.

use std::fmt::Write;

use bytes::{Buf, Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};

use super::Malformed;
use super::head::Scan;
use super::hop::{Length, Placed};
use super::lines::{From, Lines};
use super::write::write_fields;

/// Size line of a chunk, extensions included, and a block of trailers.
const LONGEST_SIZE_LINE: usize = 4 << 10;
const LONGEST_TRAILERS: usize = 64 << 10;

pub fn request_length<B>(request: &Request<B>) -> Result<Length, Malformed> {
    head_length(request.version(), request.headers())
}

/// The same, of a request's head alone.
pub fn head_length(version: Version, headers: &HeaderMap) -> Result<Length, Malformed> {
    match (codings(headers), content_length(headers)?) {
        (Codings::None, None) => Ok(Length::Empty),
        (Codings::None, Some(length)) => Ok(Length::Known(length)),
        (_, Some(_)) => Err(Malformed::TwoLengths),
        (Codings::Chunked, None) if version == Version::HTTP_11 => Ok(Length::Chunked),
        (_, None) => Err(Malformed::TransferEncoding),
    }
}

/// Of an answer to a request with this method.
pub fn response_length<B>(method: &Method, response: &Response<B>) -> Result<Length, Malformed> {
    let (status, headers) = (response.status(), response.headers());
    let bodiless = status.is_informational() || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
    if bodiless || *method == Method::HEAD || (*method == Method::CONNECT && status.is_success()) {
        return Ok(Length::Empty);
    }
    match codings(headers) {
        Codings::Chunked | Codings::EndsChunked => Ok(Length::Chunked),
        Codings::Other => Ok(Length::UntilClose),
        Codings::None | Codings::Identity => Ok(content_length(headers)?.map_or(Length::UntilClose, Length::Known)),
    }
}

enum Codings {
    None,
    Identity,
    Chunked,
    /// Others before it.
    EndsChunked,
    Other,
}

fn codings(headers: &HeaderMap) -> Codings {
    let lines = headers.get_all(TRANSFER_ENCODING).iter();
    let codings: Vec<&[u8]> = lines
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .collect();
    let chunked = |coding: &&[u8]| coding.eq_ignore_ascii_case(b"chunked");
    match codings.as_slice() {
        [] => Codings::None,
        [one] if one.eq_ignore_ascii_case(b"identity") => Codings::Identity,
        [one] if chunked(one) => Codings::Chunked,
        [before @ .., last] if chunked(last) && !before.iter().any(chunked) => Codings::EndsChunked,
        _ => Codings::Other,
    }
}

fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Malformed> {
    let mut length = None;
    for line in headers.get_all(CONTENT_LENGTH) {
        // A list of equal numbers is what some senders make of two equal lines (RFC 9112 §6.3).
        for part in line.as_bytes().split(|byte| *byte == b',') {
            let part = part.trim_ascii();
            if part.is_empty() || !part.iter().all(u8::is_ascii_digit) {
                return Err(Malformed::ContentLength);
            }
            let number = std::str::from_utf8(part).ok().and_then(|text| text.parse().ok());
            let number: u64 = number.ok_or(Malformed::ContentLength)?;
            if length.is_some_and(|length| length != number) {
                return Err(Malformed::ContentLength);
            }
            length = Some(number);
        }
    }
    Ok(length)
}

/// Takes a body out of the bytes of a connection.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    from: From,
}

#[derive(Debug)]
enum State {
    /// That many bytes are still to come.
    Bytes(u64),
    UntilClose,
    Size,
    Chunk(u64),
    ChunkEnd,
    Trailers(Scan),
    Done,
    /// Where the next message begins is not known any more.
    Failed(Malformed),
}

#[derive(Debug)]
pub enum Decoded {
    NeedMore,
    /// Never empty.
    Data(Bytes),
    /// The end; trailers are not empty.
    Trailers(HeaderMap, Lines),
    End,
}

impl Decoder {
    pub fn of_request(length: Length) -> Self {
        Self::new(length, From::Agent)
    }

    pub fn of_response(length: Length) -> Self {
        Self::new(length, From::Site)
    }

    fn new(length: Length, from: From) -> Self {
        let state = match length {
            Length::Empty | Length::Known(0) => State::Done,
            Length::Known(length) => State::Bytes(length),
            Length::Chunked => State::Size,
            Length::UntilClose => State::UntilClose,
        };
        Self { state, from }
    }

    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// The next part of the body out of `input`. After an error there is no other part.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Decoded, Malformed> {
        self.next(input).inspect_err(|error| self.state = State::Failed(*error))
    }

    fn next(&mut self, input: &mut BytesMut) -> Result<Decoded, Malformed> {
        loop {
            match &mut self.state {
                State::Failed(error) => return Err(*error),
                State::Done => return Ok(Decoded::End),
                State::UntilClose if input.is_empty() => return Ok(Decoded::NeedMore),
                State::UntilClose => return Ok(Decoded::Data(input.split().freeze())),
                State::Bytes(left) => {
                    let Some(data) = up_to(input, *left) else {
                        return Ok(Decoded::NeedMore);
                    };
                    *left -= data.len() as u64;
                    if *left == 0 {
                        self.state = State::Done;
                    }
                    return Ok(Decoded::Data(data));
                }
                State::Chunk(left) => {
                    let Some(data) = up_to(input, *left) else {
                        return Ok(Decoded::NeedMore);
                    };
                    *left -= data.len() as u64;
                    if *left == 0 {
                        self.state = State::ChunkEnd;
                    }
                    return Ok(Decoded::Data(data));
                }
                State::ChunkEnd => match input.get(..2) {
                    Some(b"\r\n") => {
                        input.advance(2);
                        self.state = State::Size;
                    }
                    None if matches!(input.first(), None | Some(b'\r')) => return Ok(Decoded::NeedMore),
                    _ => return Err(Malformed::ChunkEnd),
                },
                State::Size => match chunk_size(input)? {
                    None => return Ok(Decoded::NeedMore),
                    Some(0) => self.state = State::Trailers(Scan::default()),
                    Some(size) => self.state = State::Chunk(size),
                },
                State::Trailers(scan) => {
                    let Some(block) = trailer_block(scan, input)? else {
                        return Ok(Decoded::NeedMore);
                    };
                    self.state = State::Done;
                    let (trailers, lines) = Lines::parse(&block, self.from)?;
                    if !trailers.is_empty() {
                        return Ok(Decoded::Trailers(trailers, lines.fields_only()));
                    }
                }
            }
        }
    }

    /// No more bytes will come: right for a body that the connection's end ends, too early for any other.
    pub fn end_of_input(&mut self) -> Result<(), Malformed> {
        match self.state {
            State::Done => Ok(()),
            State::UntilClose => {
                self.state = State::Done;
                Ok(())
            }
            _ => Err(Malformed::Incomplete),
        }
    }
}

fn up_to(input: &mut BytesMut, most: u64) -> Option<Bytes> {
    let length = input.len().min(usize::try_from(most).unwrap_or(usize::MAX));
    (length > 0).then(|| input.split_to(length).freeze())
}

/// The size of the next chunk; extensions are dropped, since a coding concerns one hop only (RFC 9112 §7.1.1).
fn chunk_size(input: &mut BytesMut) -> Result<Option<u64>, Malformed> {
    let Some(feed) = memchr::memchr(b'\n', input) else {
        return match input.len() > LONGEST_SIZE_LINE {
            true => Err(Malformed::ChunkSize),
            false => Ok(None),
        };
    };
    let line = input.split_to(feed + 1);
    let [line @ .., b'\r', b'\n'] = line.as_ref() else {
        return Err(Malformed::ChunkSize);
    };
    if line.len() > LONGEST_SIZE_LINE || line.iter().any(|byte| *byte < b' ' && *byte != b'\t') {
        return Err(Malformed::ChunkSize);
    }
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
    // Blanks before an extension are "bad" but common.
    let digits = digits.trim_ascii_end();
    if digits.is_empty() || digits.len() > 16 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(Malformed::ChunkSize);
    }
    let text = std::str::from_utf8(digits).map_err(|_| Malformed::ChunkSize)?;
    u64::from_str_radix(text, 16)
        .map(Some)
        .map_err(|_| Malformed::ChunkSize)
}

/// Everything up to the empty line after the last chunk.
fn trailer_block(scan: &mut Scan, input: &mut BytesMut) -> Result<Option<Bytes>, Malformed> {
    match input.as_ref() {
        [b'\r', b'\n', ..] => return Ok(Some(input.split_to(2).freeze())),
        [] | [b'\r'] => return Ok(None),
        [b'\r' | b'\n', ..] => return Err(Malformed::ChunkEnd),
        _ => {}
    }
    match scan.end(input) {
        Some(end) if end <= LONGEST_TRAILERS => Ok(Some(input.split_to(end).freeze())),
        None if input.len() <= LONGEST_TRAILERS => Ok(None),
        _ => Err(Malformed::TrailersTooLong),
    }
}

/// Frames a body for the next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoder {
    length: Length,
}

impl Encoder {
    pub const fn new(length: Length) -> Self {
        Self { length }
    }

    /// Before a part of this many bytes, which must not be zero.
    pub fn begin(self, bytes: usize, out: &mut BytesMut) {
        if self.length == Length::Chunked {
            // Writing to a buffer that grows cannot fail.
            let _ = write!(out, "{bytes:x}\r\n");
        }
    }

    /// After it.
    pub fn end(self, out: &mut BytesMut) {
        if self.length == Length::Chunked {
            out.extend_from_slice(b"\r\n");
        }
    }

    /// After the last part. Trailers need the chunked coding; without it they are dropped (RFC 9110 §6.5.1).
    pub fn finish(self, trailers: Option<(&HeaderMap, Option<&Lines>)>, out: &mut BytesMut) {
        if self.length != Length::Chunked {
            return;
        }
        out.extend_from_slice(b"0\r\n");
        if let Some((trailers, lines)) = trailers {
            write_fields(trailers, lines, None, &mut Placed::default(), out);
        }
        out.extend_from_slice(b"\r\n");
    }
}
