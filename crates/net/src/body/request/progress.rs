//! How far an upload has come.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The progress of an upload: a slow upload must not be mistaken for a silent site, and a connection with an unfinished
/// upload cannot be reused. Cheap to clone.
#[derive(Clone)]
pub struct Progress(Option<Arc<Upload>>);

#[derive(Default)]
struct Upload {
    parts: AtomicU64,
    is_over: AtomicBool,
    is_wanted: AtomicBool,
}

impl Progress {
    /// For an upload that has yet to come.
    pub(super) fn begun() -> Self {
        Self(Some(Arc::default()))
    }

    /// For a request without a body, or whose body is complete in memory.
    pub const fn none() -> Self {
        Self(None)
    }

    pub fn parts(&self) -> u64 {
        self.0.as_ref().map_or(0, |upload| upload.parts.load(Ordering::Relaxed))
    }

    pub(super) fn moved(&self) {
        if let Some(upload) = &self.0 {
            upload.parts.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether the site gets the rest of the upload also after its response.
    pub(crate) fn is_wanted(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|upload| upload.is_wanted.load(Ordering::Relaxed))
    }

    pub(crate) fn want(&self, wanted: bool) {
        if let Some(upload) = &self.0 {
            upload.is_wanted.store(wanted, Ordering::Relaxed);
        }
    }

    pub fn is_over(&self) -> bool {
        self.0
            .as_ref()
            .is_none_or(|upload| upload.is_over.load(Ordering::Relaxed))
    }

    pub(super) fn end(&self) {
        if let Some(upload) = &self.0 {
            upload.is_over.store(true, Ordering::Relaxed);
        }
    }
}
