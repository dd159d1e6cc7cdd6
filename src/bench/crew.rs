//! The clients of a run: set up one after the other, dealt out to the threads, and what they bring home.

use std::sync::atomic::Ordering;

use super::histogram::Histogram;
use super::link::Link;
use super::plan::Plan;
use super::publisher::Publisher;
use super::shared::Shared;
use super::stamp::Ledger;
use super::wire::Connect;
use super::worker::{Outcome, Peer, Role, Worker};

/// Clients by thread.
pub(super) struct Crew<'a> {
    plan: &'a Plan,
    shared: &'a Shared,
    shares: Vec<Vec<Peer>>,
}

impl<'a> Crew<'a> {
    /// Nobody yet.
    pub(super) fn new(plan: &'a Plan, shared: &'a Shared) -> Self {
        Self {
            plan,
            shared,
            shares: (0..plan.threads).map(|_| Vec::new()).collect(),
        }
    }

    /// A publisher and its subscriber are on one thread where there is one of each.
    fn add(&mut self, number: usize, peer: Peer) {
        if let Some(share) = self.shares.get_mut(number % self.plan.threads) {
            share.push(peer);
        }
    }

    /// Adds the publishers.
    ///
    /// # Errors
    /// One of them is refused.
    pub(super) fn add_publishers(&mut self) -> Result<(), String> {
        for number in 0..self.plan.publishers {
            let (mut link, _) = open(self.plan, "p", number, Session::Passing)?;
            link.go()?;
            let role = Role::Publisher(Box::new(Publisher::new(self.plan, number)));
            self.add(number, Peer::new(link, role));
        }
        Ok(())
    }

    /// Adds the subscribers.
    ///
    /// # Errors
    /// One of them, or its subscription, is refused.
    pub(super) fn add_subscribers(&mut self) -> Result<(), String> {
        for number in 0..self.plan.subscribers {
            let mut link = subscribed(self.plan, number)?;
            link.go()?;
            self.add_subscriber(number, link);
        }
        Ok(())
    }

    /// Adds the subscribers that come back to the sessions they have.
    ///
    /// # Errors
    /// One of them is refused, or has no session any more.
    pub(super) fn add_returning(&mut self) -> Result<(), String> {
        for number in 0..self.plan.subscribers {
            let (mut link, is_present) = open(self.plan, "s", number, Session::Resumed)?;
            if !is_present {
                let client = self.plan.client("s", number);
                return Err(format!("the broker has forgotten the session of `{client}`"));
            }
            link.go()?;
            self.add_subscriber(number, link);
        }
        Ok(())
    }

    fn add_subscriber(&mut self, number: usize, link: Link) {
        let ledger = Role::Subscriber(Box::new(Ledger::new(self.plan.keys())));
        self.add(number, Peer::new(link, ledger));
    }

    /// Lets everybody work until `watch` returns; it is told whether somebody has stopped early.
    ///
    /// # Errors
    /// A connection was lost.
    pub(super) fn work<T>(self, watch: impl FnOnce(&dyn Fn() -> bool) -> T) -> Result<(T, Haul), String> {
        let mut workers = Vec::new();
        for (share, counters) in self.shares.into_iter().zip(&self.shared.counters) {
            workers.push(Worker::new(self.plan, self.shared, counters, share)?);
        }
        let (seen, outcomes) = std::thread::scope(|scope| {
            let threads: Vec<_> = workers
                .into_iter()
                .map(|worker| scope.spawn(move || worker.run()))
                .collect();
            let seen = watch(&|| threads.iter().any(std::thread::ScopedJoinHandle::is_finished));
            self.shared.ended.store(true, Ordering::Relaxed);
            let outcomes: Vec<Outcome> = threads
                .into_iter()
                .map(|thread| {
                    thread.join().unwrap_or_else(|_| Outcome {
                        failed: Some("a thread of the tool has failed".into()),
                        ..Outcome::default()
                    })
                })
                .collect();
            (seen, outcomes)
        });
        let mut haul = Haul::default();
        for outcome in outcomes {
            if let Some(failed) = outcome.failed {
                return Err(failed);
            }
            haul.ack.add(&outcome.ack);
            haul.end_to_end.add(&outcome.end_to_end);
            haul.first_at = haul.first_at.into_iter().chain(outcome.first_at).min();
            haul.last_at = haul.last_at.max(outcome.last_at);
            haul.links.extend(outcome.links);
        }
        Ok((seen, haul))
    }
}

/// What all workers brought home.
#[derive(Default)]
pub(super) struct Haul {
    /// From due to acknowledged.
    pub(super) ack: Histogram,
    /// From due to delivered.
    pub(super) end_to_end: Histogram,
    /// When the first message came, nanoseconds since the beginning.
    pub(super) first_at: Option<u64>,
    /// When the last one came.
    pub(super) last_at: u64,
    links: Vec<Link>,
}

impl Haul {
    /// Everybody says goodbye.
    pub(super) fn close(&mut self) {
        self.links.drain(..).for_each(Link::close);
    }
}

/// What a client wants of the broker's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Session {
    /// Nothing.
    Passing,
    /// A new one that stays.
    New,
    /// The one it has.
    Resumed,
}

fn open(plan: &Plan, role: &str, number: usize, session: Session) -> Result<(Link, bool), String> {
    Link::open(
        plan.broker,
        &Connect {
            client: &plan.client(role, number),
            version: plan.version,
            clean: session != Session::Resumed,
            persistent: session != Session::Passing,
            username: plan.username.as_deref(),
            password: plan.password.as_deref(),
        },
    )
}

/// A subscriber that has subscribed.
///
/// # Errors
/// It is refused.
pub(super) fn subscribed(plan: &Plan, number: usize) -> Result<Link, String> {
    let session = if plan.persistent {
        Session::New
    } else {
        Session::Passing
    };
    let (mut link, _) = open(plan, "s", number, session)?;
    link.subscribe(&plan.filters(number), plan.qos)?;
    Ok(link)
}

/// Takes down what an earlier run, or this one, has left with the broker.
///
/// # Errors
/// The broker refuses it.
pub(super) fn forget_sessions(plan: &Plan) -> Result<(), String> {
    for number in 0..plan.subscribers {
        open(plan, "s", number, Session::Passing)?.0.close();
    }
    Ok(())
}
