//! One tunnel's way to its site: which connection carries a request, and when a request goes out again.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use http::request::Parts;
use http::{Request, Response, StatusCode};
use http_body::Body;
use tokio::time::Instant;

use super::connection::{self, Carrier, Connection, Use};
use super::h2::{Line, Place, Received};
use super::own::Own;
use super::pool::Kept;
use super::timer::Timer;
use super::{HEAD_FIELDS, Key, Origin, UpstreamError, Upstreams, Version, bound};
use crate::body::{AnswerBody, Framing, Progress, Relay, RequestBody, SiteBody};
use crate::dial::{Checked, DialError};
use bursar_core::agent_name::AgentName;
use bursar_core::h1::Persistence;

/// After this time a name is looked up again for a new connection (threat 2.2: never within one exchange).
const NAME_AGE: Duration = Duration::from_secs(30);
/// How often a request goes out again on HTTP/2's proof that it was not processed (R92).
const RESENDINGS: usize = 3;

/// One agent's access to one origin, with connections of its own. A tunnel has one lane for its whole life.
pub struct Lane {
    own: Arc<Own>,
    version: Version,
    /// A request that needs another HTTP/2 connection waits for the one that is being made: it may have room for all.
    dialling: tokio::sync::Mutex<()>,
    names: Mutex<(Checked, Instant)>,
}

/// Why there is no response, and whether the site may have processed the request.
pub enum SendError {
    /// It was not sent, or the site has provably processed nothing of it.
    Unsent(UpstreamError),
    /// It was sent, at least in part.
    Sent(UpstreamError),
}

/// Whether a request carries a credential, and so goes to the addresses that were checked for the 402, and only once.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Paid {
    No,
    Yes,
}

impl Lane {
    pub(super) fn new(upstreams: Arc<Upstreams>, key: Key, checked: Checked, connection: Kept) -> (Self, Version) {
        let own = Own::new(upstreams, key);
        let version = own.begin(connection);
        let lane = Self {
            own: Arc::new(own),
            version,
            dialling: tokio::sync::Mutex::default(),
            names: Mutex::new((checked, Instant::now())),
        };
        (lane, version)
    }

    pub fn origin(&self) -> &Origin {
        &self.own.key.origin
    }

    pub fn agent(&self) -> &AgentName {
        &self.own.key.agent
    }

    /// Resolves when the site has closed the tunnel's own HTTP/1.1 connection while nothing was under way on it: the agent
    /// is to see that as it would without a proxy, before it sends something that it must not send twice.
    pub async fn closed(&self) {
        poll_fn(|cx| self.own.poll_closed(cx)).await;
    }

    /// Sends a request that carries no credential. It goes out again if it was not sent, if HTTP/2 proves that it was not
    /// processed, or if it is safe and has no body and a reused connection was lost (RFC 9110 §9.2.2).
    pub async fn send(
        &self,
        head: &Parts,
        body: RequestBody,
        progress: &Progress,
    ) -> Result<Response<Relay>, UpstreamError> {
        self.exchange(head, body, progress, Paid::No)
            .await
            .map_err(SendError::into_error)
    }

    /// Sends a request that carries a credential: once, and to the addresses that were checked for the 402. Only if it was
    /// not sent, or HTTP/2 proves that it was not processed, does it go out again (R1, R92).
    pub async fn send_paid(
        &self,
        request: Request<RequestBody>,
        progress: &Progress,
    ) -> Result<Response<Relay>, SendError> {
        let (head, body) = request.into_parts();
        self.exchange(&head, body, progress, Paid::Yes).await
    }

    async fn exchange(
        &self,
        head: &Parts,
        body: RequestBody,
        progress: &Progress,
        paid: Paid,
    ) -> Result<Response<Relay>, SendError> {
        match self.version {
            Version::H1 => self.on_h1(head, body, progress, paid).await,
            // Boxed, because the streams of HTTP/2 are tasks, which are moved before they run.
            Version::H2 => Box::pin(self.on_h2(head, body, progress, paid)).await,
        }
    }

    async fn on_h1(
        &self,
        head: &Parts,
        body: RequestBody,
        progress: &Progress,
        paid: Paid,
    ) -> Result<Response<Relay>, SendError> {
        let is_repeatable = paid == Paid::No && is_repeatable(head, &body);
        let mut connection = match self.own.take(is_repeatable).await {
            (Some(own), _) => own,
            // Rare, and large.
            (None, is_first) => Box::pin(self.connection(is_first && is_repeatable, paid))
                .await
                .map_err(SendError::Unsent)?,
        };
        let body = match self.once_on_h1(&mut connection, head, body, progress).await? {
            Ok(response) => return self.relay_h1(connection, response, head, progress),
            Err(connection::Failed::Unsent(body, _)) => *body,
            Err(connection::Failed::Sent(error))
                if is_repeatable && connection.use_so_far != Use::Nothing && error.is_loss() =>
            {
                RequestBody::empty()
            }
            Err(connection::Failed::Sent(error)) => return Err(SendError::Sent(UpstreamError::H1(error))),
        };
        drop(connection);
        Box::pin(self.again_on_h1(head, body, progress)).await
    }

