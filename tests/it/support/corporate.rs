//! A proxy as a company has one: CONNECT or SOCKS5, with or without a login. Every name leads to this machine.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::agent::read_head;
use super::origin::certificate;

pub(crate) const USER: &str = "bursar";
pub(crate) const PASSWORD: &str = "open:sesame";

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Connect,
    /// CONNECT, with Basic credentials.
    ConnectWithLogin,
    /// The same, inside TLS.
    SecureConnectWithLogin,
    SocksWithLogin,
    /// Answers every CONNECT with this status.
    Refusing(u16),
}

pub(crate) struct Corporate {
    pub address: SocketAddr,
    /// Of its certificate for 127.0.0.1, if it speaks TLS.
    pub ca_pem: String,
    asked: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Corporate {
    pub(crate) async fn start(kind: Kind) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let certificate = certificate(&["127.0.0.1"], |_| {});
        let acceptor = TlsAcceptor::from(Arc::new(certificate.config));
        let log = asked.clone();
        let task = tokio::spawn(async move {
            while let Ok((agent, _)) = listener.accept().await {
                agent.set_nodelay(true).unwrap();
                let (acceptor, log) = (acceptor.clone(), log.clone());
                tokio::spawn(async move {
                    if kind != Kind::SecureConnectWithLogin {
                        return serve(agent, kind, log).await;
                    }
                    serve(acceptor.accept(agent).await.ok()?, kind, log).await
                });
            }
        });
        Self {
            address,
            ca_pem: certificate.ca_pem,
            asked,
            task,
        }
    }

    /// The sites that were asked for, in order: `host:port`.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Corporate {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve<S>(mut agent: S, kind: Kind, log: Arc<Mutex<Vec<String>>>) -> Option<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let site = match kind {
        Kind::SocksWithLogin => greet_socks(&mut agent).await?,
        _ => greet_connect(&mut agent, kind).await?,
    };
    log.lock().unwrap().push(site.clone());
    let port: u16 = site.rsplit_once(':')?.1.parse().ok()?;
    let mut reached = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    reached.set_nodelay(true).unwrap();
    let done: &[u8] = match kind {
        Kind::SocksWithLogin => &[5, 0, 0, 1, 0, 0, 0, 0, 0, 0],
        _ => b"HTTP/1.1 200 Connection established\r\n\r\n",
    };
    agent.write_all(done).await.ok()?;
    copy_bidirectional(&mut agent, &mut reached).await.ok()?;
    Some(())
}

async fn greet_connect(agent: &mut (impl AsyncRead + AsyncWrite + Unpin), kind: Kind) -> Option<String> {
    let head = read_head(agent).await;
    let line = head.lines().next()?;
    // Nothing but CONNECT: an http site is asked for like any other.
    let site = line.strip_prefix("CONNECT ")?.strip_suffix(" HTTP/1.1")?.to_owned();
    let login = format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")));
    let sent = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("proxy-authorization").then(|| value.trim())
    });
    let status = match kind {
        Kind::Refusing(status) => status,
        Kind::ConnectWithLogin | Kind::SecureConnectWithLogin if sent != Some(login.as_str()) => 407,
        _ => return Some(site),
    };
    let answer =
        format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\nProxy-Authenticate: Basic realm=\"corp\"\r\n\r\n");
    agent.write_all(answer.as_bytes()).await.ok()?;
    None
}

/// RFC 1928 with RFC 1929; names only.
async fn greet_socks(agent: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Option<String> {
    assert_eq!(agent.read_u8().await.ok()?, 5);
    let mut methods = vec![0; usize::from(agent.read_u8().await.ok()?)];
    agent.read_exact(&mut methods).await.ok()?;
    if !methods.contains(&2) {
        agent.write_all(&[5, 0xff]).await.ok()?;
        return None;
    }
    agent.write_all(&[5, 2]).await.ok()?;
    assert_eq!(agent.read_u8().await.ok()?, 1);
    let (user, password) = (counted(agent).await?, counted(agent).await?);
    let is_right = user == USER.as_bytes() && password == PASSWORD.as_bytes();
    agent.write_all(&[1, u8::from(!is_right)]).await.ok()?;
    if !is_right {
        return None;
    }
    let mut command = [0; 4];
    agent.read_exact(&mut command).await.ok()?;
    assert_eq!(command, [5, 1, 0, 3], "CONNECT, by name");
    let name = String::from_utf8(counted(agent).await?).ok()?;
    let port = agent.read_u16().await.ok()?;
    Some(format!("{name}:{port}"))
}

async fn counted(agent: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Option<Vec<u8>> {
    let mut bytes = vec![0; usize::from(agent.read_u8().await.ok()?)];
    agent.read_exact(&mut bytes).await.ok()?;
    Some(bytes)
}
