//! Share groups: one position for all members, each message to one of them (spec/semantics.md 7).
//!
//! A group reads like a session: its own floor, explicit positions and references from the dispatcher. Members take
//! from it when they are served; what a member took is assigned to it until it is acknowledged or comes back.
//!
//! **Invariants**
//! - A message is assigned to one member at most; what comes back is taken before anything newer.
//! - The group's lock is taken inside a session's state lock, never the other way round.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use ahash::AHashMap;
use parking_lot::{Mutex, RwLock};

use super::Shared;
use super::inflight::Outgoing;
use super::message::Qos;
use super::rows;
use super::rows::StoredRow;
use super::rows::session::{GroupPartRow, GroupRow};
use super::session::{Session, SessionId, SessionKind, SessionState};
use super::topic::Topic;
use super::topic_filter::TopicFilter;
use crate::store::{At, Batch, Commit, Error, Limit, LogId, Mark, Offset, ReadBuf};

/// References a group holds before it reads the log again.
const REFERENCES_MAX: usize = 4_096;
/// Messages of other topics that a retrieval of one topic may lay aside.
const RETURNED_BY_TOPIC_MAX: usize = 65_536;
/// Records a group reads from the log at once.
const READ_RECORDS: usize = 256;
/// Topics looked at in one reading step.
const STEP_TOPICS_MAX: usize = 256;

/// A message of the group that nobody has.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// Its topic's log.
    pub log: LogId,
    /// Its position.
    pub position: Offset,
}

/// One share group.
pub struct ShareGroup {
    /// The whole filter, `$share/<group>/` included: the group's identity.
    pub filter: TopicFilter,
    state: Mutex<GroupState>,
    /// One member at a time reads the log for the group.
    reading: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct GroupState {
    members: Vec<Arc<Session>>,
    start: Mark,
    floor: Mark,
    stored_floor: Mark,
    /// Messages nobody has taken, in log order: from the dispatcher, while the group is at the end of the log, or read.
    fresh: BTreeMap<Mark, (LogId, Offset)>,
    /// The dispatcher hands references; else the log is read.
    live: bool,
    /// Behind the last message that was not taken as a reference.
    unheld: Mark,
    returned: BTreeSet<(LogId, Offset)>,
    assigned: BTreeMap<(LogId, Offset), SessionId>,
    changed: Vec<(LogId, Offset)>,
    next_member: usize,
    /// Messages handed since the members were last woken.
    handed: usize,
    /// The dispatcher has it on its list of whom to wake.
    touched: bool,
    /// How often a member without room may still pass its wake on.
    hops: usize,
}

/// Messages that a member takes: what it does not pass goes back, also when its task is dropped.
pub(super) struct Taken {
    group: Arc<ShareGroup>,
    messages: VecDeque<Waiting>,
}

impl Taken {
    /// Whether there is none left.
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// The next one.
    pub(super) fn peek(&self) -> Option<Waiting> {
        self.messages.front().cloned()
    }

    /// The next one was handed out, consumed, or given back.
    pub(super) fn pass(&mut self) {
        self.messages.pop_front();
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        for one in self.messages.drain(..) {
            self.group.give_back(one.log, one.position);
        }
    }
}

impl ShareGroup {
    fn new(filter: TopicFilter, start: Mark) -> Self {
        let state = GroupState {
            start,
            floor: start,
            ..GroupState::default()
        };
        Self {
            filter,
            state: Mutex::new(state),
            reading: tokio::sync::Mutex::default(),
        }
    }

    /// References of the dispatcher. `true`: its members are to be woken when the batch is dispatched, and the group
    /// stands on no list for that yet.
    ///
    /// Early records come here with their durable batch only: their positions may not be noted before.
    pub(super) fn hand(&self, batch: &Batch, topic: &Topic, entries: &[u32]) -> bool {
        let mut state = self.state.lock();
        for entry in entries.iter().filter_map(|place| batch.entries.get(*place as usize)) {
            if entry.mark < state.start {
                continue;
            }
            state.handed += 1;
            if state.live {
                state.fresh.insert(entry.mark, (topic.log, entry.position));
            } else {
                state.unheld = state.unheld.max(entry.mark.just_behind());
            }
        }
        if state.live && state.fresh.len() > REFERENCES_MAX {
            let oldest = state.fresh.first_key_value().map(|(mark, _)| *mark);
            state.floor = oldest.unwrap_or(state.floor);
            state.unheld = batch.end;
            state.fresh.clear();
            state.live = false;
        }
        !std::mem::replace(&mut state.touched, true)
    }

