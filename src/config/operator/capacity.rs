//! `[capacity]`: how much one agent may use at once, so that it cannot take the proxy away from the others.

use bursar_config::section::{Entry, Section};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capacity {
    /// Connections that have not logged in.
    pub before_login: usize,
    /// Connections from one agent, tunnels included.
    pub connections_per_agent: usize,
    /// Requests of one agent under way, over all its connections. Connections to sites: as many as the larger of the two.
    pub requests_per_agent: usize,
    /// Name look-ups of one agent under way.
    pub lookups_per_agent: usize,
    /// Memory for request bodies of all agents.
    pub upload_memory: usize,
}

impl Default for Capacity {
    fn default() -> Self {
        Self {
            before_login: 256,
            connections_per_agent: 256,
            requests_per_agent: 512,
            lookups_per_agent: 16,
            upload_memory: 256 << 20,
        }
    }
}

pub(super) fn capacity(mut section: Section<'_>) -> Capacity {
    let default = Capacity::default();
    let mut number = |key, most, default| {
        let entry = section.take(key);
        let read = entry.and_then(|entry: Entry<'_>| entry.integer(1..=most));
        read.and_then(|number| usize::try_from(number).ok()).unwrap_or(default)
    };
    let capacity = Capacity {
        before_login: number("before_login", 65_536, default.before_login),
        connections_per_agent: number("connections_per_agent", 65_536, default.connections_per_agent),
        requests_per_agent: number("requests_per_agent", 65_536, default.requests_per_agent),
        lookups_per_agent: number("lookups_per_agent", 64, default.lookups_per_agent),
        upload_memory: number("upload_memory_mib", 65_536, default.upload_memory >> 20) << 20,
    };
    section.close(&[
        ("max_connections", "The key is `connections_per_agent`."),
        (
            "tunnels_per_agent",
            "Tunnels are connections: the key is `connections_per_agent`.",
        ),
        (
            "streams_per_agent",
            "Streams are requests: the key is `requests_per_agent`.",
        ),
    ]);
    capacity
}
