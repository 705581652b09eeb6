//! What the stages of a request need from the program, one part per stage. Built once at start.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::consider::Decider;
use super::guard::Traffic;
use super::repeat::Repeats;
use crate::rules::Rules;
use bursar_approvals::questions::Questions;
use bursar_core::assets::Network;
use bursar_core::clock::SharedClock;
use bursar_ledger::Ledger;
use bursar_net::tls::upstream::UpstreamTls;
use bursar_rails::outstanding::Outstanding;
use bursar_rails::pay::{Payers, Permissions};
use bursar_rails::rpc::Node;

pub(crate) struct Context {
    /// Guard and forwarding.
    pub(crate) traffic: Traffic,
    /// From a 402 to a disposition.
    pub(crate) decider: Decider,
    /// Requests that may repeat one that was paid for.
    pub(crate) repeats: Repeats,
    /// From a plan to a credential, and to its answer.
    pub(crate) purchasing: Purchasing,
    /// Work that continues after the agent has hung up.
    pub(crate) tasks: TaskTracker,
    /// Cancelled on shutdown: no new work; connections end after their current exchange.
    pub(crate) stop: CancellationToken,
}

/// What purchases need.
pub(crate) struct Purchasing {
    pub ledger: Arc<dyn Ledger>,
    pub clock: SharedClock,
    pub rules: Arc<Rules>,
    pub payers: Payers,
    pub permissions: Permissions,
    /// From bursar.toml; a network may have none.
    pub nodes: BTreeMap<Network, Vec<Node>>,
    pub tls: Arc<UpstreamTls>,
    /// Only if bursar.toml configures approvals.
    pub questions: Option<Questions>,
    pub outstanding: Outstanding,
    pub times: Times,
    /// The status that an agent gets while a question is undecided (R39).
    pub pending_status: StatusCode,
}

/// How long a purchase waits.
#[derive(Clone, Copy)]
pub(crate) struct Times {
    /// For a person's decision, while the agent's request is open.
    pub hold: Duration,
    /// How long a denial is remembered.
    pub deny_cooldown: Duration,
    /// For the answer to a payment whose agent has hung up.
    pub settle_wait: Duration,
}
