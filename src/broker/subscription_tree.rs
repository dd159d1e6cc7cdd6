//! Which sessions and share groups a topic name concerns: a tree of filter levels.
//!
//! Connected holders of a filter stand apart from absent ones, so a publish costs nothing for who is not there. The
//! tree answers with a [`Matches`] that topics cache until [`SubscriptionTree::epoch`] or their own staleness says
//! otherwise.
//!
//! **Invariants**
//! - A session stands once at each of its ordinary filters, connected or absent.
//! - Nothing here recurses: one filter may have as many levels as a string has bytes.
//! - The epoch moves when a wildcard filter's holders change; holders of an exact filter concern one topic, which the
//!   caller marks as stale.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use ahash::AHashMap;
use parking_lot::RwLock;
use smallvec::{SmallVec, smallvec};

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
    fn holds_somebody(&self) -> bool {
        !self.connected.is_empty() || !self.absent.is_empty() || !self.groups.is_empty()
    }

    /// Takes a session out; returns whether it was there.
    fn forget(&mut self, session: SessionId) -> bool {
        let before = self.connected.len() + self.absent.len();
        self.connected.retain(|held| held.id != session);
        self.absent.retain(|held| *held != session);
        self.connected.len() + self.absent.len() < before
    }

    fn is_empty(&self) -> bool {
        self.children.is_empty() && !self.holds_somebody()
    }

    fn collect(&self, into: &mut Matches) {
        into.any |= self.holds_somebody();
        into.connected.extend(self.connected.iter().cloned());
        into.groups.extend(self.groups.iter().cloned());
    }

    /// Everybody below this node whom a name concerns. Not recursive: a name may have 65,536 levels.
    fn matches(&self, name: &str, into: &mut Matches) {
        // Where to go on, and with which levels.
        let mut left: SmallVec<[(&Self, Option<&str>); 16]> = smallvec![(self, Some(name))];
        // A wildcard at the beginning matches no `$...` name.
        let mut wildcards = !name.starts_with('$');
        while let Some((node, levels)) = left.pop() {
            if wildcards && let Some(all) = node.children.get("#") {
                all.collect(into);
            }
            let Some(levels) = levels else {
                node.collect(into);
                continue;
            };
            let (level, rest) = match levels.split_once('/') {
                Some((level, rest)) => (level, Some(rest)),
                None => (levels, None),
            };
            if wildcards && let Some(any) = node.children.get("+") {
                left.push((any, rest));
            }
            if let Some(same) = node.children.get(level) {
                left.push((same, rest));
            }
            wildcards = true;
        }
    }

    /// Changes the node of a filter, which is made if need be; what is empty then is taken away.
    fn change<R>(&mut self, filter: &str, change: impl FnOnce(&mut Self) -> R) -> R {
        let mut node = &mut *self;
        for level in filter.split('/') {
            if !node.children.contains_key(level) {
                node.children.insert(level.into(), Self::default());
            }
            node = match node.children.get_mut(level) {
                Some(child) => child,
                // It was just put there.
                None => return change(&mut Self::default()),
            };
        }
        let result = change(node);
        if node.is_empty() {
            self.prune(filter);
        }
        result
    }

    /// Takes the end of a filter's path away that serves nobody else.
    fn prune(&mut self, filter: &str) {
        let mut needed = 0;
        let mut node = &*self;
        for (depth, level) in filter.split('/').enumerate() {
            if node.children.len() > 1 || node.holds_somebody() {
                needed = depth;
            }
            let Some(child) = node.children.get(level) else { return };
            node = child;
        }
        let mut node = self;
        for (depth, level) in filter.split('/').enumerate() {
            if depth == needed {
                node.children.remove(level);
                return;
            }
            let Some(child) = node.children.get_mut(level) else {
                return;
            };
            node = child;
        }
    }
}

impl Drop for Node {
    /// Not recursive, for the same reason.
    fn drop(&mut self) {
        let mut left: Vec<Self> = self.children.drain().map(|(_, node)| node).collect();
        while let Some(mut node) = left.pop() {
            left.extend(node.children.drain().map(|(_, node)| node));
        }
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
        self.root.read().matches(name, &mut matches);
        if matches.connected.len() > 1 {
            matches.connected.sort_unstable_by_key(|session| session.id);
            matches.connected.dedup_by_key(|session| session.id);
        }
        matches
    }

    fn change<R>(&self, filter: &TopicFilter, change: impl FnOnce(&mut Node) -> R) -> R {
        let result = self.root.write().change(filter.filter(), change);
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

#[cfg(test)]
mod tests {
    use super::super::session::SessionKind;
    use super::*;
    use crate::store::Mark;

    fn session(number: u64) -> Arc<Session> {
        Arc::new(Session::new(
            SessionId(number),
            "s".into(),
            SessionKind::Mqtt,
            Mark::START,
            0,
        ))
    }

    #[test]
    fn what_nobody_holds_any_more_leaves_nothing_behind() {
        let tree = SubscriptionTree::default();
        let (one, other) = (session(1), session(2));
        let parse = |text: &str| TopicFilter::parse(text).unwrap();
        let filters = ["a/b/c", "a/b", "a/+/c", "a/b/#", "#", "/", "a"].map(parse);
        for filter in &filters {
            tree.set(filter, &one, true);
            tree.set(filter, &other, false);
        }
        for filter in &filters {
            tree.remove(filter, other.id);
            tree.remove(&parse("a/b/x"), one.id);
        }
        assert_eq!(tree.matches("a/b/c").connected.len(), 1);
        for (place, filter) in filters.iter().enumerate() {
            tree.remove(filter, one.id);
            let left = filters.get(place + 1..).unwrap();
            for name in ["a/b/c", "a/b", "a", "/", "x"] {
                assert_eq!(tree.matches(name).any, left.iter().any(|held| held.matches(name)), "{name}");
            }
        }
        assert!(tree.root.read().is_empty());
    }

    /// v5 [MQTT-4.7.3-3]
    #[test]
    fn the_deepest_filter_there_can_be_needs_no_stack() {
        let small = std::thread::Builder::new().stack_size(128 << 10).spawn(|| {
            let tree = SubscriptionTree::default();
            let name = "/".repeat(65_535);
            let filter = TopicFilter::parse(&name).unwrap();
            tree.set(&filter, &session(1), true);
            assert_eq!(tree.matches(&name).connected.len(), 1);
            tree.remove(&filter, SessionId(1));
            assert!(tree.root.read().is_empty());
            tree.set(&filter, &session(1), true);
        });
        small.unwrap().join().unwrap();
    }
}
