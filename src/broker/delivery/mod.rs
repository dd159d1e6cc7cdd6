//! The delivery path: what may go to a session now, and how it is found.
//!
//! A session is *absent*, *lagging* or *live*. Live, the dispatcher hands it references into durable batches. Lagging,
//! it reads the log itself, in log order and bounded steps, and joins the live path when it has come close to the end.
//! Whoever serves the session pulls; nothing is pushed into sockets.
//!
//! **Invariants**
//! - Per topic, messages are handed out in the order of their positions: first what is sent again, then what was
//!   retained, then what waits behind the floor, then the rest.
//! - A message is handed out only after it is durable, or early with `QoS` 0.
//! - No lock is held while the store reads.

mod behind;
mod live;
mod persist;
mod resend;
mod retained;
mod shared;
mod step;

use std::sync::Arc;

pub use live::{Chunk, LIVE_REFERENCES_MAX, LiveQueue, Mode};
pub(in crate::broker) use persist::persist;
pub use step::Step;

use self::retained::RetainedNeed;
use super::Shared;
use super::inflight::{Exchange, Outgoing};
use super::message::{Delivery, Qos};
use super::position::{EXPLICIT_COUNT_MAX, Explicit};
use super::rows::record::Record;
use super::session::{Session, SessionKind, SessionState};
use super::topic::Topic;
use crate::store::{Class, Error, Limit, LogId, Mark, Offset, Progress, ReadBuf, ReadRecord, Ticket};

/// Bytes a step reads at once, shared by its topics.
const STEP_BYTES: usize = 256 << 10;

/// Takes what is handed out; encodes it for its client.
pub trait DeliverySink: Send + Sync {
    /// Asked before each message: `false` leaves it where it is.
    fn accepts(&mut self) -> bool {
        true
    }
    /// A message. `false`: it is larger than the client accepts, and is passed over as if delivered.
    fn deliver(&mut self, delivery: &Delivery<'_>) -> bool;
    /// PUBREL for a packet id.
    fn release(&mut self, packet_id: u16);
    /// Whether it has enough for now.
    fn is_full(&self) -> bool;
}

/// How a pull ended.
#[derive(Debug, Default)]
pub struct Pulled {
    /// There may be more at once.
    pub more: bool,
    /// What was handed out must not be sent before this is settled (`QoS` 2).
    pub ticket: Option<Ticket>,
    /// The session has another connection now, or has ended.
    pub lost: bool,
    /// Messages handed out.
    pub handed: usize,
    /// It took its part of what share groups have; the other members that were woken should come first now.
    pub shared: bool,
}

/// What an offered message did.
enum Offer {
    /// Handed out, or passed over.
    Done,
    /// The send quota is used up: it stays.
    Full,
}

/// Where an offered message comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    Live,
    Early,
    Step,
    Behind,
}

/// A message at hand.
struct Candidate<'a> {
    topic: &'a Arc<Topic>,
    position: Offset,
    time: i64,
    mark: Mark,
    body: &'a [u8],
    from: From,
}

/// What a pull needs before it can go on.
enum Need {
    Nothing {
        more: bool,
    },
    Resend {
        id: u16,
        outgoing: Outgoing,
    },
    Retained(RetainedNeed),
    Behind {
        log: LogId,
        next: Offset,
    },
    /// Finds the next stretch of the log.
    BeginStep,
    Fill {
        source: usize,
        log: LogId,
        next: Offset,
        limit: Limit,
    },
    Lost,
}

/// One pull for one session.
pub(super) struct Puller<'a> {
    pub(super) shared: &'a Shared,
    pub(super) session: &'a Arc<Session>,
    pub(super) epoch: u64,
    pub(super) sink: &'a mut dyn DeliverySink,
    pub(super) handed: usize,
    began: bool,
    needs_sync: bool,
    took_shared: bool,
    now_ms: i64,
}

