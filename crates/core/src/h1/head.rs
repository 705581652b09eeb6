//! The heads of requests and answers.

use bytes::Bytes;
use http::uri::{PathAndQuery, Uri};
use http::{Method, Request, Response, StatusCode, Version};

use super::Malformed;
use super::lines::{From, Lines, line_end};

/// How far the search for the end of a head has come. Bytes that arrive one by one are looked at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scan {
    seen: usize,
}

impl Scan {
    /// Where the head at the beginning of `input` ends, the empty line included; `None` while it is incomplete. Empty
    /// lines before it belong to it (RFC 9112 §2.2).
    pub fn end(&mut self, input: &[u8]) -> Option<usize> {
        let begin = empty_lines(input);
        let mut from = self.seen.max(begin);
        while let Some(feed) = memchr::memchr(b'\n', input.get(from..)?) {
            let line = from + feed + 1;
            match input.get(line..)? {
                [b'\n', ..] => return Some(line + 1),
                [b'\r', b'\n', ..] => return Some(line + 2),
                // Not decided yet: the line's break is looked at again.
                [] | [b'\r'] => {
                    self.seen = from + feed;
                    return None;
                }
                _ => from = line,
            }
        }
        self.seen = input.len();
        None
    }
}

/// The target as the agent wrote it, where it is not a URI. The request's own URI is an escaped form of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawTarget(Bytes);

impl RawTarget {
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// `http://host`, which `http` cannot tell from `http://host/`.
    pub fn has_no_path(&self) -> bool {
        let scheme = self.0.windows(3).position(|part| part == b"://");
        let rest = scheme.and_then(|at| self.0.get(at + 3..));
        rest.is_some_and(|rest| !rest.iter().any(|byte| matches!(byte, b'/' | b'?' | b'#')))
    }

    #[must_use]
    pub fn into_origin_form(self) -> Self {
        Self(self.origin_form())
    }

    /// Path and query of an absolute target, or the target itself.
    pub fn origin_form(&self) -> Bytes {
        let target = &self.0;
        if target.first() == Some(&b'/') {
            return target.clone();
        }
        let Some(scheme) = target.windows(3).position(|part| part == b"://") else {
            return target.clone();
        };
        let rest = target.slice(scheme + 3..);
        match rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')) {
            Some(at) if rest.get(at) == Some(&b'/') => rest.slice(at..),
            Some(at) => [b"/".as_slice(), rest.get(at..).unwrap_or_default()].concat().into(),
            None => Bytes::from_static(b"/"),
        }
    }
}

/// The reason phrase of an answer, which may be empty or in any alphabet, with the blank before it if there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason(Bytes);

impl Reason {
    pub fn as_bytes(&self) -> &[u8] {
        self.0.strip_prefix(b" ").unwrap_or_default()
    }

    /// As it stands behind the status.
    pub(super) fn with_blank(&self) -> &[u8] {
        &self.0
    }
}

/// `head` ends with its empty line, as [`Scan::end`] found it.
pub fn request_head(head: &Bytes) -> Result<Request<()>, Malformed> {
    let (line, block) = first_line(head);
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Malformed::RequestLine);
    };
    let method = Method::from_bytes(method).map_err(|_| Malformed::RequestLine)?;
    let version = http_version(version)?;
    let target = line.slice_ref(target);
    let (uri, mut raw) = uri(&method, &target)?;
    if method == Method::OPTIONS && RawTarget(target.clone()).has_no_path() {
        raw = Some(RawTarget(target));
    }
    let (headers, lines) = Lines::parse(&block, From::Agent)?;
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.version_mut() = version;
    *request.headers_mut() = headers;
    let extensions = request.extensions_mut();
    extensions.insert(lines);
    if let Some(raw) = raw {
        extensions.insert(raw);
    }
    Ok(request)
}

/// `head` ends with its empty line, as [`Scan::end`] found it.
pub fn response_head(head: &Bytes) -> Result<Response<()>, Malformed> {
    let (line, block) = first_line(head);
    let (version, rest) = line.split_at_checked(8).ok_or(Malformed::StatusLine)?;
    let version = match version.get(..5) {
        Some(b"HTTP/") => http_version(version)?,
        _ => return Err(Malformed::StatusLine),
    };
    let ([b' ', status @ ..], reason) = rest.split_at_checked(4).ok_or(Malformed::StatusLine)? else {
        return Err(Malformed::StatusLine);
    };
    if !matches!(reason, [] | [b' ', ..]) {
        return Err(Malformed::StatusLine);
    }
    let status = StatusCode::from_bytes(status).map_err(|_| Malformed::StatusLine)?;
    if reason.contains(&b'\r') {
        return Err(Malformed::StatusLine);
    }
    let (headers, lines) = Lines::parse(&block, From::Site)?;
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.version_mut() = version;
    *response.headers_mut() = headers;
    let extensions = response.extensions_mut();
    extensions.insert(lines);
    let phrase = reason.strip_prefix(b" ");
    if phrase.is_none() || status.canonical_reason().map(str::as_bytes) != phrase {
        extensions.insert(Reason(line.slice_ref(reason)));
    }
    Ok(response)
}

/// How many bytes the empty lines at the beginning have. A CR alone is none.
fn empty_lines(input: &[u8]) -> usize {
    let mut rest = input;
    while let [b'\n', after @ ..] | [b'\r', b'\n', after @ ..] = rest {
        rest = after;
    }
    input.len() - rest.len()
}

fn first_line(head: &Bytes) -> (Bytes, Bytes) {
    let begin = empty_lines(head);
    let (end, next) = line_end(head, begin);
    (head.slice(begin..end), head.slice(next..))
}

fn http_version(text: &[u8]) -> Result<Version, Malformed> {
    match text {
        b"HTTP/1.1" => Ok(Version::HTTP_11),
        b"HTTP/1.0" => Ok(Version::HTTP_10),
        [b'H', b'T', b'T', b'P', b'/', ..] => Err(Malformed::Version),
        _ => Err(Malformed::RequestLine),
    }
}

fn uri(method: &Method, target: &Bytes) -> Result<(Uri, Option<RawTarget>), Malformed> {
    if target.is_empty() || target.iter().any(|byte| *byte <= b' ' || *byte == 0x7f) {
        return Err(Malformed::Target);
    }
    if *method == Method::CONNECT || !target.iter().copied().any(is_unlike_uri) {
        return match Uri::from_maybe_shared(target.clone()) {
            Ok(uri) => Ok((uri, None)),
            Err(_) => escaped(target).map(|uri| (uri, Some(RawTarget(target.clone())))),
        };
    }
    escaped(target).map(|uri| (uri, Some(RawTarget(target.clone()))))
}

/// What `http` refuses or changes in a target.
fn is_unlike_uri(byte: u8) -> bool {
    matches!(
        byte,
        b'"' | b'<' | b'>' | b'#' | b'`' | b'{' | b'}' | b'|' | b'\\' | b'^'
    ) || byte >= 0x80
}

/// The same target with what is unlike a URI as `%XX`, for everything that only reads it.
fn escaped(target: &Bytes) -> Result<Uri, Malformed> {
    let mut text = String::with_capacity(target.len() + 16);
    for byte in target.iter().copied() {
        match is_unlike_uri(byte) {
            true => text += &format!("%{byte:02X}"),
            false => text.push(char::from(byte)),
        }
    }
    if text.starts_with('/') {
        // A path that begins with two slashes would be read as a host.
        return PathAndQuery::try_from(text)
            .map(Uri::from)
            .map_err(|_| Malformed::Target);
    }
    text.parse().map_err(|_| Malformed::Target)
}
