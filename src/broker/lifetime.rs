//! How sessions end: disconnections, expiry, wills and their delays, what a restart finds.
//!
//! **Invariants**
//! - A will is published once per loss of a connection, or not at all.
//! - A deadline is a time on disk; the list of deadlines only says when to look.

use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use super::connection::Ending;
use super::delivery::persist;
use super::rows;
use super::rows::StoredRow;
use super::rows::record::Origin;
use super::rows::session::WillRow;
use super::session::{Closing, Due, NEVER_EXPIRES, Session, SessionId, SessionKind, SessionState, SessionStatus};
use super::will::Will;
use crate::store::{Class, Commit, OnceKey, Ticket};

/// How often totals are written.
const TOTALS_INTERVAL: Duration = Duration::from_secs(5);

impl Shared {
    pub(super) fn due_in(&self, span: Duration) -> Due {
        let wall_ms = self
            .clock
            .wall_ms()
            .saturating_add(i64::try_from(span.as_millis()).unwrap_or(i64::MAX));
        Due {
            at: self.clock.now().saturating_add(span),
            wall_ms,
        }
    }

    /// A connection has ended; nothing happens if it is not the session's any more.
    pub(super) fn disconnect(&self, session: &Arc<Session>, epoch: u64, ending: Ending) {
        let mut state = session.state.lock();
        let state = &mut *state;
        if state.epoch != epoch || state.link.is_none() {
            return;
        }
        self.close_link(session, state, Closing::Administrative);
        let (expiry, reason, will) = match ending {
            Ending::ServerStops => {
                let mut commit = self.store.begin(Class::C);
                if state.is_stored() {
                    persist(self, session, state, &mut commit);
                }
                return self.hand_over_last(state, commit);
            }
            Ending::Normal { session_expiry_seconds } => (session_expiry_seconds, "normal disconnect", false),
            Ending::WithWill {
                session_expiry_seconds,
                reason,
            } => (session_expiry_seconds, reason, true),
        };
        if let Some(expiry) = expiry
            && !state.settings.temporary
        {
            state.settings.session_expiry_seconds = Self::never(expiry);
        }
        reason.clone_into(&mut state.disconnect_reason);
        let mut commit = self.store.begin(Class::C);
        self.left(session, state, will, &mut commit);
        self.hand_over_last(state, commit);
    }

    /// The session lost its connection: its will and its end are due.
    pub(super) fn left(&self, session: &Arc<Session>, state: &mut SessionState, will: bool, commit: &mut Commit) {
        state.disconnected = Some(self.clock.wall_ms());
        state.connected_in = 0;
        let expiry = state.settings.session_expiry_seconds;
        let ends = (expiry < u64::from(u32::MAX)).then(|| self.due_in(Duration::from_secs(expiry)));
        let ends_now = session.kind == SessionKind::Mqtt && expiry == 0;
        if will && let Some(will) = &state.will {
            let delay = Duration::from_secs(will.delay_seconds.min(u64::from(u32::MAX)));
            if ends_now || delay.is_zero() {
                self.publish_will(session, state, commit);
            } else {
                let due = self.due_in(delay);
                state.will_due = Some(due);
                self.deadlines.at(due.at, session.id);
            }
        } else if !will && session.kind == SessionKind::Mqtt {
            drop_will(session, state, commit);
        }
        if ends_now {
            self.end_session(session, state, commit);
            return;
        }
        if let Some(ends) = ends {
            state.end_due = Some(ends);
            self.deadlines.at(ends.at, session.id);
        }
        if state.is_stored() {
            Self::put_session(session, state, commit);
            persist(self, session, state, commit);
        }
    }

    pub(super) fn hand_over_last(&self, state: &mut SessionState, commit: Commit) {
        if commit.is_empty() {
            return;
        }
        match self.store.commit(commit) {
            Ok(ticket) => state.last_write = ticket,
            Err(refused) => tracing::warn!(%refused, "the end of a connection cannot be stored"),
        }
    }

