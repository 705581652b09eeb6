//! The agent's side of a tunnel, and of the listener: requests are read one after the other, and answered in order.
//!
//! One task serves a connection from its first byte to its last. While a request is being answered, the same task
//! writes informational answers, drops what is left of an upload that nobody wants, and watches for the agent's end: a
//! reset, or a FIN without TLS's `close_notify`, means that the agent is gone, and its exchange with it. An orderly end
//! means that it has said everything; it still gets its answer.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{Request, Response, Version};

use super::upgrade::Upgraded;
use super::wire::{Agent, Discarded};
use super::{Ending, Filled, Incoming, Shared, Stream, TrailerLines, Wire};
use crate::body::{AgentBody, AnswerBody};
use crate::idle::{Busy, Serving};
use crate::reset::Reset;
use crate::upstream::HEAD_BYTES;
use bursar_core::h1::{self, Length, Malformed, Persistence, Scan};
use bursar_core::hop;

use closing::{close, linger, read_rest};
use sending::{Sent, send};

mod closing;
mod exchange;
mod sending;
#[cfg(test)]
mod tests;

pub use exchange::{Exchange, Presence};

/// Who answers the requests of a connection.
pub trait Service: Sync {
    fn answer(&self, request: Request<AgentBody>, serving: Serving) -> impl Future<Output = Answer> + Send;

    /// The answer to bytes that are not a request. The connection ends after it.
    fn refuse(&self, why: Refused) -> Response<AnswerBody>;

    /// Whether this is to be the last exchange.
    fn is_stopping(&self) -> bool;

    /// Resolves when a connection that rests is to end: the program stops.
    fn stopped(&self) -> impl Future<Output = ()> + Send;

    /// The handle of the agent's socket.
    fn reset(&self) -> Reset {
        Reset::default()
    }

    /// Whether nothing but a reset tells the agent that an answer was cut, as TLS would.
    fn is_plain(&self) -> bool {
        false
    }

    /// Resolves when the site has closed its end while the connection rests.
    fn site_closed(&self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }
}

pub struct Answer {
    pub response: Response<AnswerBody>,
    pub then: Then,
}

/// What becomes of the connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    GoOn,
    Close,
    /// It is no longer HTTP: the answer was a 200 to CONNECT.
    Tunnel,
}

/// Why a head was not taken for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    Malformed(Malformed),
    /// It is longer than [`HEAD_BYTES`].
    TooLong,
}

/// How serving a connection ended.
pub enum Served {
    Over,
    Tunnel(Upgraded),
}

/// Serves a connection until it ends or becomes something else.
pub async fn serve<S: Service>(stream: impl Stream, busy: &Busy, service: &S) -> Served {
    let shared = Shared::new(Wire::new(stream).resetting(service.reset()));
    let mut stopped = pin!(service.stopped());
    loop {
        let next = next_head(&shared, stopped.as_mut(), service).await;
        let serving = busy.begin();
        let read = match next {
            Next::Over => {
                close(&shared).await;
                return Served::Over;
            }
            Next::Head(head) => read(head).map_err(Refused::Malformed),
            Next::TooLong => Err(Refused::TooLong),
        };
        let (request, length) = match read {
            Ok(read) => read,
            Err(why) => {
                refuse(&shared, service.refuse(why)).await;
                return Served::Over;
            }
        };
        match exchange(&shared, request, length, serving, service).await {
            After::Next => {}
            After::Over => return Served::Over,
            After::Tunnel(stream) => return Served::Tunnel(stream),
        }
    }
}

enum Next {
    Head(Bytes),
    TooLong,
    Over,
}

/// Waits for the next head. A connection that rests keeps no buffer.
async fn next_head<S: Service>(shared: &Shared, mut stopped: Pin<&mut impl Future<Output = ()>>, service: &S) -> Next {
    let mut scan = Scan::default();
    let mut site_closed = pin!(service.site_closed());
    poll_fn(move |cx| {
        // Before a head that is there already: the site has ended the connection for which it was meant.
        if site_closed.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Next::Over);
        }
        let mut wire = shared.lock();
        loop {
            match scan.end(&wire.input) {
                Some(end) if end <= HEAD_BYTES => return Poll::Ready(Next::Head(wire.input.split_to(end).freeze())),
                None if wire.input.len() <= HEAD_BYTES => {}
                _ => return Poll::Ready(Next::TooLong),
            }
            match wire.poll_fill(cx) {
                Poll::Ready(Filled::More) => {}
                Poll::Ready(Filled::Ended(_)) => return Poll::Ready(Next::Over),
                Poll::Pending => break,
            }
        }
        if wire.input.iter().all(|byte| matches!(byte, b'\r' | b'\n')) {
            // Some clients send an empty line after a body; it begins no head.
            wire.input.clear();
            scan = Scan::default();
        } else {
            return Poll::Pending;
        }
        wire.rest();
        drop(wire);
        let over = service.is_stopping() || stopped.as_mut().poll(cx).is_ready();
        if over { Poll::Ready(Next::Over) } else { Poll::Pending }
    })
    .await
}

