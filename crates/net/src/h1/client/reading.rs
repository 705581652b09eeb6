//! The heads of answers as they arrive.

use std::io;
use std::sync::Mutex;
use std::task::{Context, Poll, ready};

use http::{Response, StatusCode};

use super::{Fault, Line, lock};
use crate::h1::{Filled, Interims};
use crate::tls::upstream::HandshakeError;
use crate::upstream::HEAD_BYTES;
use bursar_core::h1::{Scan, response_head};

/// Enough for every site that reports its progress; a site that sends them for ever is none that answers.
pub(super) const MOST_INTERIMS: usize = 64;

pub(super) struct Reading {
    scan: Scan,
    interims: Option<Interims>,
    count: usize,
    /// The head of the request has been written, or the attempt was made.
    pub(super) has_begun: bool,
    /// Why the request could not be written to its end.
    pub(super) unwritten: Option<io::Error>,
}

impl Reading {
    pub(super) fn new(interims: Option<Interims>) -> Self {
        Self {
            scan: Scan::default(),
            interims,
            count: 0,
            has_begun: false,
            unwritten: None,
        }
    }

    /// The final answer's head, or `101 Switching Protocols`; and whether the request was cut short.
    pub(super) fn poll(
        &mut self,
        line: &Mutex<Line>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(Response<()>, bool), Fault>> {
        loop {
            let head = ready!(self.poll_head(line, cx))?;
            let status = head.status();
            if !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS {
                return Poll::Ready(Ok((head, self.unwritten.is_some())));
            }
            self.count += 1;
            if self.count > MOST_INTERIMS {
                return Poll::Ready(Err(Fault::Interims));
            }
            // Not under the lock: it may be written to the agent at once.
            if let Some(interims) = &self.interims {
                interims.tell(head);
            }
        }
    }

    fn poll_head(&mut self, line: &Mutex<Line>, cx: &mut Context<'_>) -> Poll<Result<Response<()>, Fault>> {
        let wire = &mut lock(line).wire;
        loop {
            let end = self.scan.end(&wire.input);
            if end.unwrap_or(wire.input.len()) > HEAD_BYTES {
                return Poll::Ready(Err(Fault::HeadTooLong));
            }
            if let Some(end) = end {
                self.scan = Scan::default();
                let head = wire.input.split_to(end).freeze();
                return Poll::Ready(response_head(&head).map_err(Fault::from));
            }
            if let Filled::Ended(ending) = ready!(wire.poll_fill(cx)) {
                let fault = Fault::of(ending, wire.take_failure());
                // The first failure says more than what followed from it, but an alert of TLS says why.
                let unwritten = self.unwritten.take().map(Fault::Unwritten);
                return Poll::Ready(Err(match HandshakeError::behind(&fault) {
                    Some(_) => fault,
                    None => unwritten.unwrap_or(fault),
                }));
            }
        }
    }
}
