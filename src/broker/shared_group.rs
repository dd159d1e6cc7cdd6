//! Share groups: one position for all members, each message to one of them (spec/semantics.md 7).
//!
//! A group reads like a session: its own floor, explicit positions and references from the dispatcher. Members take
//! from it when they are served; what a member took is assigned to it until it is acknowledged or comes back.
//!
//! **Invariants**
//! - A message is assigned to one member at most; what comes back is taken before anything newer.
//! - The group's lock is taken inside a session's state lock, never the other way round.

use std::collections::BTreeMap;
use std::sync::Arc;

use ahash::AHashMap;
use parking_lot::{Mutex, RwLock};
use rustc_hash::FxHashSet;

use super::Shared;
use super::inflight::Outgoing;
use super::message::Qos;
use super::rows;
use super::rows::StoredRow;
use super::rows::session::{GroupPartRow, GroupRow};
use super::session::{Session, SessionId, SessionKind, SessionState};
use super::topic::Topic;
use super::topic_filter::TopicFilter;
use crate::store::{At, Batch, Commit, Limit, LogId, Mark, Offset, ReadBuf};

/// References a group holds before it reads the log again.
const REFERENCES_MAX: usize = 4_096;
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
    /// References of the dispatcher, while the group is at the end of the log.
    fresh: std::collections::VecDeque<(LogId, Offset, Mark)>,
    /// The dispatcher hands references; else the log is read.
    live: bool,
    /// Behind the last message that was not taken as a reference.
    unheld: Mark,
    returned: BTreeMap<(LogId, Offset), ()>,
    assigned: BTreeMap<(LogId, Offset), SessionId>,
    changed: Vec<(LogId, Offset)>,
    next_member: usize,
    /// Members whose window was full when they were served last: they come by themselves when it is not any more.
    full: FxHashSet<SessionId>,
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

    /// References of the dispatcher; wakes the members that should take them. `true`: the group reads the log itself,
    /// and its members are to be woken again when the batch is dispatched.
    ///
    /// Early records are left to their durable batch: their positions may not be noted before.
    pub(super) fn hand(&self, batch: &Batch, topic: &Topic, entries: &[u32]) -> bool {
        let mut state = self.state.lock();
        let live = state.live;
        for entry in entries.iter().filter_map(|place| batch.entries.get(*place as usize)) {
            if entry.mark < state.start {
                continue;
            }
            if state.live {
                state.fresh.push_back((topic.log, entry.position, entry.mark));
            } else {
                state.unheld = entry.mark.just_behind();
            }
        }
        if state.fresh.len() > REFERENCES_MAX {
            state.floor = state.fresh.front().map_or(state.floor, |(_, _, mark)| *mark);
            state.unheld = batch.end;
            state.fresh.clear();
            state.live = false;
        }
        drop(state);
        self.wake_some(entries.len());
        !live
    }

    /// Wakes so many members that are connected and have room, in turn.
    fn wake_some(&self, count: usize) {
        let (members, turn) = {
            let mut state = self.state.lock();
            let state = &mut *state;
            let turn = state.next_member;
            state.next_member = turn.wrapping_add(1);
            let able = state.members.iter().filter(|held| !state.full.contains(&held.id));
            (able.cloned().collect::<Vec<_>>(), turn)
        };
        let able = members.len().max(1);
        let in_turn = members.iter().cycle().skip(turn % able).take(members.len());
        // Absent ones do not count.
        in_turn.filter(|member| wake(member)).take(count).for_each(drop);
    }

    /// A member cannot take: another one shall.
    fn pass_on(&self, member: SessionId) {
        let mut state = self.state.lock();
        let waits = !state.live || !state.fresh.is_empty() || !state.returned.is_empty();
        if state.full.insert(member) && waits {
            drop(state);
            self.wake_some(1);
        }
    }

    /// Wakes all members.
    pub(super) fn wake_members(&self) {
        let members = self.state.lock().members.clone();
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
    pub(super) async fn take(&self, shared: &Shared, member: SessionId, wanted: usize) -> Vec<Waiting> {
        self.take_some(shared, member, wanted, true).await
    }

    /// Takes messages for a member that asks for them: as many as it wants.
    pub(super) async fn take_all(&self, shared: &Shared, member: SessionId, wanted: usize) -> Vec<Waiting> {
        self.take_some(shared, member, wanted, false).await
    }

    async fn take_some(&self, shared: &Shared, member: SessionId, wanted: usize, fair: bool) -> Vec<Waiting> {
        if wanted == 0 {
            self.pass_on(member);
            return Vec::new();
        }
        let _one = self.reading.lock().await;
        let needs_log = {
            let state = self.state.lock();
            !state.live && state.fresh.is_empty()
        };
        if needs_log {
            self.read_log(shared).await;
        }
        let mut state = self.state.lock();
        state.full.remove(&member);
        if !state.members.iter().any(|held| held.id == member) {
            return Vec::new();
        }
        let count = if fair { Self::share(&state, wanted) } else { wanted };
        let mut taken = Vec::with_capacity(count);
        while taken.len() < count
            && let Some(((log, position), ())) = state.returned.pop_first()
        {
            taken.push(Waiting { log, position });
        }
        while taken.len() < count
            && let Some((log, position, mark)) = state.fresh.pop_front()
        {
            state.floor = mark.just_behind();
            taken.push(Waiting { log, position });
        }
        for one in &taken {
            state.assigned.insert((one.log, one.position), member);
            state.changed.push((one.log, one.position));
        }
        taken
    }

    /// Fills the references from the log, in log order, and joins the dispatcher at its end.
    async fn read_log(&self, shared: &Shared) {
        let (floor, start) = {
            let mut state = self.state.lock();
            let dispatched = shared.dispatched();
            if state.floor >= dispatched {
                // What the batch being walked holds for the group lies behind the floor and was not taken: then the
                // members are woken when it is dispatched, and look again.
                state.live = state.unheld <= state.floor;
                return;
            }
            (state.floor, state.start)
        };
        let upto = shared.dispatched();
        let mut touched = Vec::new();
        let limit = Limit {
            records: STEP_TOPICS_MAX,
            bytes: 16 << 20,
            before: upto,
        };
        let Ok(upto) = shared.store.touched(floor, limit, &mut touched).await else {
            return;
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
            if let Ok(progress) = shared.store.read(topic.log, first, limit, &mut buf).await {
                found.extend(
                    buf.records
                        .iter()
                        .map(|record| (topic.log, record.position, record.mark)),
                );
                if progress.more
                    && let Some(last) = buf.records.last()
                {
                    reached = reached.min(last.mark.just_behind());
                }
            }
        }
        found.retain(|(_, _, mark)| *mark < reached && *mark >= start);
        found.sort_unstable_by_key(|(_, _, mark)| *mark);
        let mut state = self.state.lock();
        if found.is_empty() {
            state.floor = state.floor.max(reached);
        }
        state.fresh.extend(found);
    }

    pub(super) fn acked(&self, log: LogId, position: Offset) {
        let mut state = self.state.lock();
        if state.assigned.remove(&(log, position)).is_some() {
            state.changed.push((log, position));
        }
    }

    pub(super) fn give_back(&self, log: LogId, position: Offset) {
        let mut state = self.state.lock();
        if state.assigned.remove(&(log, position)).is_some() {
            state.returned.insert((log, position), ());
            state.changed.push((log, position));
        }
        drop(state);
        self.wake_members();
    }

    /// Queues what the stored rows do not know yet.
    pub(super) fn persist(&self, commit: &mut Commit) {
        let mut state = self.state.lock();
        let state = &mut *state;
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
            if assigned.is_some() || state.returned.contains_key(&(log, position)) {
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

/// Wakes whoever serves a session; `false`: nobody does.
fn wake(session: &Arc<Session>) -> bool {
    let queue = session.queue.lock();
    queue.signal.as_ref().map(|signal| signal.wake()).is_some()
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
        let group = Arc::clone(
            self.groups
                .write()
                .entry(filter.clone())
                .or_insert_with(|| Arc::new(ShareGroup::new(filter.clone(), mark))),
        );
        let mut state = group.state.lock();
        if !state.members.iter().any(|held| held.id == session.id) {
            state.members.push(Arc::clone(session));
        }
        drop(state);
        shared.tree.add_group(&group);
        shared.topics.holders_changed(filter);
    }

    /// A session is no member any more; with the last one the group ends.
    pub(super) fn leave(&self, shared: &Shared, session: &Session, filter: &TopicFilter) {
        let Some(group) = self.get(filter) else { return };
        let mut state = group.state.lock();
        state.members.retain(|held| held.id != session.id);
        state.full.remove(&session.id);
        let mine: Vec<_> = state
            .assigned
            .iter()
            .filter(|(_, id)| **id == session.id)
            .map(|(key, _)| *key)
            .collect();
        for key in mine {
            state.assigned.remove(&key);
            state.returned.insert(key, ());
            state.changed.push(key);
        }
        let ends = state.members.is_empty();
        let parts: Vec<_> = state.assigned.keys().chain(state.returned.keys()).copied().collect();
        drop(state);
        if ends {
            self.groups.write().remove(filter);
            shared.tree.remove_group(filter);
            shared.topics.holders_changed(filter);
            let mut commit = shared.store.begin(crate::store::Class::C);
            commit.lazy();
            commit.delete(rows::GROUP, filter.as_str().as_bytes());
            for (log, position) in parts {
                commit.delete(rows::GROUP_PART, &part_key(filter, log, position));
            }
            if let Err(refused) = shared.store.commit(commit) {
                tracing::warn!(%refused, filter = filter.as_str(), "the end of a share group cannot be stored");
            }
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
                state.returned.insert((log, position), ());
            }
            None => {}
        }
    }

    /// After a start everything assigned counts as returned, except what `keeps` says stays with its member.
    pub(super) fn resume(&self, keeps: impl Fn(&TopicFilter, SessionId, LogId, Offset) -> bool) {
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
                state.returned.insert(key, ());
                state.changed.push(key);
            }
        }
    }
}

impl GroupTable {
    /// Queues what the rows of all groups do not know yet.
    pub(super) fn persist(&self, commit: &mut Commit) {
        for group in self.groups.read().values() {
            group.persist(commit);
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

    /// A member's connection has ended: its `QoS` 1 messages go back to their groups at once; a `QoS` 2 message stays
    /// its own (v5 [MQTT-4.8.2-4], [MQTT-4.8.2-5]).
    pub(super) fn return_to_groups(&self, session: &Session, state: &mut SessionState) {
        if session.kind != SessionKind::Mqtt {
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
        // What it was woken for and did not take any more.
        for group in state
            .subscriptions
            .shared
            .iter()
            .filter_map(|held| self.groups.get(&held.filter))
        {
            group.wake_members();
        }
    }
}