fn read(head: Bytes) -> Result<(Request<()>, Length), Malformed> {
    let mut request = h1::request_head(&head)?;
    let length = h1::request_length(&request)?;
    if let Length::Known(length) = length
        && !is_plain(request.headers())
    {
        // The same length said twice is one, and a site must not read another number than we do.
        request.headers_mut().insert(CONTENT_LENGTH, length.into());
    }
    Ok((request, length))
}

/// Whether the length is said once, in digits alone.
fn is_plain(headers: &http::HeaderMap) -> bool {
    let mut lines = headers.get_all(CONTENT_LENGTH).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return false;
    };
    let digits = line.as_bytes();
    digits.iter().all(u8::is_ascii_digit) && (digits.len() == 1 || digits.first() != Some(&b'0'))
}

enum After {
    Next,
    Over,
    Tunnel(Upgraded),
}

async fn exchange<S: Service>(
    shared: &Shared,
    mut request: Request<()>,
    length: Length,
    serving: Serving,
    service: &S,
) -> After {
    let (version, method) = (request.version(), request.method().clone());
    let persists = Persistence::said(version, request.headers()) != Some(Persistence::Close);
    shared.lock().agent = Agent {
        waits: version == Version::HTTP_11 && length != Length::Empty && hop::expects_continue(request.headers()),
        informs: version == Version::HTTP_11,
        ..Agent::default()
    };
    let trailers = (length == Length::Chunked).then(TrailerLines::default);
    let incoming = Incoming::of_request(shared, length, trailers.clone());
    if let Some(trailers) = trailers {
        request.extensions_mut().insert(trailers);
    }
    let request = request.map(|()| AgentBody::of_h1(incoming, shared, serving.clone()));
    let answered = {
        let mut answering = pin!(service.answer(request, serving));
        poll_fn(|cx| poll_answer(shared, answering.as_mut(), cx)).await
    };
    let Some(Answer { response, then }) = answered else {
        return After::Over;
    };
    let keep = persists && then != Then::Close && !service.is_stopping();
    let switches = then == Then::Tunnel || response.status() == http::StatusCode::SWITCHING_PROTOCOLS;
    match send(shared, &method, version, response, keep || switches).await {
        Sent::Whole if switches => switch(shared, then),
        Sent::Whole if read_rest(shared).await => After::Next,
        Sent::Whole | Sent::Last => {
            close(shared).await;
            After::Over
        }
        Sent::Cut if service.is_plain() => {
            shared.lock().break_off();
            After::Over
        }
        Sent::Cut | Sent::Gone => {
            shared.lock().cut();
            After::Over
        }
        Sent::Broken => {
            shared.lock().break_off();
            After::Over
        }
    }
}

/// Polls the service; `None` if the agent is gone.
fn poll_answer(
    shared: &Shared,
    answering: Pin<&mut impl Future<Output = Answer>>,
    cx: &mut Context<'_>,
) -> Poll<Option<Answer>> {
    shared.lock().disown();
    if let Poll::Ready(answer) = answering.poll(cx) {
        return Poll::Ready(Some(answer));
    }
    let mut wire = shared.lock();
    if let Poll::Ready(Err(_)) = wire.poll_flush(cx) {
        return Poll::Ready(None);
    }
    wire.own(cx);
    poll_gone(&mut wire, cx).map(|_| None)
}

/// Resolves when the agent is gone. Reads ahead meanwhile, and drops what is left of an unwanted upload.
fn poll_gone(wire: &mut Wire, cx: &mut Context<'_>) -> Poll<io::Error> {
    loop {
        if wire.is_being_read() || wire.input.len() > HEAD_BYTES {
            return Poll::Pending;
        }
        if !wire.is_read() && !wire.agent.waits {
            match wire.poll_discard(cx) {
                Poll::Ready(Discarded::Some | Discarded::Whole) => continue,
                Poll::Ready(Discarded::Never) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
        // Hardly an agent sends anything before its answer: that is waited for without a buffer.
        let polled = match wire.input.is_empty() {
            true => wire.poll_quiet(cx),
            false => wire.poll_fill(cx),
        };
        match polled {
            Poll::Ready(Filled::More) => {}
            Poll::Ready(Filled::Ended(Ending::Clean)) if wire.agent.needed == 0 => return Poll::Pending,
            Poll::Ready(Filled::Ended(_)) => return Poll::Ready(io::ErrorKind::ConnectionReset.into()),
            Poll::Pending => return Poll::Pending,
        }
    }
}

/// After the answer that ends HTTP on this connection.
fn switch(shared: &Shared, then: Then) -> After {
    let mut wire = shared.lock();
    let upgrade = wire.agent.upgrade.take();
    match (wire.take_stream(), upgrade) {
        (Some(stream), _) if then == Then::Tunnel => After::Tunnel(stream),
        (Some(stream), Some(upgrade)) => {
            upgrade.give(stream);
            After::Over
        }
        _ => After::Over,
    }
}

async fn refuse(shared: &Shared, response: Response<AnswerBody>) {
    send(shared, &http::Method::GET, Version::HTTP_11, response, false).await;
    linger(shared).await;
}
