//! Request and response bodies: the agent's request, buffered while it streams so that it can be sent once more; the
//! response, streamed with an idle timeout.

mod agent;
mod answer;
mod kept;
mod piece;
mod request;
mod site;

pub use agent::AgentBody;
pub use answer::{AnswerBody, Framing, ReadEnd, Relay};
pub use kept::{AgentBudget, ReplayBudget};
pub use piece::Piece;
pub use request::{BufferedBody, NotReplayable, Progress, Replay, RequestBody, Uploading};
pub use site::SiteBody;

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The largest request body that is buffered for a replay, in bytes (R9).
pub(crate) const REPLAY_CAP: usize = 1 << 20;
/// The limit for all buffered request bodies together, in bytes (R9).
pub(crate) const REPLAY_CAP_ALL: usize = 256 << 20;
