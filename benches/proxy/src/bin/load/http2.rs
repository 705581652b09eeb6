//! HTTP/2: one connection, several streams.

use bursar_bench_proxy::Fault;
use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use http::Request;

use crate::tunnel::Stream;

const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;

#[derive(Clone)]
pub(crate) struct Http2 {
    sender: SendRequest<Bytes>,
    uri: String,
}

impl Http2 {
    pub(crate) async fn new(stream: Stream, authority: &str) -> Result<Self, Fault> {
        if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err("HTTP/2 was not negotiated".into());
        }
        let (sender, connection) = Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(stream)
            .await?;
        // When it breaks, the requests fail.
        tokio::task::spawn_local(connection);
        Ok(Self {
            sender,
            uri: format!("https://{authority}/small"),
        })
    }

    /// One request, and all of its response. Returns the length of the body.
    pub(crate) async fn exchange(&mut self) -> Result<u64, Fault> {
        std::future::poll_fn(|context| self.sender.poll_ready(context)).await?;
        let request = Request::get(self.uri.as_str()).header("user-agent", "load").body(())?;
        let (response, _) = self.sender.send_request(request, true)?;
        let response = response.await?;
        if response.status() != 200 {
            return Err(format!("the response is {}", response.status()).into());
        }
        let mut body = response.into_body();
        let mut length = 0;
        while let Some(data) = body.data().await {
            let data = data?;
            length += data.len();
            body.flow_control().release_capacity(data.len())?;
        }
        Ok(length as u64)
    }
}
