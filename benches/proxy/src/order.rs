//! What the load does, and what it reports: one JSON line each.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Names below this one all lead to the site; `localhost` does too.
pub const DOMAIN: &str = "bench.test";

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    pub work: Work,
    pub route: Route,
    pub host: String,
    /// Number of the first new host, so that no run meets a host of an earlier one.
    pub first_host: u32,
    /// The process whose CPU and memory are read, with its children.
    pub watch: Option<u32>,
    pub warmup_s: f64,
    pub window_s: f64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Route {
    /// The site, for HTTP/1.1.
    pub http1: SocketAddr,
    /// The site, for HTTP/2.
    pub http2: SocketAddr,
    /// None: straight to the site.
    pub proxy: Option<ProxyLogin>,
    /// Trusted roots.
    pub ca: PathBuf,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProxyLogin {
    pub address: SocketAddr,
    /// For `Proxy-Authorization: Basic`; None: it asks for none.
    pub basic: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Work {
    /// Requests on connections that are open already.
    KeepAlive { connections: usize, path: String },
    /// Requests on streams of one HTTP/2 connection.
    Streams { at_once: usize },
    /// Each request on a connection of its own.
    Tunnels { at_once: usize, hosts: Hosts },
    /// Tunnels that are opened, used once, and held.
    Idle { tunnels: usize },
    /// A request to each of so many hosts, which are not visited again.
    Visit { hosts: u32 },
    /// The first event of a stream of events.
    Events,
    /// A WebSocket message, and its echo.
    Echo,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Hosts {
    Known,
    New,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Measured {
    /// Within the window.
    pub done: u64,
    pub bytes: u64,
    pub seconds: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    /// User and system time of the watched process and its children, within the window.
    pub cpu_s: Option<f64>,
    /// The load's own.
    pub load_cpu_s: f64,
    /// Proportional set size of the watched process before the first connection, and at the end.
    pub pss_before_kib: Option<u64>,
    pub pss_after_kib: Option<u64>,
    pub new_hosts: u32,
    pub failed: u64,
    pub first_failure: Option<String>,
}

impl Measured {
    pub fn per_second(&self) -> f64 {
        self.done as f64 / self.seconds
    }

    pub fn megabytes_per_second(&self) -> f64 {
        self.bytes as f64 / self.seconds / 1e6
    }

    pub fn cpu_per_10k(&self) -> Option<f64> {
        Some(self.cpu_s? * 1e4 / self.done as f64)
    }
}
