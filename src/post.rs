//! One POST to a URL that the operator has written into bursar.toml: a node or a webhook. The guard against private addresses
//! does not apply to it.

use std::error::Error;

use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use http::{Request, Response, Uri};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::tls::AlpnOffer;
use crate::tls::upstream::UpstreamTls;

pub type Failure = Box<dyn Error + Send + Sync>;

/// Sends JSON and returns the answer, its body unread. Unbounded in time: whoever calls has a patience of their own.
pub async fn post(
    url: &Uri,
    tls: &UpstreamTls,
    authorization: Option<HeaderValue>,
    json: Vec<u8>,
) -> Result<Response<Incoming>, Failure> {
    let secure = url.scheme_str() == Some("https");
    let host = url.host().unwrap_or_default();
    let port = url.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::post(path)
        .header(HOST, host_and_port(url))
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(json)))?;
    if let Some(authorization) = authorization {
        request.headers_mut().insert(AUTHORIZATION, authorization);
    }
    let stream = TcpStream::connect((bare, port)).await?;
    stream.set_nodelay(true)?;
    if !secure {
        return exchange(stream, request).await;
    }
    let name = ServerName::try_from(bare.to_owned())?;
    let connector = tokio_rustls::TlsConnector::from(tls.config(AlpnOffer::Http1));
    exchange(connector.connect(name, stream).await?, request).await
}

/// As it stands in `Host`; without user information, path and query, where services put their keys.
pub fn host_and_port(url: &Uri) -> String {
    let host = url.host().unwrap_or_default();
    url.port()
        .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the answer's body.
    tokio::spawn(connection);
    Ok(sender.send_request(request).await?)
}
