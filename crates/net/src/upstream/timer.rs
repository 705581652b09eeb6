//! A timer for one wait after the other. It is set again only when it fires too early.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep, sleep_until};

#[derive(Default)]
pub(super) struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    /// Ready when `deadline` has passed.
    pub(super) fn poll_until(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self.0.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.deadline() > deadline {
            timer.as_mut().reset(deadline);
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= deadline {
                return Poll::Ready(());
            }
            // It was set for an earlier wait.
            timer.as_mut().reset(deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_wait_ends_at_its_own_deadline() {
        let mut timer = Timer::default();
        for wait in [5, 30, 1, 1, 600].map(Duration::from_secs) {
            let begun = Instant::now();
            // Most waits are over before.
            assert!(
                poll_fn(|cx| Poll::Ready(timer.poll_until(begun + wait, cx)))
                    .await
                    .is_pending()
            );
            tokio::time::sleep(wait / 2).await;
            poll_fn(|cx| timer.poll_until(begun + wait, cx)).await;
            let waited = begun.elapsed();
            assert!(
                wait <= waited && waited < wait + Duration::from_millis(5),
                "{waited:?} for {wait:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_that_ran_on_through_other_waits_fires_for_none_of_them() {
        let mut timer = Timer::default();
        let begun = Instant::now();
        for second in 0..20 {
            let deadline = begun + Duration::from_secs(second + 3);
            assert!(
                poll_fn(|cx| Poll::Ready(timer.poll_until(deadline, cx)))
                    .await
                    .is_pending()
            );
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}
