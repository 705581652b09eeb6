//! An agent that has said everything, one that is gone, and HTTP/2 without TLS.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use crate::support::agent::Agent;
use crate::support::bursar::setup;
use crate::support::origin::{Origin, answer};
use crate::support::seller;
use crate::support::wire::{Wire, soon};

const H1: &[&str] = &["http/1.1"];

#[tokio::test]
async fn an_agent_that_ended_its_side_gets_its_answer_and_buys_nothing() {
    let origin = Origin::https(|request| async move {
        match request.target.as_str() {
            "/free" => answer(200, &[], "free"),
            _ if request.is_paid() => seller::sold("goods"),
            _ => seller::asks("10000"),
        }
    })
    .await;
    let bursar = setup().trust(&origin.ca_pem).start();
    for (path, status) in [("/free", 200), ("/sold", 400)] {
        let mut stream = Agent::of(&bursar).tls(origin.address, "localhost", H1).await.unwrap();
        let port = origin.address.port();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        // `close_notify` and FIN.
        stream.shutdown().await.unwrap();
        let mut wire = Wire::new(stream);
        let page = wire.answer().await.unwrap();
        assert_eq!(page.status(), status, "{path}");
        if status == 400 {
            assert_eq!(page.problem(), "bad-request");
            assert!(page.text().contains("Nothing was paid"), "{}", page.text());
        }
        assert_eq!(wire.rest().await, b"");
    }
    assert_eq!((origin.payments().len(), bursar.payments().len()), (0, 0));
}

#[tokio::test]
async fn http2_with_prior_knowledge_is_spoken_in_a_tunnel() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let site = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(|request: Request<Incoming>| async move {
                let target = request.uri().to_string();
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let text = format!("{target} {}", String::from_utf8_lossy(&body));
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(text)))
            });
            let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service);
            tokio::spawn(serving);
        }
    });
    let bursar = setup().start();
    let authority = format!("localhost:{}", site.port());
    let tunnel = Agent::of(&bursar).tunnel(&authority).await;
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(tunnel))
        .await
        .unwrap();
    tokio::spawn(connection);
    for number in 0..3 {
        let url = format!("http://{authority}/{number}");
        let request = Request::post(&url).body(Full::<Bytes>::from("hello")).unwrap();
        let page = soon(sender.send_request(request)).await.unwrap();
        let text = page.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(text, format!("{url} hello"));
    }
}
