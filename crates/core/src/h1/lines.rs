//! The field lines of one head or of trailers, as they arrived.

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::hop::{Hop, Placed};
use super::{MOST_FIELDS, Malformed};

/// The lines of a head in their order, each as its sender wrote it. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Lines {
    lines: std::sync::Arc<Vec<Line>>,
}

#[derive(Clone, Debug)]
struct Line {
    /// `None`: it is not a field, and stays as it is.
    field: Option<Field>,
    /// From the name to the end of the value, folds included.
    raw: Bytes,
}

#[derive(Clone, Debug)]
struct Field {
    name: HeaderName,
    /// As the map has it.
    value: HeaderValue,
    /// How many lines with this name come before it.
    nth: u16,
}

/// Whose message it is decides what is tolerated: a request is refused where two servers could read it differently,
/// an answer is taken as clients take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    Agent,
    Site,
}

impl Lines {
    /// Reads the lines of `block`: everything after the first line, up to and including the empty one.
    pub(super) fn parse(block: &Bytes, from: From) -> Result<(HeaderMap, Self), Malformed> {
        let count = memchr::memchr_iter(b'\n', block).count().min(MOST_FIELDS);
        let mut headers = HeaderMap::with_capacity(count);
        let mut lines = Vec::with_capacity(count);
        let mut at = 0;
        while let Some((raw, next)) = logical_line(block, at, from)? {
            at = next;
            let found = field(&raw, from)?;
            let raw = without_bare_returns(raw);
            if found.is_none() && !is_harmless(&raw) {
                continue;
            }
            if lines.len() == MOST_FIELDS {
                return Err(Malformed::TooManyFields);
            }
            let Some((name, value)) = found else {
                lines.push(Line { field: None, raw });
                continue;
            };
            let raw = match name == CONTENT_LENGTH || name == TRANSFER_ENCODING {
                // What frames the body is read alike by everybody.
                true => plain_framing(raw, &name, &value),
                false => raw,
            };
            let nth = match headers.append(name.clone(), value.clone()) {
                true => headers.get_all(&name).iter().count() - 1,
                false => 0,
            };
            let nth = u16::try_from(nth).unwrap_or(u16::MAX);
            let field = Some(Field { name, value, nth });
            lines.push(Line { field, raw });
        }
        Ok((headers, Self { lines: lines.into() }))
    }

    /// Without the lines that are no fields, in which nobody has looked for anything.
    #[must_use]
    pub fn fields_only(&self) -> Self {
        let fields = self.lines.iter().filter(|line| line.field.is_some());
        Self {
            lines: fields.cloned().collect::<Vec<_>>().into(),
        }
    }

    pub fn len(&self) -> usize {
        self.lines.len()
    }

    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Writes what `headers` holds, in the order and with the bytes of these lines as far as they are still true.
    pub(super) fn write(&self, headers: &HeaderMap, hop: Option<&Hop>, placed: &mut Placed, out: &mut BytesMut) {
        let mut written = 0;
        // Nearly always the map has the fields where the lines have them.
        let is_simple = headers.len() == headers.keys_len();
        let mut in_step = headers.iter();
        for Line { field, raw } in self.lines.iter() {
            let Some(Field { name, value, nth }) = field else {
                out.extend_from_slice(raw);
                out.extend_from_slice(b"\r\n");
                continue;
            };
            let beside = in_step.next().filter(|(other, _)| is_simple && *other == name);
            if let Some(hop) = hop
                && hop.replaces(name)
            {
                hop.write_at(name, raw, placed, out);
                continue;
            }
            let current = match *nth {
                0 => beside.map(|(_, value)| value).or_else(|| headers.get(name)),
                nth => headers.get_all(name).iter().nth(usize::from(nth)),
            };
            let Some(current) = current else { continue };
            written += 1;
            if is_same(current, value) {
                out.extend_from_slice(raw);
            } else {
                let name = raw.get(..name.as_str().len()).unwrap_or_default();
                out.extend_from_slice(name);
                out.extend_from_slice(b": ");
                out.extend_from_slice(current.as_bytes());
            }
            out.extend_from_slice(b"\r\n");
        }
        if written < headers.len() {
            self.write_added(headers, hop, out);
        }
    }

    /// Fields that no line stands for.
    fn write_added(&self, headers: &HeaderMap, hop: Option<&Hop>, out: &mut BytesMut) {
        for name in headers.keys() {
            if hop.is_some_and(|hop| hop.replaces(name)) {
                continue;
            }
            let fields = self.lines.iter().filter_map(|line| line.field.as_ref());
            let lines = fields.filter(|field| field.name == *name).count();
            for value in headers.get_all(name).iter().skip(lines) {
                write_field(name, value, out);
            }
        }
    }
}

/// Most values are the very bytes that have arrived.
fn is_same(one: &HeaderValue, other: &HeaderValue) -> bool {
    std::ptr::eq(one.as_bytes(), other.as_bytes()) || one == other
}

