//! Raw bytes on the wire, for tests of framing. Every wait has a time limit that is normally never reached.

use std::future::Future;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::bursar::Bursar;

/// Long enough for a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Fails the test instead of letting it hang.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("nothing happened for a minute")
}

/// One end of a conversation.
pub(crate) struct Wire<S> {
    pub stream: S,
    read: Vec<u8>,
}

/// A message as it was on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub start: String,
    /// In order, names in lower case.
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
}

impl Message {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let mut found = self.fields.iter().filter(|(n, _)| n == name);
        let value = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "{name} appears twice: {self:?}");
        value
    }

    /// Ignores the order of different fields, which has no meaning; that of equal ones is kept.
    pub(crate) fn sorted(&self) -> Vec<(String, String)> {
        let mut fields = self.fields.clone();
        fields.sort_by(|a, b| a.0.cmp(&b.0));
        fields
    }

    pub(crate) fn status(&self) -> u16 {
        self.start.split(' ').nth(1).unwrap().parse().unwrap()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The `type` of a problem, without its prefix.
    pub(crate) fn problem(&self) -> String {
        let document: serde_json::Value =
            serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not a problem document: {self:?}"));
        let kind = document["type"].as_str().unwrap();
        kind.strip_prefix("urn:bursar:problem:").unwrap().to_owned()
    }
}

/// Name and value of every line, names in lower case.
pub(crate) fn fields(lines: &str) -> Vec<(String, String)> {
    let lines = lines.split("\r\n").filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("not a field: {line:?}"));
            (name.to_ascii_lowercase(), value.trim().to_owned())
        })
        .collect()
}

impl Wire<TcpStream> {
    /// A connection to the proxy's listener.
    pub(crate) async fn to(bursar: &Bursar) -> Self {
        let stream = TcpStream::connect(bursar.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::new(stream)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream,
            read: Vec::new(),
        }
    }

    /// The stream, and the bytes read from it but not yet consumed.
    pub(crate) fn into_parts(self) -> (S, Vec<u8>) {
        (self.stream, self.read)
    }

    pub(crate) async fn say(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// Reads once; false at the end, which includes a reset.
    async fn more(&mut self) -> bool {
        let mut part = [0; 16 << 10];
        let count = soon(self.stream.read(&mut part)).await.unwrap_or(0);
        self.read.extend_from_slice(&part[..count]);
        count > 0
    }

    /// Reads up to and including `mark`; `None` if the other side closes before.
    pub(crate) async fn until(&mut self, mark: &str) -> Option<String> {
        loop {
            let mark = mark.as_bytes();
            if let Some(at) = self.read.windows(mark.len()).position(|window| window == mark) {
                let found: Vec<u8> = self.read.drain(..at + mark.len()).collect();
                // Latin-1, so that no byte is lost.
                return Some(found.into_iter().map(char::from).collect());
            }
            if !self.more().await {
                return None;
            }
        }
    }

    pub(crate) async fn exactly(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.read.len() < count {
            if !self.more().await {
                return None;
            }
        }
        Some(self.read.drain(..count).collect())
    }

    /// Everything until the other side closes.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        while self.more().await {}
        std::mem::take(&mut self.read)
    }

    pub(crate) async fn head(&mut self) -> Option<Message> {
        let head = self.until("\r\n\r\n").await?;
        let (start, lines) = head.split_once("\r\n").unwrap();
        Some(Message {
            start: start.to_owned(),
            fields: fields(lines),
            body: Vec::new(),
            trailers: Vec::new(),
        })
    }

    /// Reads a request with its body.
    pub(crate) async fn request(&mut self) -> Option<Message> {
        let head = self.head().await?;
        self.body(head, false).await
    }

    /// Reads an answer to a GET or POST, with its body.
    pub(crate) async fn answer(&mut self) -> Option<Message> {
        let head = self.head().await?;
        let bodiless = matches!(head.status(), 100..=199 | 204 | 304);
        if bodiless {
            Some(head)
        } else {
            self.body(head, true).await
        }
    }

    async fn body(&mut self, mut message: Message, until_end: bool) -> Option<Message> {
        let chunked = message.field("transfer-encoding").map(str::to_owned);
        let length = message.field("content-length").map(|length| length.parse().unwrap());
        match (chunked, length) {
            (Some(coding), None) => {
                assert_eq!(coding, "chunked");
                loop {
                    let size = self.chunk_size().await?;
                    if size == 0 {
                        break;
                    }
                    message.body.extend(self.exactly(size).await?);
                    assert_eq!(self.exactly(2).await?, b"\r\n");
                }
                let mut trailers = String::new();
                while !trailers.ends_with("\r\n\r\n") && trailers != "\r\n" {
                    trailers += &self.until("\r\n").await?;
                }
                message.trailers = fields(&trailers);
            }
            (None, Some(length)) => message.body = self.exactly(length).await?,
            (None, None) if until_end => message.body = self.rest().await,
            (None, None) => {}
            (Some(_), Some(_)) => panic!("framed twice: {message:?}"),
        }
        Some(message)
    }

    pub(crate) async fn chunk_size(&mut self) -> Option<usize> {
        let line = self.until("\r\n").await?;
        Some(usize::from_str_radix(line.trim_end(), 16).unwrap_or_else(|_| panic!("not a chunk size: {line:?}")))
    }

    /// One chunk of a chunked body.
    pub(crate) async fn chunk(&mut self) -> Option<Vec<u8>> {
        let size = self.chunk_size().await?;
        let chunk = self.exactly(size).await?;
        self.exactly(2).await?;
        Some(chunk)
    }
}

/// A body whose frames the test sends when it likes; it ends when the sender is dropped.
pub(crate) struct Frames(tokio::sync::mpsc::UnboundedReceiver<http_body::Frame<bytes::Bytes>>);

impl Frames {
    pub(crate) fn new() -> (tokio::sync::mpsc::UnboundedSender<http_body::Frame<bytes::Bytes>>, Self) {
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        (sender, Self(receiver))
    }
}

impl http_body::Body for Frames {
    type Data = bytes::Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<bytes::Bytes>, std::io::Error>>> {
        self.get_mut().0.poll_recv(cx).map(|frame| frame.map(Ok))
    }
}
