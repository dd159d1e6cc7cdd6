//! Labels: named tags in groups, which sessions and topics point at by id.
//!
//! A group is nothing but the common text of its labels. Texts of JSON (value, metadata) are opaque here.
//!
//! **Invariants**
//! - (group, name) is unique, an id is never given twice, also across restarts and deletions.
//! - A label is handed to the store before its id is shown to anyone. Whoever stores that id does so behind it in the
//!   log, so no row ever points at a label that a crash could lose.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use super::rows::StoredRow;
use super::rows::label::{LabelRow, NextLabelRow, key, parse_key};
use super::rows::{self, RowError};
use crate::store::{self, Class, Refused, Store, Ticket};

/// A label's number: from 1, at most `i32::MAX`, never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LabelId(pub u32);

/// The last id there can be: the wire has 31 bits.
const ID_MAX: u32 = i32::MAX as u32;

/// One label.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Label {
    /// Its number.
    pub id: LabelId,
    /// Everything else.
    pub stored: LabelRow,
}

impl LabelRow {
    /// A label with nothing but its name.
    pub fn named(group: &str, name: &str) -> Self {
        Self {
            group: group.to_owned(),
            name: name.to_owned(),
            value: None,
            number: None,
            sequence: None,
            deprecated: false,
            description: String::new(),
            metadata: "{}".to_owned(),
        }
    }
}

/// Why labels do not change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LabelError {
    /// (group, name) is taken.
    Exists {
        /// The group.
        group: String,
        /// The name in it.
        name: String,
    },
    /// No label has this id.
    NotFound(LabelId),
    /// All ids were given.
    NoIds,
    /// Definite: nothing was stored.
    Refused(Refused),
    /// Indefinite: the next start decides.
    Store(store::Error),
}

