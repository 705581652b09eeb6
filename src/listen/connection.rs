//! How all our connections are served: on the listener, in tunnels and on the admin socket.

use std::pin::{Pin, pin};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::TokioTimer;

use bursar_net::upstream::{HEAD_BYTES, HEAD_FIELDS};

/// The same bounds on every HTTP/1.1 head that an agent sends (R33).
pub(crate) fn http1() -> http1::Builder {
    let mut builder = http1::Builder::new();
    // `Watched` enforces the header timeout and lets an idle keep-alive connection rest.
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(None::<Duration>)
        .max_headers(HEAD_FIELDS)
        .max_header_size(HEAD_BYTES)
        // Sites' answers keep their own date; our answers set theirs.
        .auto_date_header(false)
        .half_close(false);
    builder
}

/// Serves a connection to its end. After `stop` it finishes the exchange under way and accepts nothing new; `shut_down`
/// asks it to.
pub(super) async fn until_stopped<C, E>(
    connection: C,
    shut_down: impl FnOnce(Pin<&mut C>),
    stop: impl Future<Output = ()>,
) -> Result<(), E>
where
    C: Future<Output = Result<(), E>>,
{
    let mut connection = pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop => {
            shut_down(connection.as_mut());
            connection.await
        }
    }
}
