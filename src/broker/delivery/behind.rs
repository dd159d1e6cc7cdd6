//! Handing out what waits behind the floor because its topic had no room.

use super::{Candidate, From, Need, Offer, Puller, lag};
use crate::broker::delivery::Mode;
use crate::broker::position::Explicit;
use crate::broker::session::SessionState;
use crate::store::{LogId, Mark, ReadBuf};

impl Puller<'_> {
    pub(super) fn next_behind(&self, state: &SessionState) -> Option<Need> {
        let full = state
            .link
            .as_ref()
            .is_some_and(|link| link.outstanding >= link.receive_maximum);
        if full || state.position.explicit_count() == 0 {
            return None;
        }
        let mut waiting = state.position.behind();
        let (log, next) = waiting.find(|(log, _)| self.has_room(state, *log))?;
        Some(Need::Behind { log, next })
    }

    /// Hands out what waits behind the floor on one topic; `before` is the floor up to which was read.
    pub(super) fn serve_behind(&mut self, log: LogId, more: bool, before: Mark, buf: &ReadBuf) {
        let mut state = self.session.state.lock();
        let state = &mut *state;
        if state.epoch != self.epoch {
            return;
        }
        let Some(topic) = self.shared.topics.by_log(log) else {
            state.position.drop_of(log);
            return;
        };
        for record in &buf.records {
            let candidate = Candidate {
                topic: &topic,
                position: record.position,
                time: record.time,
                mark: record.mark,
                body: buf.body(record),
                from: From::Behind,
            };
            if matches!(self.offer(state, &candidate), Offer::Full) {
                state.position.set(log, Explicit::Behind(record.position));
                return;
            }
            state.position.set(log, Explicit::Behind(record.position.next()));
            if self.sink.is_full() || !self.has_room(state, log) {
                return;
            }
        }
        if more {
            return;
        }
        state.position.drop_of(log);
        if state.early.passed_over.contains(&log) && before < state.early.until {
            // An early message of the topic was not handed out because this was in its way. It is durable soon: the
            // session takes its place in the log from the dispatcher again.
            let mut queue = self.session.queue.lock();
            queue.drop_references();
            if matches!(queue.mode, Mode::Live | Mode::Dropped(_)) {
                queue.mode = Mode::Lagging;
            }
            drop(queue);
            state.pending.clear();
            lag(state);
        }
    }
}
