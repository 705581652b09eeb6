//! hudsucker without a handler, and without Nagle's algorithm on either side. `peer FOLDER`
//!
//! As published it leaves the algorithm on, and new tunnels and 64 KiB bodies wait 40 ms for an acknowledgement; nobody
//! gains by being faster than that.

use std::path::Path;
use std::sync::Arc;

use bursar_bench_proxy::{Fault, keys, sockets};
use hudsucker::Proxy;
use hudsucker::certificate_authority::RcgenAuthority;
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs;

const CERTIFICATES: u64 = 10_000;

#[tokio::main]
async fn main() -> Result<(), Fault> {
    let folder = std::env::args().nth(1).ok_or("usage: peer FOLDER")?;
    let folder = Path::new(&folder);
    sockets::raise_limit()?;
    let authority = RcgenAuthority::new(keys::proxy_issuer(folder)?, CERTIFICATES, aws_lc_rs::default_provider());
    let tls = ClientConfig::builder_with_provider(keys::provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(keys::roots([folder.join(keys::SITE_CA).as_path()])?)
        .with_no_client_auth();
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(tls.clone())
        .https_or_http()
        .enable_http1()
        .enable_http2()
        .wrap_connector(tcp);
    let (listener, address) = sockets::listen()?;
    println!("listening on http://{address}");
    let proxy = Proxy::builder()
        .with_listener(listener)
        .with_ca(authority)
        .with_http_connector(connector)
        .with_websocket_connector(tokio_tungstenite::Connector::Rustls(Arc::new(tls)))
        .build()?;
    Ok(proxy.start().await?)
}