impl Shared {
    /// One record of a log; `None` if it is not there any more, which a log that cannot be read does not say.
    pub(super) async fn read_one(
        &self,
        log: LogId,
        position: Offset,
        buf: &mut ReadBuf,
    ) -> Result<Option<ReadRecord>, Error> {
        let limit = Limit {
            records: 1,
            bytes: usize::MAX,
            before: Mark::END,
        };
        match self.store.read(log, position, limit, buf).await {
            Ok(_) => Ok(buf
                .records
                .first()
                .copied()
                .filter(|record| record.position == position)),
            Err(Error::NoLog(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl<'a> Puller<'a> {
    pub(super) fn new(
        shared: &'a Shared,
        session: &'a Arc<Session>,
        epoch: u64,
        sink: &'a mut dyn DeliverySink,
    ) -> Self {
        let now_ms = shared.clock.wall_ms();
        Self {
            shared,
            session,
            epoch,
            sink,
            handed: 0,
            began: false,
            needs_sync: false,
            took_shared: false,
            now_ms,
        }
    }

    /// Hands out what may go now, until the sink is full or there is nothing.
    pub(super) async fn pull(mut self) -> Pulled {
        let mut buf = ReadBuf::default();
        let more = loop {
            match self.next() {
                Need::Nothing { more } => break more,
                Need::Lost => {
                    return Pulled {
                        lost: true,
                        ..Pulled::default()
                    };
                }
                Need::Resend { id, outgoing } => {
                    let read = match self.shared.read_one(outgoing.log, outgoing.position, &mut buf).await {
                        Ok(read) => read,
                        Err(error) => break self.cannot_read(&error),
                    };
                    self.resend(id, &outgoing, read.as_ref().map(|record| (record, &buf)));
                }
                Need::Retained(need) => {
                    let (log, position) = (need.topic.log, need.retained.position);
                    let read = match self.shared.read_one(log, position, &mut buf).await {
                        Ok(read) => read,
                        Err(error) => break self.cannot_read(&error),
                    };
                    self.serve_retained(&need, read.as_ref().map(|record| (record, &buf)));
                }
                Need::Behind { log, next } => {
                    let before = self.session.state.lock().position.floor;
                    let limit = Limit {
                        records: 256,
                        bytes: STEP_BYTES,
                        before,
                    };
                    match self.shared.store.read(log, next, limit, &mut buf).await {
                        Ok(progress) => self.serve_behind(log, progress.more, before, &buf),
                        Err(Error::NoLog(_)) => self.serve_behind(log, false, before, &ReadBuf::default()),
                        Err(error) => break self.cannot_read(&error),
                    }
                }
                Need::BeginStep => {
                    if let Err(error) = self.begin_step().await {
                        break self.cannot_read(&error);
                    }
                }
                Need::Fill {
                    source,
                    log,
                    next,
                    limit,
                } => {
                    let progress = match self.shared.store.read(log, next, limit, &mut buf).await {
                        Ok(progress) => progress,
                        Err(Error::NoLog(_)) => Progress { next, more: false },
                        Err(error) => break self.cannot_read(&error),
                    };
                    let mut state = self.session.state.lock();
                    // After a take-over the step is another one.
                    if state.epoch == self.epoch
                        && let Some(step) = &mut state.step
                    {
                        step.filled(source, log, progress, std::mem::take(&mut buf));
                    }
                }
            }
        };
        let more = if more { true } else { self.pull_shared(&mut buf).await };
        self.finish(more)
    }

    /// The log cannot be read: the session stays where it is, and tries again when it is woken next.
    fn cannot_read(&self, error: &Error) -> bool {
        tracing::error!(%error, session = &*self.session.name, "cannot read the log");
        false
    }

    /// Makes what was handed out with `QoS` 2 durable before it is sent, and counts.
    fn finish(self, more: bool) -> Pulled {
        let mut state = self.session.state.lock();
        if self.handed > 0 {
            state.unsaved += self.handed;
            state.count_received(self.handed as u64, self.now_ms);
        }
        let mut ticket = None;
        if self.needs_sync && state.is_stored() {
            let mut commit = self.shared.store.begin(Class::B);
            persist(self.shared, self.session, &mut state, &mut commit);
            if self.took_shared {
                self.shared.groups.persist(self.shared, &mut commit);
            }
            ticket = self.shared.store.commit(commit).ok();
            if let Some(ticket) = &ticket {
                state.last_write = ticket.clone();
            }
            if ticket.is_none() {
                // The latch closes every connection; nothing of this pull may be sent.
                return Pulled {
                    lost: true,
                    ..Pulled::default()
                };
            }
        }
        Pulled {
            more,
            ticket,
            lost: false,
            handed: self.handed,
            shared: self.took_shared,
        }
    }

    fn next(&mut self) -> Need {
        let session = Arc::clone(self.session);
        let mut state = session.state.lock();
        if state.epoch != self.epoch || state.ended {
            return Need::Lost;
        }
        if self.sink.is_full() {
            return Need::Nothing { more: true };
        }
        self.let_go(&mut state);
        if let Some(need) = self.next_resend(&mut state) {
            return need;
        }
        if let Some(need) = self.next_retained(&mut state) {
            return need;
        }
        if let Some(need) = self.next_behind(&state) {
            return need;
        }
        loop {
            if !state.pending.is_empty()
                && let Some(need) = self.hand_pending(&mut state)
            {
                return need;
            }
            if state.step.is_some()
                && let Some(need) = self.hand_step(&mut state)
            {
                return need;
            }
            let dispatched = self.shared.dispatched();
            let mut queue = self.session.queue.lock();
            match queue.mode {
                Mode::Absent | Mode::Joining(_) => return Need::Nothing { more: false },
                Mode::Live => {
                    if !queue.has_references() {
                        state.position.floor = state.position.floor.max(dispatched);
                        pass_early(&mut state);
                        return Need::Nothing { more: false };
                    }
                    state.pending = queue.take(dispatched);
                    if state.pending.is_empty() {
                        // Its batch is being dispatched; the session is woken behind it.
                        return Need::Nothing { more: false };
                    }
                }
                Mode::Dropped(from) => {
                    queue.mode = Mode::Lagging;
                    state.position.floor = state.position.floor.max(from);
                    lag(&mut state);
                }
                Mode::Lagging if state.position.floor < dispatched => return Need::BeginStep,
                Mode::Lagging => {
                    if state.link.is_none() {
                        return Need::Nothing { more: false };
                    }
                    queue.mode = Mode::Joining(state.position.floor);
                    drop(queue);
                    self.shared.ask_to_join(&session);
                    return Need::Nothing { more: false };
                }
            }
        }
    }

    /// Gives a delivery its packet id and hands it to the sink. `false`: no id is free, it stays.
    fn send(&mut self, state: &mut SessionState, delivery: &mut Delivery<'_>, outgoing: Outgoing) -> bool {
        if !self.sink.accepts() {
            return false;
        }
        if outgoing.qos == Qos::AtMostOnce || self.session.kind == SessionKind::MqApi {
            self.sink.deliver(delivery);
            self.handed += 1;
            return true;
        }
        if !std::mem::replace(&mut self.began, true) {
            state.inflight.begin_pull();
        }
        let Some(id) = state.inflight.add(outgoing) else {
            return false;
        };
        delivery.packet_id = Some(id);
        if self.sink.deliver(delivery) {
            self.handed += 1;
            self.needs_sync |= outgoing.qos == Qos::ExactlyOnce;
            if let Some(link) = &mut state.link {
                link.outstanding += 1;
            }
        } else {
            state.inflight.take_back(id);
        }
        true
    }

    fn has_room(&self, state: &SessionState, log: LogId) -> bool {
        (state.inflight.of_topic(log) as usize) < self.shared.settings.inflight_count_max
    }

    /// Hands one message out if a subscription applies and there is room.
    fn offer(&mut self, state: &mut SessionState, candidate: &Candidate<'_>) -> Offer {
        let topic = candidate.topic;
        match state.position.of(topic.log) {
            Some(Explicit::Ahead(next)) if candidate.position < next => return Offer::Done,
            Some(Explicit::Behind(_)) if candidate.from != From::Behind => return Offer::Done,
            _ => {}
        }
        let Some(record) = Record::parse(candidate.body) else {
            tracing::error!(
                topic = &*topic.name,
                position = candidate.position.0,
                "a stored message cannot be read"
            );
            return Offer::Done;
        };
        let matched = state.subscriptions.of_topic(topic);
        let own = record.publisher == &*self.session.name;
        let Some(applies) = matched.applies(candidate.mark, own) else {
            return Offer::Done;
        };
        let qos = record.qos.min(applies.qos);
        let mqtt = self.session.kind == SessionKind::Mqtt;
        if mqtt
            && (qos == Qos::AtMostOnce && candidate.mark < state.under_way_until
                || candidate.mark < state.connect_mark && !matched.waits())
        {
            return Offer::Done;
        }
        let expired = record.expired(candidate.time, self.now_ms);
        if expired && !applies.include_expired {
            return Offer::Done;
        }
        if qos > Qos::AtMostOnce && mqtt {
            let Some(link) = &state.link else { return Offer::Full };
            if link.outstanding >= link.receive_maximum {
                return Offer::Full;
            }
            if !self.has_room(state, topic.log) && state.position.explicit_count() < EXPLICIT_COUNT_MAX {
                if candidate.from != From::Behind {
                    state.position.set(topic.log, Explicit::Behind(candidate.position));
                }
                return if candidate.from == From::Behind {
                    Offer::Full
                } else {
                    Offer::Done
                };
            }
        }
        let mut delivery = Delivery {
            topic: &topic.name,
            position: candidate.position.0,
            time: candidate.time,
            qos,
            packet_id: None,
            // It may have been sent before a crash, with an id that was not stored.
            dup: mqtt && qos == Qos::AtLeastOnce && candidate.mark < state.under_way_until,
            retain: record.retain && (applies.retain_as_published || !mqtt),
            retained: false,
            expired,
            expiry_left: record.expiry_left(candidate.time, self.now_ms),
            subscription_ids: &applies.identifiers,
            record,
        };
        let outgoing = Outgoing {
            log: topic.log,
            position: candidate.position,
            qos,
            retained: false,
            exchange: Exchange::Sent,
        };
        if self.send(state, &mut delivery, outgoing) {
            Offer::Done
        } else {
            Offer::Full
        }
    }
}

/// What was handed out early is durable and behind the floor: there is nothing to remember of it.
fn pass_early(state: &mut SessionState) {
    if state.position.floor >= state.early.until {
        state.early.next.clear();
        state.early.passed_over.clear();
    }
}

fn note_early(state: &mut SessionState, log: LogId, next: Offset) {
    if matches!(state.position.of(log), Some(Explicit::Behind(_))) {
        state.early.passed_over.insert(log);
        return;
    }
    match state.early.next.iter_mut().rev().find(|(noted, _)| *noted == log) {
        Some((_, noted)) => *noted = next,
        None => state.early.next.push((log, next)),
    }
}

/// From now on the session reads the log: what it was handed early must not come again.
pub(super) fn lag(state: &mut SessionState) {
    state.early.passed_over.clear();
    for (log, next) in std::mem::take(&mut state.early.next) {
        if !matches!(state.position.of(log), Some(Explicit::Behind(_))) {
            state.position.set(log, Explicit::Ahead(next));
        }
    }
}