    /// Ends a session of any kind: its rows, filters and name go. MQTT sessions that are banned or inactive leave
    /// their record (spec/semantics.md 9).
    pub(super) fn end_session(&self, session: &Arc<Session>, state: &mut SessionState, commit: &mut Commit) {
        if state.will_due.is_some() {
            self.publish_will(session, state, commit);
        }
        drop_will(session, state, commit);
        // The will of an API session ends with it.
        state.will = None;
        if std::mem::take(&mut state.will_stored) {
            commit.delete(rows::WILL, &rows::key(session.id.0));
        }
        state.end_due = None;
        let marked = matches!(state.settings.status, SessionStatus::Banned | SessionStatus::Inactive);
        if session.kind == SessionKind::Mqtt && marked {
            self.reset(session, state, commit);
            state.settings.temporary = false;
            Self::put_session(session, state, commit);
            return;
        }
        self.delete_rows(session, state, commit);
        self.forget_all(session, state);
        state.ended = true;
        self.sessions.remove(session);
    }

    /// Deletes everything that is stored of a session; what it has in memory stays. A session that never was stored
    /// has nothing to delete, and its end nothing to write.
    pub(super) fn delete_rows(&self, session: &Session, state: &mut SessionState, commit: &mut Commit) {
        if !std::mem::take(&mut state.has_rows) {
            return;
        }
        let id = session.id.0;
        for once in self.store.held(id) {
            commit.release(once);
        }
        for subscription in state.subscriptions.all() {
            commit.delete(
                rows::SUBSCRIPTION,
                &rows::key_with(id, subscription.filter.as_str().as_bytes()),
            );
        }
        for log in state.position.forget_stored() {
            commit.delete(rows::TOPIC_POSITION, &rows::key_with(id, &log.0.to_be_bytes()));
        }
        for first in state.inflight.forget_stored() {
            commit.delete(rows::SENT, &rows::key_with(id, &first.to_be_bytes()));
        }
        for (filter, log) in std::mem::take(&mut state.retained_served).into_keys() {
            commit.delete(
                rows::RETAINED_SERVED,
                &rows::retained_served_key(id, filter.as_str(), log.0),
            );
        }
        for table in [rows::SESSION, rows::POSITION, rows::TOTALS, rows::PUBLISHED_TOPICS] {
            commit.delete(table, &rows::key(id));
        }
    }

    /// MQTT state goes: subscriptions, positions, what is due, `QoS` 2 state. The record stays.
    pub(super) fn reset(&self, session: &Arc<Session>, state: &mut SessionState, commit: &mut Commit) {
        let id = session.id.0;
        for packet_id in state.inbound.drain() {
            commit.release(OnceKey {
                owner: id,
                generation: state.generation,
                id: u32::from(packet_id),
            });
        }
        state.generation += 1;
        for first in state.inflight.clear() {
            commit.delete(rows::SENT, &rows::key_with(id, &first.to_be_bytes()));
        }
        self.clear_subscriptions(session, state, commit);
    }

    /// Subscriptions and undelivered messages go.
    pub(super) fn clear_subscriptions(&self, session: &Arc<Session>, state: &mut SessionState, commit: &mut Commit) {
        let id = session.id.0;
        for subscription in self.forget_all(session, state) {
            commit.delete(
                rows::SUBSCRIPTION,
                &rows::key_with(id, subscription.filter.as_str().as_bytes()),
            );
        }
        for log in state.position.reset(self.store.mark()) {
            commit.delete(rows::TOPIC_POSITION, &rows::key_with(id, &log.0.to_be_bytes()));
        }
        state.position.stored_floor = crate::store::Mark::START;
        state.pending.clear();
        state.step = None;
        state.early = super::session::EarlyHanded::default();
        state.under_way_until = crate::store::Mark::START;
        for (filter, log) in std::mem::take(&mut state.retained_served).into_keys() {
            commit.delete(
                rows::RETAINED_SERVED,
                &rows::retained_served_key(id, filter.as_str(), log.0),
            );
        }
        state.manual.clear();
        state.retained_due = false;
    }

