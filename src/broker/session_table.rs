//! All sessions, by client name and by number.
//!
//! **Invariants**
//! - A client name belongs to one session, of either kind.
//! - A number is never given twice: incarnation and a counter.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use rustc_hash::FxHashMap;

use super::session::{Session, SessionId};

/// Bits of a session's number that count within an incarnation.
const COUNTER_BITS: u32 = 40;

/// The table.
#[derive(Default)]
pub struct SessionTable {
    names: RwLock<BTreeMap<Arc<str>, Arc<Session>>>,
    ids: RwLock<FxHashMap<SessionId, Arc<Session>>>,
    next: AtomicU64,
}

impl SessionTable {
    /// Begins the numbers of an incarnation.
    pub(super) fn begin(&self, incarnation: u64) {
        self.next.store(incarnation << COUNTER_BITS | 1, Ordering::Release);
    }

    /// A number nobody had.
    pub(super) fn next_id(&self) -> SessionId {
        SessionId(self.next.fetch_add(1, Ordering::AcqRel))
    }

    /// The session of a client name.
    pub fn get(&self, name: &str) -> Option<Arc<Session>> {
        self.names.read().get(name).cloned()
    }

    /// The session of a number.
    pub fn by_id(&self, id: SessionId) -> Option<Arc<Session>> {
        self.ids.read().get(&id).cloned()
    }

    /// The session of a name, or the one that `make` makes; `true` if it was made.
    pub(super) fn get_or_insert(&self, name: &str, make: impl FnOnce() -> Arc<Session>) -> (Arc<Session>, bool) {
        let mut names = self.names.write();
        if let Some(session) = names.get(name) {
            return (Arc::clone(session), false);
        }
        let session = make();
        names.insert(Arc::clone(&session.name), Arc::clone(&session));
        self.ids.write().insert(session.id, Arc::clone(&session));
        (session, true)
    }

    pub(super) fn insert(&self, session: &Arc<Session>) {
        self.names
            .write()
            .insert(Arc::clone(&session.name), Arc::clone(session));
        self.ids.write().insert(session.id, Arc::clone(session));
    }

    /// Takes a session out; its name is free then.
    pub(super) fn remove(&self, session: &Session) {
        let mut names = self.names.write();
        if names.get(&session.name).is_some_and(|held| held.id == session.id) {
            names.remove(&session.name);
        }
        self.ids.write().remove(&session.id);
    }

    /// All sessions whose name begins with `prefix`, by name.
    pub fn list(&self, prefix: &str) -> Vec<Arc<Session>> {
        let names = self.names.read();
        let from = (std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded);
        names
            .range::<str, _>(from)
            .take_while(|(name, _)| name.starts_with(prefix))
            .map(|(_, session)| Arc::clone(session))
            .collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ids.read().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
