//! Subscribing and unsubscribing: what is queued, and how it takes effect where the dispatcher meets it.
//!
//! **Invariants**
//! - A stored subscription takes effect at its row's place; one of a temporary session enters the tree first and takes
//!   its start mark then, so no message falls between.
//! - Until its row was met the session knows that it is under way: what comes behind it, a second SUBSCRIBE, an
//!   UNSUBSCRIBE or a clean start, is answered and takes effect as if it had been met.

use std::sync::Arc;

use super::Shared;
use super::fold::Origin;
use super::rows;
use super::rows::StoredRow;
use super::rows::session::{DueRow, SubscriptionRow};
use super::session::{Session, SessionState};
use super::subscription::{RetainHandling, RetainedDue, Subscription, SubscriptionOptions};
use super::topic_filter::TopicFilter;
use crate::store::Commit;

impl Shared {
    /// Adds or replaces a subscription; for a stored session by what the commit holds then.
    pub(super) fn subscribe(
        &self,
        session: &Arc<Session>,
        state: &mut SessionState,
        filter: TopicFilter,
        options: SubscriptionOptions,
        commit: &mut Commit,
    ) {
        let retained = !filter.is_shared()
            && match options.retain_handling {
                RetainHandling::OnSubscription => true,
                RetainHandling::OnNewSubscription => !state.subscriptions.will_hold(&filter),
                RetainHandling::Never => false,
            };
        let held = state.subscriptions.get(&filter);
        let start = held.map(|held| held.start);
        let due = held.and_then(|held| held.due.clone()).filter(|_| !retained);
        if state.is_stored() && held.is_some() && !state.subscriptions.is_under_way(&filter) {
            // Replaced at once: the row that a position writes meanwhile must not bring the old options back.
            state.retained_due |= retained;
            if let Some(held) = state.subscriptions.replace(&filter, options) {
                if retained {
                    held.due = Some(RetainedDue {
                        mark: self.store.mark(),
                        cursor: String::new(),
                    });
                }
                held.due_stored.clone_from(&held.due);
                let key = rows::key_with(session.id.0, filter.as_str().as_bytes());
                commit.put(rows::SUBSCRIPTION, &key, &held.row().to_row());
            }
            wake(state);
            return;
        }
        if state.is_stored() {
            let row = SubscriptionRow {
                options,
                start: None,
                due: if retained { DueRow::Here } else { DueRow::None },
            };
            let key = rows::key_with(session.id.0, filter.as_str().as_bytes());
            commit.put(rows::SUBSCRIPTION, &key, &row.to_row());
            state.subscriptions.stage_row(&filter, true);
            if filter.is_shared() {
                self.groups.put_row(&filter, commit);
            }
            return;
        }
        if held.is_none() {
            self.enter(session, state, &filter);
        }
        // Taken behind the entry into the tree: what is accepted from now on finds the subscription there.
        let mark = self.store.mark();
        let due = if retained {
            Some(RetainedDue {
                mark,
                cursor: String::new(),
            })
        } else {
            due
        };
        let start = start.unwrap_or(mark);
        if filter.is_shared() {
            self.groups.put_row(&filter, commit);
            self.groups.join(self, session, &filter, mark);
        }
        state.retained_due |= due.is_some();
        state.subscriptions.put(Subscription {
            filter,
            options,
            start,
            due,
            due_stored: None,
        });
        wake(state);
    }

    fn enter(&self, session: &Arc<Session>, state: &SessionState, filter: &TopicFilter) {
        if !filter.is_shared() {
            self.tree.set(filter, session, state.is_served());
            self.topics.holders_changed(filter);
        }
    }

