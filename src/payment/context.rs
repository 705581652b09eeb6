//! What the stages of a request need of the program, each stage its own part. Made once at start.

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::consider::Decider;
use super::exchange::Traffic;
use super::purchase::Purchasing;
use super::repeat::Repeats;

pub(crate) struct Context {
    /// Guard and forwarding.
    pub traffic: Traffic,
    /// From a 402 to a disposition.
    pub decider: Decider,
    /// Requests that may repeat one that was paid for.
    pub repeats: Repeats,
    /// From a plan to a credential, and to its answer.
    pub purchasing: Purchasing,
    /// What goes on when the agent has hung up.
    pub tasks: TaskTracker,
    /// No new work; connections end after what they are doing.
    pub stop: CancellationToken,
}
