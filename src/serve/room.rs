//! Divides the file descriptors that the machine allows. What agents can open is bounded, so that the ledger, the evidence
//! and the commands always find one.

use std::fs::File;
use std::os::fd::AsRawFd;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use thiserror::Error;

use crate::config::operator::Capacity;
use crate::listen;
use crate::listen::seat::Lobby;
use bursar_net::dial;
use bursar_net::shares::{Bounds, Shares, What};

/// More than this is never asked of the system: the rest stays with other programs.
const MOST: u64 = 1 << 20;
/// With fewer descriptors than this for agents there is nothing to divide.
const LEAST: usize = 12;
/// What a look-up holds open: for each family of addresses a socket, and a file such as /etc/hosts.
const PER_LOOKUP: usize = 4;
const LOOKUPS: usize = 64;
/// Connections of one agent that wait for the end of another.
const QUEUED_CONNECTIONS: usize = 64;
const CONNECTIONS: usize = 16_384;
/// So many agents may have all the requests under way that one may have.
const BUSY_AGENTS: usize = 16;

/// How many of each there may be, over all agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    before_login: usize,
    connections: usize,
    sites: usize,
    lookups: usize,
    pub(super) callbacks: usize,
    capacity: Capacity,
}

#[derive(Debug, Error)]
#[error(
    "this process may open {limit} files, of which {in_use} are open already; bursar needs at least {needed}: raise the limit \
     (`ulimit -Hn`, or LimitNOFILE= of the service)"
)]
pub struct TooFewDescriptors {
    limit: usize,
    in_use: usize,
    needed: usize,
}

/// Raises the limit on open files as far as the machine allows. If that fails, the present one is used.
pub(super) fn raise_limit() {
    let now = getrlimit(Resource::Nofile);
    let most = now.maximum.unwrap_or(MOST).min(MOST);
    if now.current.is_some_and(|current| current < most) {
        let raised = Rlimit {
            current: Some(most),
            maximum: now.maximum,
        };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "the limit on open files stays as it is");
        }
    }
}

impl Room {
    /// Called when everything is open that is always open.
    pub(super) fn divide(capacity: Capacity) -> Result<Self, TooFewDescriptors> {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(MOST).min(MOST);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let room = Self::of(limit, in_use(limit), capacity)?;
        let Self {
            before_login,
            connections,
            sites,
            lookups,
            ..
        } = room;
        tracing::info!(limit, before_login, connections, sites, lookups, "open files divided");
        Ok(room)
    }

    fn of(limit: usize, in_use: usize, capacity: Capacity) -> Result<Self, TooFewDescriptors> {
        // The ledger's next segment, checkpoints, evidence, the commands' connections, nodes, Stripe, alerts.
        let reserve = (limit / 16).clamp(16, 1024);
        let left = limit.saturating_sub(in_use + reserve);
        if left < LEAST {
            return Err(TooFewDescriptors {
                limit,
                in_use,
                needed: in_use + reserve + LEAST,
            });
        }
        let before_login = (left / 4).min(capacity.before_login);
        let lookups = (left / 16).clamp(1, LOOKUPS);
        let callbacks = (left / 16).clamp(1, 32);
        let rest = left - before_login - PER_LOOKUP * lookups - callbacks;
        let connections = (rest / 2).min(CONNECTIONS);
        Ok(Self {
            before_login,
            connections,
            sites: (rest - rest / 2).min(CONNECTIONS),
            lookups,
            callbacks,
            capacity,
        })
    }

    /// For the side that agents see.
    pub(super) fn listen(&self) -> listen::Room {
        let requests = self.capacity.requests_per_agent;
        listen::Room {
            lobby: Lobby::new(self.before_login),
            connections: shares(
                What::Connections,
                self.connections,
                self.connections_each(),
                QUEUED_CONNECTIONS,
            ),
            requests: shares(What::Requests, requests * BUSY_AGENTS, requests, 0),
        }
    }

    /// For the side that sites see.
    pub(super) fn dial(&self) -> dial::Room {
        dial::Room::new(self.lookups, self.lookups_each(), self.sites, self.sites_each())
    }

    fn connections_each(&self) -> usize {
        half(self.connections).min(self.capacity.connections_per_agent)
    }

    fn sites_each(&self) -> usize {
        let Capacity {
            requests_per_agent,
            connections_per_agent,
            ..
        } = self.capacity;
        // A tunnel has a connection to the site for itself, also while it rests.
        half(self.sites).min(requests_per_agent.max(connections_per_agent))
    }

    fn lookups_each(&self) -> usize {
        half(self.lookups).min(self.capacity.lookups_per_agent)
    }
}

fn half(of: usize) -> usize {
    (of / 2).max(1)
}

fn shares(what: What, all: usize, each: usize, queue_each: usize) -> Shares {
    Shares::new(what, Bounds { all, each, queue_each })
}

/// The system gives out the lowest number that is free, so once the gaps are filled, all below a new one are taken.
/// (/proc/self/fd cannot be read by a process that others may not attach to.)
fn in_use(limit: usize) -> usize {
    const PROBES: usize = 64;
    let probes: Vec<File> = (0..PROBES).map_while(|_| File::open("/dev/null").ok()).collect();
    let highest = probes
        .iter()
        .filter_map(|file| usize::try_from(file.as_raw_fd()).ok())
        .max();
    highest.map_or(limit, |highest| (highest + 1).saturating_sub(probes.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_agents_can_open_leaves_the_reserve() {
        for limit in [50, 60, 80, 100, 256, 1024, 4096, 20_000, 524_288, 1 << 20] {
            for in_use in [12, 25, 41] {
                let Ok(room) = Room::of(limit, in_use, Capacity::default()) else {
                    assert!(limit - in_use < 16 + LEAST, "{limit} are enough");
                    continue;
                };
                let agents = room.before_login + room.connections + room.sites + room.callbacks;
                // One more connection is accepted before the oldest makes room.
                let most = in_use + agents + 1 + PER_LOOKUP * room.lookups;
                assert!(most + 15 <= limit, "{most} of {limit}");
                for (all, each) in [
                    (room.connections, room.connections_each()),
                    (room.sites, room.sites_each()),
                ] {
                    assert!(
                        each >= 1 && each * 2 <= all,
                        "{each} of {all}: one agent leaves half to the others"
                    );
                }
                assert!(room.before_login >= 3 && room.lookups_each() >= 1);
            }
        }
    }

    #[test]
    fn with_plenty_of_descriptors_the_configured_numbers_hold() {
        let room = Room::of(524_288, 30, Capacity::default()).unwrap();
        assert_eq!(
            (
                room.before_login,
                room.connections_each(),
                room.sites_each(),
                room.lookups_each()
            ),
            (256, 256, 512, 16)
        );
        assert_eq!(
            (room.connections, room.sites, room.lookups),
            (CONNECTIONS, CONNECTIONS, LOOKUPS)
        );
    }

    #[test]
    fn too_few_say_how_many_are_needed() {
        let error = Room::of(40, 20, Capacity::default()).unwrap_err().to_string();
        assert!(
            error.contains("may open 40 files") && error.contains("at least 48"),
            "{error}"
        );
    }

    #[test]
    fn what_is_open_is_counted_with_gaps_in_between() {
        let mut held: Vec<Option<File>> = (0..80).map(|_| File::open("/dev/null").ok()).collect();
        held.iter_mut().step_by(2).for_each(|gap| drop(gap.take()));
        let counted = in_use(0);
        // Other tests open files at the same time.
        assert!((40..200).contains(&counted), "{counted}");
    }
}
