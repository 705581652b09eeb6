//! One request, from the agent to the site and back, stage by stage.

pub(crate) mod consider;
pub(crate) mod context;
pub(crate) mod exchange;
mod forward;
pub(crate) mod guard;
pub(crate) mod idempotency;
mod presentation;
pub(crate) mod purchase;
pub(crate) mod quote;
pub(crate) mod repeat;
