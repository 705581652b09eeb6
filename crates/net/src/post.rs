//! One request to a URL that the operator has written into bursar.toml: a node, a webhook, Stripe. The guard against
//! private addresses does not apply to it.
//!
//! In two steps, for those who must know what became of a request that failed: until [`connect`] is done, nothing was sent.

use std::error::Error;
use std::net::IpAddr;

use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use http::{Request, Response, Uri};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::tls::AlpnOffer;
use crate::tls::upstream::UpstreamTls;

pub type Failure = Box<dyn Error + Send + Sync>;

/// A connection for one request.
pub struct Line {
    sender: http1::SendRequest<Full<Bytes>>,
    host: HeaderValue,
}

/// What became of a request that was not answered.
#[derive(Debug, Error)]
pub enum SendError {
    /// The connection had ended before the first byte of it was written.
    #[error("the request was not sent: {0}")]
    Unsent(#[source] hyper::Error),
    /// It, or a part of it, may have arrived.
    #[error("the request was not answered: {0}")]
    Unanswered(#[source] hyper::Error),
}

/// Sends JSON and returns the answer, its body unread. Unbounded in time: whoever calls has a patience of their own.
pub async fn post(
    url: &Uri,
    tls: &UpstreamTls,
    authorization: Option<HeaderValue>,
    json: Vec<u8>,
) -> Result<Response<Incoming>, Failure> {
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::post(path)
        .header(CONTENT_TYPE, "application/json")
        .body(Bytes::from(json))?;
    if let Some(authorization) = authorization {
        request.headers_mut().insert(AUTHORIZATION, authorization);
    }
    Ok(connect(url, tls).await?.send(request).await?)
}

/// Connects to the host of `url`, over verified TLS unless it is `http`. Unbounded in time, as [`post`].
pub async fn connect(url: &Uri, tls: &UpstreamTls) -> Result<Line, Failure> {
    let secure = url.scheme_str() == Some("https");
    let host = url.host().unwrap_or_default();
    let port = url.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((bare, port)).await?;
    stream.set_nodelay(true)?;
    let host = HeaderValue::try_from(host_and_port(url))?;
    let sender = if secure {
        let name = ServerName::try_from(bare.to_owned())?;
        let connector = tokio_rustls::TlsConnector::from(tls.config(AlpnOffer::Http1));
        handshake(connector.connect(name, stream).await?).await?
    } else {
        handshake(stream).await?
    };
    Ok(Line { sender, host })
}

/// As it stands in `Host`; without user information, path and query, where services put their keys.
pub fn host_and_port(url: &Uri) -> String {
    let host = url.host().unwrap_or_default();
    url.port()
        .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Whether a host, as it stands in a URL, is this machine: what is sent there may go unencrypted.
pub fn is_this_machine(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.eq_ignore_ascii_case("localhost") || bare.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

impl Line {
    /// Sends `request`, whose URI is a path, and returns the answer, its body unread.
    pub async fn send(mut self, request: Request<Bytes>) -> Result<Response<Incoming>, SendError> {
        self.sender.ready().await.map_err(SendError::Unsent)?;
        let mut request = request.map(Full::new);
        request.headers_mut().insert(HOST, self.host);
        // hyper gives a request back exactly when nothing of it was written.
        self.sender
            .try_send_request(request)
            .await
            .map_err(|mut error| match error.take_message() {
                Some(_) => SendError::Unsent(error.into_error()),
                None => SendError::Unanswered(error.into_error()),
            })
    }
}

async fn handshake<S>(stream: S) -> Result<http1::SendRequest<Full<Bytes>>, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the answer's body, or when the sender is dropped unused.
    tokio::spawn(connection);
    Ok(sender)
}