    /// Wakes as many members as there are messages, of those that somebody serves.
    pub(super) fn wake_touched(&self) {
        let mut state = self.state.lock();
        state.touched = false;
        let wanted = std::mem::take(&mut state.handed);
        let turn = state.next_member;
        state.next_member = turn.wrapping_add(wanted);
        let members = state.members.clone();
        state.hops = members.len();
        drop(state);
        let from = turn.checked_rem(members.len()).unwrap_or(0);
        let (behind, first) = members.split_at(from);
        let woken = first.iter().chain(behind).filter(|member| wake(member));
        // Taken one by one, so that no more are woken.
        woken.take(wanted).for_each(drop);
    }

    /// A member that was woken has no room: the next one is asked, once round.
    pub(super) fn pass_on(&self, member: SessionId) {
        let mut state = self.state.lock();
        let waits = !state.fresh.is_empty() || !state.returned.is_empty() || !state.live;
        if !waits || state.hops == 0 {
            return;
        }
        state.hops -= 1;
        let members = state.members.clone();
        drop(state);
        let Some(place) = members.iter().position(|held| held.id == member) else {
            return;
        };
        let (before, from) = members.split_at(place);
        let mut others = from.iter().skip(1).chain(before);
        others.find(|held| wake(held));
    }

    /// Wakes all members.
    pub(super) fn wake_members(&self) {
        let mut state = self.state.lock();
        let members = state.members.clone();
        state.hops = members.len();
        drop(state);
        for member in &members {
            wake(member);
        }
    }

    /// How many messages one member may take at once: its share of what waits.
    fn share(state: &GroupState, wanted: usize) -> usize {
        let served = state.members.len().max(1);
        let waiting = state.fresh.len() + state.returned.len();
        wanted.min(waiting.div_ceil(served).max(1))
    }

    /// Takes messages for a member that is fed: no more than its share of what waits.
    pub(super) async fn take(self: &Arc<Self>, shared: &Shared, member: SessionId, wanted: usize) -> Taken {
        self.take_some(shared, member, wanted, true).await
    }

    /// Takes messages for a member that asks for them: as many as it wants, perhaps of one topic alone.
    pub(super) async fn take_all(
        self: &Arc<Self>,
        shared: &Shared,
        member: SessionId,
        wanted: usize,
        topic: Option<LogId>,
    ) -> Taken {
        match topic {
            None => self.take_some(shared, member, wanted, false).await,
            Some(log) => self.take_of_topic(shared, member, wanted, log).await,
        }
    }

    /// Takes messages of one topic. What lies before them waits as if it had come back: the floor passes it.
    async fn take_of_topic(self: &Arc<Self>, shared: &Shared, member: SessionId, wanted: usize, log: LogId) -> Taken {
        let mut taken = Taken {
            group: Arc::clone(self),
            messages: VecDeque::new(),
        };
        let _one = self.reading.lock().await;
        loop {
            while self.needs_log() && self.read_log(shared).await {}
            let dispatched = shared.dispatched();
            let mut state = self.state.lock();
            let state = &mut *state;
            if !state.members.iter().any(|held| held.id == member) {
                return taken;
            }
            let of_topic = (log, Offset(0))..=(log, Offset(u64::MAX));
            let room = wanted - taken.messages.len();
            let back: Vec<_> = state.returned.range(of_topic).take(room).copied().collect();
            for (log, position) in back {
                state.returned.remove(&(log, position));
                taken.messages.push_back(Waiting { log, position });
            }
            while taken.messages.len() < wanted
                && state.returned.len() < RETURNED_BY_TOPIC_MAX
                && let Some(entry) = state.fresh.first_entry().filter(|entry| *entry.key() < dispatched)
            {
                let (mark, (found, position)) = entry.remove_entry();
                state.floor = mark.just_behind();
                if found == log {
                    taken.messages.push_back(Waiting { log, position });
                } else {
                    state.returned.insert((found, position));
                    state.changed.push((found, position));
                }
            }
            for one in &taken.messages {
                state.assigned.insert((one.log, one.position), member);
                state.changed.push((one.log, one.position));
            }
            let at_end = state.live || !state.fresh.is_empty();
            if at_end || taken.messages.len() >= wanted {
                return taken;
            }
        }
    }

