//! Reads HTTP/1 messages from a record as leniently as any client would, so that two of them can be compared.

/// What a side reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Requests,
    Answers,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    None,
    Length,
    Chunked,
    /// The body ends where the connection does.
    UntilEnd,
    /// What follows `101` is no message.
    Upgraded,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub name: Vec<u8>,
    pub value: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub start: Vec<u8>,
    pub fields: Vec<Field>,
    pub framing: Framing,
    pub body: Vec<u8>,
    pub trailers: Vec<Field>,
    /// Nothing of it is missing.
    pub is_whole: bool,
}

impl Message {
    pub(super) fn is_interim(&self) -> bool {
        let code = self.start.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
        self.start.starts_with(b"HTTP/") && code.first() == Some(&b'1') && code != b"101"
    }
}

/// How many messages are whole and not interim.
pub(super) fn finals(messages: &[Message]) -> usize {
    messages
        .iter()
        .filter(|message| message.is_whole && !message.is_interim())
        .count()
}

/// The methods of the requests in `said`.
pub(super) fn methods(said: &[u8]) -> Vec<Vec<u8>> {
    let requests = parse(said, Kind::Requests, &[], false);
    let starts = requests.iter().map(|request| request.start.split(|byte| *byte == b' '));
    starts
        .map(|mut words| words.next().unwrap_or_default().to_vec())
        .collect()
}

/// All messages in `bytes`. `methods` are those of the requests that answers belong to; `ended` says whether the
/// connection has ended after these bytes.
pub(super) fn parse(mut bytes: &[u8], kind: Kind, methods: &[Vec<u8>], ended: bool) -> Vec<Message> {
    let mut messages: Vec<Message> = Vec::new();
    loop {
        while kind == Kind::Requests && bytes.starts_with(b"\r\n") {
            bytes = &bytes[2..];
        }
        if bytes.is_empty() {
            return messages;
        }
        let answered = messages.iter().filter(|message| !message.is_interim()).count();
        let method = methods.get(answered).map_or(&b"GET"[..], Vec::as_slice);
        let (message, rest) = first(bytes, kind, method, ended);
        messages.push(message);
        bytes = rest;
    }
}

fn first<'b>(bytes: &'b [u8], kind: Kind, method: &[u8], ended: bool) -> (Message, &'b [u8]) {
    let Some(end) = find(bytes, b"\r\n\r\n") else {
        let message = Message {
            start: bytes.to_vec(),
            fields: Vec::new(),
            framing: Framing::None,
            body: Vec::new(),
            trailers: Vec::new(),
            is_whole: false,
        };
        return (message, &[]);
    };
    let (head, mut rest) = (&bytes[..end], &bytes[end + 4..]);
    let (start, lines) = match find(head, b"\r\n") {
        Some(at) => (&head[..at], &head[at + 2..]),
        None => (head, &[][..]),
    };
    let mut message = Message {
        start: trim(start).to_vec(),
        fields: fields(lines),
        framing: Framing::None,
        body: Vec::new(),
        trailers: Vec::new(),
        is_whole: true,
    };
    message.framing = framing(&message, kind, method);
    match message.framing {
        Framing::None => {}
        Framing::Length => {
            let length = length(&message).unwrap_or(0);
            let count = length.min(rest.len());
            message.is_whole = count == length;
            message.body = rest[..count].to_vec();
            rest = &rest[count..];
        }
        Framing::UntilEnd | Framing::Upgraded => {
            message.is_whole = ended || message.framing == Framing::Upgraded;
            message.body = rest.to_vec();
            rest = &[];
        }
        Framing::Chunked => (message.is_whole, rest) = chunks(&mut message, rest),
    }
    (message, rest)
}

fn framing(message: &Message, kind: Kind, method: &[u8]) -> Framing {
    if kind == Kind::Answers {
        let code = message.start.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
        match code {
            b"101" => return Framing::Upgraded,
            b"204" | b"304" => return Framing::None,
            _ if code.first() == Some(&b'1') || method == b"HEAD" => return Framing::None,
            _ => {}
        }
    }
    let codings = message.fields.iter().filter(|field| is(field, "transfer-encoding"));
    let last = codings
        .map(|field| field.value.to_ascii_lowercase())
        .rfind(|value| value != b"identity");
    match last {
        Some(value) if value.ends_with(b"chunked") => Framing::Chunked,
        Some(_) if kind == Kind::Answers => Framing::UntilEnd,
        _ if length(message).is_some() => Framing::Length,
        _ if kind == Kind::Answers => Framing::UntilEnd,
        _ => Framing::None,
    }
}

