//! What an agent's connection becomes after `101 Switching Protocols`.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use super::Stream;
use crate::idle::Rewind;

/// The stream, with what was read ahead in front of it.
pub type Upgraded = Rewind<Box<dyn Stream>>;

/// Resolves when the 101 was sent; `None` if it never is.
pub struct OnUpgrade(oneshot::Receiver<Upgraded>);

/// Gives the stream to the task that waits for it.
pub(super) struct Upgrade(oneshot::Sender<Upgraded>);

pub(super) fn pair() -> (Upgrade, OnUpgrade) {
    let (upgrade, waiting) = oneshot::channel();
    (Upgrade(upgrade), OnUpgrade(waiting))
}

impl Upgrade {
    pub(super) fn give(self, stream: Upgraded) {
        // If nobody waits, the stream ends here.
        let _ = self.0.send(stream);
    }
}

impl Future for OnUpgrade {
    type Output = Option<Upgraded>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Upgraded>> {
        Pin::new(&mut self.0).poll(cx).map(Result::ok)
    }
}
