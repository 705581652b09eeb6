//! The bytes of an answer, which say when they have been sent.
//!
//! On HTTP/2 hyper takes the last bytes of a body and keeps them until the stream's window has room for them: that the
//! end was handed over does not mean that it was sent.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, Bytes};

use crate::idle::{Serving, Written};

/// Bytes of an answer.
pub struct Piece {
    bytes: Bytes,
    /// Learns when the last of these bytes has been used up. A piece that is dropped before says nothing.
    of: Option<Arc<Left>>,
}

impl Piece {
    pub(super) fn new(bytes: Bytes, of: Option<&Arc<Left>>) -> Self {
        // An empty piece is never used up.
        let of = of.filter(|_| !bytes.is_empty()).cloned();
        if let Some(left) = &of {
            left.parts.fetch_add(1, Ordering::Relaxed);
        }
        Self { bytes, of }
    }

    fn look(&mut self) {
        if self.bytes.is_empty()
            && let Some(left) = self.of.take()
        {
            left.one_less();
        }
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        self.look();
    }

    fn copy_to_bytes(&mut self, count: usize) -> Bytes {
        let bytes = self.bytes.copy_to_bytes(count);
        self.look();
        bytes
    }
}

/// What of an answer is not sent yet: pieces that were handed over and, until it was handed over, the end.
pub(super) struct Left {
    parts: AtomicUsize,
    /// Called once the bytes that were used up last are written. Dropped before the agent's request stops counting.
    due: Mutex<Option<(Written, Serving)>>,
}

impl Default for Left {
    fn default() -> Self {
        Self {
            parts: AtomicUsize::new(1),
            due: Mutex::default(),
        }
    }
}

impl Left {
    /// The end was handed over. When all pieces are used up, `written` waits for the agent's connection to be flushed.
    pub(super) fn end(&self, written: Written, serving: Serving) {
        *self.due.lock().unwrap_or_else(PoisonError::into_inner) = Some((written, serving));
        self.one_less();
    }

    fn one_less(&self) {
        if self.parts.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        let due = self.due.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((written, serving)) = due {
            serving.when_written(written);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt, duplex};

    use super::*;
    use crate::idle::{Busy, Watched};
    use std::time::Duration;

    /// An answer's rest, and whether it counts as written.
    struct Sending {
        left: Arc<Left>,
        busy: Busy,
        wire: Watched<tokio::io::DuplexStream>,
        written: Arc<Mutex<bool>>,
    }

    impl Sending {
        fn new() -> Self {
            let busy = Busy::default();
            let (_, ours) = duplex(64);
            Self {
                left: Arc::default(),
                wire: Watched::new(ours, busy.clone(), Duration::from_secs(1), Duration::from_secs(1)),
                busy,
                written: Arc::default(),
            }
        }

        fn piece(&self, bytes: &'static [u8]) -> Piece {
            Piece::new(Bytes::from_static(bytes), Some(&self.left))
        }

        fn end(&self) {
            let written = self.written.clone();
            let said = Box::new(move || *written.lock().unwrap() = true);
            self.left.end(said, self.busy.begin());
        }

        /// After a flush of the connection.
        async fn is_written(&mut self) -> bool {
            self.wire.flush().await.unwrap();
            *self.written.lock().unwrap()
        }
    }

    #[tokio::test]
    async fn the_end_alone_is_not_enough_while_a_piece_waits() {
        let mut sending = Sending::new();
        let (mut first, mut last) = (sending.piece(b"first"), sending.piece(b"last"));
        sending.end();
        first.advance(5);
        assert!(!sending.is_written().await, "a piece waits");
        last.advance(3);
        assert!(!sending.is_written().await, "a byte waits");
        assert_eq!(last.copy_to_bytes(1), "t");
        assert!(sending.is_written().await);
    }

    #[tokio::test]
    async fn the_pieces_alone_are_not_enough_before_the_end() {
        let mut sending = Sending::new();
        let mut piece = sending.piece(b"some");
        let mut copy = Vec::new();
        bytes::BufMut::put(&mut copy, &mut piece);
        assert_eq!(copy, b"some");
        assert!(!sending.is_written().await);
        drop(sending.piece(b""));
        sending.end();
        assert!(sending.is_written().await);
    }

    #[tokio::test]
    async fn a_piece_that_is_dropped_was_not_sent() {
        let mut sending = Sending::new();
        let mut piece = sending.piece(b"some");
        sending.end();
        piece.advance(3);
        drop(piece);
        assert!(!sending.is_written().await);
    }
}
