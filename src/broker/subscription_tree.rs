//! Which sessions and share groups a topic name concerns: a tree of filter levels.
//!
//! Connected holders of a filter stand apart from absent ones, so a publish costs nothing for who is not there. The
//! tree answers with a [`Matches`] that topics cache until [`SubscriptionTree::epoch`] or their own staleness says
//! otherwise.
//!
//! **Invariants**
//! - A session stands once at each of its ordinary filters, connected or absent.
//! - The epoch moves when a wildcard filter's holders change; holders of an exact filter concern one topic, which the
//!   caller marks as stale.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use ahash::AHashMap;
use parking_lot::RwLock;

use super::session::{Session, SessionId};
use super::shared_group::ShareGroup;
use super::topic_filter::TopicFilter;

/// Whom a topic concerns.
#[derive(Default)]
pub struct Matches {
    /// Connected sessions, each once.
    pub connected: Vec<Arc<Session>>,
    /// Share groups.
    pub groups: Vec<Arc<ShareGroup>>,
    /// Whether any session, absent ones and members of groups included, has a matching filter.
    pub any: bool,
}

#[derive(Default)]
struct Node {
    children: AHashMap<Box<str>, Node>,
    connected: Vec<Arc<Session>>,
    absent: Vec<SessionId>,
    groups: Vec<Arc<ShareGroup>>,
}

impl Node {
    /// Takes a session out; returns whether it was there.
    fn forget(&mut self, session: SessionId) -> bool {
        let before = self.connected.len() + self.absent.len();
        self.connected.retain(|held| held.id != session);
        self.absent.retain(|held| *held != session);
        self.connected.len() + self.absent.len() < before
    }

    fn is_empty(&self) -> bool {
        self.children.is_empty() && self.connected.is_empty() && self.absent.is_empty() && self.groups.is_empty()
    }

    fn collect(&self, into: &mut Matches) {
        into.any |= !self.absent.is_empty() || !self.connected.is_empty() || !self.groups.is_empty();
        into.connected.extend(self.connected.iter().cloned());
        into.groups.extend(self.groups.iter().cloned());
    }

    fn matches<'l>(&self, mut levels: impl Iterator<Item = &'l str> + Clone, first: Option<&str>, into: &mut Matches) {
        let wildcards = !first.is_some_and(|first| first.starts_with('$'));
        if wildcards && let Some(node) = self.children.get("#") {
            node.collect(into);
        }
        let Some(level) = levels.next() else {
            self.collect(into);
            return;
        };
        if let Some(node) = self.children.get(level) {
            node.matches(levels.clone(), None, into);
        }
        if wildcards && let Some(node) = self.children.get("+") {
            node.matches(levels, None, into);
        }
    }

    fn at<R>(&mut self, mut levels: std::str::Split<'_, char>, change: impl FnOnce(&mut Self) -> R) -> R {
        let Some(level) = levels.next() else {
            return change(self);
        };
        let node = self.children.entry(level.into()).or_default();
        let result = node.at(levels, change);
        if node.is_empty() {
            self.children.remove(level);
        }
        result
    }
}

/// All filters of all sessions.
#[derive(Default)]
pub struct SubscriptionTree {
    root: RwLock<Node>,
    epoch: AtomicU64,
    /// Holders of filters; changed under the lock of `root`.
    held: AtomicUsize,
}

impl SubscriptionTree {
    /// Changes whenever cached matches of any topic may have changed through a wildcard filter.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Ordinary subscriptions, of connected sessions and absent ones.
    pub fn len(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whom a topic concerns now.
    pub fn matches(&self, name: &str) -> Matches {
        let mut matches = Matches::default();
        let levels = name.split('/');
        let first = levels.clone().next();
        self.root.read().matches(levels, first, &mut matches);
        if matches.connected.len() > 1 {
            matches.connected.sort_unstable_by_key(|session| session.id);
            matches.connected.dedup_by_key(|session| session.id);
        }
        matches
    }

    fn change<R>(&self, filter: &TopicFilter, change: impl FnOnce(&mut Node) -> R) -> R {
        let result = self.root.write().at(filter.filter().split('/'), change);
        if filter.is_wildcard() {
            self.epoch.fetch_add(1, Ordering::AcqRel);
        }
        result
    }

    /// Puts a session at an ordinary filter, or moves it between connected and absent.
    pub fn set(&self, filter: &TopicFilter, session: &Arc<Session>, connected: bool) {
        self.change(filter, |node| {
            if !node.forget(session.id) {
                self.held.fetch_add(1, Ordering::Relaxed);
            }
            if connected {
                node.connected.push(Arc::clone(session));
            } else {
                node.absent.push(session.id);
            }
        });
    }

    /// Takes a session from an ordinary filter.
    pub fn remove(&self, filter: &TopicFilter, session: SessionId) {
        self.change(filter, |node| {
            if node.forget(session) {
                self.held.fetch_sub(1, Ordering::Relaxed);
            }
        });
    }

    /// Puts a share group at its filter.
    pub fn add_group(&self, group: &Arc<ShareGroup>) {
        self.change(&group.filter, |node| {
            if !node.groups.iter().any(|held| held.filter == group.filter) {
                node.groups.push(Arc::clone(group));
            }
        });
    }

    /// Takes a share group from its filter.
    pub fn remove_group(&self, filter: &TopicFilter) {
        self.change(filter, |node| node.groups.retain(|held| held.filter != *filter));
    }
}
