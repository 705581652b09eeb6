//! Connects to the first of several addresses that accepts (RFC 8305).

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::{DialError, Stage};
use crate::names::NameFault;
use crate::shares::{Share, Shares};
use crate::socket;

/// "Connection Attempt Delay" of RFC 8305 §5; curl's is the same.
const STAGGER: Duration = Duration::from_millis(200);
/// Attempts that run at the same time for one connection. A name may have any number of addresses that do not answer.
pub(super) const ATTEMPTS: usize = 4;
/// The least time for one attempt: a lost SYN is repeated after one second.
const LEAST: Duration = Duration::from_secs(2);

/// When every address has failed, what is still being looked up is waited for so long.
const LAST_CHANCE: Duration = Duration::from_secs(1);

/// How attempts follow each other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) stagger: Duration,
    /// How long one attempt may last.
    pub(super) each: Duration,
}

impl Pace {
    /// If there are more addresses than attempts, silent ones make room for the next.
    pub(super) fn of(addresses: usize, patience: Duration) -> Self {
        let rounds = u32::try_from(addresses.div_ceil(ATTEMPTS)).unwrap_or(u32::MAX).max(1);
        Self {
            stagger: STAGGER,
            each: (patience / rounds).max(LEAST).min(patience),
        }
    }
}

/// A TCP connection, and its place among those that are allowed.
#[derive(Debug)]
pub(super) struct Winner {
    pub(super) stream: TcpStream,
    pub(super) address: SocketAddr,
    pub(super) share: Share,
}

/// Alternates the families, starting with the one that comes first.
pub(super) fn alternate(addresses: &[SocketAddr]) -> VecDeque<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut preferred, mut other): (VecDeque<SocketAddr>, VecDeque<SocketAddr>) = addresses
        .iter()
        .copied()
        .partition(|address| address.is_ipv6() == first_is_v6);
    let mut order = VecDeque::with_capacity(addresses.len());
    while !(preferred.is_empty() && other.is_empty()) {
        order.extend(preferred.pop_front());
        order.extend(other.pop_front());
    }
    order
}

/// The first attempt uses `share`; a parallel one needs its own, and waits for the end of another if there is none.
/// What `later` brings is tried as well, the next one first (RFC 8305 §3); its error ends the race.
pub(super) async fn race(
    mut waiting: VecDeque<SocketAddr>,
    later: impl Future<Output = Result<Vec<SocketAddr>, DialError>>,
    pace: Pace,
    share: Share,
    sites: &Shares,
) -> Result<Winner, DialError> {
    let agent = share.agent().clone();
    let mut spare = vec![share];
    // Dropping the set cancels the attempts that lost.
    let mut attempts = JoinSet::new();
    let mut last_error = DialError::Dns {
        why: NameFault::NoAddress,
    };
    tokio::pin!(later);
    let mut has_come = false;
    loop {
        if attempts.len() < ATTEMPTS && !waiting.is_empty() {
            spare.extend(if spare.is_empty() {
                sites.take(&agent, 1).ok()
            } else {
                None
            });
            if let Some(share) = spare.pop()
                && let Some(address) = waiting.pop_front()
            {
                attempts.spawn(async move { (attempt(address, pace.each).await, address, share) });
            }
        }
        if attempts.is_empty() {
            if has_come {
                return Err(last_error);
            }
            // All that is known has failed.
            has_come = true;
            match timeout(LAST_CHANCE, &mut later).await {
                Ok(more) => waiting.extend(more?),
                Err(_) => return Err(last_error),
            }
            continue;
        }
        let next = Instant::now() + pace.stagger;
        loop {
            let outcome = tokio::select! {
                biased;
                Some(outcome) = attempts.join_next() => outcome,
                more = &mut later, if !has_come => {
                    has_come = true;
                    let more = more?;
                    if !more.is_empty() {
                        waiting = alternate(&[more, Vec::from(waiting)].concat());
                    }
                    continue;
                }
                () = sleep_until(next), if !waiting.is_empty() => break,
            };
            match outcome {
                Ok((Ok(stream), address, share)) => return Ok(Winner { stream, address, share }),
                Ok((Err(error), _, share)) => {
                    last_error = last_error.or(error);
                    spare.push(share);
                }
                Err(died) => last_error = DialError::of_connect(io::Error::other(died), Duration::ZERO),
            }
            if !waiting.is_empty() || attempts.is_empty() {
                break;
            }
        }
    }
}

async fn attempt(address: SocketAddr, patience: Duration) -> Result<TcpStream, DialError> {
    let began = Instant::now();
    let connecting = async {
        let stream = TcpStream::connect(address).await?;
        socket::prepare(&stream)?;
        Ok(stream)
    };
    match timeout(patience, connecting).await {
        Ok(connected) => connected.map_err(|error| DialError::of_connect(error, began.elapsed())),
        Err(_) => Err(DialError::Timeout(Stage::Connect(patience))),
    }
}
