//! What is measured, and which figure of it counts.

use bursar_bench_proxy::order::{Hosts, Measured, Work};
use clap::ValueEnum;
use serde::{Serialize, Serializer};

/// Tunnels that are held at the same time.
const IDLE: usize = 1000;
/// Hosts that are visited once.
pub(crate) const VISITED: u32 = 10_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Test {
    #[value(name = "keepalive-1")]
    KeepAlive1,
    #[value(name = "keepalive-16")]
    KeepAlive16,
    #[value(name = "keepalive-128")]
    KeepAlive128,
    #[value(name = "h2-1")]
    H2One,
    #[value(name = "h2-16")]
    H2Sixteen,
    NewHost,
    KnownHost,
    #[value(name = "known-host-8")]
    KnownHost8,
    #[value(name = "body-64k")]
    Body64k,
    #[value(name = "body-10m")]
    Body10m,
    #[value(name = "sse")]
    Sse,
    #[value(name = "websocket")]
    WebSocket,
    #[value(name = "idle-1000")]
    Idle,
    #[value(name = "hosts-10000")]
    Hosts,
}

/// The figure of a test, and its unit.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Figure {
    P50,
    PerSecond,
    Megabytes,
    /// Memory for each tunnel or host.
    KibEach(u64),
}

impl Test {
    pub(crate) fn all() -> Vec<Self> {
        Self::value_variants().to_vec()
    }

    pub(crate) fn name(self) -> String {
        self.to_possible_value()
            .expect("no test is hidden")
            .get_name()
            .to_owned()
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::KeepAlive1 => "kept connection, 1",
            Self::KeepAlive16 => "kept connections, 16",
            Self::KeepAlive128 => "kept connections, 128",
            Self::H2One => "HTTP/2, one connection, 1 stream",
            Self::H2Sixteen => "HTTP/2, one connection, 16 streams",
            Self::NewHost => "new tunnel, new host",
            Self::KnownHost => "new tunnel, known host",
            Self::KnownHost8 => "new tunnels, known host, 8 at once",
            Self::Body64k => "bodies of 64 KiB, 8 connections",
            Self::Body10m => "bodies of 10 MiB, 2 connections",
            Self::Sse => "first event of a stream",
            Self::WebSocket => "WebSocket message and echo",
            Self::Idle => "1000 idle tunnels",
            Self::Hosts => "10000 hosts seen, then rest",
        }
    }

    pub(crate) fn work(self) -> Work {
        let keep_alive = |connections, path: &str| Work::KeepAlive {
            connections,
            path: path.to_owned(),
        };
        let tunnels = |at_once, hosts| Work::Tunnels { at_once, hosts };
        match self {
            Self::KeepAlive1 => keep_alive(1, "/small"),
            Self::KeepAlive16 => keep_alive(16, "/small"),
            Self::KeepAlive128 => keep_alive(128, "/small"),
            Self::H2One => Work::Streams { at_once: 1 },
            Self::H2Sixteen => Work::Streams { at_once: 16 },
            Self::NewHost => tunnels(1, Hosts::New),
            Self::KnownHost => tunnels(1, Hosts::Known),
            Self::KnownHost8 => tunnels(8, Hosts::Known),
            Self::Body64k => keep_alive(8, "/64k"),
            Self::Body10m => keep_alive(2, "/10m"),
            Self::Sse => Work::Events,
            Self::WebSocket => Work::Echo,
            Self::Idle => Work::Idle { tunnels: IDLE },
            Self::Hosts => Work::Visit { hosts: VISITED },
        }
    }

    pub(crate) fn figure(self) -> Figure {
        match self {
            Self::KeepAlive1 | Self::H2One | Self::NewHost | Self::KnownHost | Self::Sse | Self::WebSocket => {
                Figure::P50
            }
            Self::KeepAlive16 | Self::KeepAlive128 | Self::H2Sixteen | Self::KnownHost8 => Figure::PerSecond,
            Self::Body64k | Self::Body10m => Figure::Megabytes,
            Self::Idle => Figure::KibEach(IDLE as u64),
            Self::Hosts => Figure::KibEach(u64::from(VISITED)),
        }
    }

    /// Hosts that nobody has seen need a name server that knows them.
    pub(crate) fn needs_names(self) -> bool {
        matches!(self, Self::NewHost | Self::Hosts)
    }

    /// Memory is measured in a process that has done nothing else.
    pub(crate) fn needs_fresh_process(self) -> bool {
        matches!(self, Self::Idle | Self::Hosts)
    }
}

impl Serialize for Test {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.name())
    }
}

impl Figure {
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::P50 => "p50, us",
            Self::PerSecond => "per second",
            Self::Megabytes => "MB/s",
            Self::KibEach(_) => "KiB each",
        }
    }

    pub(crate) fn of(self, measured: &Measured) -> Option<f64> {
        match self {
            _ if measured.failed > 0 => None,
            Self::KibEach(count) => {
                let (before, after) = measured.pss_before_kib.zip(measured.pss_after_kib)?;
                Some((after as f64 - before as f64) / count as f64)
            }
            _ if measured.done == 0 => None,
            Self::P50 => Some(measured.p50_us),
            Self::PerSecond => Some(measured.per_second()),
            Self::Megabytes => Some(measured.megabytes_per_second()),
        }
    }
}
