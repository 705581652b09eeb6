//! The body of a site's answer, in the version of HTTP that the site speaks.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use thiserror::Error;

use crate::h1::client::Answer;
use crate::h1::upgrade::Upgraded;
use crate::h1::{BodyError, Ending};
use crate::reset::Reset;
use crate::upstream::Received;
use bursar_core::h1::Lines;

pub enum SiteBody {
    H1(Answer),
    H2(Received),
}

/// Why the rest of an answer will not come.
#[derive(Debug, Error)]
pub enum SiteError {
    #[error(transparent)]
    H1(#[from] BodyError),
    /// The agent's connection looks for the reason of a reset among the sources.
    #[error("{0}")]
    H2(#[from] h2::Error),
}

impl SiteBody {
    /// How the site's connection ended, if this answer ended with it.
    pub const fn ending(&self) -> Option<Ending> {
        match self {
            Self::H1(answer) => answer.ending(),
            Self::H2(_) => None,
        }
    }

    /// The trailers as the site wrote them, once they have arrived.
    pub const fn trailer_lines(&self) -> Option<&Lines> {
        match self {
            Self::H1(answer) => answer.trailer_lines(),
            Self::H2(_) => None,
        }
    }

    /// The agent has said everything: so has the site's client, as the site would see it without us.
    pub fn end_request(&self, cx: &mut Context<'_>) {
        if let Self::H1(answer) = self {
            answer.end_request(cx);
        }
    }

    /// What the connection has become after `101 Switching Protocols`.
    pub fn switched(&self) -> Option<(Upgraded, Reset)> {
        match self {
            Self::H1(answer) => answer.switched(),
            Self::H2(_) => None,
        }
    }
}

impl Body for SiteBody {
    type Data = Bytes;
    type Error = SiteError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, SiteError>>> {
        match self.get_mut() {
            Self::H1(answer) => Pin::new(answer).poll_frame(cx).map_err(SiteError::from),
            Self::H2(received) => Pin::new(received).poll_frame(cx).map_err(SiteError::from),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::H1(answer) => answer.is_end_stream(),
            Self::H2(received) => received.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::H1(answer) => answer.size_hint(),
            Self::H2(received) => received.size_hint(),
        }
    }
}
