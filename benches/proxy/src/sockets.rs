//! Sockets as all programs here open them: on loopback, without Nagle's algorithm, and as many as the machine allows.

use std::net::{Ipv4Addr, SocketAddr};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpStream};

use crate::Fault;

/// Long enough for all connections of a load that come at once.
const BACKLOG: i32 = 4096;

/// On a port that the system picks. Accepted connections inherit the option.
pub fn listen() -> Result<(TcpListener, SocketAddr), Fault> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from_std(socket.into())?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

pub async fn connect(to: impl tokio::net::ToSocketAddrs) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Raises the limit on open files as far as it goes, and returns it.
pub fn raise_limit() -> Result<u64, Fault> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    )?;
    Ok(maximum.unwrap_or(u64::MAX))
}