    /// Ends a subscription; `false` if there is none, not even one whose row is on the way.
    pub(super) fn unsubscribe(
        &self,
        session: &Arc<Session>,
        state: &mut SessionState,
        filter: &TopicFilter,
        commit: &mut Commit,
    ) -> bool {
        let was_held = state.subscriptions.will_hold(filter);
        if state.is_stored() && (was_held || state.subscriptions.is_under_way(filter)) {
            commit.delete(
                rows::SUBSCRIPTION,
                &rows::key_with(session.id.0, filter.as_str().as_bytes()),
            );
            state.subscriptions.stage_row(filter, false);
        }
        if state.subscriptions.get(filter).is_some() {
            self.forget(session, state, filter);
        }
        was_held
    }

    /// A subscription's row was met: it takes effect here.
    pub(super) fn subscribed(&self, session: &Arc<Session>, mut subscription: Subscription, origin: Origin) {
        let mut state = session.state.lock();
        if state.ended || origin == Origin::Live && !state.subscriptions.row_met(&subscription.filter) {
            return;
        }
        if let Some(held) = state.subscriptions.get(&subscription.filter) {
            subscription.start = subscription.start.min(held.start);
            if origin == Origin::Live && subscription.due.is_none() {
                subscription.due.clone_from(&held.due);
                subscription.due_stored.clone_from(&held.due_stored);
            }
        }
        let filter = subscription.filter.clone();
        let mark = subscription.start;
        state.retained_due |= subscription.due.is_some();
        state.subscriptions.put(subscription);
        if filter.is_shared() {
            self.groups.join(self, session, &filter, mark);
        } else {
            self.enter(session, &state, &filter);
        }
        if origin == Origin::Live {
            wake(&state);
        }
    }

    /// A subscription's row was deleted.
    pub(super) fn unsubscribed(&self, session: &Arc<Session>, filter: &TopicFilter, origin: Origin) {
        let mut state = session.state.lock();
        if origin == Origin::Live && !state.subscriptions.row_met(filter) {
            return;
        }
        // A session that became temporary has no rows any more, and keeps its filters.
        if state.is_stored() && state.subscriptions.get(filter).is_some() {
            self.forget(session, &mut state, filter);
        }
    }

    pub(super) fn forget(&self, session: &Arc<Session>, state: &mut SessionState, filter: &TopicFilter) {
        state.subscriptions.remove(filter);
        state.forget_served(filter);
        if filter.is_shared() {
            self.leave_group(session, state, filter);
            return;
        }
        self.tree.remove(filter, session.id);
        self.topics.holders_changed(filter);
        // Positions of topics that nothing covers any more are forgotten.
        let explicit: Vec<_> = state.position.explicit().collect();
        for (log, _) in explicit {
            let covered = self
                .topics
                .by_log(log)
                .is_some_and(|topic| !state.subscriptions.of_topic(&topic).is_empty());
            if !covered {
                state.position.drop_of(log);
            }
        }
    }

    /// Moves a session's filters between the connected and the absent ones.
    pub(super) fn set_connected(&self, session: &Arc<Session>, state: &SessionState, connected: bool) {
        for subscription in state.subscriptions.ordinary() {
            self.tree.set(&subscription.filter, session, connected);
            self.topics.holders_changed(&subscription.filter);
        }
        if connected {
            wake(state);
        }
    }

    /// Takes all filters of a session out of the tree and its groups.
    pub(super) fn forget_all(&self, session: &Arc<Session>, state: &mut SessionState) -> Vec<Subscription> {
        let all = state.subscriptions.clear();
        for subscription in &all {
            if subscription.filter.is_shared() {
                self.end_membership(session, state, &subscription.filter);
            } else {
                self.tree.remove(&subscription.filter, session.id);
                self.topics.holders_changed(&subscription.filter);
            }
        }
        all
    }
}

impl SessionState {
    /// Somebody serves it now, or waits for a message.
    pub(super) fn is_served(&self) -> bool {
        self.link.is_some() || !self.waiting.is_empty()
    }
}

fn wake(state: &SessionState) {
    if let Some(link) = &state.link {
        link.signal.wake();
    }
    if let Some(signal) = state.waiting.first() {
        signal.wake();
    }
}
