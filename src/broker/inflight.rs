//! What was sent with `QoS` 1 or 2 and is not completed: packet ids, the state of each exchange, the send quota.
//!
//! Ids are handed out in sequence, so an id's place is its distance from its pull's first id. A *pull* is what one
//! visit of a connection took; its stored form is one row, rewritten as ids complete and deleted with the last.
//!
//! **Invariants**
//! - `open` of a pull counts its entries that are not done; a pull without open entries is gone.
//! - An id is in one pull at most.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;

use super::message::Qos;
use super::rows::session::{SentRow, SentRun};
use crate::store::{LogId, Mark, Offset};

/// Where the exchange of one packet id stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exchange {
    /// PUBLISH sent, or about to be.
    Sent,
    /// PUBREC received; PUBREL is due until PUBCOMP.
    Released,
    /// Completed.
    Done,
}

/// One message in flight.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outgoing {
    /// Its topic's log.
    pub log: LogId,
    /// Its position.
    pub position: Offset,
    /// Of this delivery: 1 or 2.
    pub qos: Qos,
    /// Delivered as a retained message: sent with RETAIN 1.
    pub retained: bool,
    /// Where it stands.
    pub exchange: Exchange,
}

struct Pull {
    first: u16,
    entries: Vec<Outgoing>,
    open: usize,
    stored: bool,
    changed: bool,
}

impl Pull {
    fn place(&self, id: u16) -> Option<usize> {
        let place = usize::from(id.checked_sub(self.first)?);
        (place < self.entries.len()).then_some(place)
    }
}

/// What a packet id's acknowledgement did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Acked {
    /// It completed the exchange.
    Completed(Outgoing),
    /// It moved the exchange on.
    Moved,
    /// It had been received before; nothing changes.
    Again,
    /// No such exchange, or one of the other kind.
    Unknown,
}

/// A change of the stored rows.
pub(super) enum SentChange {
    /// Write the row.
    Put(u16, SentRow),
    /// Delete the row.
    Delete(u16),
}

/// The exchanges of one session.
#[derive(Default)]
pub(super) struct Inflight {
    pulls: VecDeque<Pull>,
    last_id: u16,
    count: usize,
    topics: FxHashMap<LogId, u32>,
    deleted: Vec<u16>,
}

impl Inflight {
    /// Whether there is none.
    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Exchanges of one topic that are not done.
    pub(super) fn of_topic(&self, log: LogId) -> u32 {
        self.topics.get(&log).copied().unwrap_or(0)
    }

    /// Begins a pull: ids from here on belong together.
    pub(super) fn begin_pull(&mut self) {
        if self.pulls.back().is_some_and(|pull| !pull.entries.is_empty()) || self.pulls.is_empty() {
            self.pulls.push_back(Pull {
                first: 0,
                entries: Vec::new(),
                open: 0,
                stored: false,
                changed: false,
            });
        }
    }

    /// Gives a message the next packet id. `None` if all 65,535 are taken.
    pub(super) fn add(&mut self, outgoing: Outgoing) -> Option<u16> {
        if self.count >= 65_535 {
            return None;
        }
        let mut id = self.last_id;
        loop {
            id = if id == u16::MAX { 1 } else { id + 1 };
            if self.count == 0 || self.find(id).is_none() {
                break;
            }
        }
        // The newest pull may be an older one by now, or end before an id that is still taken.
        let fits =
            |pull: &Pull| pull.entries.is_empty() || usize::from(pull.first) + pull.entries.len() == usize::from(id);
        if !self.pulls.back().is_some_and(fits) {
            self.begin_pull();
        }
        let pull = self.pulls.back_mut()?;
        if pull.entries.is_empty() {
            pull.first = id;
        }
        pull.entries.push(outgoing);
        pull.open += 1;
        pull.changed = true;
        self.last_id = id;
        self.count += 1;
        *self.topics.entry(outgoing.log).or_insert(0) += 1;
        Some(id)
    }

    /// Takes back the last id, which was not sent.
    pub(super) fn take_back(&mut self, id: u16) {
        if let Some(pull) = self.pulls.back_mut()
            && pull.place(id) == pull.entries.len().checked_sub(1)
            && let Some(outgoing) = pull.entries.pop()
        {
            pull.open -= 1;
            self.forget(&outgoing);
            self.last_id = if id == 1 { u16::MAX } else { id - 1 };
        }
    }