impl fmt::Display for LabelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exists { group, name } => write!(f, "label `{name}` exists already in group `{group}`"),
            Self::NotFound(id) => write!(f, "label `{}` does not exist", id.0),
            Self::NoIds => f.write_str("no label id is left"),
            Self::Refused(refused) => refused.fmt(f),
            Self::Store(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for LabelError {}

#[derive(Default)]
struct State {
    labels: BTreeMap<LabelId, Arc<Label>>,
    /// Group, then name.
    names: HashMap<String, HashMap<String, LabelId>>,
    /// The last id given.
    last: u32,
}

impl State {
    fn find(&self, group: &str, name: &str) -> Option<LabelId> {
        self.names.get(group)?.get(name).copied()
    }

    fn insert(&mut self, label: Label) {
        self.remove(label.id);
        self.last = self.last.max(label.id.0);
        self.names
            .entry(label.stored.group.clone())
            .or_default()
            .insert(label.stored.name.clone(), label.id);
        self.labels.insert(label.id, Arc::new(label));
    }

    fn remove(&mut self, id: LabelId) {
        let Some(label) = self.labels.remove(&id) else { return };
        if let Some(group) = self.names.get_mut(&label.stored.group) {
            if group.get(&label.stored.name) == Some(&id) {
                group.remove(&label.stored.name);
            }
            if group.is_empty() {
                self.names.remove(&label.stored.group);
            }
        }
    }
}

/// The table of all labels.
pub struct Labels {
    store: Arc<dyn Store>,
    state: Mutex<State>,
}

impl Labels {
    /// An empty table; rows come through [`Labels::apply_row`].
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            state: Mutex::default(),
        }
    }

    /// Takes over one stored row at start; `None` is a deletion. Newest wins, by order of calls.
    ///
    /// # Errors
    /// If the row or its key cannot be read.
    pub fn apply_row(&self, row_key: &[u8], row: Option<&[u8]>) -> Result<(), RowError> {
        let id = parse_key(row_key)?;
        let mut state = self.state.lock();
        match row {
            Some(row) if id == 0 => {
                let NextLabelRow(next) = NextLabelRow::from_row(row)?;
                state.last = state.last.max(next.saturating_sub(1));
            }
            Some(row) => {
                let stored = LabelRow::from_row(row)?;
                state.insert(Label {
                    id: LabelId(id),
                    stored,
                });
            }
            None => state.remove(LabelId(id)),
        }
        Ok(())
    }

    /// One label by id.
    pub fn get(&self, id: LabelId) -> Option<Arc<Label>> {
        self.state.lock().labels.get(&id).cloned()
    }

    /// One label by group and name.
    pub fn find(&self, group: &str, name: &str) -> Option<Arc<Label>> {
        let state = self.state.lock();
        state.labels.get(&state.find(group, name)?).cloned()
    }

    /// All labels, by id.
    pub fn list(&self) -> Vec<Arc<Label>> {
        self.state.lock().labels.values().cloned().collect()
    }

    /// The label of a group and name; made if there is none. Handed over, not awaited: a row that points at it is
    /// durable only behind it.
    ///
    /// # Errors
    /// See [`LabelError`].
    pub fn find_or_create(&self, group: &str, name: &str) -> Result<LabelId, LabelError> {
        let mut state = self.state.lock();
        if let Some(id) = state.find(group, name) {
            return Ok(id);
        }
        let (label, _ticket) = self.insert(&mut state, LabelRow::named(group, name))?;
        Ok(label.id)
    }

    /// Makes a label; durable when this returns.
    ///
    /// # Errors
    /// See [`LabelError`].
    pub async fn create(&self, stored: LabelRow) -> Result<Label, LabelError> {
        let (label, ticket) = {
            let mut state = self.state.lock();
            if state.find(&stored.group, &stored.name).is_some() {
                return Err(LabelError::Exists {
                    group: stored.group,
                    name: stored.name,
                });
            }
            self.insert(&mut state, stored)?
        };
        self.settle(&ticket).await?;
        Ok(label)
    }

    fn insert(&self, state: &mut State, stored: LabelRow) -> Result<(Label, Ticket), LabelError> {
        if state.last >= ID_MAX {
            return Err(LabelError::NoIds);
        }
        let label = Label {
            id: LabelId(state.last + 1),
            stored,
        };
        let mut commit = self.store.begin(Class::C);
        commit.put(rows::LABEL, &key(label.id.0), &label.stored.to_row());
        let ticket = self.store.commit(commit).map_err(LabelError::Refused)?;
        state.insert(label.clone());
        Ok((label, ticket))
    }

    /// Changes all labels that `selects`, all or none; durable when this returns. The result holds them as they were.
    ///
    /// # Errors
    /// See [`LabelError`]; [`LabelError::Exists`] if two labels would have the same group and name.
    pub async fn alter(
        &self,
        selects: impl Fn(&Label) -> bool,
        change: impl Fn(&mut LabelRow),
    ) -> Result<Vec<Arc<Label>>, LabelError> {
        let (before, ticket) = {
            let mut state = self.state.lock();
            let before: Vec<_> = state.labels.values().filter(|label| selects(label)).cloned().collect();
            let after: Vec<Label> = before
                .iter()
                .map(|label| {
                    let mut label = Label::clone(label);
                    change(&mut label.stored);
                    label
                })
                .collect();
            let mut names = HashMap::new();
            for label in &after {
                let (group, name) = (&label.stored.group, &label.stored.name);
                let taken_by = state.find(group, name);
                let by_another = taken_by.is_some_and(|id| !before.iter().any(|label| label.id == id));
                if names.insert((group, name), label.id).is_some() || by_another {
                    return Err(LabelError::Exists {
                        group: group.clone(),
                        name: name.clone(),
                    });
                }
            }
            let mut commit = self.store.begin(Class::C);
            for label in &after {
                commit.put(rows::LABEL, &key(label.id.0), &label.stored.to_row());
            }
            let ticket = self.store.commit(commit).map_err(LabelError::Refused)?;
            for label in &before {
                state.remove(label.id);
            }
            for label in after {
                state.insert(label);
            }
            (before, ticket)
        };
        self.settle(&ticket).await?;
        Ok(before)
    }

    /// Deletes all labels that `selects`; durable when this returns. The result holds them as they were.
    ///
    /// # Errors
    /// See [`LabelError`].
    pub async fn remove(&self, selects: impl Fn(&Label) -> bool) -> Result<Vec<Arc<Label>>, LabelError> {
        let (before, ticket) = {
            let mut state = self.state.lock();
            let before: Vec<_> = state.labels.values().filter(|label| selects(label)).cloned().collect();
            let mut commit = self.store.begin(Class::C);
            if !before.is_empty() {
                commit.put(rows::LABEL, &key(0), &NextLabelRow(state.last + 1).to_row());
            }
            for label in &before {
                commit.delete(rows::LABEL, &key(label.id.0));
            }
            let ticket = self.store.commit(commit).map_err(LabelError::Refused)?;
            for label in &before {
                state.remove(label.id);
            }
            (before, ticket)
        };
        self.settle(&ticket).await?;
        Ok(before)
    }

    async fn settle(&self, ticket: &Ticket) -> Result<(), LabelError> {
        self.store.settled(ticket).await.map_err(LabelError::Store)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::rows::LABEL;
    use crate::clock::Clock;
    use crate::store::memory::MemoryStore;
    use crate::store::{FeedItem, MessageLog, MetaStore};

    fn labels() -> (Arc<MemoryStore>, Labels) {
        let store = MemoryStore::new(Clock::manual(0));
        let mut feed = store.feed();
        tokio::spawn(async move { while !matches!(feed.next().await, FeedItem::Closed | FeedItem::Latched(_)) {} });
        let labels = Labels::new(store.clone());
        (store, labels)
    }

    async fn reread(store: &Arc<MemoryStore>) -> Labels {
        let again = Labels::new(store.clone());
        for (key, row) in store.scan(LABEL, vec![]..vec![0xFF; 8], 99).await.unwrap() {
            again.apply_row(&key, Some(&row.bytes)).unwrap();
        }
        again
    }

    #[tokio::test]
    async fn an_id_is_not_given_again_after_deletion_and_restart() {
        let (store, labels) = labels();
        let first = labels.find_or_create("zone", "north").unwrap();
        assert_eq!(first, LabelId(1));
        assert_eq!(labels.find_or_create("zone", "north"), Ok(first));
        let second = labels.create(LabelRow::named("", "north")).await.unwrap();
        labels.remove(|label| label.id == second.id).await.unwrap();
        let again = reread(&store).await;
        assert_eq!(again.find("zone", "north").unwrap().id, first);
        assert!(again.get(second.id).is_none());
        assert_eq!(again.find_or_create("", "north"), Ok(LabelId(3)));
    }

    #[tokio::test]
    async fn a_collision_of_names_changes_nothing_and_a_swap_within_the_change_is_none() {
        let (store, labels) = labels();
        for (group, name) in [("a", "x"), ("b", "x"), ("a", "y")] {
            labels.create(LabelRow::named(group, name)).await.unwrap();
        }
        let moved = labels
            .alter(|label| label.stored.name == "x", |stored| stored.group = "a".into())
            .await;
        assert!(matches!(moved, Err(LabelError::Exists { .. })));
        assert!(labels.find("b", "x").is_some());
        let swapped = labels
            .alter(
                |label| label.stored.group == "a",
                |stored| stored.name = if stored.name == "x" { "y" } else { "x" }.into(),
            )
            .await
            .unwrap();
        assert_eq!(swapped.len(), 2);
        let again = reread(&store).await;
        assert_eq!(again.find("a", "y").unwrap().id, LabelId(1));
        assert_eq!(again.find("a", "x").unwrap().id, LabelId(3));
    }
}
