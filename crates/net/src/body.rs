//! Bodies on their way through: the agent's request, kept while it streams so that it can be sent once more; the
//! answer, streamed with an idle bound.

mod agent;
mod answer;
mod request;

pub use agent::AgentBody;
pub use answer::{AnswerBody, ReadEnd, Relay};
pub use request::{BufferedBody, NotReplayable, Progress, Replay, ReplayBudget, RequestBody, Uploading};

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// One request may be kept up to this size (R9).
pub const REPLAY_CAP: usize = 1 << 20;
/// All kept requests together (R9).
pub const REPLAY_CAP_ALL: usize = 256 << 20;
