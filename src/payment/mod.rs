//! One request, from the agent to the site and back, stage by stage.

pub mod consider;
pub mod context;
pub mod exchange;
mod forward;
pub mod idempotency;
mod presentation;
pub mod purchase;
pub mod repeat;
