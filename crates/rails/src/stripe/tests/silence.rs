//! Against services that do not answer.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// Accepts one connection, reads a request's head, and then does what the test says.
async fn breaking<F, B>(then: B) -> String
where
    F: Future<Output = ()> + Send,
    B: FnOnce(TcpStream) -> F + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut read = Vec::new();
        while !read.ends_with(b"profile_lab_seller") {
            let mut chunk = [0; 1024];
            let length = stream.read(&mut chunk).await.unwrap();
            assert!(length > 0, "the client went away early");
            read.extend_from_slice(&chunk[..length]);
        }
        then(stream).await;
    });
    base
}

fn impatient(base: &str) -> Stripe {
    let mut client = client(base);
    client.settings.patience = Duration::from_millis(200);
    client
}

#[tokio::test]
async fn silence_after_the_request_is_unclear_and_before_it_is_not() {
    let purchase = Purchase::with("pm_card_visa");
    let silence = |error: StripeError| {
        let effect = error.effect();
        match error {
            StripeError::Unclear(silence) => ("unclear", silence, effect),
            StripeError::Unsent(silence) => ("unsent", silence, effect),
            other => panic!("{other}"),
        }
    };
    // The request is read, and nothing is answered.
    let base = breaking(|stream| async move {
        let _held = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let error = impatient(&base).issue(&purchase.order()).await.err().unwrap();
    assert_eq!(silence(error), ("unclear", Silence::Timeout, Effect::Unknown));

    // The request is read, and the connection is closed.
    let base = breaking(|stream| async move { drop(stream) }).await;
    let error = client(&base).issue(&purchase.order()).await.err().unwrap();
    assert_eq!(silence(error), ("unclear", Silence::Connection, Effect::Unknown));

    // An answer that is cut off.
    const CUT: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n{\"id\":";
    let base = breaking(|mut stream| async move { stream.write_all(CUT).await.unwrap() }).await;
    let error = client(&base).issue(&purchase.order()).await.err().unwrap();
    assert_eq!(silence(error), ("unclear", Silence::Connection, Effect::Unknown));

    // An answer that never ends.
    let base = breaking(|mut stream| async move {
        stream.write_all(CUT).await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let error = impatient(&base).issue(&purchase.order()).await.err().unwrap();
    assert_eq!(silence(error), ("unclear", Silence::Timeout, Effect::Unknown));

    // Nobody listens there.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = client(&base).issue(&purchase.order()).await.err().unwrap();
    assert_eq!(silence(error), ("unsent", Silence::Connection, Effect::None));

    // Somebody listens, does not speak TLS, and does not say so.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let error = impatient(&base).issue(&purchase.order()).await.err().unwrap();
    assert_eq!(silence(error), ("unsent", Silence::Timeout, Effect::None));
}
