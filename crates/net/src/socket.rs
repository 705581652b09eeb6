//! Options of every TCP socket, towards agents, sites and services.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// Routers and firewalls forget a connection that is silent, some after 60 s: a model may think for five minutes.
const SILENCE: Duration = Duration::from_secs(45);
/// A peer that answers none of these is gone.
const PROBES: u32 = 4;
const BETWEEN_PROBES: Duration = Duration::from_secs(15);

/// Without TCP_NODELAY small writes wait 40 ms for an acknowledgement (R226); without keep-alive a silent connection is
/// lost on the way, and neither end knows.
pub fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(SILENCE)
        .with_interval(BETWEEN_PROBES)
        .with_retries(PROBES);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_silent_connection_is_probed_within_a_minute() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        prepare(&stream).unwrap();
        let socket = SockRef::from(&stream);
        assert!(stream.nodelay().unwrap() && socket.keepalive().unwrap());
        assert!(socket.tcp_keepalive_time().unwrap() <= Duration::from_secs(60));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), BETWEEN_PROBES);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), PROBES);
    }
}
