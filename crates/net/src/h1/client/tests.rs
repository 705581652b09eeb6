//! The site's side against sites that are scripts of bytes, over pipes and, where the kernel matters, over TCP.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use http::{Request, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;

use super::*;

mod answers;
mod uploads;

const PIPE: usize = 64 << 10;

impl Connection {
    pub(crate) async fn send<B>(&mut self, request: Request<B>) -> Result<Response<Answer>, SendError<B>>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let (head, body) = request.into_parts();
        self.exchange(&head, body).await
    }
}

fn get() -> Request<Empty<Bytes>> {
    with_body(Request::get("/a?b"), Empty::new())
}

fn with_body<B>(request: http::request::Builder, body: B) -> Request<B> {
    request.header("host", "site.example").body(body).unwrap()
}

/// A connection to a site, and the site's end.
fn connected() -> (Connection, DuplexStream) {
    let (ours, site) = duplex(PIPE);
    (Connection::new(ours), site)
}

/// Reads up to the empty line after a head.
async fn head(site: &mut DuplexStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(site.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// A body whose parts the test sends.
#[derive(Debug)]
struct Parts(mpsc::UnboundedReceiver<Result<Frame<Bytes>, &'static str>>);

impl Parts {
    fn new() -> (mpsc::UnboundedSender<Result<Frame<Bytes>, &'static str>>, Self) {
        let (say, said) = mpsc::unbounded_channel();
        (say, Self(said))
    }
}

impl Body for Parts {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = self.get_mut().0.poll_recv(cx);
        polled.map(|frame| frame.map(|frame| frame.map_err(BoxError::from)))
    }
}

fn data(text: impl Into<Bytes>) -> Result<Frame<Bytes>, &'static str> {
    Ok(Frame::data(text.into()))
}

/// Counts the calls that would be system calls.
struct Counted<S> {
    stream: S,
    reads: Arc<AtomicUsize>,
    writes: Arc<AtomicUsize>,
}

impl<S: tokio::io::AsyncRead + Unpin> tokio::io::AsyncRead for Counted<S> {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = std::pin::Pin::new(&mut this.stream).poll_read(cx, buf);
        if polled.is_ready() {
            this.reads.fetch_add(1, Ordering::Relaxed);
        }
        polled
    }
}

impl<S: tokio::io::AsyncWrite + Unpin> tokio::io::AsyncWrite for Counted<S> {
    fn poll_write(self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.writes.fetch_add(1, Ordering::Relaxed);
        std::pin::Pin::new(&mut this.stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn a_small_exchange_is_one_write_and_one_read_and_leaves_no_buffers() {
    let (ours, mut site) = duplex(PIPE);
    let (reads, writes) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let mut connection = Connection::new(Counted {
        stream: ours,
        reads: reads.clone(),
        writes: writes.clone(),
    });
    tokio::spawn(async move {
        loop {
            let length: usize = match head(&mut site).await.starts_with("POST") {
                true => 5,
                false => 0,
            };
            site.read_exact(&mut vec![0; length]).await.unwrap();
            site.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
                .await
                .unwrap();
        }
    });
    for turn in 1..=3 {
        let answer = connection.send(get()).await.unwrap();
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "hello");
        let post = with_body(Request::post("/"), Full::from("hello"));
        let answer = connection.send(post).await.unwrap();
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "hello");
        let (reads, writes) = (reads.load(Ordering::Relaxed), writes.load(Ordering::Relaxed));
        assert_eq!((reads, writes), (2 * turn, 2 * turn));
        assert_eq!(lock(&connection.line).wire.input.capacity(), 0);
    }
}

#[tokio::test]
async fn a_connection_that_the_site_closed_while_it_was_idle_sends_nothing() {
    let (mut connection, site) = connected();
    assert!(connection.ready().await && !connection.is_closed());
    drop(site);
    connection.closed().await;
    let sent = connection
        .send(with_body(Request::post("/"), Full::from("hello")))
        .await;
    let Err(SendError::Unsent(body, Fault::Closed)) = sent else {
        panic!("it was sent, or failed otherwise");
    };
    assert_eq!(body.collect().await.unwrap().to_bytes(), "hello");
    assert!(connection.is_closed() && !connection.ready().await);
}

#[tokio::test]
async fn who_waits_for_the_close_is_not_disturbed_by_who_looks() {
    let (connection, site) = connected();
    let connection = Arc::new(connection);
    let waiting = tokio::spawn({
        let connection = connection.clone();
        async move { connection.closed().await }
    });
    tokio::task::yield_now().await;
    assert!(!connection.is_closed());
    drop(site);
    waiting.await.unwrap();
}

#[tokio::test]
async fn who_watches_sees_the_close_after_later_exchanges() {
    let (mut connection, mut site) = connected();
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let mut cx = Context::from_waker(&waker);
    assert!(connection.poll_closed(&mut cx).is_pending());
    let answering = tokio::spawn(async move {
        for _ in 0..2 {
            head(&mut site).await;
            site.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        }
        site
    });
    for _ in 0..2 {
        connection.send(get()).await.unwrap();
    }
    assert!(
        !woken.0.load(Ordering::Relaxed),
        "nothing has happened to the connection"
    );
    drop(answering.await.unwrap());
    assert!(woken.0.load(Ordering::Relaxed));
    assert!(connection.poll_closed(&mut cx).is_ready());
}

#[derive(Default)]
struct Woken(AtomicBool);

impl std::task::Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_connection_on_which_the_site_says_something_unasked_sends_nothing() {
    let (mut connection, mut site) = connected();
    site.write_all(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let sent = connection.send(get()).await;
    assert!(matches!(sent, Err(SendError::Unsent(_, Fault::Unasked))));
    connection.closed().await;
    drop(connection);
    let mut seen = Vec::new();
    site.read_to_end(&mut seen).await.unwrap();
    assert_eq!(seen, b"");
}

/// R1: only a request of which the site cannot have seen a byte may go out again.
#[tokio::test]
async fn what_a_site_may_have_seen_a_byte_of_counts_as_sent() {
    let whole = "GET /a?b HTTP/1.1\r\nHost: site.example\r\n\r\n".len();
    for seen in 0..=whole {
        // As narrow as a pipe can be: every byte is a write of its own.
        let (ours, mut site) = duplex(1);
        let mut connection = Connection::new(ours);
        let reading = tokio::spawn(async move {
            let mut bytes = vec![0; seen];
            site.read_exact(&mut bytes).await.unwrap();
        });
        let sent = connection.send(get()).await;
        assert!(matches!(sent, Err(SendError::Sent(_))), "after {seen} bytes");
        reading.await.unwrap();
        assert!(connection.is_closed());
    }
}

#[tokio::test]
async fn a_request_that_is_given_up_leaves_no_connection_to_use() {
    let (mut connection, mut site) = connected();
    let asked = tokio::time::timeout(std::time::Duration::from_millis(1), connection.send(get()));
    assert!(asked.await.is_err());
    assert!(connection.is_closed());
    let sent = connection.send(get()).await;
    assert!(matches!(sent, Err(SendError::Unsent(_, Fault::Closed))));
    drop(connection);
    let mut seen = String::new();
    site.read_to_string(&mut seen).await.unwrap();
    assert_eq!(seen.matches("GET").count(), 1);
}
