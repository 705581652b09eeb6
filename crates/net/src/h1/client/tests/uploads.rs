//! Requests with bodies, and answers that do not wait for their end.

use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::timeout;

use super::*;

const LARGE: usize = 8 << 20;
const SOON: Duration = Duration::from_secs(20);

async fn rest(site: &mut DuplexStream) -> String {
    let mut seen = Vec::new();
    site.read_to_end(&mut seen).await.unwrap();
    String::from_utf8(seen).unwrap()
}

/// What the site sees of a request with these frames.
async fn seen(request: http::request::Builder, frames: Vec<Result<Frame<Bytes>, &'static str>>) -> (String, bool) {
    let (mut connection, mut site) = connected();
    let (say, body) = Parts::new();
    for frame in frames {
        say.send(frame).unwrap();
    }
    drop(say);
    let seeing = tokio::spawn(async move { rest(&mut site).await });
    let sent = timeout(Duration::from_millis(20), connection.send(with_body(request, body))).await;
    drop(connection);
    (seeing.await.unwrap(), sent.is_ok())
}

#[tokio::test]
async fn a_body_is_framed_as_the_agent_framed_it() {
    let known = Request::post("/").header("content-length", "5");
    let (text, failed) = seen(known, vec![data("he"), data("llo")]).await;
    assert!(
        text.ends_with("\r\n\r\nhello") && text.contains("Content-Length: 5\r\n"),
        "{text}"
    );
    assert!(!failed && !text.contains("chunked"));

    let (text, failed) = seen(Request::post("/"), vec![data("he"), data(""), data("llo")]).await;
    assert!(text.contains("Transfer-Encoding: chunked\r\n"), "{text}");
    assert!(
        text.ends_with("\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n") && !failed,
        "{text}"
    );

    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "5".parse().unwrap());
    let (text, failed) = seen(Request::post("/"), vec![data("hello"), Ok(Frame::trailers(trailers))]).await;
    assert!(
        text.ends_with("5\r\nhello\r\n0\r\nX-Sum: 5\r\n\r\n") && !failed,
        "{text}"
    );
}

/// A site must not take a part for the whole.
#[tokio::test]
async fn a_body_that_breaks_off_has_no_end() {
    let (text, failed) = seen(Request::post("/"), vec![data("hello"), Err("gone")]).await;
    assert!(failed && !text.contains("0\r\n\r\n"), "{text}");
    for (length, parts) in [("6", 1), ("4", 1), ("9", 2)] {
        let request = Request::post("/").header("content-length", length);
        let (text, failed) = seen(request, (0..parts).map(|_| data("hello")).collect()).await;
        assert!(failed, "{text}");
    }
}

#[tokio::test]
async fn a_large_part_arrives_as_it_is() {
    let part: Vec<u8> = (0..LARGE).map(|at| (at % 251) as u8).collect();
    for chunked in [false, true] {
        let (mut connection, mut site) = connected();
        let expected = part.clone();
        let reading = tokio::spawn(async move {
            head(&mut site).await;
            if chunked {
                let size = format!("{LARGE:x}\r\n");
                let mut line = vec![0; size.len()];
                site.read_exact(&mut line).await.unwrap();
                assert_eq!(line, size.as_bytes());
            }
            let mut body = vec![0; LARGE];
            site.read_exact(&mut body).await.unwrap();
            assert!(body == expected);
            if chunked {
                let mut end = [0; 7];
                site.read_exact(&mut end).await.unwrap();
                assert_eq!(&end, b"\r\n0\r\n\r\n");
            }
            site.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                .await
                .unwrap();
            site
        });
        let (say, body) = Parts::new();
        say.send(data(part.clone())).unwrap();
        drop(say);
        let request = match chunked {
            true => Request::post("/"),
            false => Request::post("/").header("content-length", LARGE),
        };
        let answer = timeout(SOON, connection.send(with_body(request, body)))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        let _site = reading.await.unwrap();
        assert!(connection.ready().await);
    }
}

/// An endless body: more than all buffers on the way.
fn endless() -> Parts {
    let (say, body) = Parts::new();
    for _ in 0..LARGE >> 16 {
        say.send(data(vec![b'u'; 1 << 16])).unwrap();
    }
    body
}

/// The site answers and closes in the midst of the upload; what it has not read makes its kernel reset the connection,
/// so that our next write fails. The answer was sent before, and is seen each time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_early_answer_is_seen_although_the_upload_breaks() {
    const TIMES: usize = 200;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut site, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut some = vec![0; 16 << 10];
                site.read_exact(&mut some).await.unwrap();
                site.write_all(b"HTTP/1.1 402 Payment Required\r\nContent-Length: 3\r\n\r\npay")
                    .await
                    .unwrap();
                // Closed with unread bytes.
            });
        }
    });
    for turn in 0..TIMES {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let mut connection = Connection::new(stream);
        let sending = connection.send(with_body(Request::post("/"), endless()));
        let answer = match timeout(SOON, sending).await.unwrap() {
            Ok(answer) => answer,
            Err(SendError::Sent(fault) | SendError::Unsent(_, fault)) => panic!("turn {turn}: {fault}"),
        };
        assert_eq!(answer.status(), StatusCode::PAYMENT_REQUIRED);
        let body = timeout(SOON, answer.into_body().collect()).await.unwrap();
        assert_eq!(body.unwrap().to_bytes(), "pay", "turn {turn}");
        // The upload may still have to find out.
        assert!(!timeout(SOON, connection.ready()).await.unwrap());
    }
}

