//! The network layer of bursar: TLS on both sides of an intercepted tunnel, checked dialling, connection reuse, bodies
//! that can be replayed, and a small OAuth client. It makes no payment decisions; it provides the guarantees that
//! paying relies on:
//!
//! * a host name is resolved once, every address is checked, and only checked addresses are dialled ([`dial`]);
//! * a request that carries a credential goes out again only if hyper hands it back as unsent ([`upstream`], R1);
//! * a request body is buffered while it streams, so that the one paid replay is byte for byte the same ([`body`]).
//!
//! # Main types
//!
//! * [`dial::Dialer`] and [`dial::Checked`]: name resolution with the private-address guard and the loop check.
//! * [`corporate::CorporateProxy`]: the proxy of the operator's network, behind which sites and services are reached.
//! * [`socket`]: the options of every TCP socket.
//! * [`upstream::Upstreams`] and [`upstream::Lane`]: pooled connections to sites, per agent and origin. `Lane::send`
//!   carries a plain request, `Lane::send_paid` one with a credential.
//! * [`body::BufferedBody`], [`body::RequestBody`], [`body::Relay`], [`body::AnswerBody`]: bodies in both directions.
//! * [`tls::authority::Authority`], [`tls::leaf::Leaves`], [`tls::leaf::ServerConfigs`]: the certificates shown to
//!   agents.
//! * [`tls::upstream::UpstreamTls`]: verified TLS to origins, with the agent's own ALPN offer ([`tls::AlpnOffer`]).
//! * [`splice`]: TLS that is not opened: the hello is read, and both sides are joined.
//! * [`shares::Shares`]: what agents share, such as look-ups and sockets: a part for each, and a queue with an end.
//! * [`idle::Watched`]: an agent's connection with its head and idle timeouts.
//! * [`timeouts::Timeouts`]: the `[timeouts]` section of `bursar.toml`.
//! * [`post`]: one request to a service that the operator has configured (a node, a webhook, Stripe).
//! * [`oauth`]: the client side of an identity server, for CIBA approvals and BKey.
//! * [`via::Via`]: the `Via` header and loop detection.
//!
//! # Where to start
//!
//! Read [`upstream`] first: `Upstreams::lane`, then `Lane::send` and `Lane::send_paid`. From there, [`dial`] explains
//! which addresses are allowed and [`body`] how a request can be sent twice.
//!
//! # Example
//!
//! What an agent offers in its ClientHello is reduced to the protocols that bursar reads, in the agent's order; the
//! origin is offered the same list.
//!
//! ```
//! use std::time::Duration;
//!
//! use bursar_net::timeouts::Timeouts;
//! use bursar_net::tls::AlpnOffer;
//!
//! let hello: [&[u8]; 3] = [b"h3", b"h2", b"http/1.1"];
//! assert_eq!(AlpnOffer::of_client(hello), AlpnOffer::Http2ThenHttp1);
//!
//! let timeouts = Timeouts { dial: Duration::from_secs(3), ..Timeouts::default() };
//! assert_eq!(timeouts.idle, Duration::from_secs(600));
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

pub mod body;
pub mod corporate;
pub mod dial;
mod fault;
pub mod h1;
pub mod idle;
mod names;
pub mod oauth;
pub mod post;
pub mod reset;
pub mod shares;
pub mod socket;
pub mod splice;
pub mod timeouts;
pub mod tls;
pub mod upstream;
pub mod via;
