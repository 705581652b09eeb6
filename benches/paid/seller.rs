//! The seller: TLS, three answers made beforehand, and a clock. It checks no signature; its own cost is reported apart.
//!
//! On standard input a line asks for what was seen since the last one; the answer is one line of JSON. It ends when standard
//! input closes.

use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::Fault;
use crate::figures::Lap;
use crate::wire::Inbox;

/// $0.01 in USDC on Base Sepolia, to the payee of the protocol's own examples.
const USDC: &str = "0x036CbD53842c5426634e7929541eC2318f3dCF7e";
const PAYEE: &str = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C";
const TX: &str = "0xabababababababababababababababababababababababababababababababab";

/// The first line a seller prints.
#[derive(Serialize, Deserialize)]
pub(crate) struct Opened {
    pub address: SocketAddr,
    pub ca_pem: String,
}

/// What a seller has seen since it was asked last.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Seen {
    pub free: u64,
    pub challenged: u64,
    pub sold: u64,
    /// From just before the 402 was written to the first byte of the replay: what bursar needs, and a little more.
    pub to_replay: Lap,
}

#[derive(Default)]
struct Counts {
    seen: Seen,
    challenges: HashMap<Vec<u8>, Instant>,
    to_replay: Vec<u64>,
}

struct Goods {
    free: Vec<u8>,
    challenge: Vec<u8>,
    sold: Vec<u8>,
    counts: Mutex<Counts>,
}

pub(crate) fn run() -> Result<(), Fault> {
    let (config, ca_pem) = identity()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
    let address = listener.local_addr()?;
    let goods = Arc::new(Goods::at(address));
    println!("{}", serde_json::to_string(&Opened { address, ca_pem })?);
    let asked = goods.clone();
    std::thread::spawn(move || {
        for _ in std::io::stdin().lock().lines() {
            let seen = asked.take();
            println!("{}", serde_json::to_string(&seen).unwrap_or_default());
            let _ = std::io::stdout().flush();
        }
        std::process::exit(0);
    });
    runtime.block_on(async move {
        let acceptor = TlsAcceptor::from(Arc::new(config));
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let (acceptor, goods) = (acceptor.clone(), goods.clone());
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    // A client that hangs up ends its connection, nothing else.
                    let _ = goods.serve(stream).await;
                }
            });
        }
    })
}

impl Goods {
    fn at(address: SocketAddr) -> Self {
        let requirement = json!({
            "scheme": "exact", "network": "eip155:84532", "amount": "10000", "asset": USDC, "payTo": PAYEE,
            "maxTimeoutSeconds": 60, "extra": { "name": "USDC", "version": "2" }
        });
        let challenge = json!({
            "x402Version": 2, "error": "Payment required",
            "resource": { "url": format!("https://localhost:{}/paid", address.port()), "description": "a page", "mimeType": "text/plain" },
            "accepts": [requirement]
        });
        let receipt = json!({ "success": true, "transaction": TX, "network": "eip155:84532", "payer": PAYEE });
        let encoded = |value: &serde_json::Value| STANDARD.encode(value.to_string());
        let page = "goods ".repeat(40);
        Self {
            free: answer("200 OK", "", &page),
            challenge: answer(
                "402 Payment Required",
                &format!("payment-required: {}\r\n", encoded(&challenge)),
                "{}",
            ),
            sold: answer("200 OK", &format!("payment-response: {}\r\n", encoded(&receipt)), &page),
            counts: Mutex::default(),
        }
    }

    async fn serve<S: AsyncRead + AsyncWrite + Unpin>(&self, mut stream: S) -> std::io::Result<()> {
        let mut inbox = Inbox::default();
        while inbox.begin(&mut stream).await? {
            let came = Instant::now();
            let head = inbox.head(&mut stream).await?;
            let target = head.second_word();
            let answer = if !target.starts_with(b"/paid") {
                self.counts().seen.free += 1;
                &self.free
            } else if head.field("payment-signature").is_some() {
                self.counts().sold(target, came);
                &self.sold
            } else {
                self.counts().challenged(target);
                &self.challenge
            };
            stream.write_all(answer).await?;
            stream.flush().await?;
        }
        Ok(())
    }

    fn counts(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Seen {
        let mut counts = self.counts();
        let mut seen = std::mem::take(&mut counts.seen);
        seen.to_replay = Lap::of(std::mem::take(&mut counts.to_replay));
        counts.challenges.clear();
        seen
    }
}

impl Counts {
    fn challenged(&mut self, target: &[u8]) {
        self.seen.challenged += 1;
        self.challenges.insert(target.to_owned(), Instant::now());
    }

    fn sold(&mut self, target: &[u8], came: Instant) {
        self.seen.sold += 1;
        if let Some(challenged) = self.challenges.remove(target) {
            self.to_replay.push(nanoseconds(came - challenged));
        }
    }
}

pub(crate) fn nanoseconds(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn answer(status: &str, fields: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\n{fields}\r\n{body}")
        .into_bytes()
}

/// A throw-away CA and a leaf for localhost.
fn identity() -> Result<(ServerConfig, String), Fault> {
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::new(Vec::new())?;
    // OpenSSL takes a leaf with its issuer's name for self-signed.
    ca.distinguished_name.push(DnType::CommonName, "benchmark CA");
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let ca_pem = ca.self_signed(&ca_key)?.pem();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate()?;
    let mut leaf = CertificateParams::new(vec!["localhost".to_owned()])?;
    leaf.use_authority_key_identifier_extension = true;
    let leaf = leaf.signed_by(&key, &issuer)?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(
            vec![leaf.der().clone()],
            PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((config, ca_pem))
}
