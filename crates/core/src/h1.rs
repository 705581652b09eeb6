//! HTTP/1.1 as bytes: heads, the length of bodies, chunks and trailers. Nothing here reads or writes a socket.
//!
//! A proxy must pass on what it has no opinion about: the order and the case of fields, a target that is not a URI, a reason
//! phrase in another alphabet. So a head is read into the types of `http`, for everything that decides, and its own
//! lines are kept beside them ([`Lines`], [`RawTarget`], [`Reason`]), for what is written to the other side. What a
//! decision changes wins over the lines. A message is always written anew from its parts, never copied as a whole: what
//! two readers could take for different messages does not pass (threat 2.5).

mod body;
mod head;
mod hop;
mod lines;
mod write;

#[cfg(test)]
mod tests;

pub use body::{Decoded, Decoder, Encoder, head_length, request_length, response_length};
pub use head::{RawTarget, Reason, Scan, request_head, response_head};
pub use hop::{Hop, Length, Persistence};
pub use lines::Lines;
pub use write::{write_request, write_response};

/// The most fields of one head, and of one block of trailers (R33).
pub const MOST_FIELDS: usize = 256;

/// What is wrong with a message. The text is a sentence's end: "the request was not read: ...".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("its first line is not a method, a target and a version of HTTP")]
    RequestLine,
    #[error("its first line is not a version of HTTP and a status")]
    StatusLine,
    #[error("its version of HTTP is neither 1.0 nor 1.1")]
    Version,
    #[error("its target contains a blank or a control character")]
    Target,
    #[error("a header field has no valid name")]
    FieldName,
    #[error("a blank stands between a field's name and its colon")]
    BlankBeforeColon,
    #[error("a field's value contains a control character")]
    FieldValue,
    #[error("a field is continued on a second line")]
    Folded,
    #[error("it has more than {MOST_FIELDS} fields")]
    TooManyFields,
    #[error("it has more than one Content-Length, or one that is not a number")]
    ContentLength,
    #[error("its Transfer-Encoding is not `chunked` alone")]
    TransferEncoding,
    #[error("it has both a Content-Length and a Transfer-Encoding")]
    TwoLengths,
    #[error("a chunk's size is not a hexadecimal number on a line of its own")]
    ChunkSize,
    #[error("a chunk is not followed by the end of its line")]
    ChunkEnd,
    #[error("its trailers are too long")]
    TrailersTooLong,
    #[error("its body ended before its length")]
    Incomplete,
}
