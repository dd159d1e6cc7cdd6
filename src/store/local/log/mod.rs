//! The log: what is handed over (`append.rs`), the one writer of it (`writer.rs`), what of it is durable (`state.rs`)
//! and where readers find it. This file holds what these share, and hands batches from one to the next.
//!
//! **Invariants**
//! - Locks are taken in this order and each alone where possible: append, then settlement; state; recent.
//! - A batch is applied to the state before the feed has it, and the feed has it before it counts as handed on: a
//!   reader of the feed finds in the store what the feed told it, and nothing passes early before its log's elders.

pub(crate) mod append;
pub(crate) mod buffers;
pub(crate) mod cold;
pub(crate) mod counters;
pub(crate) mod frame;
pub(crate) mod heal;
pub(crate) mod index;
pub(crate) mod prepare;
pub(crate) mod reader;
pub(crate) mod recent;
pub(crate) mod recovery;
pub(crate) mod segment;
pub(crate) mod settle;
pub mod sidecar;
pub(crate) mod state;
pub(crate) mod writer;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock};
use rustc_hash::FxHashSet;

use self::append::{Append, Stop};
use self::cold::OpenSidecars;
use self::counters::Counters;
use self::prepare::{Preparer, Site};
use self::reader::OpenSegments;
use self::recent::Recent;
use self::settle::Settlement;
use self::sidecar::BlockCache;
use self::state::State;
use super::Durability;
use super::data_dir::DataDir;
use super::disk::Disk;
use super::listing::Listing;
use crate::clock::Clock;
use crate::store::feed::{FeedItem, FeedQueue};
use crate::store::types::{Batch, Commit, Mark, StoreState, Table, Ticket, WaiterId};
use crate::store::{Error, Refused, Result};

/// How long to wait for a sync that a snapshot or the catalog needs.
const SYNC_PATIENCE: Duration = Duration::from_secs(5);

/// A pause of maintenance, and how many in a row.
const GIVE_WAY: Duration = Duration::from_millis(1);
const GIVE_WAY_MAX: usize = 20;

/// Marks that somebody wants to go on reading from.
#[derive(Default)]
pub(crate) struct Pins(Mutex<BTreeMap<Mark, usize>>);

impl Pins {
    /// The oldest of them, or [`Mark::END`].
    pub(crate) fn oldest(&self) -> Mark {
        self.0.lock().keys().next().copied().unwrap_or(Mark::END)
    }

    /// Holds a mark until the guard is dropped.
    pub(crate) fn hold(self: &Arc<Self>, mark: Mark) -> PinGuard {
        *self.0.lock().entry(mark).or_default() += 1;
        PinGuard {
            pins: Arc::clone(self),
            mark,
        }
    }
}

/// Holds a mark while it lives.
pub(crate) struct PinGuard {
    pins: Arc<Pins>,
    mark: Mark,
}

impl Drop for PinGuard {
    fn drop(&mut self) {
        let mut pins = self.pins.0.lock();
        if let Some(count) = pins.get_mut(&self.mark) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.mark);
            }
        }
    }
}

/// What producers, the writer and readers share.
pub(crate) struct Log {
    pub(crate) dir: DataDir,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) store: [u8; 16],
    pub(crate) clock: Clock,
    pub(crate) durability: Durability,
    pub(crate) append: Mutex<Append>,
    /// The writer waits here for something to do.
    pub(crate) work: Condvar,
    pub(crate) state: RwLock<State>,
    pub(crate) recent: RwLock<Recent>,
    pub(in crate::store) feed: Arc<FeedQueue>,
    pub(crate) settlement: Arc<Settlement>,
    pub(crate) preparer: Preparer,
    pub(crate) open: OpenSegments,
    /// When the sync that runs now began, in ms of `born`, plus 1; 0 if none runs.
    pub(crate) sync_begun: AtomicU64,
    pub(crate) born: Instant,
    /// The highest batch that a sync has covered.
    pub(crate) synced: AtomicU64,
    pub(crate) counters: Counters,
    /// Blocks of sidecars.
    pub(crate) blocks: Arc<BlockCache>,
    pub(crate) sidecars: OpenSidecars,
    pub(crate) pins: Arc<Pins>,
    /// Held while a sidecar is made again.
    pub(crate) heals: Mutex<()>,
    /// Where damage is noted, and the places noted in this run.
    pub(crate) damage_table: Option<Table>,
    pub(crate) damaged: Mutex<FxHashSet<Mark>>,
    /// The catalog, if it keeps any table; set before anything is written.
    pub(crate) listing: OnceLock<Listing>,
}

