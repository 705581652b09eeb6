//! How long each step of a request may take.

use std::time::Duration;

/// `[timeouts]`: how long each step may take (R35).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// The agent's TLS ClientHello, from its first byte. A tunnel may be opened long before it is used.
    pub hello: Duration,
    /// The complete head of an agent's request.
    pub head: Duration,
    /// Name resolution. glibc gives a name server 5 s, asks up to three in turn, and all of them twice (resolv.conf(5)):
    /// what it can still find must not be given up before.
    pub dns: Duration,
    /// The TCP connection, all attempts together.
    pub dial: Duration,
    /// The TLS handshake with the upstream.
    pub tls: Duration,
    /// The head of the upstream's response.
    pub response_head: Duration,
    /// How long a stream may go without a single byte in either direction.
    pub idle: Duration,
    /// How long to wait for the response to a paid request after the agent has disconnected (R5).
    pub settle_wait: Duration,
    /// How long streams of unpaid requests may go on after SIGTERM (R65).
    pub drain: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            hello: seconds(10),
            head: seconds(10),
            dns: seconds(30),
            dial: seconds(10),
            tls: seconds(10),
            response_head: seconds(300),
            idle: seconds(600),
            settle_wait: seconds(30),
            drain: seconds(30),
        }
    }
}
