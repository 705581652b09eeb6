//! Informational answers (1xx) on their way to the agent.

use std::sync::Arc;

use http::Response;

/// An extension of a request: called with each informational answer that the site sends before the final one, in order.
/// `101 Switching Protocols` is none of them.
#[derive(Clone)]
pub struct Interims(Arc<dyn Fn(Response<()>) + Send + Sync>);

impl Interims {
    pub fn new(tell: impl Fn(Response<()>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }

    pub fn tell(&self, interim: Response<()>) {
        (self.0)(interim);
    }
}