    /// On a new connection, for the last time.
    async fn again_on_h1(
        &self,
        head: &Parts,
        body: RequestBody,
        progress: &Progress,
    ) -> Result<Response<Relay>, SendError> {
        let dialled = self.dial(&self.pinned()).await.map_err(SendError::Unsent)?;
        let Kept::H1(mut connection) = dialled else {
            return Err(SendError::Unsent(UpstreamError::Version));
        };
        match self.once_on_h1(&mut connection, head, body, progress).await? {
            Ok(response) => self.relay_h1(connection, response, head, progress),
            Err(connection::Failed::Unsent(_, error)) => Err(SendError::Unsent(UpstreamError::H1(error))),
            Err(connection::Failed::Sent(error)) => Err(SendError::Sent(UpstreamError::H1(error))),
        }
    }

    async fn once_on_h1(
        &self,
        connection: &mut Connection,
        head: &Parts,
        body: RequestBody,
        progress: &Progress,
    ) -> Result<Result<Response<SiteBody>, connection::Failed>, SendError> {
        let mut timer = std::mem::take(&mut connection.timer);
        let sent = self.patiently(connection.send(head, body), &mut timer, progress).await;
        connection.timer = timer;
        sent.map_err(SendError::Sent)
    }

    /// For a tunnel that has none. Only its first request may begin with a connection that was kept, and only one that may
    /// be repeated.
    async fn connection(&self, may_be_kept: bool, paid: Paid) -> Result<Connection, UpstreamError> {
        let checked = self.checked(paid).await?;
        let kept = match may_be_kept {
            true => self.own.upstreams.pick(&self.own.key, &checked).await,
            false => None,
        };
        match kept {
            Some(Kept::H1(connection)) => Ok(connection),
            _ => match self.dial(&checked).await? {
                Kept::H1(connection) => Ok(connection),
                Kept::H2(_) => Err(UpstreamError::Version),
            },
        }
    }

    async fn on_h2(
        &self,
        head: &Parts,
        mut body: RequestBody,
        progress: &Progress,
        paid: Paid,
    ) -> Result<Response<Relay>, SendError> {
        let is_repeatable = paid == Paid::No && is_repeatable(head, &body);
        let (mut resendings, mut was_lost, mut failed_on) = (0, false, Vec::new());
        loop {
            let line = self.line(is_repeatable, paid, &failed_on).await;
            let (line, place) = line.map_err(SendError::Unsent)?;
            let was_reused = line.has_served();
            let sending = line.send(place, Request::from_parts(copy(head), body));
            let sent = self.patiently(sending, &mut Timer::default(), progress).await;
            let failed = match sent.map_err(SendError::Sent)? {
                Ok(response) => return self.relay_h2(&line, response, head),
                Err(failed) => failed,
            };
            let error = UpstreamError::Broken(failed.error.into());
            body = match failed.unprocessed {
                Some(body) if resendings < RESENDINGS => {
                    resendings += 1;
                    body
                }
                Some(_) => return Err(SendError::Unsent(error)),
                None if is_repeatable && was_reused && failed.was_lost && !was_lost => {
                    was_lost = true;
                    RequestBody::empty()
                }
                None => return Err(SendError::Sent(error)),
            };
            failed_on.push(line);
        }
    }

    /// A free stream on one of the tunnel's connections, or else on a new one. A client without a proxy would queue where
    /// the site allows few streams; the agent sees our limit instead of the site's, and does not know.
    async fn line(&self, is_repeatable: bool, paid: Paid, not: &[Line]) -> Result<(Line, Place), UpstreamError> {
        if let Some((line, place)) = self.own.place(is_repeatable, not) {
            // Streams that come before the site has said how many it allows would wait in the line's own queue.
            if line.is_settled() || line.open_streams() == 1 {
                return Ok((line, place));
            }
            drop(place);
            line.settle().await;
        }
        let _dialling = self.dialling.lock().await;
        if let Some(found) = self.own.place(is_repeatable, not) {
            return Ok(found);
        }
        let checked = match not {
            [] => self.checked(paid).await?,
            _ => self.pinned(),
        };
        if !is_repeatable {
            self.own.give_up_doubtful();
        }
        match self.dial(&checked).await {
            Ok(Kept::H2(line)) => {
                if !not.is_empty() || self.own.is_full() {
                    line.settle().await;
                }
                let place = self.own.add(&line);
                Ok((line, place))
            }
            Ok(Kept::H1(_)) => Err(UpstreamError::Version),
            // The site, or our room, allows no more connections.
            Err(error) => self.own.queue(is_repeatable).ok_or(error),
        }
    }

