//! A local seller to try bursar with: a small TLS shop that sells over x402 and MPP, used by `bursar demo` and
//! `bursar sandbox`.
//!
//! It needs no network and no account. Payments are in "sandbox USDC", an in-memory token with the chain id, contract
//! address and rules of USDC on Base Sepolia but without any value, or by card at an in-memory Stripe. The code that
//! verifies and settles payments is deliberately independent of the paying side: of the other bursar crates it uses
//! only `bursar_core`'s clock and money, so a payment that it accepts was checked by code that did not create it.
//!
//! # Main types
//!
//! * [`Sandbox`]: the running shop. [`Options`] configures it, [`Funding`] says who holds sandbox USDC at the start.
//! * [`TokenHandle`]: the shared token; fund payers, read balances, list settled payments.
//! * [`token::Token`]: EIP-3009 rules in memory: balances, used nonces, `transferWithAuthorization`.
//!   [`authorization::Authorization`] is what payers sign.
//! * [`stripe::StripeSandbox`]: issues shared payment tokens and charges them; usable on its own in tests.
//!
//! # Where to start
//!
//! Read the private module `seller` first: it has a sale from the request to the receipt. It uses
//!
//! * `catalog` (articles, prices, challenges), `order` (a request for one) and `goods` (what is delivered),
//! * `verify` (reads and checks a payment), `identifier` (repeated payments) and `replies` (responses),
//! * `mpp` (challenges, credentials and receipts of MPP),
//! * `rpc` and `logs` (the token's chain, for balances and proofs), `usdc` (the contract that the token imitates) and
//!   `tls` (throw-away certificates).
//!
//! # Example
//!
//! ```no_run
//! use bursar_core::money::Atoms;
//! use bursar_sandbox::{Funding, Options, Sandbox};
//!
//! # async fn example() -> std::io::Result<()> {
//! let options = Options {
//!     // Every address starts with 5 sandbox USDC (6 decimals).
//!     funding: Funding::FirstSight(Atoms::new(5_000_000)),
//!     ..Options::default()
//! };
//! let sandbox = Sandbox::start(([127, 0, 0, 1], 0).into(), options).await?;
//! println!("price list: {}/", sandbox.base_url());
//! sandbox.stop().await;
//! # Ok(())
//! # }
//! ```
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
mod order;
mod replies;
mod rpc;
mod seller;
pub mod stripe;
#[cfg(test)]
mod tests;
mod tls;
pub mod token;
mod usdc;
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
pub use tls::{Identity, IdentityError};
use token::{Token, TokenError, Transfer};

/// The payee of all payments. No key exists for it. It stays the same across restarts, as a seller's address does.
const PAY_TO: Address = address!("0x5e11e20000000000000000000000000000000001");

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// From one response to the head of the next request; also the interval of HTTP/2 keep-alive pings.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a stop waits for responses in progress.
const DRAIN: Duration = Duration::from_secs(5);
const MAX_HEAD_BYTES: u32 = 64 << 10;
const MAX_CONNECTIONS: usize = 1024;

/// Who holds sandbox USDC at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Funding {
    /// Only addresses for which [`TokenHandle::fund`] was called.
    Explicit,
    /// Every address, this much. For a sandbox that cannot know its payers in advance.
    FirstSight(Atoms),
}

/// How a sandbox is set up.
pub struct Options {
    pub clock: SharedClock,
    pub funding: Funding,
    /// Additional host names for the certificate, for instance a container's. `localhost`, 127.0.0.1 and ::1 are always
    /// included.
    pub names: Vec<String>,
    /// The pause between two events of `/v2/stream`.
    pub event_pause: Duration,
    /// The Stripe that is served under `/v1/` next to the shop, and at which the shop charges. It must know
    /// [`stripe::SHOP_KEY`]. With `None`, one with [`stripe::AGENT_KEY`] is created.
    pub stripe: Option<Arc<StripeSandbox>>,
    /// With `None`, one is made for `names`.
    pub identity: Option<Identity>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            funding: Funding::Explicit,
            names: Vec::new(),
            event_pause: Duration::from_millis(200),
            stripe: None,
            identity: None,
        }
    }
}

/// A running sandbox. Dropping it stops it at once; [`Sandbox::stop`] lets responses finish.
pub struct Sandbox {
    address: SocketAddr,
    ca_pem: String,
    token: TokenHandle,
    stripe: Arc<StripeSandbox>,
    /// No new connections; open ones finish their responses.
    drain: CancellationToken,
    /// Drops the remaining connections.
    abort: CancellationToken,
    connections: TaskTracker,
}

impl Sandbox {
    /// Listens on `listen` (port 0: any free port) and sells. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// The address cannot be bound, or a name in `options` is not valid in a certificate.
    pub async fn start(listen: SocketAddr, options: Options) -> io::Result<Self> {
        let identity = match options.identity {
            Some(identity) => identity,
            None => Identity::generate(&options.names).map_err(io::Error::other)?,
        };
        let server_tls = identity.server().map_err(io::Error::other)?;
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
            ca_pem: identity.ca_pem().to_owned(),
            token,
            stripe,
            drain: CancellationToken::new(),
            abort: CancellationToken::new(),
            connections: TaskTracker::new(),
        };
        let doors = Doors {
            acceptor: TlsAcceptor::from(server_tls),
            seller: Arc::new(seller),
            stripe: sandbox.stripe.clone(),
            drain: sandbox.drain.clone(),
            abort: sandbox.abort.clone(),
            connections: sandbox.connections.clone(),
        };
        sandbox.connections.spawn(doors.accept(listener));
        Ok(sandbox)
    }

    /// The address on which it listens, with the actual port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `https://localhost:PORT`.
    pub fn base_url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    /// The CA certificate that clients have to trust, as PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The token, to fund payers and to read what was paid.
    pub fn token(&self) -> &TokenHandle {
        &self.token
    }

    /// The Stripe, to read what was charged.
    pub fn stripe(&self) -> &StripeSandbox {
        &self.stripe
    }

    /// The seller's address.
    pub fn pay_to(&self) -> Address {
        PAY_TO
    }

    /// Accepts no more requests, lets running responses finish for up to five seconds, then closes.
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

/// The token, shared between the seller and its observers.
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

    /// The balance of `holder`, in atoms of sandbox USDC (6 decimals).
    pub fn balance_of(&self, holder: Address) -> Atoms {
        self.lock().balance_of(holder)
    }

    /// Adds `value` to the balance of `holder`.
    pub fn fund(&self, holder: Address, value: Atoms) -> Result<(), TokenError> {
        self.lock().fund(holder, value)
    }

    /// All settled payments, oldest first.
    pub fn transfers(&self) -> Vec<Transfer> {
        self.lock().transfers().to_vec()
    }

    fn lock(&self) -> MutexGuard<'_, Token> {
        // The token changes completely or not at all, so a panic elsewhere leaves it consistent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves connections: sockets, TLS, HTTP.
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
                // The semaphore is never closed; if it were, no connection would be accepted.
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
                    debug!(%error, "accepting a connection failed");
                    // Usually out of file descriptors: wait until some are closed.
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
        // Written twice, since the two connection types share no trait for a graceful shutdown.
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
