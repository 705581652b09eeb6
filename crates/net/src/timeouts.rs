//! How long each step of a request may take.

use std::time::Duration;

/// `[timeouts]`: how long each step may take (R35).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TLS hello of an agent, after CONNECT.
    pub hello: Duration,
    /// Head of an agent's request.
    pub head: Duration,
    pub dns: Duration,
    /// One TCP connection.
    pub dial: Duration,
    /// TLS handshake with the upstream.
    pub tls: Duration,
    /// Head of the upstream's answer.
    pub response_head: Duration,
    /// A stream on which no byte moves.
    pub idle: Duration,
    /// The answer to a paid request whose agent has gone (R5).
    pub settle_wait: Duration,
    /// Free streams after SIGTERM (R65).
    pub drain: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            hello: seconds(10),
            head: seconds(10),
            dns: seconds(5),
            dial: seconds(10),
            tls: seconds(10),
            response_head: seconds(300),
            idle: seconds(600),
            settle_wait: seconds(30),
            drain: seconds(30),
        }
    }
}
