//! One list of everything that happens at a time: end of a session, a will, keep-alive of an API session.
//!
//! An entry is a hint to look: whoever is due checks its own state. So nothing is ever taken out.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::session::SessionId;
use crate::clock::Clock;

/// The deadlines of a broker, on the monotonic clock.
#[derive(Default)]
pub(super) struct Deadlines {
    due: Mutex<BTreeMap<(Duration, u64), SessionId>>,
    earlier: Notify,
    counter: std::sync::atomic::AtomicU64,
}

impl Deadlines {
    /// Looks at the session then.
    pub(super) fn at(&self, when: Duration, session: SessionId) {
        let number = self.counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut due = self.due.lock();
        let first = due.first_key_value().is_none_or(|((first, _), _)| when < *first);
        due.insert((when, number), session);
        drop(due);
        if first {
            self.earlier.notify_one();
        }
    }

    /// Waits until somebody is due, and gives all who are.
    pub(super) async fn next(&self, clock: &Clock) -> Vec<SessionId> {
        loop {
            let first = self.due.lock().first_key_value().map(|((when, _), _)| *when);
            let Some(when) = first else {
                self.earlier.notified().await;
                continue;
            };
            if when <= clock.now() {
                let mut due = self.due.lock();
                let now = clock.now();
                let mut sessions = Vec::new();
                while let Some(entry) = due.first_entry()
                    && entry.key().0 <= now
                {
                    sessions.push(entry.remove());
                }
                return sessions;
            }
            tokio::select! {
                () = clock.sleep_until(when) => {}
                () = self.earlier.notified() => {}
            }
        }
    }
}
