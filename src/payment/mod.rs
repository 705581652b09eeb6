//! One request, from the agent to the site and back.

pub mod consider;
pub mod exchange;
pub mod idempotency;
pub mod presentation;
pub mod purchase;
pub mod repeat;
