//! What a monitor wants to see of a broker at a moment: sizes of its tables, and the store's counters.
//!
//! **Invariants**
//! - Reading costs a few short locks, however much the broker holds; nothing is counted for it per message.

use super::Broker;
use crate::store::{StoreState, Written};

/// Sizes and counters at a moment; each is right by itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gauges {
    /// Connections that serve a session now.
    pub connections: usize,
    /// Messaging sessions of both kinds, connected or not.
    pub sessions: usize,
    /// Ordinary subscriptions, each of one session to one filter.
    pub subscriptions: usize,
    /// Share groups, each of one filter.
    pub share_groups: usize,
    /// Topics.
    pub topics: usize,
    /// Topics with a retained message.
    pub retained: usize,
    /// Logins of the action API.
    pub logins: usize,
    /// Whether the store takes commits.
    pub store: StoreState,
    /// What the store has written since it was opened.
    pub written: Written,
}

impl Broker {
    /// Sizes and counters now.
    pub fn gauges(&self) -> Gauges {
        let shared = &self.0;
        let (sessions, topics, retained) = self.counts();
        Gauges {
            connections: shared.waiters.lock().len(),
            sessions,
            subscriptions: shared.tree.len(),
            share_groups: shared.groups.len(),
            topics,
            retained,
            logins: shared.logins.len(),
            store: shared.store.state(),
            written: shared.store.written(),
        }
    }
}
