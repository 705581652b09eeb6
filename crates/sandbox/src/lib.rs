//! The demo's seller: a small shop on TLS that sells over x402 and MPP (`bursar demo`, `bursar sandbox`).
//!
//! It needs no network and no account. Its money is "sandbox USDC", a token in memory that has Base Sepolia's identity
//! and its rules and nothing of its worth, and what a Stripe in memory says was paid by card. Checking and settling are written apart from the paying side, on purpose:
//! what this seller accepts has been judged by code that shares nothing with the code that signed it.
//!
//! * `token`: balances, used nonces, `transferWithAuthorization`. `authorization`: what is signed.
//! * `catalog`: articles, prices, challenges. `goods`: what is delivered.
//! * `verify`: reads and judges a payment. `seller`: the sale as a whole. `identifier`: repeats. `replies`: answers.
//! * `rpc`, `logs`: the token's chain, for balances and proofs. `tls`: throw-away certificates.
//! * `mpp`: challenges, credentials and receipts of the other protocol.
//! * `stripe`: where shared payment tokens are issued and charged, in memory.
#![cfg_attr(
    not(test),
    warn(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::float_arithmetic,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss
    )
)]

pub mod authorization;
mod catalog;
mod goods;
mod identifier;
mod logs;
mod mpp;
mod replies;
mod rpc;
mod seller;
pub mod stripe;
#[cfg(test)]
mod tests;
mod tls;
pub mod token;
mod verify;

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use alloy_primitives::{Address, address};
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use bursar_core::clock::{SharedClock, SystemClock};
use bursar_core::money::Atoms;
use mpp::Till;
use seller::Seller;
use stripe::StripeSandbox;
use token::{Token, TokenError, Transfer};

/// Where all payments go. Nobody holds a key for it; it stays the same over restarts, as a seller's address does.
const PAY_TO: Address = address!("0x5e11e20000000000000000000000000000000001");

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// From one answer to the head of the next request; also how often a silent HTTP/2 peer is asked whether it is there.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a stop waits for answers that are on their way.
const DRAIN: Duration = Duration::from_secs(5);
const MAX_HEAD_BYTES: u32 = 64 << 10;
const MAX_CONNECTIONS: usize = 1024;

/// Who holds sandbox USDC at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Funding {
    /// Only those that [`TokenHandle::fund`] was called for.
    Explicit,
    /// Every address, this much: for a sandbox that cannot know its payers.
    FirstSight(Atoms),
}

/// How a sandbox is set up.
pub struct Options {
    pub clock: SharedClock,
    pub funding: Funding,
    /// Further host names for the certificate, for instance a container's. `localhost`, 127.0.0.1 and ::1 are always
    /// in it.
    pub names: Vec<String>,
    /// The pause between two events of `/v2/stream`.
    pub event_pause: Duration,
    /// The Stripe that answers under `/v1/` beside the shop, and at which the shop charges: it has to know
    /// [`stripe::SHOP_KEY`]. Without one there is one with [`stripe::AGENT_KEY`].
    pub stripe: Option<Arc<StripeSandbox>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            funding: Funding::Explicit,
            names: Vec::new(),
            event_pause: Duration::from_millis(200),
            stripe: None,
        }
    }
}

/// A running sandbox. Dropping it stops it at once; [`Sandbox::stop`] lets answers finish.
pub struct Sandbox {
    address: SocketAddr,
    ca_pem: String,
    token: TokenHandle,
    stripe: Arc<StripeSandbox>,
    /// No new connections; the open ones finish their answers.
    drain: CancellationToken,
    /// Drops what is left.
    abort: CancellationToken,
    connections: TaskTracker,
}

impl Sandbox {
    /// Listens on `listen` (port 0: any free one) and sells. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// The address cannot be bound, or a name in `options` cannot stand in a certificate.
    pub async fn start(listen: SocketAddr, options: Options) -> io::Result<Self> {
        let identity = tls::Identity::generate(&options.names).map_err(io::Error::other)?;
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let token = TokenHandle::new(options.funding);
        let clock = options.clock;
        let stripe = match options.stripe {
            Some(stripe) => stripe,
            None => Arc::new(StripeSandbox::of_shop(clock.clone(), stripe::AGENT_KEY)),
        };
        let till = Till::new(stripe.clone(), clock.clone()).map_err(io::Error::other)?;
        let seller = Seller::new(token.clone(), PAY_TO, till, clock, options.event_pause);
        let sandbox = Self {
            address,
            ca_pem: identity.ca_pem,
            token,
            stripe,
            drain: CancellationToken::new(),
            abort: CancellationToken::new(),
            connections: TaskTracker::new(),
        };
        let doors = Doors {
            acceptor: TlsAcceptor::from(identity.server),
            seller: Arc::new(seller),
            stripe: sandbox.stripe.clone(),
            drain: sandbox.drain.clone(),
            abort: sandbox.abort.clone(),
            connections: sandbox.connections.clone(),
        };
        sandbox.connections.spawn(doors.accept(listener));
        Ok(sandbox)
    }

