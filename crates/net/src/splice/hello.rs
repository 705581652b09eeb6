//! The name in a TLS client's hello (RFC 8446 §4.1.2, RFC 6066 §3), for hellos of all versions since TLS 1.0.
//!
//! rustls reads hellos as well, but only those of clients that it could serve, and what passes through unread may be as old
//! as the site that it is for. Whatever could be read in two ways is refused: what the site understands must be what was
//! compared with the CONNECT.

use bytes::{Bytes, BytesMut};

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const RECORD_HEADER: usize = 5;
const MESSAGE_HEADER: usize = 4;
const LONGEST_RECORD: usize = 1 << 14;
/// Post-quantum keys and tickets make hellos of a few KiB.
const LONGEST_MESSAGE: usize = 64 << 10;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;

/// The first message of a TLS client.
#[derive(Debug, PartialEq, Eq)]
pub struct Hello {
    /// A client that encrypts its hello (ECH) shows its provider's name here.
    pub name: Option<String>,
    /// All that was read.
    pub bytes: Bytes,
}

/// It is not a hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// Takes the bytes as they come. Each is looked at once.
#[derive(Default)]
pub struct HelloReader {
    /// What has come.
    pub bytes: BytesMut,
    /// Where the next record begins.
    next: usize,
    /// The handshake message, which may span records.
    message: Vec<u8>,
}

impl HelloReader {
    /// The hello, once it is complete.
    pub fn read(&mut self) -> Result<Option<Hello>, Malformed> {
        while let Some(record) = self.record()? {
            self.message.extend_from_slice(&record);
            let Some((kind, rest)) = self.message.split_first() else {
                continue;
            };
            if *kind != CLIENT_HELLO {
                return Err(Malformed);
            }
            let Some(([high, mid, low], body)) = rest.split_first_chunk() else {
                continue;
            };
            let length = usize::from(*high) << 16 | usize::from(*mid) << 8 | usize::from(*low);
            if length > LONGEST_MESSAGE || body.len() > length {
                return Err(Malformed);
            }
            if body.len() == length {
                let name = name(&self.message[MESSAGE_HEADER..])?;
                let bytes = std::mem::take(&mut self.bytes).freeze();
                return Ok(Some(Hello { name, bytes }));
            }
        }
        Ok(None)
    }

    /// The next record, if it is complete.
    fn record(&mut self) -> Result<Option<Bytes>, Malformed> {
        let unread = &self.bytes[self.next..];
        let Some(([kind, major, _minor, high, low], rest)) = unread.split_first_chunk::<RECORD_HEADER>() else {
            return Ok(None);
        };
        let length = usize::from(*high) << 8 | usize::from(*low);
        if *kind != HANDSHAKE || *major != 3 || length == 0 || length > LONGEST_RECORD {
            return Err(Malformed);
        }
        let Some(content) = rest.get(..length) else {
            return Ok(None);
        };
        let content = Bytes::copy_from_slice(content);
        self.next += RECORD_HEADER + length;
        Ok(Some(content))
    }
}

/// From the body of a hello.
fn name(body: &[u8]) -> Result<Option<String>, Malformed> {
    let mut body = Input(body);
    let _version_and_random = body.take(2 + 32)?;
    let _session = body.of_short_length()?;
    let _suites = body.of_length()?;
    let _compression = body.of_short_length()?;
    if body.is_empty() {
        return Ok(None);
    }
    let (mut extensions, mut found) = (Input(body.of_length()?), None);
    while !extensions.is_empty() {
        let kind = extensions.number()?;
        let content = extensions.of_length()?;
        if kind == SERVER_NAME && found.replace(the_one_name(content)?).is_some() {
            return Err(Malformed);
        }
    }
    match body.is_empty() {
        true => Ok(found),
        false => Err(Malformed),
    }
}

fn the_one_name(content: &[u8]) -> Result<String, Malformed> {
    let mut content = Input(content);
    let mut list = Input(content.of_length()?);
    let kind = list.take(1)?;
    let name = list.of_length()?;
    if kind != [HOST_NAME] || !list.is_empty() || !content.is_empty() {
        return Err(Malformed);
    }
    String::from_utf8(name.to_vec()).map_err(|_| Malformed)
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u16, Malformed> {
        let (number, rest) = self.0.split_first_chunk().ok_or(Malformed)?;
        self.0 = rest;
        Ok(u16::from_be_bytes(*number))
    }

    /// What a length of one byte stands before.
    fn of_short_length(&mut self) -> Result<&'a [u8], Malformed> {
        let [length] = self.take(1)? else { return Err(Malformed) };
        self.take(usize::from(*length))
    }

    /// What a length of two bytes stands before.
    fn of_length(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.number()?;
        self.take(usize::from(length))
    }
}