#[tokio::test]
async fn an_upload_that_its_answer_overtook_goes_on_and_frees_the_connection_at_its_end() {
    let (mut connection, mut site) = connected();
    let (say, body) = Parts::new();
    let seeing = tokio::spawn(async move {
        head(&mut site).await;
        site.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .await
            .unwrap();
        let mut rest = [0; 13];
        site.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"3\r\none\r\n0\r\n\r\n");
        site
    });
    let answer = connection.send(with_body(Request::post("/"), body)).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "ok");
    // Its upload is under way: no other request may be sent, and the connection has not ended.
    assert!(!connection.is_closed());
    let unsent = timeout(Duration::from_millis(5), connection.ready()).await;
    assert!(unsent.is_err());
    say.send(data("one")).unwrap();
    drop(say);
    assert!(timeout(SOON, connection.ready()).await.unwrap());
    let _site = seeing.await.unwrap();
}

/// A source that always has more, and a site that always takes more: the answer is seen as soon as it is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_never_waits_does_not_hide_its_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut site, _) = listener.accept().await.unwrap();
        let mut some = vec![0; 16 << 10];
        site.read_exact(&mut some).await.unwrap();
        site.write_all(b"HTTP/1.1 402 Payment Required\r\nContent-Length: 0\r\n\r\n")
            .await
            .unwrap();
        tokio::io::copy(&mut site, &mut tokio::io::sink()).await.unwrap();
    });
    let mut connection = Connection::new(tokio::net::TcpStream::connect(address).await.unwrap());
    let sending = connection.send(with_body(Request::post("/"), Endless));
    let answer = timeout(SOON, sending).await.unwrap().unwrap();
    assert_eq!(answer.status(), StatusCode::PAYMENT_REQUIRED);
    connection.cut();
}

/// A body without an end.
#[derive(Debug)]
struct Endless;

impl Body for Endless {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: std::pin::Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b'u'; 4 << 10])))))
    }
}

/// Each side writes only if the other reads: neither may wait for the other's end.
#[tokio::test]
async fn upload_and_answer_flow_at_once() {
    let (mut connection, site) = connected();
    let (mut reads, mut writes) = tokio::io::split(site);
    tokio::spawn(async move {
        let said = format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n");
        writes.write_all(said.as_bytes()).await.unwrap();
        let mut buffer = vec![0; 1 << 16];
        let mut left = LARGE;
        while left > 0 {
            let read = reads.read(&mut buffer).await.unwrap().min(left);
            writes.write_all(&buffer[..read]).await.unwrap();
            left -= read;
        }
        tokio::io::copy(&mut reads, &mut tokio::io::sink()).await.unwrap();
    });
    let answer = timeout(SOON, connection.send(with_body(Request::post("/"), endless()))).await;
    let body = timeout(SOON, answer.unwrap().unwrap().into_body().collect()).await;
    assert_eq!(body.unwrap().unwrap().to_bytes().len(), LARGE);
}

#[tokio::test]
async fn an_upload_that_is_cut_closes_the_connection_under_it() {
    let (mut connection, mut site) = connected();
    let (say, body) = Parts::new();
    let closing = tokio::spawn(async move {
        head(&mut site).await;
        site.write_all(b"HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n")
            .await
            .unwrap();
        rest(&mut site).await
    });
    let answer = connection.send(with_body(Request::post("/"), body)).await.unwrap();
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    connection.cut();
    drop(connection);
    // The answer and the body's source live on, and the connection does not.
    assert_eq!(timeout(SOON, closing).await.unwrap().unwrap(), "");
    say.closed().await;
    drop(answer);
}

#[tokio::test]
async fn an_upload_whose_source_breaks_after_the_answer_ends_our_side_only() {
    let (mut connection, mut site) = connected();
    let (say, body) = Parts::new();
    tokio::spawn(async move {
        head(&mut site).await;
        site.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe")
            .await
            .unwrap();
        assert_eq!(rest(&mut site).await, "");
        site.write_all(b"llo").await.unwrap();
    });
    let answer = connection.send(with_body(Request::post("/"), body)).await.unwrap();
    say.send(Err("gone")).unwrap();
    let body = timeout(SOON, answer.into_body().collect()).await.unwrap().unwrap();
    assert_eq!(body.to_bytes(), "hello");
    assert!(!connection.ready().await);
}
