//! What an exchange may do with its agent besides answering it.

use http::{Response, StatusCode, Version};

use crate::h1::Shared;
use crate::h1::upgrade::{self, OnUpgrade};
use crate::reset::Reset;
use bursar_core::h1::{self, Hop, Length};

/// The agent of one exchange. Cheap to clone; does nothing on HTTP/2, whose connection hyper serves.
#[derive(Clone)]
pub struct Exchange(Option<Shared>);

impl Exchange {
    pub(crate) const fn none() -> Self {
        Self(None)
    }

    pub(crate) fn on(wire: &Shared) -> Self {
        Self(Some(wire.clone()))
    }

    /// Writes an informational answer (RFC 9110 §15.2) before whatever the agent gets next. Dropped if the final answer
    /// has begun, behind whose head it would be taken for a part of the body, and for an agent of HTTP/1.0.
    pub fn inform(&self, mut interim: Response<()>) {
        let Some(wire) = &self.0 else { return };
        *interim.version_mut() = Version::HTTP_11;
        let (head, ()) = interim.into_parts();
        let hop = Hop {
            framing: Length::Empty,
            connection: None,
        };
        let mut wire = wire.lock();
        let says_again = head.status == StatusCode::CONTINUE && wire.agent.was_invited;
        if wire.agent.informs && !says_again {
            h1::write_response(&head, hop, wire.output());
            wire.wake_owner();
        }
    }

    /// Asks an agent for its upload that waits for `100 Continue`. For a body that bursar itself needs; who reads it for
    /// the site leaves that word to the site, and calls [`Exchange::open`].
    pub fn invite(&self) {
        if let Some(wire) = &self.0 {
            wire.lock().invite();
        }
    }

    /// The upload is read whenever it comes.
    pub fn open(&self) {
        if let Some(wire) = &self.0 {
            wire.lock().agent.waits = false;
        }
    }

    /// Whether the agent has ended its side of the connection.
    pub fn has_ended(&self) -> bool {
        self.0.as_ref().is_some_and(|wire| wire.lock().ended().is_some())
    }

    /// While this is held, an agent that has ended its side of the connection counts as gone. Otherwise it is one that
    /// has said all that it will say and waits for its answer: a FIN does not tell the two apart.
    pub fn require_presence(&self) -> Presence {
        if let Some(wire) = &self.0 {
            wire.lock().agent.needed += 1;
        }
        Presence(self.clone())
    }

    /// The handle of the agent's socket.
    pub fn reset(&self) -> Reset {
        self.0.as_ref().map(|wire| wire.lock().reset()).unwrap_or_default()
    }

    /// The connection, once a 101 was sent on it; `None` where there can be none.
    pub fn on_upgrade(&self) -> Option<OnUpgrade> {
        let (upgrade, waiting) = upgrade::pair();
        self.0.as_ref()?.lock().agent.upgrade = Some(upgrade);
        Some(waiting)
    }
}

/// See [`Exchange::require_presence`].
pub struct Presence(Exchange);

impl Drop for Presence {
    fn drop(&mut self) {
        if let Some(wire) = &self.0.0 {
            let mut wire = wire.lock();
            wire.agent.needed = wire.agent.needed.saturating_sub(1);
        }
    }
}