/// A field of ours, in the case that such fields are usually written in.
pub(super) fn write_field(name: &HeaderName, value: &HeaderValue, out: &mut BytesMut) {
    let mut starts = true;
    for byte in name.as_str().bytes() {
        out.extend_from_slice(&[if starts { byte.to_ascii_uppercase() } else { byte }]);
        starts = byte == b'-';
    }
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// The field that begins at `at`, without its line's end but with the lines that continue it, and where the next one
/// begins. `None` at the empty line.
fn logical_line(block: &Bytes, at: usize, from: From) -> Result<Option<(Bytes, usize)>, Malformed> {
    let (mut end, mut next) = line_end(block, at);
    if end == at {
        return Ok(None);
    }
    while matches!(block.get(next), Some(b' ' | b'\t')) {
        if from == From::Agent {
            return Err(Malformed::Folded);
        }
        (end, next) = line_end(block, next);
    }
    Ok(Some((block.slice(at..end), next)))
}

/// Where the line that contains `at` ends, without and with its line break. A bare LF ends a line too (RFC 9112 §2.2).
pub(super) fn line_end(block: &[u8], at: usize) -> (usize, usize) {
    let rest = block.get(at..).unwrap_or_default();
    let Some(feed) = memchr::memchr(b'\n', rest) else {
        return (block.len(), block.len());
    };
    let end = at + feed;
    let bare = feed > 0 && block.get(end - 1) == Some(&b'\r');
    (if bare { end - 1 } else { end }, end + 1)
}

/// `None`: a line that is not a field, in an answer.
fn field(raw: &Bytes, from: From) -> Result<Option<(HeaderName, HeaderValue)>, Malformed> {
    let tolerant = from == From::Site;
    let Some(colon) = memchr::memchr(b':', raw) else {
        return if tolerant { Ok(None) } else { Err(Malformed::FieldName) };
    };
    let mut name = raw.get(..colon).unwrap_or_default();
    if matches!(name.last(), Some(b' ' | b'\t')) {
        if !tolerant {
            return Err(Malformed::BlankBeforeColon);
        }
        name = name.trim_ascii_end();
    }
    let Ok(name) = HeaderName::from_bytes(name) else {
        return if tolerant { Ok(None) } else { Err(Malformed::FieldName) };
    };
    let trimmed = blanks_trimmed(raw.get(colon + 1..).unwrap_or_default());
    match HeaderValue::from_maybe_shared(raw.slice_ref(trimmed)) {
        Ok(value) => Ok(Some((name, value))),
        Err(_) if tolerant => {
            // Decisions see blanks in place of line breaks and control characters; the agent sees the site's bytes.
            let plain: Vec<u8> = trimmed
                .iter()
                .map(|byte| if is_odd(*byte) { b' ' } else { *byte })
                .collect();
            HeaderValue::from_maybe_shared(Bytes::copy_from_slice(blanks_trimmed(&plain)))
                .map(|value| Some((name, value)))
                .map_err(|_| Malformed::FieldValue)
        }
        Err(_) => Err(Malformed::FieldValue),
    }
}

/// Whether no reader, however lenient, takes a line that is not a field for what only bursar may say, for framing, or for
/// a part of the line before it.
fn is_harmless(raw: &Bytes) -> bool {
    // By letters and digits alone, since lenient readers differ about everything else.
    const NOT_THE_SITES: [&[u8]; 5] = [
        b"bursar",
        b"proxystatus",
        b"connection",
        b"transferencoding",
        b"contentlength",
    ];
    let begins_like_ours = |line: &[u8]| {
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        let letters = name.iter().filter(|byte| byte.is_ascii_alphanumeric());
        let letters: Vec<u8> = letters.map(u8::to_ascii_lowercase).collect();
        NOT_THE_SITES.iter().any(|ours| letters.starts_with(ours))
    };
    let is_field_now = !matches!(field(raw, From::Site), Ok(None));
    let continues = matches!(raw.first(), None | Some(b' ' | b'\t'));
    !is_field_now && !continues && !raw.split(|byte| *byte == b'\n').any(begins_like_ours)
}

/// The same line, or without control characters and folds if it has any.
fn plain_framing(raw: Bytes, name: &HeaderName, value: &HeaderValue) -> Bytes {
    if !raw.iter().copied().any(is_odd) {
        return raw;
    }
    let name = raw.get(..name.as_str().len()).unwrap_or_default();
    [name, b": ", value.as_bytes()].concat().into()
}

/// Some readers take a CR alone for the end of a line, and would see a field that we did not.
fn without_bare_returns(raw: Bytes) -> Bytes {
    let is_bare = |at: usize| raw.get(at) == Some(&b'\r') && raw.get(at + 1) != Some(&b'\n');
    if !memchr::memchr_iter(b'\r', &raw).any(is_bare) {
        return raw;
    }
    let replaced = (0..raw.len()).map(|at| if is_bare(at) { b' ' } else { raw[at] });
    replaced.collect::<Vec<u8>>().into()
}

fn blanks_trimmed(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

fn is_odd(byte: u8) -> bool {
    (byte < 0x20 && byte != b'\t') || byte == 0x7f
}
