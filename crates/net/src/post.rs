//! One request to a URL that the operator has configured in bursar.toml: a node, a webhook, Stripe. The private-address
//! guard does not apply to it. Behind a corporate proxy it goes through that ([`crate::corporate`]).
//!
//! Callers that must know what became of a failed request use the two steps separately: until [`connect`] has returned,
//! nothing has been sent.

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

use bursar_core::host::Host;

use crate::dial::Stream;
use crate::socket;
use crate::tls::AlpnOffer;
use crate::tls::upstream::{HandshakeError, UpstreamTls};

pub type Failure = Box<dyn Error + Send + Sync>;

/// A connection for one request.
pub struct Line {
    sender: http1::SendRequest<Full<Bytes>>,
    host: HeaderValue,
}

/// Why a request has no response, and whether it may have arrived.
#[derive(Debug, Error)]
pub enum SendError {
    /// The connection closed before the first byte was written.
    #[error("the request was not sent: {0}")]
    Unsent(#[source] hyper::Error),
    /// All or part of the request may have arrived.
    #[error("the request was sent, but no response came: {0}")]
    Unanswered(#[source] hyper::Error),
}

/// Sends JSON and returns the response with its body unread. There is no timeout here; the caller sets one.
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

/// Connects to the host of `url`, over verified TLS unless the scheme is `http`. As with [`post`], there is no timeout.
pub async fn connect(url: &Uri, tls: &UpstreamTls) -> Result<Line, Failure> {
    let secure = url.scheme_str() == Some("https");
    let host = url.host().unwrap_or_default();
    let port = url.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let stream = dial(bare, port, tls).await?;
    let host = HeaderValue::try_from(host_and_port(url))?;
    let sender = if secure {
        let name = ServerName::try_from(bare.to_owned())?;
        let connector = tokio_rustls::TlsConnector::from(tls.config(AlpnOffer::Http1));
        let stream = connector.connect(name, stream).await.map_err(HandshakeError::from)?;
        handshake(stream).await?
    } else {
        handshake(stream).await?
    };
    Ok(Line { sender, host })
}

async fn dial(host: &str, port: u16, tls: &UpstreamTls) -> Result<Stream, Failure> {
    if let Some(proxy) = tls.proxy()
        && !is_this_machine(host)
    {
        let host = Host::parse(host)?;
        if !proxy.spares(&host) {
            return Ok(proxy.connect(&host, port).await?);
        }
    }
    let stream = TcpStream::connect((host, port)).await?;
    socket::prepare(&stream)?;
    Ok(Stream::Tcp(stream))
}

/// The value for `Host`, without user information, path and query, where services put their keys.
pub fn host_and_port(url: &Uri) -> String {
    let host = url.host().unwrap_or_default();
    url.port()
        .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Whether the host part of a URL is this machine (`localhost` or a loopback address), to which plain HTTP is allowed.
pub fn is_this_machine(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.eq_ignore_ascii_case("localhost") || bare.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

impl Line {
    /// Sends `request`, whose URI is a path, and returns the response with its body unread.
    pub async fn send(mut self, request: Request<Bytes>) -> Result<Response<Incoming>, SendError> {
        self.sender.ready().await.map_err(SendError::Unsent)?;
        let mut request = request.map(Full::new);
        request.headers_mut().insert(HOST, self.host);
        // hyper hands a request back exactly when none of it was written.
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
    // The task ends with the response body, or when the sender is dropped unused.
    tokio::spawn(connection);
    Ok(sender)
}