    /// Queues the row of the session's will, or its deletion.
    pub(super) fn put_will(session: &Session, state: &mut SessionState, commit: &mut Commit) {
        match &state.will {
            Some(will) => {
                let row = WillRow {
                    client_name: session.name.to_string(),
                    account: state.owner.clone(),
                    session_stored: state.is_stored(),
                    will: will.clone(),
                };
                commit.put(rows::WILL, &rows::key(session.id.0), &row.to_row());
                state.will_stored = true;
            }
            None => drop_will(session, state, commit),
        }
    }

    /// A client returns or takes over: the will of the lost connection is published or cancelled
    /// (spec/semantics.md 8; v5 [MQTT-3.1.3-9]).
    pub(super) fn will_at_return(
        &self,
        session: &Arc<Session>,
        state: &mut SessionState,
        clean_start: bool,
        commit: &mut Commit,
    ) {
        let taken_over = state.connected_in == self.settings.incarnation;
        let due = match &state.will {
            Some(will) if taken_over => {
                will.delay_seconds == 0 || clean_start || state.settings.session_expiry_seconds == 0
            }
            // Its delay may be over, only nobody has come to look at it yet.
            Some(_) => state
                .will_due
                .is_some_and(|due| clean_start || due.at <= self.clock.now()),
            None => false,
        };
        if due {
            self.publish_will(session, state, commit);
        }
        drop_will(session, state, commit);
    }

    /// Queues the will's message; the commit must be handed over.
    pub(super) fn publish_will(&self, session: &Session, state: &mut SessionState, commit: &mut Commit) {
        state.will_due = None;
        if let Some(will) = state.will.clone() {
            if self.queue_will(&session.name, &state.owner, &will, commit) {
                state.count_published(1, self.clock.wall_ms(), Some(&will.topic));
            }
            drop_will(session, state, commit);
        }
    }

    fn queue_will(&self, client_name: &str, account: &str, will: &Will, commit: &mut Commit) -> bool {
        match self.topic_for(&will.topic) {
            Ok(topic) => {
                // Not early, whatever its QoS: a will is delivered from the durable log.
                let record = will.message().record(Origin::Will, client_name, account);
                commit.append(topic.log, &record.parts(&record.head()), false);
                true
            }
            Err(refused) => {
                tracing::warn!(%refused, client = client_name, topic = will.topic, "a will is dropped");
                false
            }
        }
    }

    /// After a start: clocks of sessions that were connected or absent, wills of those that ended with the server.
    pub(super) fn resume_sessions(&self) {
        let now_ms = self.clock.wall_ms();
        let mut commit = self.store.begin(Class::C);
        let mut wills = std::mem::take(&mut *self.stored_wills.lock());
        for session in self.sessions.list("") {
            let mut state = session.state.lock();
            let state = &mut *state;
            state.inflight.restored();
            let generation = state.generation;
            let held = self.store.held(session.id.0);
            state.inbound = held
                .iter()
                .filter(|key| key.generation == generation)
                .map(|key| key.id as u16)
                .collect();
            if let Some(row) = wills.remove(&session.id) {
                state.will = Some(row.will);
                state.will_stored = true;
            }
            if session.kind == SessionKind::MqApi {
                session.queue.lock().mode = super::delivery::Mode::Lagging;
                state.active = true;
                if let Some(due) = state.will_due {
                    self.resume_due(
                        &session,
                        due.wall_ms,
                        now_ms,
                        |state, due| state.will_due = Some(due),
                        state,
                    );
                }
                continue;
            }
            self.resume_mqtt(&session, state, now_ms);
        }
        self.groups
            .resume(|filter, member, log, position| self.stays_with_member(filter, member, log, position));
        for (id, row) in wills {
            if !row.session_stored {
                self.queue_will(&row.client_name, &row.account, &row.will, &mut commit);
            }
            commit.delete(rows::WILL, &rows::key(id.0));
        }
        if !commit.is_empty()
            && let Err(refused) = self.store.commit(commit)
        {
            tracing::error!(%refused, "wills of ended sessions cannot be published");
        }
    }

