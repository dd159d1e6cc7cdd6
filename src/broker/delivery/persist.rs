//! Writing down where a session stands.

use crate::broker::Shared;
use crate::broker::inflight::SentChange;
use crate::broker::rows;
use crate::broker::rows::StoredRow;
use crate::broker::rows::session::{DueRow, PositionRow, RetainedServedRow, SubscriptionRow};
use crate::broker::session::{Session, SessionState};
use crate::broker::subscription::Subscription;
use crate::store::Commit;

/// Queues whatever the stored rows of a session do not know yet: floor, explicit positions, what was sent, what
/// retained messages are due.
pub(in crate::broker) fn persist(shared: &Shared, session: &Session, state: &mut SessionState, commit: &mut Commit) {
    state.unsaved = 0;
    state.last_saved = shared.clock.now();
    if !state.is_stored() {
        return;
    }
    let id = session.id.0;
    if state.position.floor != state.position.stored_floor {
        let row = PositionRow {
            floor: state.position.floor.to_bytes(),
        };
        commit.put(rows::POSITION, &rows::key(id), &row.to_row());
        state.position.stored_floor = state.position.floor;
    }
    for (log, row) in state.position.topic_changes() {
        let key = rows::key_with(id, &log.0.to_be_bytes());
        match row {
            Some(row) => commit.put(rows::TOPIC_POSITION, &key, &row.to_row()),
            None => commit.delete(rows::TOPIC_POSITION, &key),
        }
    }
    let floor = state.position.floor;
    for change in state.inflight.changes(floor) {
        match change {
            SentChange::Put(first, row) => {
                commit.put(rows::SENT, &rows::key_with(id, &first.to_be_bytes()), &row.to_row());
            }
            SentChange::Delete(first) => commit.delete(rows::SENT, &rows::key_with(id, &first.to_be_bytes())),
        }
    }
    for one in std::mem::take(&mut state.retained_served_changed) {
        let key = rows::retained_served_key(id, one.0.as_str(), one.1.0);
        if let Some(due) = state.retained_served.get(&one) {
            let row = RetainedServedRow { due: due.to_bytes() };
            commit.put(rows::RETAINED_SERVED, &key, &row.to_row());
        } else {
            commit.delete(rows::RETAINED_SERVED, &key);
        }
    }
    for subscription in state.subscriptions.with_changed_due() {
        let key = rows::key_with(id, subscription.filter.as_str().as_bytes());
        commit.put(rows::SUBSCRIPTION, &key, &subscription.row().to_row());
        subscription.due_stored.clone_from(&subscription.due);
    }
}

impl Subscription {
    /// The row that says what is here, marks included.
    pub(in crate::broker) fn row(&self) -> SubscriptionRow {
        SubscriptionRow {
            options: self.options.clone(),
            start: Some(self.start.to_bytes()),
            due: match &self.due {
                None => DueRow::None,
                Some(due) => DueRow::Behind {
                    mark: due.mark.to_bytes(),
                    cursor: due.cursor.clone(),
                },
            },
        }
    }
}