    /// Where it really listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `https://localhost:PORT`.
    pub fn base_url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    /// The certificate that clients have to trust, PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The token, to fund payers and to see what was paid.
    pub fn token(&self) -> &TokenHandle {
        &self.token
    }

    /// The Stripe, to see what was charged.
    pub fn stripe(&self) -> &StripeSandbox {
        &self.stripe
    }

    /// The seller's address.
    pub fn pay_to(&self) -> Address {
        PAY_TO
    }

    /// Takes no more requests, lets running answers finish for up to five seconds, then closes.
    pub async fn stop(self) {
        self.drain.cancel();
        self.connections.close();
        if timeout(DRAIN, self.connections.wait()).await.is_err() {
            self.abort.cancel();
            self.connections.wait().await;
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.drain.cancel();
        self.abort.cancel();
    }
}

/// The token, shared between the seller and whoever watches it.
#[derive(Clone)]
pub struct TokenHandle(Arc<Mutex<Token>>);

impl TokenHandle {
    fn new(funding: Funding) -> Self {
        let opening_balance = match funding {
            Funding::Explicit => Atoms::new(0),
            Funding::FirstSight(atoms) => atoms,
        };
        let mut token = Token::new(opening_balance);
        token.set_balance(PAY_TO, Atoms::new(0));
        Self(Arc::new(Mutex::new(token)))
    }

    /// What `holder` owns, in atoms of sandbox USDC (6 decimals).
    pub fn balance_of(&self, holder: Address) -> Atoms {
        self.lock().balance_of(holder)
    }

    /// Adds `value` to what `holder` owns.
    pub fn fund(&self, holder: Address, value: Atoms) -> Result<(), TokenError> {
        self.lock().fund(holder, value)
    }

    /// All settled payments, oldest first.
    pub fn transfers(&self) -> Vec<Transfer> {
        self.lock().transfers().to_vec()
    }

    fn lock(&self) -> MutexGuard<'_, Token> {
        // The token changes in one go or not at all, so a panic elsewhere leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The way in: sockets, TLS, HTTP.
#[derive(Clone)]
struct Doors {
    acceptor: TlsAcceptor,
    seller: Arc<Seller>,
    stripe: Arc<StripeSandbox>,
    drain: CancellationToken,
    abort: CancellationToken,
    connections: TaskTracker,
}

impl Doors {
    async fn accept(self, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let arrival = async {
                // The semaphore is never closed; if it were, nobody would get in.
                let place = places.clone().acquire_owned().await.ok()?;
                Some((place, listener.accept().await))
            };
            let (place, accepted) = tokio::select! {
                () = self.drain.cancelled() => return,
                arrival = arrival => match arrival {
                    Some(arrival) => arrival,
                    None => return,
                },
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    debug!(%error, "a connection could not be accepted");
                    // Out of descriptors, mostly: let some be given back.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let doors = self.clone();
            self.connections.spawn(async move {
                let _place = place;
                tokio::select! {
                    () = doors.abort.cancelled() => {}
                    served = doors.serve(stream) => if let Err(error) = served {
                        debug!(%error, "a connection ended with an error");
                    }
                }
            });
        }
    }

    async fn serve(&self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let stream = timeout(HANDSHAKE_TIMEOUT, self.acceptor.accept(stream)).await??;
        let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let io = TokioIo::new(stream);
        let service = service_fn(|request: Request<Incoming>| {
            let seller = self.seller.clone();
            let stripe = stripe::takes(request.uri().path()).then(|| self.stripe.clone());
            async move {
                Ok::<_, std::convert::Infallible>(match stripe {
                    Some(stripe) => stripe.respond(request).await,
                    None => seller.answer(request).await,
                })
            }
        });
        // Twice the same, as the two connection types share no trait for a graceful end.
        if h2 {
            let connection = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .max_header_list_size(MAX_HEAD_BYTES)
                .keep_alive_interval(IDLE_TIMEOUT)
                .serve_connection(io, service);
            let mut connection = pin!(connection);
            tokio::select! {
                done = connection.as_mut() => return done.map_err(io::Error::other),
                () = self.drain.cancelled() => connection.as_mut().graceful_shutdown(),
            }
            connection.await.map_err(io::Error::other)
        } else {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(IDLE_TIMEOUT)
                .max_header_size(MAX_HEAD_BYTES as usize)
                .serve_connection(io, service);
            let mut connection = pin!(connection);
            tokio::select! {
                done = connection.as_mut() => return done.map_err(io::Error::other),
                () = self.drain.cancelled() => connection.as_mut().graceful_shutdown(),
            }
            connection.await.map_err(io::Error::other)
        }
    }
}