impl Log {
    /// Hands a commit over.
    pub(crate) fn commit(&self, commit: &Commit) -> std::result::Result<Ticket, Refused> {
        let now_ms = self.clock.wall_ms();
        let now = Instant::now();
        let mut append = self.append.lock();
        let committed = append.commit(commit, now_ms, now)?;
        let early = committed.early.is_some();
        if let Some(run) = committed.early {
            self.feed.queue(FeedItem::Early(Arc::new(run)));
        }
        drop(append);
        if committed.wake_writer {
            self.work.notify_one();
        }
        if early {
            self.feed.wake();
        }
        Ok(committed.ticket)
    }

    /// Asks for everything handed over to be made durable.
    pub(crate) fn sync(&self) -> Ticket {
        let write = self.append.lock().request_sync();
        self.work.notify_one();
        Ticket {
            write,
            offsets: Vec::new(),
        }
    }

    /// Lists `who` in the batch that settles a ticket.
    pub(crate) fn notify(&self, ticket: &Ticket, who: WaiterId) {
        let mut append = self.append.lock();
        if ticket.write > append.handed_on {
            append.waiters.push((ticket.write, who));
            return;
        }
        let batch = Batch {
            end: append.handed_on_mark,
            waiters: vec![who],
            write: append.handed_on,
            ..Batch::default()
        };
        self.feed.queue(FeedItem::Batch(Arc::new(batch)));
        drop(append);
        self.feed.wake();
    }

    /// Where segments are made.
    pub(crate) fn site(&self, segment_bytes: u64) -> Site<'_> {
        Site {
            disk: self.disk.as_ref(),
            dir: &self.dir,
            store: self.store,
            segment_bytes,
            give_way: &|| (),
        }
    }

    /// Lets commits go first: maintenance calls it between its slices, and pauses while one is late; not for ever, for a
    /// snapshot that never comes makes the next start long.
    pub(crate) fn give_way(&self) {
        for _ in 0..GIVE_WAY_MAX {
            if !self.append.lock().is_late(Instant::now()) {
                return;
            }
            std::thread::sleep(GIVE_WAY);
        }
    }

    /// Waits until a batch that was handed on is synced: in `interval` durability what readers see may not be.
    pub(crate) fn until_synced(&self, batch: u64) -> Result<()> {
        let begun = Instant::now();
        while self.synced.load(Ordering::Acquire) < batch {
            self.sync();
            if begun.elapsed() > SYNC_PATIENCE || self.append.lock().latched.is_some() {
                return Err(Error::Io("a sync that others wait for does not come".into()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// How a ticket's commit ended, if it has.
    pub(crate) fn outcome(&self, ticket: &Ticket) -> Option<Result<()>> {
        self.settlement.outcome(ticket.write)
    }

    pub(crate) fn store_state(&self) -> StoreState {
        let append = self.append.lock();
        if let Some(cause) = &append.latched {
            return StoreState::Latched(cause.clone());
        }
        if append.full {
            return StoreState::Full;
        }
        drop(append);
        let begun = self.sync_begun.load(Ordering::Relaxed);
        let now = self.born.elapsed().as_millis() as u64;
        if begun != 0 && now.saturating_sub(begun - 1) >= 1000 {
            return StoreState::Slow;
        }
        StoreState::Ready
    }

    /// Tells the writer to end.
    pub(crate) fn stop(&self, how: Stop) {
        let mut append = self.append.lock();
        if append.stopping.is_none() || how == Stop::Abandon {
            append.stopping = Some(how);
        }
        drop(append);
        self.work.notify_all();
        if how == Stop::Abandon {
            self.preparer.stop();
        }
    }
}
