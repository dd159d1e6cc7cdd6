//! Time, so that tests can move it: wall-clock milliseconds for what is written down, a monotonic clock for what is
//! waited for. Everything that reads the time or sleeps takes a [`Clock`].
//!
//! **Invariants**
//! - [`Clock::now`] never goes back; a step of the wall clock does not touch it.
//! - On a manual clock nothing sleeps by itself: [`Clock::advance`] wakes who is due.

use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// A handle to one source of time; clones share it.
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    System { started: Instant },
    Manual(Arc<Manual>),
}

struct Manual {
    state: Mutex<ManualState>,
    moved: Notify,
}

struct ManualState {
    wall_ms: i64,
    elapsed: Duration,
}

impl Clock {
    /// The machine's clocks.
    pub fn system() -> Self {
        Self(Source::System {
            started: Instant::now(),
        })
    }

    /// A clock that stands at `wall_ms` (milliseconds since 1970, UTC) until it is moved.
    pub fn manual(wall_ms: i64) -> Self {
        let state = Mutex::new(ManualState {
            wall_ms,
            elapsed: Duration::ZERO,
        });
        Self(Source::Manual(Arc::new(Manual {
            state,
            moved: Notify::new(),
        })))
    }

    /// Milliseconds since 1970, UTC, by the wall clock, which may step.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that reads the wall clock"
    )]
    pub fn wall_ms(&self) -> i64 {
        match &self.0 {
            Source::System { .. } => match std::time::SystemTime::now().duration_since(UNIX_EPOCH) {
                Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
                Err(before) => -i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX),
            },
            Source::Manual(manual) => manual.state.lock().wall_ms,
        }
    }

    /// Time since this clock was made, by the monotonic clock.
    pub fn now(&self) -> Duration {
        match &self.0 {
            Source::System { started } => started.elapsed(),
            Source::Manual(manual) => manual.state.lock().elapsed,
        }
    }

    /// Returns once [`Clock::now`] has reached `when`.
    pub async fn sleep_until(&self, when: Duration) {
        match &self.0 {
            Source::System { started } => tokio::time::sleep_until((*started + when).into()).await,
            Source::Manual(manual) => loop {
                let moved = manual.moved.notified();
                tokio::pin!(moved);
                moved.as_mut().enable();
                if manual.state.lock().elapsed >= when {
                    return;
                }
                moved.await;
            },
        }
    }

    /// Returns after `span`.
    pub async fn sleep(&self, span: Duration) {
        self.sleep_until(self.now() + span).await;
    }

    /// Moves a manual clock forward, wall and monotonic alike, and wakes who is due.
    ///
    /// # Panics
    /// On the system clock, which nobody moves.
    pub fn advance(&self, span: Duration) {
        let Source::Manual(manual) = &self.0 else {
            panic!("only a manual clock can be moved")
        };
        {
            let mut state = manual.state.lock();
            state.elapsed += span;
            state.wall_ms += i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        }
        manual.moved.notify_waiters();
    }

    /// Steps the wall clock of a manual clock, forward or back; the monotonic clock stays.
    ///
    /// # Panics
    /// On the system clock.
    pub fn step_wall(&self, by_ms: i64) {
        let Source::Manual(manual) = &self.0 else {
            panic!("only a manual clock can be moved")
        };
        manual.state.lock().wall_ms += by_ms;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_sleeper_on_a_manual_clock_wakes_when_the_clock_has_moved_far_enough() {
        let clock = Clock::manual(1_000);
        let sleeper = tokio::spawn({
            let clock = clock.clone();
            async move { clock.sleep(Duration::from_secs(5)).await }
        });
        tokio::task::yield_now().await;
        clock.advance(Duration::from_secs(4));
        tokio::task::yield_now().await;
        assert!(!sleeper.is_finished());
        clock.advance(Duration::from_secs(1));
        sleeper.await.unwrap();
        assert_eq!(clock.wall_ms(), 6_000);
    }
}