    fn find(&self, id: u16) -> Option<(usize, usize)> {
        self.pulls.iter().enumerate().find_map(|(index, pull)| {
            let place = pull.place(id)?;
            (pull.entries.get(place)?.exchange != Exchange::Done).then_some((index, place))
        })
    }

    /// The exchange of an id, if it is not done.
    pub(super) fn get(&self, id: u16) -> Option<Outgoing> {
        let (pull, place) = self.find(id)?;
        self.pulls.get(pull)?.entries.get(place).copied()
    }

    /// PUBACK: `QoS` 1 is done.
    pub(super) fn puback(&mut self, id: u16) -> Acked {
        match self.find(id) {
            Some((index, place)) => self.complete_at(index, place, Some(Qos::AtLeastOnce)),
            None => Acked::Unknown,
        }
    }

    /// PUBREC: `QoS` 2 goes on with PUBREL, or ends with an error code.
    pub(super) fn pubrec(&mut self, id: u16, refused: bool) -> Acked {
        match self.get(id) {
            Some(outgoing) if outgoing.qos == Qos::ExactlyOnce => match outgoing.exchange {
                _ if refused => self.complete(id),
                Exchange::Released => Acked::Again,
                _ => {
                    self.change(id, Exchange::Released);
                    Acked::Moved
                }
            },
            _ => Acked::Unknown,
        }
    }

    /// PUBCOMP: `QoS` 2 is done.
    pub(super) fn pubcomp(&mut self, id: u16) -> Acked {
        match self.get(id) {
            Some(outgoing) if outgoing.qos == Qos::ExactlyOnce && outgoing.exchange == Exchange::Released => {
                self.complete(id)
            }
            _ => Acked::Unknown,
        }
    }

    /// Ends an exchange whatever its state: the message is gone, or returned to its group.
    pub(super) fn complete(&mut self, id: u16) -> Acked {
        match self.find(id) {
            Some((index, place)) => self.complete_at(index, place, None),
            None => Acked::Unknown,
        }
    }

    /// Ends the exchange at a place, if it has the `QoS` that is asked for.
    fn complete_at(&mut self, index: usize, place: usize, qos: Option<Qos>) -> Acked {
        let Some(pull) = self.pulls.get_mut(index) else {
            return Acked::Unknown;
        };
        let Some(entry) = pull.entries.get_mut(place) else {
            return Acked::Unknown;
        };
        if qos.is_some_and(|qos| qos != entry.qos) {
            return Acked::Unknown;
        }
        let outgoing = *entry;
        entry.exchange = Exchange::Done;
        pull.changed = true;
        pull.open -= 1;
        let pull_done = pull.open == 0;
        self.forget(&outgoing);
        if pull_done {
            self.drop_done_pulls();
        }
        Acked::Completed(outgoing)
    }

    fn drop_done_pulls(&mut self) {
        while let Some(place) = self
            .pulls
            .iter()
            .position(|pull| pull.open == 0 && !pull.entries.is_empty())
        {
            if let Some(pull) = self.pulls.remove(place)
                && pull.stored
            {
                self.deleted.push(pull.first);
            }
        }
    }

    fn change(&mut self, id: u16, exchange: Exchange) {
        if let Some((index, place)) = self.find(id)
            && let Some(pull) = self.pulls.get_mut(index)
            && let Some(entry) = pull.entries.get_mut(place)
        {
            entry.exchange = exchange;
            pull.changed = true;
            if exchange == Exchange::Done {
                pull.open -= 1;
            }
        }
    }

    fn forget(&mut self, outgoing: &Outgoing) {
        self.count -= 1;
        if let Some(count) = self.topics.get_mut(&outgoing.log) {
            *count -= 1;
            if *count == 0 {
                self.topics.remove(&outgoing.log);
            }
        }
    }

