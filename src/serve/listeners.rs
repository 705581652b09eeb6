//! The listener for agents, and the one for callbacks of an approval backend.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::StartError;
use crate::config::Config;
use crate::config::approval::Backend;
use crate::listen::seat::{Seat, Seated};
use crate::listen::{Proxy, proxy};
use bursar_net::reset::{Accepted, Reset};
use bursar_net::socket;

/// Agents start many tools at once; the default of 128 pending connections is soon full (R229).
const BACKLOG: u32 = 1024;
/// How long to wait after a connection could not be accepted.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

pub(super) fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    bind(address).map_err(|source| StartError::Listen { address, source })
}

/// The callback listener, if a backend uses one.
pub(super) fn open_callbacks(config: &Config) -> Result<Option<TcpListener>, StartError> {
    let address = match (config.approval.callbacks, &config.approval.backend) {
        (None, _) | (_, Backend::None | Backend::Operator) => return Ok(None),
        (Some(address), Backend::Ciba(_) | Backend::Keyra(_)) => address,
    };
    let failed = |source| StartError::Callbacks { address, source };
    let listener = bind(address).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    tracing::info!(%address, "listening for callbacks from the approval backend");
    Ok(Some(listener))
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

pub(super) async fn accept(proxy: Arc<Proxy>, listener: TcpListener, acceptor: Option<TlsAcceptor>) {
    loop {
        let accepted = tokio::select! {
            () = proxy.context.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (serving, acceptor) = (proxy.clone(), acceptor.clone());
                let seat = proxy.room.lobby.enter();
                let connection = agent_connection(serving, stream, seat, peer, acceptor);
                proxy.context.tasks.spawn(connection);
                // Not before the next is accepted: this one may be an agent that logs in at once.
                proxy.room.lobby.make_room().await;
            }
            Err(error) => {
                // Most likely another part of the program, or of the machine, is short of descriptors or memory.
                let closed = proxy.room.lobby.close_oldest();
                tracing::warn!(%error, closed_the_oldest = closed, "cannot accept a connection");
                tokio::select! {
                    () = proxy.context.stop.cancelled() => return,
                    () = sleep(ACCEPT_AGAIN) => {}
                }
            }
        }
    }
}

async fn agent_connection(
    proxy: Arc<Proxy>,
    stream: TcpStream,
    seat: Seat,
    peer: SocketAddr,
    acceptor: Option<TlsAcceptor>,
) {
    let reset = Reset::default();
    let stream = match socket::prepare(&stream) {
        Ok(()) => Seated::new(Accepted::new(stream, reset.clone()), seat.clone()),
        Err(error) => return tracing::debug!(%error, %peer, "connection lost at once"),
    };
    let Some(acceptor) = acceptor else {
        return proxy::serve(proxy, stream, seat, peer, reset).await;
    };
    let handshake = timeout(proxy.timeouts.hello, acceptor.accept(stream));
    let shaken = tokio::select! {
        shaken = handshake => shaken,
        () = proxy.context.stop.cancelled() => return,
    };
    match shaken {
        Ok(Ok(stream)) => proxy::serve(proxy, stream, seat, peer, reset).await,
        Ok(Err(error)) => tracing::debug!(%error, %peer, "no TLS on the TLS listener"),
        Err(_) => tracing::debug!(%peer, "no TLS handshake in time"),
    }
}
