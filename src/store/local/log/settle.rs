//! Who waits for which batch: tickets that are awaited one by one. (The hot path lists itself in the feed's batches
//! instead.)
//!
//! **Invariants**
//! - A ticket settles when the feed's reader has finished its batch, or with an error once the store has latched and
//!   the batch was not handed on.

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::store::{Error, Fetch, Result};

/// Waiting tickets.
#[derive(Default)]
pub(crate) struct Settlement(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    finished: u64,
    /// Batches above this one failed, and why.
    failed: Option<(u64, Error)>,
    tickets: Vec<(u64, oneshot::Sender<Result<()>>)>,
}

impl Waiting {
    fn outcome(&self, write: u64) -> Option<Result<()>> {
        if write <= self.finished {
            return Some(Ok(()));
        }
        match &self.failed {
            Some((above, cause)) if write > *above => Some(Err(cause.clone())),
            _ => None,
        }
    }

    fn settle(&mut self) {
        let waiting = std::mem::take(&mut self.tickets);
        for (write, sender) in waiting {
            match self.outcome(write) {
                // Who does not wait any more does not care.
                Some(result) => drop(sender.send(result)),
                None => self.tickets.push((write, sender)),
            }
        }
    }
}

impl Settlement {
    /// What was stored at the start is settled.
    pub(crate) fn start(&self, write: u64) {
        self.0.lock().finished = write;
    }

    /// The feed's reader is done with a batch.
    pub(crate) fn finished(&self, write: u64) {
        let mut waiting = self.0.lock();
        if write > waiting.finished {
            waiting.finished = write;
            waiting.settle();
        }
    }

    /// Nothing above `handed_on` will ever be acknowledged.
    pub(crate) fn failed(&self, handed_on: u64, cause: Error) {
        let mut waiting = self.0.lock();
        if waiting.failed.is_none() {
            waiting.failed = Some((handed_on, cause));
            waiting.settle();
        }
    }

    pub(crate) fn outcome(&self, write: u64) -> Option<Result<()>> {
        self.0.lock().outcome(write)
    }

    pub(crate) fn settled(&self, write: u64) -> Fetch<'static, ()> {
        let mut waiting = self.0.lock();
        if let Some(result) = waiting.outcome(write) {
            return Fetch::ready(result);
        }
        let (sender, receiver) = oneshot::channel();
        waiting.tickets.push((write, sender));
        drop(waiting);
        Fetch::wait(async move {
            let gone = || Err(Error::Io("the store was dropped; recovery decides".into()));
            receiver.await.unwrap_or_else(|_| gone())
        })
    }
}