pub(super) fn is(field: &Field, name: &str) -> bool {
    field.name.eq_ignore_ascii_case(name.as_bytes())
}

fn length(message: &Message) -> Option<usize> {
    let field = message.fields.iter().find(|field| is(field, "content-length"))?;
    std::str::from_utf8(&field.value).ok()?.parse().ok()
}

/// Reads chunks and trailers into `message`. False if something is missing.
fn chunks<'b>(message: &mut Message, mut rest: &'b [u8]) -> (bool, &'b [u8]) {
    loop {
        let Some(end) = find(rest, b"\r\n") else {
            return (false, &[]);
        };
        let size = rest[..end].split(|byte| *byte == b';').next().unwrap_or_default();
        let size = std::str::from_utf8(size).unwrap_or_default().trim();
        let Ok(size) = usize::from_str_radix(size, 16) else {
            // Not a chunk: everything from here on is compared as it is.
            message.body.extend_from_slice(rest);
            return (false, &[]);
        };
        rest = &rest[end + 2..];
        if size == 0 {
            break;
        }
        let count = size.min(rest.len());
        message.body.extend_from_slice(&rest[..count]);
        if rest.len() < size + 2 {
            return (false, &[]);
        }
        rest = &rest[size + 2..];
    }
    if let Some(rest) = rest.strip_prefix(b"\r\n") {
        return (true, rest);
    }
    let Some(end) = find(rest, b"\r\n\r\n") else {
        return (false, &[]);
    };
    message.trailers = fields(&rest[..end]);
    (true, &rest[end + 4..])
}

/// The fields of a section, as every client reads them: a folded line is one value with a space in it (RFC 9112
/// §5.2), white space around a value or before a colon is none of it (§5.1).
fn fields(section: &[u8]) -> Vec<Field> {
    let mut found: Vec<Field> = Vec::new();
    let mut rest = section;
    while !rest.is_empty() {
        let end = find(rest, b"\r\n").unwrap_or(rest.len());
        let line = &rest[..end];
        rest = rest.get(end + 2..).unwrap_or_default();
        let is_folded = line.first().is_some_and(|byte| matches!(byte, b' ' | b'\t'));
        if let Some(field) = found.last_mut().filter(|_| is_folded) {
            field.value.push(b' ');
            field.value.extend_from_slice(trim(line));
            continue;
        }
        let colon = line.iter().position(|byte| *byte == b':');
        let (name, value) = colon.map_or((line, &[][..]), |at| (&line[..at], &line[at + 1..]));
        found.push(Field {
            name: trim(name).to_vec(),
            value: trim(value).to_vec(),
        });
    }
    for field in &mut found {
        field.value = trim(&field.value).to_vec();
    }
    found
}

/// Without spaces and tabs around it; other white space is part of a value.
fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_with_their_bodies() {
        let said = b"HEAD / HTTP/1.1\r\n\r\nPOST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\nT: 1\r\n\r\nGET";
        let requests = parse(said, Kind::Requests, &[], false);
        assert_eq!(requests.len(), 3);
        assert_eq!((&requests[1].body[..], requests[1].trailers.len()), (&b"abc"[..], 1));
        assert!(requests[1].is_whole && !requests[2].is_whole);
        let heard = b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 9\r\nA : b\r\n c\r\n\r\nHTTP/1.1 200\r\n\r\nrest";
        let answers = parse(heard, Kind::Answers, &methods(said), false);
        assert_eq!((answers.len(), finals(&answers)), (3, 1));
        assert_eq!(answers[1].framing, Framing::None);
        assert_eq!(
            (&answers[1].fields[1].name[..], &answers[1].fields[1].value[..]),
            (&b"A"[..], &b"b c"[..])
        );
        assert_eq!((answers[2].framing, answers[2].is_whole), (Framing::UntilEnd, false));
        assert!(parse(heard, Kind::Answers, &methods(said), true)[2].is_whole);
    }
}