    /// Ids that are not done, in the order in which they were first sent.
    pub(super) fn open_ids(&self) -> Vec<u16> {
        let ids = |pull: &Pull| {
            (0..pull.entries.len() as u16)
                .map(|place| pull.first + place)
                .collect::<Vec<_>>()
        };
        self.pulls
            .iter()
            .flat_map(ids)
            .filter(|id| self.get(*id).is_some())
            .collect()
    }

    /// What must be written so that the stored rows say what is here; `floor` goes with each written row.
    pub(super) fn changes(&mut self, floor: Mark) -> Vec<SentChange> {
        let mut changes: Vec<_> = self.deleted.drain(..).map(SentChange::Delete).collect();
        for pull in &mut self.pulls {
            if pull.changed && !pull.entries.is_empty() {
                pull.changed = false;
                pull.stored = true;
                changes.push(SentChange::Put(pull.first, sent_row(floor, &pull.entries)));
            }
        }
        changes
    }

    /// Keys of all stored rows, for their deletion; forgets everything.
    pub(super) fn clear(&mut self) -> Vec<u16> {
        let mut stored: Vec<_> = self.deleted.drain(..).collect();
        stored.extend(self.pulls.drain(..).filter(|pull| pull.stored).map(|pull| pull.first));
        self.count = 0;
        self.topics.clear();
        stored
    }

    /// Keys of all stored rows, for their deletion; what is in flight stays, and nothing of it is stored any more.
    pub(super) fn forget_stored(&mut self) -> Vec<u16> {
        let mut stored: Vec<_> = self.deleted.drain(..).collect();
        for pull in self.pulls.iter_mut().filter(|pull| pull.stored) {
            pull.stored = false;
            pull.changed = true;
            stored.push(pull.first);
        }
        stored
    }

    /// Takes up a stored row. Rows come in any order; [`Inflight::restored`] brings them into theirs.
    pub(super) fn restore(&mut self, first: u16, row: &SentRow) {
        self.remove_row(first);
        let entries = row.entries();
        let open = entries.iter().filter(|entry| entry.exchange != Exchange::Done).count();
        if open == 0 {
            return;
        }
        for entry in entries.iter().filter(|entry| entry.exchange != Exchange::Done) {
            self.count += 1;
            *self.topics.entry(entry.log).or_insert(0) += 1;
        }
        self.pulls.push_back(Pull {
            first,
            entries,
            open,
            stored: true,
            changed: false,
        });
    }

    /// Forgets a stored row that was deleted.
    pub(super) fn remove_row(&mut self, first: u16) {
        if let Some(place) = self.pulls.iter().position(|pull| pull.first == first && pull.stored)
            && let Some(pull) = self.pulls.remove(place)
        {
            for entry in pull.entries.iter().filter(|entry| entry.exchange != Exchange::Done) {
                self.forget(entry);
            }
        }
    }

    /// Orders the restored pulls by their sequence, which may have wrapped, and goes on behind the newest.
    pub(super) fn restored(&mut self) {
        let mut firsts: Vec<u16> = self.pulls.iter().map(|pull| pull.first).collect();
        firsts.sort_unstable();
        // The sequence begins behind the widest gap on the circle of ids.
        let gap = |at: usize| {
            let before = if at == 0 { firsts.last() } else { firsts.get(at - 1) };
            match (before, firsts.get(at)) {
                (Some(before), Some(first)) if firsts.len() > 1 => first.wrapping_sub(*before),
                _ => 0,
            }
        };
        let begin = (0..firsts.len())
            .max_by_key(|at| gap(*at))
            .and_then(|at| firsts.get(at).copied())
            .unwrap_or(0);
        self.pulls
            .make_contiguous()
            .sort_by_key(|pull| pull.first.wrapping_sub(begin));
        if let Some(last) = self.pulls.back() {
            self.last_id = last.first + (last.entries.len() as u16).saturating_sub(1);
        }
    }
}

fn sent_row(floor: Mark, entries: &[Outgoing]) -> SentRow {
    let mut runs: Vec<SentRun> = Vec::new();
    for entry in entries {
        match runs.last_mut() {
            Some(run) if run.log == entry.log.0 && run.first + u64::from(run.count) == entry.position.0 => {
                run.count += 1;
            }
            _ => runs.push(SentRun {
                log: entry.log.0,
                first: entry.position.0,
                count: 1,
            }),
        }
    }
    let state = |entry: &Outgoing| {
        let exchange = match entry.exchange {
            Exchange::Sent => 0,
            Exchange::Released => 1,
            Exchange::Done => 2,
        };
        exchange | (entry.qos as u8) << 2 | u8::from(entry.retained) << 4
    };
    SentRow {
        floor: floor.to_bytes(),
        runs,
        states: entries.iter().map(state).collect(),
    }
}

