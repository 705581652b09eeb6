//! The proxy of the operator's own network, behind which bursar runs (`proxy` under `[upstream]`): CONNECT over HTTP or
//! HTTPS, or SOCKS5. It resolves the names of sites. Sites and bursar's own services are reached through it, but for
//! what `no_proxy` spares.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{HOST, HeaderValue, PROXY_AUTHORIZATION};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_socks::tcp::Socks5Stream;

use bursar_core::host::{Authority, Host};

use crate::dial::stream::Stream;
use crate::fault::in_words;
use crate::names::NameFault;
use crate::socket;

pub use no_proxy::{NoProxy, NoProxyError};

mod no_proxy;

/// The address of the proxy, as a URL names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyAddress {
    speaks: Speaks,
    authority: Authority,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Speaks {
    Http,
    /// The same, inside TLS.
    Https,
    Socks5,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("the URL has no scheme, or one other than http, https, socks5 and socks5h")]
    Scheme,
    #[error("the URL contains a user name or password")]
    Login,
    #[error("the URL has no port")]
    Port,
    #[error("the URL has a path")]
    Path,
    #[error("the host of the URL is not valid")]
    Host,
}

impl ProxyAddress {
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let (scheme, rest) = text.split_once("://").ok_or(AddressError::Scheme)?;
        let speaks = match scheme.to_ascii_lowercase().as_str() {
            "http" => Speaks::Http,
            "https" => Speaks::Https,
            // Names are always left to the proxy.
            "socks5" | "socks5h" => Speaks::Socks5,
            _ => return Err(AddressError::Scheme),
        };
        if rest.contains('@') {
            return Err(AddressError::Login);
        }
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '?', '#']) {
            return Err(AddressError::Path);
        }
        let authority = Authority::parse(authority).map_err(|why| match why {
            bursar_core::host::HostError::PortMissing | bursar_core::host::HostError::Port => AddressError::Port,
            _ => AddressError::Host,
        })?;
        Ok(Self { speaks, authority })
    }
}

/// Whom the proxy knows us as.
pub struct ProxyLogin {
    user: String,
    password: SecretString,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the user name and the password of a proxy must have 1 to 255 bytes, and the user name no colon")]
pub struct LoginError;

impl ProxyLogin {
    /// In the lengths of RFC 1929; RFC 7617 forbids the colon.
    pub fn new(user: String, password: SecretString) -> Result<Self, LoginError> {
        let is_fit = |text: &str| (1..=255).contains(&text.len()) && !text.contains(['\r', '\n', '\0']);
        match is_fit(&user) && !user.contains(':') && is_fit(password.expose_secret()) {
            true => Ok(Self { user, password }),
            false => Err(LoginError),
        }
    }
}

pub struct CorporateProxy {
    address: ProxyAddress,
    login: Option<ProxyLogin>,
    no_proxy: NoProxy,
    tls: Arc<ClientConfig>,
}

impl fmt::Debug for CorporateProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CorporateProxy({})", self.address.authority)
    }
}

/// Why a site cannot be reached through the proxy. Both the agent and the operator read it.
#[derive(Debug, thiserror::Error)]
#[error("the upstream proxy {proxy} {why}")]
pub struct ProxyFault {
    proxy: Authority,
    why: Why,
}

