//! Frames of HTTP/2 as they are, and what they say of each stream.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::timeout;

use super::compare::shown;
use super::hpack::{Decoder, Pair, encoded};
use super::script::{Line, Marks};

/// Reached only where the proxied run differs.
pub(super) const PATIENCE: Duration = Duration::from_secs(8);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// The stream of a row's own exchange.
pub(super) const ODD: u32 = 3;

/// What one side sends on a stream, in order. The last part ends the stream.
#[derive(Clone, Debug)]
pub(super) enum Part {
    Fields(Vec<Pair>),
    Data(Vec<u8>),
    /// Once the other side has read the data: a reset may overtake it.
    Reset(u32),
}

pub(super) fn fields(lines: &[(&str, &[u8])]) -> Part {
    let lines = lines.iter();
    Part::Fields(
        lines
            .map(|(name, value)| (name.as_bytes().to_vec(), value.to_vec()))
            .collect(),
    )
}

/// What one side sees of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stream {
    /// Each block of fields, sorted by name; equal names keep their order.
    pub blocks: Vec<Vec<String>>,
    pub data: Vec<u8>,
    pub end: Option<String>,
}

impl Stream {
    pub(super) fn path(&self) -> String {
        let first = self.blocks.first();
        let path = first.and_then(|block| block.iter().find(|line| line.starts_with(":path: ")));
        path.cloned().unwrap_or_default()
    }
}

/// Reads and writes frames.
pub(super) struct Frames {
    line: Line,
    marks: Marks,
    read: Vec<u8>,
    decoder: Decoder,
    /// A block of fields whose end has not come yet: stream, flags, bytes.
    block: Option<(u32, u8, Vec<u8>)>,
}

impl Frames {
    pub(super) fn new(line: Line, marks: Marks) -> Self {
        Self {
            line,
            marks,
            read: Vec::new(),
            decoder: Decoder::default(),
            block: None,
        }
    }

    /// What a client says first.
    pub(super) async fn open(&mut self) {
        let _ = self.line.write(PREFACE).await;
        self.write(SETTINGS, 0, 0, &[]).await;
    }

    /// What a site reads and says first. False if the client speaks something else.
    pub(super) async fn accept(&mut self) -> bool {
        let is_h2 = self.exactly(PREFACE.len()).await.as_deref() == Some(PREFACE);
        if is_h2 {
            self.write(SETTINGS, 0, 0, &[]).await;
        }
        is_h2
    }

    async fn exactly(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.read.len() < count {
            let mut part = [0; 16 << 10];
            let read = self.line.read(&mut part).await.ok().filter(|read| *read > 0)?;
            self.read.extend_from_slice(&part[..read]);
        }
        Some(self.read.drain(..count).collect())
    }

    async fn write(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        let _ = self.line.write(&[&head, payload].concat()).await;
    }

    pub(super) async fn send(&mut self, stream: u32, parts: &[Part]) {
        for (number, part) in parts.iter().enumerate() {
            let end = if number + 1 == parts.len() { END_STREAM } else { 0 };
            match part {
                Part::Fields(fields) => self.write(HEADERS, END_HEADERS | end, stream, &encoded(fields)).await,
                Part::Data(bytes) => self.write(DATA, end, stream, bytes).await,
                Part::Reset(code) => {
                    let _ = timeout(PATIENCE, self.marks.wait("read")).await;
                    self.write(RST_STREAM, 0, stream, &code.to_be_bytes()).await;
                }
            }
        }
    }

    /// Reads one frame into `seen`, and answers what the protocol asks for. Returns the stream that it ended; an error
    /// at the end of the connection.
    pub(super) async fn next(&mut self, seen: &mut BTreeMap<u32, Stream>) -> Result<Option<u32>, String> {
        let gone = || "the connection ended".to_owned();
        let head = self.exactly(9).await.ok_or_else(gone)?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let stream = u32::from_be_bytes([head[5] & 127, head[6], head[7], head[8]]);
        let payload = self.exactly(length).await.ok_or_else(gone)?;
        let (kind, flags) = (head[3], head[4]);
        match kind {
            SETTINGS if flags & ACK == 0 => self.write(SETTINGS, ACK, 0, &[]).await,
            PING if flags & ACK == 0 => self.write(PING, ACK, 0, &payload).await,
            GOAWAY => {
                return Err(format!(
                    "GOAWAY {}",
                    payload.get(4..8).unwrap_or_default().escape_ascii()
                ));
            }
            RST_STREAM => {
                let code = payload.iter().fold(0_u32, |code, byte| code << 8 | u32::from(*byte));
                seen.entry(stream)
                    .or_default()
                    .end
                    .get_or_insert(format!("RST_STREAM {code}"));
                return Ok(Some(stream));
            }
            DATA => {
                seen.entry(stream).or_default().data.extend_from_slice(&payload);
                if stream == ODD {
                    self.marks.set("read");
                }
                return Ok(self.ended(seen, stream, flags));
            }
            HEADERS | CONTINUATION => {
                let (stream, first, mut block) = self.block.take().unwrap_or((stream, flags, Vec::new()));
                block.extend_from_slice(&payload);
                if flags & END_HEADERS == 0 {
                    self.block = Some((stream, first, block));
                    return Ok(None);
                }
                let fields = self.decoder.decoded(&block).into_iter();
                let mut fields: Vec<Pair> = fields.collect();
                fields.sort_by(|one, other| one.0.cmp(&other.0));
                let lines = fields
                    .iter()
                    .map(|(name, value)| format!("{}: {}", shown(name), shown(value)));
                seen.entry(stream).or_default().blocks.push(lines.collect());
                return Ok(self.ended(seen, stream, first));
            }
            _ => {}
        }
        Ok(None)
    }

    fn ended(&self, seen: &mut BTreeMap<u32, Stream>, stream: u32, flags: u8) -> Option<u32> {
        (flags & END_STREAM != 0).then(|| {
            seen.entry(stream)
                .or_default()
                .end
                .get_or_insert("END_STREAM".to_owned());
            stream
        })
    }
}
