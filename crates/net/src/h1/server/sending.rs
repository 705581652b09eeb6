//! Writes an answer: its head and what there is of its body at once, then each part as it comes.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::Buf;
use http::header::CONTENT_LENGTH;
use http::{Method, Response, StatusCode, Version, response};
use http_body::Body;

use super::poll_gone;
use crate::body::{AnswerBody, Framing};
use crate::h1::{Ending, Shared};
use bursar_core::h1::{self, Encoder, Hop, Length, Persistence};

/// What was sent of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// All of it, and the connection goes on.
    Whole,
    /// All of it, or as much as the site gave before it ended its connection in order: the agent's ends like that too.
    Last,
    /// The site ended its connection too early, and without a word.
    Cut,
    /// The site broke off, or went silent.
    Broken,
    Gone,
}

/// `keep`: whether the connection may go on as far as the agent and the service are concerned.
pub(super) async fn send(
    shared: &Shared,
    method: &Method,
    version: Version,
    response: Response<AnswerBody>,
    keep: bool,
) -> Sent {
    let (mut head, body) = response.into_parts();
    let framing = framing(method, &head, &body);
    let site = head.extensions.get::<Persistence>().copied();
    // HTTP/1.0 has no chunks.
    if head.version != Version::HTTP_10 || framing == Length::Chunked {
        head.version = Version::HTTP_11;
    }
    let keep = {
        let mut wire = shared.lock();
        wire.agent.informs = false;
        // An agent that was not asked for its upload may send it or not: what follows could not be told apart.
        let unasked = std::mem::take(&mut wire.agent.waits) && !wire.is_read();
        let keep = keep && framing != Length::UntilClose && site != Some(Persistence::Close) && !unasked;
        let switches =
            head.status == StatusCode::SWITCHING_PROTOCOLS || (*method == Method::CONNECT && head.status.is_success());
        let knows_to_stay = version == Version::HTTP_11 && head.version == Version::HTTP_11;
        let connection = match keep {
            _ if switches => None,
            // Its own end says that the connection ends with it.
            false if framing == Length::UntilClose => site.filter(|site| *site == Persistence::Close),
            false => Some(Persistence::Close),
            true if knows_to_stay => site,
            true => Some(Persistence::KeepAlive),
        };
        h1::write_response(&head, Hop { framing, connection }, wire.output());
        keep
    };
    let mut body = pin!(body);
    let mut sending = Sending {
        encoder: Encoder::new(framing),
        left: match framing {
            Length::Known(length) => Some(length),
            _ => None,
        },
        ended: (framing == Length::Empty).then_some(End::Whole),
    };
    let end = poll_fn(|cx| sending.poll(shared, body.as_mut(), cx)).await;
    match end {
        End::Whole if keep => Sent::Whole,
        End::Whole | End::Site(Ending::Clean) => Sent::Last,
        End::Site(Ending::Bare) => Sent::Cut,
        End::Site(Ending::Broken) => Sent::Broken,
        End::Gone => Sent::Gone,
    }
}

/// How the body is sent. What the site said about its length stays; a body without a length is cut in chunks if the site
/// did so, and ends with the connection if it did that.
fn framing(method: &Method, head: &response::Parts, body: &AnswerBody) -> Length {
    let status = head.status;
    let bodiless = status.is_informational() || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
    if bodiless || *method == Method::HEAD || (*method == Method::CONNECT && status.is_success()) {
        return Length::Empty;
    }
    let told = head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    if let Some(length) = told.and_then(|length| length.split(',').next()?.trim().parse().ok()) {
        return Length::Known(length);
    }
    match (body.framing(), body.size_hint().exact()) {
        (Framing::UntilClose, _) => Length::UntilClose,
        (Framing::Own, Some(length)) => Length::Known(length),
        // A site that sends chunks to an agent of HTTP/1.0 does so without us, too.
        (Framing::Own, None) => Length::Chunked,
    }
}

struct Sending {
    encoder: Encoder,
    /// Of a declared length.
    left: Option<u64>,
    ended: Option<End>,
}

#[derive(Clone, Copy)]
enum End {
    Whole,
    /// The site ended too early, in this way.
    Site(Ending),
    Gone,
}

impl Sending {
    fn poll(&mut self, shared: &Shared, mut body: Pin<&mut AnswerBody>, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            // The wire is free while the body is polled, which may pull the request's body from it.
            let waits = self.ended.is_none() && !self.take_parts(shared, body.as_mut(), cx);
            let mut wire = shared.lock();
            match wire.poll_flush(cx) {
                Poll::Ready(Ok(())) => match self.ended {
                    Some(end) => return Poll::Ready(end),
                    None if waits => {}
                    None => continue,
                },
                Poll::Ready(Err(_)) => return Poll::Ready(End::Gone),
                Poll::Pending => {}
            }
            wire.own(cx);
            if poll_gone(&mut wire, cx).is_ready() {
                return Poll::Ready(End::Gone);
            }
            let has_said_all = wire.has_said_all();
            drop(wire);
            if has_said_all && self.ended.is_none() {
                body.agent_ended(cx);
            }
            return Poll::Pending;
        }
    }

    /// Takes what the body has now, until there is enough to write. False if the body has to be waited for.
    fn take_parts(&mut self, shared: &Shared, mut body: Pin<&mut AnswerBody>, cx: &mut Context<'_>) -> bool {
        loop {
            // Also after a flush that had to wait: each wake-up would add a part otherwise.
            if shared.lock().is_full() {
                return true;
            }
            let polled = match body.is_end_stream() {
                true => Poll::Ready(None),
                false => body.as_mut().poll_frame(cx),
            };
            let Poll::Ready(frame) = polled else { return false };
            let mut wire = shared.lock();
            match frame {
                None => self.finish(wire.output()),
                Some(Err(_)) => self.ended = Some(End::Site(body.ending().unwrap_or(Ending::Broken))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(piece) if !piece.has_remaining() => continue,
                    Ok(mut piece) => {
                        let length = piece.remaining();
                        if !self.fits(length) {
                            self.ended = Some(End::Site(Ending::Broken));
                            return true;
                        }
                        self.encoder.begin(length, wire.output());
                        wire.write(piece.copy_to_bytes(length));
                        self.encoder.end(wire.output());
                    }
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            self.encoder
                                .finish(Some((&trailers, body.trailer_lines())), wire.output());
                            self.ended = Some(End::Whole);
                        }
                    }
                },
            }
            if self.ended.is_some() || wire.is_full() {
                return true;
            }
        }
    }

    fn fits(&mut self, length: usize) -> bool {
        let Some(left) = &mut self.left else { return true };
        let rest = left.checked_sub(length as u64);
        rest.map(|rest| *left = rest).is_some()
    }

    fn finish(&mut self, output: &mut bytes::BytesMut) {
        if self.left.is_some_and(|left| left > 0) {
            self.ended = Some(End::Site(Ending::Broken));
            return;
        }
        self.encoder.finish(None, output);
        self.ended = Some(End::Whole);
    }
}