    fn resume_due(
        &self,
        session: &Session,
        wall_ms: i64,
        now_ms: i64,
        set: impl FnOnce(&mut SessionState, Due),
        state: &mut SessionState,
    ) {
        let left = Duration::from_millis(u64::try_from(wall_ms - now_ms).unwrap_or(0));
        let due = Due {
            at: self.clock.now() + left,
            wall_ms,
        };
        set(state, due);
        self.deadlines.at(due.at, session.id);
    }

    fn resume_mqtt(&self, session: &Session, state: &mut SessionState, now_ms: i64) {
        if state.connected_in != 0 {
            // Connected at a stop or crash: the clock runs from that incarnation's clean stop, or after a crash from
            // the start that followed it. A second crash prolongs nothing.
            let starts = self.starts.lock();
            let following = starts.range(state.connected_in + 1..).next().map(|(_, start)| *start);
            drop(starts);
            if let Some((start, mark)) = following {
                state.disconnected = Some(start.previous_clean_stop.unwrap_or(start.time));
                if start.previous_clean_stop.is_none() {
                    state.under_way_until = mark;
                    "server restarted after a crash"
                } else {
                    "server stopped"
                }
                .clone_into(&mut state.disconnect_reason);
                if state.will.is_some() && state.will_due.is_none() {
                    let delay = state
                        .will
                        .as_ref()
                        .map_or(0, |will| will.delay_seconds.min(u64::from(u32::MAX)));
                    let lost = state.disconnected.unwrap_or(now_ms);
                    let wall_ms = lost.saturating_add(i64::try_from(delay * 1_000).unwrap_or(i64::MAX));
                    state.will_due = Some(Due {
                        at: Duration::ZERO,
                        wall_ms,
                    });
                }
            }
        }
        if let Some(due) = state.will_due {
            // A clock set back cannot prolong without end.
            let delay = state.will.as_ref().map_or(0, |will| will.delay_seconds);
            let latest = i64::try_from(delay).unwrap_or(i64::MAX).saturating_mul(1_000);
            self.resume_due(
                session,
                due.wall_ms.min(now_ms.saturating_add(latest)),
                now_ms,
                |state, due| state.will_due = Some(due),
                state,
            );
        }
        let expiry = state.settings.session_expiry_seconds;
        if expiry < u64::from(u32::MAX)
            && let Some(lost) = state.disconnected
        {
            let wall_ms = lost.saturating_add(i64::try_from(expiry * 1_000).unwrap_or(i64::MAX));
            let latest = now_ms.saturating_add(i64::try_from(expiry * 1_000).unwrap_or(i64::MAX));
            self.resume_due(
                session,
                wall_ms.min(latest),
                now_ms,
                |state, due| state.end_due = Some(due),
                state,
            );
        }
    }

    /// Something may be due for a session.
    fn look_at(&self, id: SessionId) {
        let Some(session) = self.sessions.by_id(id) else { return };
        let mut state = session.state.lock();
        let state = &mut *state;
        if state.ended || state.link.is_some() {
            return;
        }
        let now = self.clock.now();
        let mut commit = self.store.begin(Class::C);
        if state.end_due.is_some_and(|due| due.at <= now) {
            if state.will_due.is_some() {
                self.publish_will(&session, state, &mut commit);
            }
            self.end_session(&session, state, &mut commit);
        } else if state.will_due.is_some_and(|due| due.at <= now) {
            self.publish_will(&session, state, &mut commit);
            Self::put_session(&session, state, &mut commit);
        }
        if state.lease_until <= now {
            self.return_leased(state);
        }
        self.keep_alive_of_api(&session, state, &mut commit);
        self.hand_over_last(state, commit);
    }

