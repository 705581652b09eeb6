//! The few bytes of HTTP/1.1 that seller and load exchange. Written by hand: both sides must cost little beside what is
//! measured, and the seller must know when the first byte of a request came.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// The head of a message: everything up to the empty line.
pub(crate) struct Head(Vec<u8>);

/// Reads messages from one connection.
#[derive(Default)]
pub(crate) struct Inbox {
    buffer: Vec<u8>,
}

impl Inbox {
    /// Waits for the first byte of the next message. `false`: the peer has closed.
    pub(crate) async fn begin<S: AsyncRead + Unpin>(&mut self, stream: &mut S) -> io::Result<bool> {
        if self.buffer.is_empty() {
            self.buffer.reserve(4096);
            return Ok(stream.read_buf(&mut self.buffer).await? > 0);
        }
        Ok(true)
    }

    pub(crate) async fn head<S: AsyncRead + Unpin>(&mut self, stream: &mut S) -> io::Result<Head> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let rest = self.buffer.split_off(end + 4);
                return Ok(Head(std::mem::replace(&mut self.buffer, rest)));
            }
            self.more(stream).await?;
        }
    }

    /// Reads and forgets a body of `length` bytes.
    pub(crate) async fn skip<S: AsyncRead + Unpin>(&mut self, stream: &mut S, length: usize) -> io::Result<()> {
        while self.buffer.len() < length {
            self.more(stream).await?;
        }
        self.buffer.drain(..length);
        Ok(())
    }

    async fn more<S: AsyncRead + Unpin>(&mut self, stream: &mut S) -> io::Result<()> {
        self.buffer.reserve(4096);
        match stream.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

impl Head {
    /// The second word of the first line: target of a request, status of an answer.
    pub(crate) fn second_word(&self) -> &[u8] {
        self.0
            .split(|byte| matches!(byte, b' ' | b'\r'))
            .nth(1)
            .unwrap_or_default()
    }

    pub(crate) fn field(&self, name: &str) -> Option<&[u8]> {
        self.0.split(|byte| *byte == b'\n').skip(1).find_map(|line| {
            let (field, value) = line.split_at_checked(name.len())?;
            let value = value.strip_prefix(b":")?;
            field.eq_ignore_ascii_case(name.as_bytes()).then(|| value.trim_ascii())
        })
    }

    pub(crate) fn content_length(&self) -> Option<usize> {
        std::str::from_utf8(self.field("content-length")?).ok()?.parse().ok()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}
