use std::convert::Infallible;

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
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

fn key(offer: AlpnOffer) -> Key {
    Key {
        agent: "research".parse().unwrap(),
        origin: Origin {
            scheme: Scheme::Https,
            // Nothing listens there.
            authority: Authority::parse("127.0.0.1:1").unwrap(),
        },
        offer,
    }
}

async fn get(lane: &Lane) -> Result<Response<crate::body::Relay>, UpstreamError> {
    let request = Request::get("https://127.0.0.1:1/").body(crate::body::RequestBody::empty());
    let (head, body) = request.unwrap().into_parts();
    lane.send(&head, body, &crate::body::Progress::none()).await
}

#[tokio::test]
async fn a_connection_belongs_to_one_tunnel_at_a_time() {
    let upstreams = upstreams();
    let (ours, site) = duplex(64 << 10);
    tokio::spawn(async move {
        let service = service_fn(async |_| Ok::<_, Infallible>(Response::new(String::from("ok"))));
        let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        serving.serve_connection(TokioIo::new(site), service).await
    });
    let key = key(AlpnOffer::Http2);
    let line = Line::set_up(ours, "127.0.0.1:1".parse().unwrap()).await.unwrap();
    upstreams.keep(&key, Kept::H2(line));
    let open = async || {
        let (agent, origin) = (key.agent.clone(), key.origin.clone());
        upstreams.lane(agent, origin, key.offer).await
    };
    for _ in 0..10 {
        let (lane, version) = open().await.unwrap();
        assert_eq!(version, Version::H2);
        assert!(open().await.is_err(), "a second tunnel needs a connection of its own");
        // Also while an answer is still being read.
        let answer = get(&lane).await.unwrap();
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "ok");
        drop(lane);
    }
    let mut pool = upstreams.pool();
    assert!(pool.take(&key, |_| true).is_some());
    assert!(pool.take(&key, |_| true).is_none(), "the same connection twice");
}