    async fn take_some(self: &Arc<Self>, shared: &Shared, member: SessionId, wanted: usize, fair: bool) -> Taken {
        let mut taken = Taken {
            group: Arc::clone(self),
            messages: VecDeque::new(),
        };
        if wanted == 0 {
            return taken;
        }
        let _one = self.reading.lock().await;
        // A stretch of the log may hold nothing for the group.
        while self.needs_log() && self.read_log(shared).await {}
        // Read before the references are looked at: what was dispatched until then is among them.
        let dispatched = shared.dispatched();
        let mut state = self.state.lock();
        if !state.members.iter().any(|held| held.id == member) {
            return taken;
        }
        let count = if fair { Self::share(&state, wanted) } else { wanted };
        while taken.messages.len() < count
            && let Some((log, position)) = state.returned.pop_first()
        {
            taken.messages.push_back(Waiting { log, position });
        }
        while taken.messages.len() < count
            // The floor may stand only behind a batch that is dispatched as a whole.
            && let Some(entry) = state.fresh.first_entry().filter(|entry| *entry.key() < dispatched)
        {
            let (mark, (log, position)) = entry.remove_entry();
            state.floor = mark.just_behind();
            taken.messages.push_back(Waiting { log, position });
        }
        for one in &taken.messages {
            state.assigned.insert((one.log, one.position), member);
            state.changed.push((one.log, one.position));
        }
        taken
    }

    fn needs_log(&self) -> bool {
        let state = self.state.lock();
        !state.live && state.fresh.is_empty()
    }

    /// Fills the references from the log, in log order, and joins the dispatcher at its end; `false` then.
    async fn read_log(&self, shared: &Shared) -> bool {
        let upto = shared.dispatched();
        let (floor, start) = {
            let mut state = self.state.lock();
            if state.floor >= upto {
                // What the batch being walked holds for the group lies behind the floor and was not taken: then the
                // members are woken when it is dispatched, and look again.
                state.live = state.unheld <= state.floor;
                return false;
            }
            (state.floor, state.start)
        };
        let mut touched = Vec::new();
        let limit = Limit {
            records: STEP_TOPICS_MAX,
            bytes: 16 << 20,
            before: upto,
        };
        let upto = match shared.store.touched(floor, limit, &mut touched).await {
            Ok(upto) => upto,
            Err(error) => {
                tracing::error!(%error, filter = self.filter.as_str(), "cannot read the log");
                return false;
            }
        };
        let mut found: Vec<(LogId, Offset, Mark)> = Vec::new();
        let mut reached = upto;
        let mut buf = ReadBuf::default();
        for one in touched {
            let Some(topic) = shared
                .topics
                .by_log(one.log)
                .filter(|topic| self.filter.matches(&topic.name))
            else {
                continue;
            };
            let first = if start > floor {
                shared
                    .store
                    .locate(topic.log, At::Mark(start))
                    .await
                    .unwrap_or(one.first)
            } else {
                one.first
            };
            let limit = Limit {
                records: READ_RECORDS,
                bytes: 1 << 20,
                before: upto,
            };
            match shared.store.read(topic.log, first, limit, &mut buf).await {
                Ok(progress) => {
                    let messages = buf.records.iter();
                    found.extend(messages.map(|record| (topic.log, record.position, record.mark)));
                    if progress.more
                        && let Some(last) = buf.records.last()
                    {
                        reached = reached.min(last.mark.just_behind());
                    }
                }
                Err(Error::NoLog(_)) => {}
                Err(error) => {
                    tracing::error!(%error, filter = self.filter.as_str(), "cannot read the log");
                    return false;
                }
            }
        }
        found.retain(|(_, _, mark)| *mark < reached && *mark >= start);
        let mut state = self.state.lock();
        if found.is_empty() {
            state.floor = state.floor.max(reached);
        }
        let found = found.into_iter();
        state
            .fresh
            .extend(found.map(|(log, position, mark)| (mark, (log, position))));
        true
    }

