use std::convert::Infallible;

use hyper::service::service_fn;
use tokio::io::duplex;

use super::*;
use crate::dial::{Patience, Room, SystemResolver};
use crate::tls::upstream::Trust;

/// Without a network: what is not in the pool cannot be reached.
fn upstreams() -> Arc<Upstreams> {
    let patience = Patience {
        resolve: Duration::from_secs(5),
        connect: Duration::from_secs(5),
    };
    let loopback = vec!["127.0.0.0/8".parse().unwrap()];
    let dialer = Dialer::new(
        Arc::new(SystemResolver),
        loopback,
        Vec::new(),
        patience,
        Room::default(),
    );
    let tls = UpstreamTls::new(&Trust::default(), Duration::from_secs(5)).unwrap();
    Upstreams::new(dialer, Arc::new(tls), Timeouts::default())
}

#[tokio::test]
async fn tunnels_that_share_an_h2_connection_leave_one_in_the_pool() {
    let upstreams = upstreams();
    // Port 1: nothing listens there.
    let key = Key {
        agent: "research".parse().unwrap(),
        origin: Origin {
            scheme: Scheme::Https,
            authority: Authority::parse("127.0.0.1:1").unwrap(),
        },
        offer: AlpnOffer::Http2,
    };
    let (ours, site) = duplex(64 << 10);
    tokio::spawn(async move {
        let service = service_fn(async |_| Ok::<_, Infallible>(Response::new(String::new())));
        let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        serving.serve_connection(TokioIo::new(site), service).await
    });
    let address = "127.0.0.1:1".parse().unwrap();
    let connection = upstreams.set_up_h2(ours, address).await.unwrap();
    upstreams.keep(key.clone(), connection);
    for _ in 0..10 {
        let (agent, origin) = (key.agent.clone(), key.origin.clone());
        let (_, version) = upstreams.lane(agent, origin, key.offer).await.unwrap();
        assert_eq!(version, Version::H2);
    }
    let mut pool = upstreams.pool();
    assert!(pool.take(&key).is_some());
    assert!(pool.take(&key).is_none(), "the same connection twice");
}