    /// A temporary API session without activity for 1.5 times its keep-alive is disconnected (spec/sessions.md 2.2).
    fn keep_alive_of_api(&self, session: &Arc<Session>, state: &mut SessionState, commit: &mut Commit) {
        let temporary = session.kind == SessionKind::MqApi && state.settings.temporary && state.active;
        if !temporary || state.settings.keep_alive_seconds == 0 || !state.waiting.is_empty() {
            return;
        }
        let span = Duration::from_secs(state.settings.keep_alive_seconds.min(u64::from(u32::MAX))) * 3 / 2;
        let due = state.last_activity + span;
        if due <= self.clock.now() {
            self.api_disconnected(session, state, "keep-alive timeout", commit);
        } else {
            self.deadlines.at(due, session.id);
        }
    }

    /// A temporary API session is disconnected: its will and its end are due.
    pub(super) fn api_disconnected(
        &self,
        session: &Arc<Session>,
        state: &mut SessionState,
        reason: &str,
        commit: &mut Commit,
    ) {
        state.active = false;
        reason.clone_into(&mut state.disconnect_reason);
        self.left(session, state, true, commit);
        if state.settings.temporary && state.settings.session_expiry_seconds == 0 && !state.ended {
            self.end_session(session, state, commit);
        }
    }

    /// The JSON session that temporary API sessions are bound to has ended.
    pub(crate) fn login_ended(&self, login: u64) {
        for session in self.sessions.list("") {
            let mut state = session.state.lock();
            let state = &mut *state;
            let bound = state.bound_to == Some(login) && state.settings.temporary && state.active;
            if bound && session.kind == SessionKind::MqApi {
                let mut commit = self.store.begin(Class::C);
                self.api_disconnected(&session, state, "JSON session ended", &mut commit);
                self.hand_over_last(state, commit);
            }
        }
    }

    pub(super) fn never(seconds: u64) -> u64 {
        if seconds >= u64::from(u32::MAX) {
            NEVER_EXPIRES
        } else {
            seconds
        }
    }
}

/// Looks at who is due, for ever.
pub(super) async fn watch_deadlines(shared: Arc<Shared>) {
    loop {
        for session in shared.deadlines.next(&shared.clock).await {
            shared.look_at(session);
        }
    }
}

/// Queues totals and published topics of a session, if they changed.
pub(super) fn put_totals(session: &Session, state: &mut SessionState, commit: &mut Commit) {
    if std::mem::take(&mut state.totals_changed) && state.is_stored() {
        commit.put(rows::TOTALS, &rows::key(session.id.0), &state.totals.to_row());
        if !state.published_topics.topics.is_empty() {
            commit.put(
                rows::PUBLISHED_TOPICS,
                &rows::key(session.id.0),
                &state.published_topics.to_row(),
            );
        }
    }
}

/// Writes changed totals every few seconds, for ever; and positions that nobody writes otherwise.
pub(super) async fn write_totals(shared: Arc<Shared>) {
    loop {
        shared.clock.sleep(TOTALS_INTERVAL).await;
        let mut commit = shared.store.begin(Class::C);
        commit.lazy();
        shared.groups.persist(&shared, &mut commit);
        for session in shared.sessions.list("") {
            put_totals(&session, &mut session.state.lock(), &mut commit);
        }
        if commit.is_empty() {
            continue;
        }
        let written: Result<Ticket, _> = shared.store.commit(commit);
        if let Err(refused) = written {
            tracing::debug!(%refused, "totals cannot be stored");
        }
    }
}

fn drop_will(session: &Session, state: &mut SessionState, commit: &mut Commit) {
    state.will_due = None;
    // The will of an API session is a setting and can fire again (spec/semantics.md 8).
    if session.kind == SessionKind::Mqtt || state.will.is_none() {
        state.will = None;
        if std::mem::take(&mut state.will_stored) {
            commit.delete(rows::WILL, &rows::key(session.id.0));
        }
    }
}