    /// A new connection.
    async fn dial(&self, checked: &Checked) -> Result<Kept, UpstreamError> {
        self.own.upstreams.dial(&self.own.key, checked).await
    }

    async fn checked(&self, paid: Paid) -> Result<Checked, DialError> {
        match paid {
            Paid::Yes => Ok(self.pinned()),
            Paid::No => self.names().await,
        }
    }

    /// The last checked addresses, however old: within one exchange no name is looked up twice (threat 2.2).
    fn pinned(&self) -> Checked {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    async fn names(&self) -> Result<Checked, DialError> {
        let (checked, since) = {
            let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
            (names.0.clone(), names.1)
        };
        if since.elapsed() < NAME_AGE {
            return Ok(checked);
        }
        let Key { agent, origin, .. } = &self.own.key;
        let checked = self.own.upstreams.resolve(agent, &origin.authority).await?;
        *self.names.lock().unwrap_or_else(PoisonError::into_inner) = (checked.clone(), Instant::now());
        Ok(checked)
    }

    /// Waits for an answer as long as the site may take. A long upload is not silence: the timeout restarts as long as
    /// parts of it are sent.
    async fn patiently<T>(
        &self,
        sending: impl Future<Output = T>,
        timer: &mut Timer,
        progress: &Progress,
    ) -> Result<T, UpstreamError> {
        let mut sending = pin!(sending);
        let patience = self.own.upstreams.timeouts.response_head;
        let mut deadline = Instant::now() + patience;
        let mut parts = progress.parts();
        poll_fn(|cx| {
            if let Poll::Ready(sent) = sending.as_mut().poll(cx) {
                return Poll::Ready(Ok(sent));
            }
            while timer.poll_until(deadline, cx).is_ready() {
                let now = progress.parts();
                if now == parts {
                    return Poll::Ready(Err(UpstreamError::Timeout));
                }
                parts = now;
                deadline = Instant::now() + patience;
            }
            Poll::Pending
        })
        .await
    }

    fn relay_h1(
        &self,
        mut connection: Connection,
        response: Response<SiteBody>,
        head: &Parts,
        progress: &Progress,
    ) -> Result<Response<Relay>, SendError> {
        let idle = self.own.upstreams.timeouts.idle;
        let framing = Framing::of(&response);
        connection.is_bound |= bound::asks(&head.headers) || bound::offers(response.headers());
        let at_end: Option<Box<dyn FnOnce() + Send>> = match response.status() {
            StatusCode::SWITCHING_PROTOCOLS => None,
            status => {
                let own = self.own.clone();
                let goes_on = !ends_connection(&response) && status != StatusCode::PAYMENT_REQUIRED;
                progress.want(status.is_success() || goes_on);
                let carrier = Carrier::new(connection, progress.clone());
                Some(Box::new(move || {
                    if let Some(connection) = carrier.free() {
                        own.give_back(connection);
                    }
                }))
            }
        };
        Ok(response.map(|body| Relay::new(body, framing, idle, at_end)))
    }

    fn relay_h2(&self, line: &Line, response: Response<Received>, head: &Parts) -> Result<Response<Relay>, SendError> {
        // On HTTP/1.1 they are counted as they are read (R33).
        if response.headers().len() > HEAD_FIELDS {
            return Err(SendError::Sent(UpstreamError::Fields));
        }
        if bound::asks(&head.headers) || bound::offers(response.headers()) {
            line.bind();
        }
        let idle = self.own.upstreams.timeouts.idle;
        Ok(response.map(|body| Relay::new(SiteBody::H2(body), Framing::Own, idle, None)))
    }
}

impl SendError {
    pub fn into_error(self) -> UpstreamError {
        match self {
            Self::Unsent(error) | Self::Sent(error) => error,
        }
    }
}

/// Whether the site ends its connection after this response.
pub fn ends_connection<B>(response: &Response<B>) -> bool {
    response.version() < http::Version::HTTP_2
        && (Framing::of(response) == Framing::UntilClose
            || Persistence::said(response.version(), response.headers()) == Some(Persistence::Close))
}

fn is_repeatable(head: &Parts, body: &RequestBody) -> bool {
    head.method.is_safe() && body.is_end_stream()
}

/// Without the extensions, which are for HTTP/1.1.
fn copy(head: &Parts) -> Parts {
    let (mut copy, ()) = Request::new(()).into_parts();
    copy.method = head.method.clone();
    copy.uri = head.uri.clone();
    copy.version = head.version;
    copy.headers = head.headers.clone();
    copy
}

/// Turns a relayed response into the one for the agent.
pub fn stream(response: Response<Relay>) -> Response<AnswerBody> {
    response.map(AnswerBody::from)
}