    pub(super) fn acked(&self, log: LogId, position: Offset) {
        let mut state = self.state.lock();
        if state.assigned.remove(&(log, position)).is_some() {
            state.changed.push((log, position));
        }
    }

    /// A member acknowledges by its token: also what has come back meanwhile and nobody has taken.
    pub(super) fn acked_by(&self, member: SessionId, log: LogId, position: Offset) {
        let mut state = self.state.lock();
        let key = (log, position);
        let mine = state.assigned.get(&key) == Some(&member);
        if mine {
            state.assigned.remove(&key);
        }
        if mine || state.returned.remove(&key) {
            state.changed.push(key);
        }
    }

    pub(super) fn give_back(&self, log: LogId, position: Offset) {
        let mut state = self.state.lock();
        if state.assigned.remove(&(log, position)).is_some() {
            state.returned.insert((log, position));
            state.changed.push((log, position));
        }
        drop(state);
        self.wake_members();
    }

    /// Queues what the stored rows do not know yet.
    pub(super) fn persist(&self, shared: &Shared, commit: &mut Commit) {
        let dispatched = shared.dispatched();
        let mut state = self.state.lock();
        let state = &mut *state;
        if state.live && state.fresh.is_empty() {
            // Nothing before it waits: a start need not look there.
            state.floor = state.floor.max(dispatched);
        }
        let key = self.filter.as_str().as_bytes();
        if state.floor != state.stored_floor {
            let row = GroupRow {
                start: Some(state.start.to_bytes()),
                floor: Some(state.floor.to_bytes()),
            };
            commit.put(rows::GROUP, key, &row.to_row());
            state.stored_floor = state.floor;
        }
        for (log, position) in state.changed.drain(..) {
            let part = part_key(&self.filter, log, position);
            let assigned = state.assigned.get(&(log, position));
            if assigned.is_some() || state.returned.contains(&(log, position)) {
                let row = GroupPartRow {
                    count: 1,
                    session: assigned.map(|id| id.0),
                    qos: Qos::AtLeastOnce as u8,
                };
                commit.put(rows::GROUP_PART, &part, &row.to_row());
            } else {
                commit.delete(rows::GROUP_PART, &part);
            }
        }
    }
}

/// `false`: nobody serves it.
fn wake(session: &Arc<Session>) -> bool {
    let queue = session.queue.lock();
    queue.wake();
    queue.signal.is_some()
}

fn part_key(filter: &TopicFilter, log: LogId, position: Offset) -> Vec<u8> {
    let mut key = filter.as_str().as_bytes().to_vec();
    // A filter holds no NUL, so the key splits at the first one.
    key.push(0);
    key.extend_from_slice(&log.0.to_be_bytes());
    key.extend_from_slice(&position.0.to_be_bytes());
    key
}

fn split_part_key(key: &[u8]) -> Option<(&[u8], LogId, Offset)> {
    let (rest, position) = key.split_last_chunk::<8>()?;
    let (rest, log) = rest.split_last_chunk::<8>()?;
    let (_, filter) = rest.split_last()?;
    Some((
        filter,
        LogId(u64::from_be_bytes(*log)),
        Offset(u64::from_be_bytes(*position)),
    ))
}

/// All groups, by their filter.
#[derive(Default)]
pub struct GroupTable {
    groups: RwLock<AHashMap<TopicFilter, Arc<ShareGroup>>>,
}

impl GroupTable {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.groups.read().len()
    }

    /// The group of a filter.
    pub(super) fn get(&self, filter: &TopicFilter) -> Option<Arc<ShareGroup>> {
        self.groups.read().get(filter).cloned()
    }

    /// Queues the row of a group that begins with this commit.
    pub(super) fn put_row(&self, filter: &TopicFilter, commit: &mut Commit) {
        if self.get(filter).is_none() {
            let row = GroupRow {
                start: None,
                floor: None,
            };
            commit.put(rows::GROUP, filter.as_str().as_bytes(), &row.to_row());
        }
    }