impl SentRow {
    /// What the row says, id by id.
    pub fn entries(&self) -> Vec<Outgoing> {
        let places = self
            .runs
            .iter()
            .flat_map(|run| (0..u64::from(run.count)).map(|place| (LogId(run.log), Offset(run.first + place))));
        let entry = |((log, position), state): ((LogId, Offset), &u8)| Outgoing {
            log,
            position,
            qos: Qos::from_bits(state >> 2 & 3).unwrap_or_default(),
            retained: state & 16 != 0,
            exchange: match state & 3 {
                0 => Exchange::Sent,
                1 => Exchange::Released,
                _ => Exchange::Done,
            },
        };
        places.zip(&self.states).map(entry).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(position: u64, qos: Qos) -> Outgoing {
        Outgoing {
            log: LogId(1),
            position: Offset(position),
            qos,
            retained: false,
            exchange: Exchange::Sent,
        }
    }

    #[test]
    fn stored_rows_bring_back_ids_states_and_order_across_the_wrap_of_the_ids() {
        let mut inflight = Inflight {
            last_id: 65_533,
            ..Inflight::default()
        };
        inflight.begin_pull();
        let ids: Vec<_> = (1..=6)
            .map(|at| inflight.add(message(at, Qos::ExactlyOnce)).unwrap())
            .collect();
        assert_eq!(ids, [65_534, 65_535, 1, 2, 3, 4]);
        assert_eq!(inflight.pubrec(1, false), Acked::Moved);
        assert_eq!(inflight.pubrec(1, false), Acked::Again);
        assert_eq!(inflight.pubrec(65_535, false), Acked::Moved);
        assert!(matches!(inflight.pubcomp(65_535), Acked::Completed(_)));
        assert_eq!(inflight.pubcomp(2), Acked::Unknown, "PUBCOMP without PUBREC");
        let mut restored = Inflight::default();
        for change in inflight.changes(Mark::START) {
            if let SentChange::Put(first, row) = change {
                restored.restore(first, &row);
            }
        }
        restored.restored();
        assert_eq!(restored.open_ids(), [65_534, 1, 2, 3, 4]);
        assert_eq!(restored.get(1).unwrap().exchange, Exchange::Released);
        assert_eq!(restored.add(message(7, Qos::AtLeastOnce)), Some(5));
        assert_eq!(restored.of_topic(LogId(1)), 6);
    }

    #[test]
    fn a_pull_is_written_once_it_changed_and_deleted_with_its_last_id() {
        let mut inflight = Inflight::default();
        inflight.begin_pull();
        let first = inflight.add(message(1, Qos::AtLeastOnce)).unwrap();
        let second = inflight.add(message(2, Qos::AtLeastOnce)).unwrap();
        assert_eq!(inflight.changes(Mark::START).len(), 1);
        assert_eq!(inflight.changes(Mark::START).len(), 0);
        inflight.puback(second);
        assert!(matches!(
            inflight.changes(Mark::START).as_slice(),
            [SentChange::Put(1, _)]
        ));
        inflight.puback(first);
        assert!(matches!(
            inflight.changes(Mark::START).as_slice(),
            [SentChange::Delete(1)]
        ));
        assert!(inflight.is_empty());
    }

    #[test]
    fn an_id_in_use_is_passed_over_when_the_sequence_comes_round() {
        let mut inflight = Inflight::default();
        let held = inflight.add(message(1, Qos::ExactlyOnce)).unwrap();
        assert_eq!(held, 1);
        for at in 2..=65_535 {
            let id = inflight.add(message(at, Qos::AtLeastOnce)).unwrap();
            inflight.puback(id);
        }
        assert_eq!(inflight.add(message(9, Qos::AtLeastOnce)), Some(2));
    }
}
