//! HTTP/1.1 with as little work as possible, so that the load is not what is measured.

use bursar_bench_proxy::Fault;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::tunnel::Stream;

const FIELDS: usize = 32;
const BUFFER: usize = 64 << 10;
const FIRST_EVENT: &[u8] = b"data: first\n\n";
/// The last chunk.
const END: &[u8] = b"\r\n0\r\n\r\n";

pub(crate) struct Http1 {
    stream: Stream,
    request: Vec<u8>,
    buffer: Vec<u8>,
}

impl Http1 {
    pub(crate) fn new(stream: Stream, authority: &str, path: &str) -> Self {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: load\r\nAccept: */*\r\n\r\n");
        Self {
            stream,
            request: request.into_bytes(),
            buffer: Vec::with_capacity(BUFFER),
        }
    }

    /// One request, and all of its response. Returns the length of the body.
    pub(crate) async fn exchange(&mut self) -> Result<u64, Fault> {
        self.stream.write_all(&self.request).await?;
        self.buffer.clear();
        let (head, length) = loop {
            self.read().await?;
            if let Some(head) = head(&self.buffer)? {
                break head;
            }
        };
        let length = length.ok_or("the response has no length")?;
        let mut read = (self.buffer.len() - head) as u64;
        while read < length {
            self.buffer.clear();
            read += self.read().await?;
        }
        if read > length {
            return Err("the response is longer than it says".into());
        }
        Ok(length)
    }

    /// One request, and its stream of events up to the end. `first` is called when the first event is there.
    pub(crate) async fn events(&mut self, first: impl FnOnce()) -> Result<(), Fault> {
        self.stream.write_all(&self.request).await?;
        self.buffer.clear();
        while !self
            .buffer
            .windows(FIRST_EVENT.len())
            .any(|window| window == FIRST_EVENT)
        {
            self.read().await?;
        }
        first();
        while !self.buffer.ends_with(END) {
            self.read().await?;
        }
        head(&self.buffer)?.ok_or("the stream of events has no head")?;
        Ok(())
    }

    /// Says that it closes, as a client does that has all it wanted.
    pub(crate) async fn close(mut self) -> Result<(), Fault> {
        Ok(self.stream.shutdown().await?)
    }

    async fn read(&mut self) -> Result<u64, Fault> {
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err("the connection was closed within a response".into()),
            read => Ok(read as u64),
        }
    }
}

/// Where the body begins, and the length that is announced.
fn head(bytes: &[u8]) -> Result<Option<(usize, Option<u64>)>, Fault> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(end) = response.parse(bytes)? else {
        return Ok(None);
    };
    if response.code != Some(200) {
        return Err(format!("the response is {}", String::from_utf8_lossy(bytes)).into());
    }
    let length = response
        .headers
        .iter()
        .find(|field| field.name.eq_ignore_ascii_case("content-length"));
    let length = length.map(|field| std::str::from_utf8(field.value)).transpose()?;
    Ok(Some((end, length.map(str::parse).transpose()?)))
}
