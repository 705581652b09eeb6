//! What an agent's connection becomes after `101 Switching Protocols`.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use http::Extensions;
use tokio::sync::oneshot;

use super::Stream;
use crate::idle::Rewind;

/// The stream, with what was read ahead in front of it.
pub type Upgraded = Rewind<Box<dyn Stream>>;

/// Resolves when the 101 was sent; `None` if it never is.
pub struct OnUpgrade(oneshot::Receiver<Upgraded>);

/// Gives the stream to who waits for it.
pub struct Upgrade(oneshot::Sender<Upgraded>);

/// Extensions must be `Clone`; the first who asks gets it.
#[derive(Clone)]
struct Waiting(Arc<Mutex<Option<OnUpgrade>>>);

/// Who takes `OnUpgrade` out of `extensions` gets what the other end is given.
pub fn offer(extensions: &mut Extensions) -> Upgrade {
    let (upgrade, waiting) = oneshot::channel();
    extensions.insert(Waiting(Arc::new(Mutex::new(Some(OnUpgrade(waiting))))));
    Upgrade(upgrade)
}

pub fn on(extensions: &mut Extensions) -> Option<OnUpgrade> {
    let Waiting(waiting) = extensions.remove()?;
    waiting.lock().unwrap_or_else(PoisonError::into_inner).take()
}

impl Upgrade {
    pub fn give(self, stream: Upgraded) {
        // Nobody waits: the stream ends here.
        let _ = self.0.send(stream);
    }
}

impl Future for OnUpgrade {
    type Output = Option<Upgraded>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Upgraded>> {
        Pin::new(&mut self.0).poll(cx).map(Result::ok)
    }
}