    /// A session is a member from now on; the first one's mark is the group's start.
    pub(super) fn join(&self, shared: &Shared, session: &Arc<Session>, filter: &TopicFilter, mark: Mark) {
        // The table stays locked, so that a group that ends meanwhile is not joined.
        let mut groups = self.groups.write();
        let group = groups
            .entry(filter.clone())
            .or_insert_with(|| Arc::new(ShareGroup::new(filter.clone(), mark)));
        let mut state = group.state.lock();
        if !state.members.iter().any(|held| held.id == session.id) {
            state.members.push(Arc::clone(session));
        }
        drop(state);
        shared.tree.add_group(group);
        shared.topics.holders_changed(filter);
    }

    /// A session is no member any more; with the last one the group ends. What it had taken goes back, except what
    /// `stays` with it: a `QoS` 2 message that was sent is given to nobody else.
    pub(super) fn leave(&self, shared: &Shared, session: &Session, filter: &TopicFilter, stays: &[(LogId, Offset)]) {
        let mut groups = self.groups.write();
        let Some(group) = groups.get(filter).cloned() else {
            return;
        };
        let mut state = group.state.lock();
        state.members.retain(|held| held.id != session.id);
        let mine: Vec<_> = state
            .assigned
            .iter()
            .filter(|(_, id)| **id == session.id)
            .map(|(key, _)| *key)
            .collect();
        let came_back = !mine.is_empty();
        for key in mine {
            state.assigned.remove(&key);
            if !stays.contains(&key) {
                state.returned.insert(key);
            }
            state.changed.push(key);
        }
        let ends = state.members.is_empty();
        let parts: Vec<_> = state.assigned.keys().chain(state.returned.iter()).copied().collect();
        let gone = std::mem::take(&mut state.changed);
        if !ends {
            state.changed = gone;
            drop(state);
            drop(groups);
            if came_back {
                group.wake_members();
            }
            return;
        }
        drop(state);
        groups.remove(filter);
        shared.tree.remove_group(filter);
        shared.topics.holders_changed(filter);
        // Under the table's lock: the row of a group that begins anew stands behind this.
        let mut commit = shared.store.begin(crate::store::Class::C);
        commit.lazy();
        commit.delete(rows::GROUP, filter.as_str().as_bytes());
        for (log, position) in parts.into_iter().chain(gone) {
            commit.delete(rows::GROUP_PART, &part_key(filter, log, position));
        }
        if let Err(refused) = shared.store.commit(commit) {
            tracing::warn!(%refused, filter = filter.as_str(), "the end of a share group cannot be stored");
        }
    }

    /// Takes up the row of a group.
    pub(super) fn restore(&self, key: &[u8], row: Option<GroupRow>, mark: Mark) {
        let Some(filter) = std::str::from_utf8(key)
            .ok()
            .and_then(|text| TopicFilter::parse(text).ok())
        else {
            return;
        };
        let mut groups = self.groups.write();
        let Some(row) = row else {
            groups.remove(&filter);
            return;
        };
        let start = row.start.map_or(mark, Mark::from_bytes);
        let group = groups
            .entry(filter.clone())
            .or_insert_with(|| Arc::new(ShareGroup::new(filter, start)));
        let mut state = group.state.lock();
        state.floor = row.floor.map_or(start, Mark::from_bytes);
        state.stored_floor = state.floor;
    }

    /// Takes up what was assigned or had come back.
    pub(super) fn restore_part(&self, key: &[u8], row: Option<GroupPartRow>) {
        let Some((filter, log, position)) = split_part_key(key) else {
            return;
        };
        let filter = std::str::from_utf8(filter)
            .ok()
            .and_then(|text| TopicFilter::parse(text).ok());
        let Some(group) = filter.and_then(|filter| self.get(&filter)) else {
            return;
        };
        let mut state = group.state.lock();
        state.assigned.remove(&(log, position));
        state.returned.remove(&(log, position));
        match row.map(|row| row.session) {
            Some(Some(session)) => {
                state.assigned.insert((log, position), SessionId(session));
            }
            Some(None) => {
                state.returned.insert((log, position));
            }
            None => {}
        }
    }