#[derive(Debug, thiserror::Error)]
enum Why {
    #[error("cannot be found: {0}")]
    Unknown(NameFault),
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    #[error("did not connect to the site in {} s", .0.as_secs_f32())]
    Slow(Duration),
    #[error("cannot be trusted: {0}")]
    Untrusted(String),
    #[error(
        "does not accept bursar's credentials{0}; the operator sets them with `proxy_user` and `proxy_password` under \
         [upstream] of bursar.toml"
    )]
    Credentials(&'static str),
    #[error("refused to connect to the site, with status {0}")]
    Status(StatusCode),
    #[error("did not connect to the site: {0}")]
    Socks(&'static str),
    #[error("broke the connection off: {0}")]
    Broken(String),
}

impl ProxyFault {
    pub const fn is_timeout(&self) -> bool {
        matches!(self.why, Why::Slow(_))
    }
}

impl CorporateProxy {
    /// `tls` verifies a proxy that speaks HTTPS.
    pub fn new(address: ProxyAddress, login: Option<ProxyLogin>, no_proxy: NoProxy, tls: Arc<ClientConfig>) -> Self {
        Self {
            address,
            login,
            no_proxy,
            tls,
        }
    }

    /// Whether this host is reached without the proxy.
    pub fn spares(&self, host: &Host) -> bool {
        self.no_proxy.covers(host)
    }

    pub const fn host(&self) -> &Host {
        &self.address.authority.host
    }

    pub const fn port(&self) -> u16 {
        self.address.authority.port
    }

    /// A connection to one of the operator's services. There is no time limit here.
    pub(crate) async fn connect(&self, host: &Host, port: u16) -> Result<Stream, ProxyFault> {
        let connecting = async {
            let stream = TcpStream::connect((self.host().as_str(), self.port())).await?;
            socket::prepare(&stream)?;
            Ok(stream)
        };
        let stream = connecting
            .await
            .map_err(|error: std::io::Error| self.unreachable(in_words(&error)))?;
        self.tunnel(stream, host, port).await
    }

    /// Has the proxy connect to the site, over `stream`, which leads to the proxy.
    pub(crate) async fn tunnel(&self, stream: TcpStream, host: &Host, port: u16) -> Result<Stream, ProxyFault> {
        let outcome = match self.address.speaks {
            Speaks::Http => self.tunnel_by_connect(Stream::Tcp(stream), host, port).await,
            Speaks::Https => match self.secure(stream).await {
                Ok(stream) => self.tunnel_by_connect(stream, host, port).await,
                Err(why) => Err(why),
            },
            Speaks::Socks5 => self.tunnel_by_socks(stream, host, port).await,
        };
        outcome.map_err(|why| self.fault(why))
    }

    async fn secure(&self, stream: TcpStream) -> Result<Stream, Why> {
        let name = match self.host().ip() {
            Some(address) => ServerName::from(address),
            None => ServerName::try_from(self.host().as_str().to_owned())
                .map_err(|_| Why::Untrusted("its name cannot be in a certificate".to_owned()))?,
        };
        let stream = TlsConnector::from(self.tls.clone()).connect(name, stream).await;
        let stream = stream.map_err(|error| Why::Untrusted(in_words(&error)))?;
        Ok(Stream::Tls(Box::new(stream)))
    }

    /// For http sites too: what passes is the same, and the proxy's credentials stand apart from every request.
    async fn tunnel_by_connect(&self, stream: Stream, host: &Host, port: u16) -> Result<Stream, Why> {
        let broken = |error: &hyper::Error| Why::Broken(error.to_string());
        let (mut sender, connection) = http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
            .await
            .map_err(|error| broken(&error))?;
        // It ends with the sender, or hands the connection over.
        tokio::spawn(connection.with_upgrades());
        let request = self
            .connect_request(host, port)
            .map_err(|error| Why::Broken(error.to_string()))?;
        let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
        match response.status() {
            status if status.is_success() => {}
            StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                return Err(Why::Credentials(match self.login {
                    Some(_) => " (status 407)",
                    None => ", of which it got none (status 407)",
                }));
            }
            status => return Err(Why::Status(status)),
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(|error| broken(&error))?;
        let early = || Why::Broken("it sent data before the site was asked".to_owned());
        let parts = upgraded.downcast::<TokioIo<Stream>>().map_err(|_| early())?;
        // No site speaks first, neither in HTTP nor in TLS.
        match parts.read_buf.is_empty() {
            true => Ok(parts.io.into_inner()),
            false => Err(early()),
        }
    }

    fn connect_request(&self, host: &Host, port: u16) -> http::Result<Request<Empty<Bytes>>> {
        let site = Authority {
            host: host.clone(),
            port,
        };
        let site = site.to_string();
        let mut request = Request::builder()
            .method(Method::CONNECT)
            .uri(Uri::builder().authority(site.as_str()).build()?)
            .header(HOST, site.as_str());
        if let Some(login) = &self.login {
            let pair = format!("{}:{}", login.user, login.password.expose_secret());
            let mut value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(pair)))?;
            value.set_sensitive(true);
            request = request.header(PROXY_AUTHORIZATION, value);
        }
        request.body(Empty::new())
    }

    async fn tunnel_by_socks(&self, stream: TcpStream, host: &Host, port: u16) -> Result<Stream, Why> {
        use tokio_socks::Error;
        let site = (host.as_str(), port);
        let connected = match &self.login {
            Some(login) => {
                let password = login.password.expose_secret();
                Socks5Stream::connect_with_password_and_socket(stream, site, &login.user, password).await
            }
            None => Socks5Stream::connect_with_socket(stream, site).await,
        };
        connected
            .map(|stream| Stream::Tcp(stream.into_inner()))
            .map_err(|error| match error {
                Error::Io(error) => Why::Broken(in_words(&error)),
                Error::PasswordAuthFailure(_) | Error::InvalidAuthValues(_) | Error::AuthorizationRequired => {
                    Why::Credentials("")
                }
                Error::NoAcceptableAuthMethods | Error::UnknownAuthMethod => Why::Credentials(match self.login {
                    Some(_) => ", as it wants another kind than a user name and password",
                    None => ", of which it got none",
                }),
                Error::ConnectionNotAllowedByRuleset => Why::Socks("its rules do not allow it"),
                Error::NetworkUnreachable => Why::Socks("the network is unreachable from there"),
                Error::HostUnreachable => Why::Socks("the host is unknown or unreachable from there"),
                Error::ConnectionRefused => Why::Socks("the host refused the connection"),
                Error::TtlExpired => Why::Socks("the host did not answer"),
                Error::CommandNotSupported | Error::AddressTypeNotSupported => {
                    Why::Socks("it does not support connections by host name")
                }
                Error::GeneralSocksServerFailure => Why::Socks("it failed"),
                _ => Why::Broken("it does not speak SOCKS5".to_owned()),
            })
    }

    fn fault(&self, why: Why) -> ProxyFault {
        ProxyFault {
            proxy: self.address.authority.clone(),
            why,
        }
    }

    pub(crate) fn unknown(&self, why: NameFault) -> ProxyFault {
        self.fault(Why::Unknown(why))
    }

    pub(crate) fn too_slow(&self, patience: Duration) -> ProxyFault {
        self.fault(Why::Slow(patience))
    }

    pub(crate) fn unreachable(&self, why: String) -> ProxyFault {
        self.fault(Why::Unreachable(why))
    }
}

#[cfg(test)]
mod tests;