    /// After a start everything assigned counts as returned, except what `keeps` says stays with its member.
    pub(super) fn resume(&self, keeps: impl Fn(&TopicFilter, SessionId, LogId, Offset) -> bool) {
        // A group whose last member is gone ended with it, whether or not that was stored.
        self.groups
            .write()
            .retain(|_, group| !group.state.lock().members.is_empty());
        for group in self.groups.read().values() {
            let mut state = group.state.lock();
            let lost: Vec<_> = state
                .assigned
                .iter()
                .filter(|((log, at), id)| !keeps(&group.filter, **id, *log, *at))
                .map(|(key, _)| *key)
                .collect();
            for key in lost {
                state.assigned.remove(&key);
                state.returned.insert(key);
                state.changed.push(key);
            }
        }
    }
}

impl GroupTable {
    /// Queues what the rows of all groups do not know yet.
    pub(super) fn persist(&self, shared: &Shared, commit: &mut Commit) {
        for group in self.groups.read().values() {
            group.persist(shared, commit);
        }
    }
}

impl Shared {
    /// An exchange ended: the group forgets the message if it was one of a group.
    pub(super) fn group_acked(&self, state: &mut SessionState, packet_id: u16, outgoing: &Outgoing) {
        if let Some(filter) = state.group_ids.remove(&packet_id)
            && let Some(group) = self.groups.get(&filter)
        {
            group.acked(outgoing.log, outgoing.position);
        }
    }

    /// After a start: a `QoS` 2 message stays with the member it was sent to; a `QoS` 1 message is the group's again.
    pub(super) fn stays_with_member(
        &self,
        filter: &TopicFilter,
        member: SessionId,
        log: LogId,
        position: Offset,
    ) -> bool {
        let Some(session) = self.sessions.by_id(member) else {
            return false;
        };
        let mut state = session.state.lock();
        let sent = |id: &u16| {
            state
                .inflight
                .get(*id)
                .is_some_and(|outgoing| outgoing.log == log && outgoing.position == position)
        };
        let Some(id) = state.inflight.open_ids().into_iter().find(sent) else {
            return false;
        };
        let stays = state
            .inflight
            .get(id)
            .is_some_and(|outgoing| outgoing.qos == Qos::ExactlyOnce);
        if stays {
            state.group_ids.insert(id, filter.clone());
        } else {
            state.inflight.complete(id);
        }
        stays
    }

    /// A session leaves a group: `QoS` 1 messages it had go back, a `QoS` 2 message that was sent stays its own.
    pub(super) fn leave_group(&self, session: &Session, state: &mut SessionState, filter: &TopicFilter) {
        let ids: Vec<_> = state
            .group_ids
            .iter()
            .filter(|(_, held)| *held == filter)
            .map(|(id, _)| *id)
            .collect();
        let mut stays = Vec::new();
        for id in ids {
            state.group_ids.remove(&id);
            match state.inflight.get(id) {
                Some(outgoing) if outgoing.qos == Qos::ExactlyOnce => stays.push((outgoing.log, outgoing.position)),
                Some(_) => {
                    state.inflight.complete(id);
                    if let Some(link) = &mut state.link {
                        link.outstanding = link.outstanding.saturating_sub(1);
                    }
                }
                None => {}
            }
        }
        self.groups.leave(self, session, filter, &stays);
    }

    /// A member's connection has ended: its `QoS` 1 messages go back to their groups at once; a `QoS` 2 message stays
    /// its own (v5 [MQTT-4.8.2-4], [MQTT-4.8.2-5]).
    pub(super) fn return_to_groups(&self, session: &Session, state: &mut SessionState) {
        if session.kind != SessionKind::Mqtt || state.group_ids.is_empty() {
            return;
        }
        let mut ids: Vec<_> = state.group_ids.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            let Some(outgoing) = state.inflight.get(id) else {
                continue;
            };
            if outgoing.qos == Qos::AtLeastOnce
                && let Some(filter) = state.group_ids.remove(&id)
            {
                state.inflight.complete(id);
                if let Some(group) = self.groups.get(&filter) {
                    group.give_back(outgoing.log, outgoing.position);
                }
            }
        }
    }
}
