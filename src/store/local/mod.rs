//! The embedded backend: one log of everything, on this machine's disk. Here it is opened, recovered and closed, and
//! here the seam's calls meet the modules that answer them.
//!
//! **Invariants**
//! - [`LocalStore::open`] returns only when everything it will hand out is durable.
//! - One process has the directory; a store that is dropped without [`Store::close`] leaves it as a kill would.

pub mod catalog;
pub mod damage;
pub(crate) mod data_dir;
pub mod disk;
#[cfg(any(test, feature = "testing"))]
#[expect(clippy::indexing_slicing, reason = "it exists for tests, where a panic is a finding")]
pub mod faulty_disk;
pub(crate) mod keeper;
pub(crate) mod listing;
pub(crate) mod log;
pub(crate) mod rows;
pub mod snapshot;

#[cfg(any(test, feature = "testing"))]
pub mod probe;

#[cfg(test)]
mod harness;
#[cfg(test)]
mod heal_tests;
#[cfg(test)]
mod keeper_tests;
#[cfg(test)]
mod listing_tests;
#[cfg(test)]
mod open_tests;
#[cfg(test)]
mod recovery_tests;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock};

use self::data_dir::{DataDir, Manifest};
use self::disk::{Disk, LockGuard, RealDisk};
use self::keeper::Keeper;
pub use self::keeper::SnapshotPolicy;
use self::listing::{Listing, changes_of};
use self::log::Log;
use self::log::append::{Append, Cursor, Stop};
use self::log::frame::SEGMENT_HEADER_BYTES;
use self::log::prepare::{Preparer, Site};
use self::log::recent::{RECENT_BYTES_MAX, Recent};
pub use self::log::recovery::Cut;
use self::log::recovery::{Recovered, Start, recover};
use self::log::segment::make_segment;
use self::log::settle::Settlement;
pub use self::log::sidecar;
use self::log::sidecar::BlockCache;
use self::log::state::State;
use self::log::writer::{Step, Writer};
use self::rows::Rows;
use self::snapshot::{Loaded, Snapshots};
use crate::clock::Clock;
use crate::store::feed::{Feed, FeedItem, FeedQueue};
use crate::store::types::{
    At, Bounds, Class, Commit, EntryKind, Epoch, KeyedRow, Lease, Limit, LogCreated, LogId, Mark, Offset, OnceKey,
    Progress, ReadBuf, RetentionClass, Row, SequenceId, StoreState, Table, Ticket, Touched, WaiterId, Written,
};
use crate::store::{Error, Fetch, MessageLog, MetaStore, Pin, Refused, Result, Store};

/// Bytes of a segment, unless a test wants small ones.
pub const SEGMENT_BYTES: u64 = 64 << 20;
/// Blocks of sidecars that stay in memory.
const SIDECAR_CACHE_BYTES: usize = 32 << 20;
/// The smallest segment that is of any use.
const SEGMENT_BYTES_MIN: u64 = 8192;
/// Commits kept for reuse, and the largest arena that is kept.
const COMMITS_KEPT: usize = 64;
const ARENA_BYTES_KEPT: usize = 256 << 10;

/// What an acknowledgement means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// Synced.
    Sync,
    /// Written; synced after so many milliseconds.
    Interval(u64),
}

/// How to open a store.
#[derive(Clone)]
pub struct Options {
    /// The data directory; made if it is missing.
    pub dir: PathBuf,
    /// What an acknowledgement means.
    pub durability: Durability,
    /// Bytes of a segment file.
    pub segment_bytes: u64,
    /// Bytes of recent batches that stay in memory.
    pub recent_bytes: usize,
    /// Where times come from.
    pub clock: Clock,
    /// Where bytes go.
    pub disk: Arc<dyn Disk>,
    /// When snapshots are written.
    pub snapshots: SnapshotPolicy,
    /// Tables that are kept in the catalog too, because their rows are listed and searched; none unless said.
    pub cataloged: Vec<Table>,
    /// Where the store notes damage that readers meet, see [`damage`]; nowhere unless said.
    pub damage: Option<Table>,
    /// Refuse to begin a new store: an unmounted disk must not start empty.
    pub require_existing: bool,
    /// No threads: the test calls [`LocalStore::pump`].
    #[cfg(any(test, feature = "testing"))]
    pub stepped: bool,
}

impl Options {
    /// The usual settings for a directory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            durability: Durability::Sync,
            segment_bytes: SEGMENT_BYTES,
            recent_bytes: RECENT_BYTES_MAX,
            clock: Clock::system(),
            disk: Arc::new(RealDisk),
            snapshots: SnapshotPolicy::default(),
            cataloged: Vec::new(),
            damage: None,
            require_existing: false,
            #[cfg(any(test, feature = "testing"))]
            stepped: false,
        }
    }
}

/// What a start found.
#[derive(Clone, Debug)]
pub struct OpenReport {
    /// The store's id.
    pub store: [u8; 16],
    /// Counts the starts; this one.
    pub incarnation: u64,
    /// The store was made just now.
    pub created: bool,
    /// When the last run stopped in an orderly way, ms since 1970 UTC; `None` after a crash and for a new store.
    pub previous_clean_stop: Option<i64>,
    /// The highest time in the log, ms since 1970 UTC; 0 if there is none.
    pub last_time_ms: i64,
    /// The start read a snapshot.
    pub from_snapshot: bool,
    /// Batches read from the log.
    pub batches_replayed: u64,
    /// What was left out at the end of the log.
    pub cut: Option<Cut>,
    /// The directory lies elsewhere than at its last start: it was copied or moved.
    pub moved: bool,
    /// What an acknowledgement means.
    pub durability: Durability,
}

/// The embedded store.
pub struct LocalStore {
    log: Arc<Log>,
    commits: Mutex<Vec<Commit>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    stepper: Mutex<Option<Writer>>,
    #[cfg(any(test, feature = "testing"))]
    keeper: Mutex<Option<Keeper>>,
    /// A start has read a snapshot: its rows are there for [`MetaStore::load`].
    from_snapshot: bool,
    lock: Mutex<Option<LockGuard>>,
    segment_bytes: u64,
}

impl LocalStore {
    /// Opens or makes a store, and brings what is in its log back.
    ///
    /// # Errors
    /// - [`Error::Refused`]: the directory is in use, foreign or newer than this build.
    /// - [`Error::Damaged`]: acknowledged data does not verify; nothing was changed.
    /// - [`Error::Io`]: the disk failed.
    #[expect(clippy::needless_pass_by_value, reason = "a store keeps how it was opened to itself")]
    pub fn open(options: Options) -> Result<(Self, OpenReport)> {
        if !(SEGMENT_BYTES_MIN..=u64::from(u32::MAX)).contains(&options.segment_bytes) {
            return Err(Error::Refused(format!(
                "segments of {} bytes are not possible; at least {SEGMENT_BYTES_MIN}, and less than 4 GiB",
                options.segment_bytes
            )));
        }
        if options.dir.as_os_str().is_empty() {
            return Err(Error::Refused("the data directory is an empty path; name one".into()));
        }
        let disk = options.disk.as_ref();
        let dir = DataDir::new(&options.dir);
        if !options.require_existing {
            for path in [dir.root().to_path_buf(), dir.log(), dir.snapshots()] {
                disk.create_dir(&path).map_err(|error| dir.io("make", &path, &error))?;
            }
        }
        let lock = dir.lock(disk)?;
        let (mut manifest, created) = identify(disk, &dir, &options)?;
        dir.tidy(disk)?;
        let place = disk
            .place(dir.root())
            .map_err(|error| dir.io("look at", dir.root(), &error))?;
        let moved = place != manifest.place;
        if moved {
            tracing::warn!(dir = %dir.root().display(), "the data directory was copied or moved since its last start");
        }
        let mut rows = Rows::default();
        let visit = &mut |table: Table, key: &[u8], row: &Row| rows.apply(table, key, Some(&row.bytes), row.mark);
        let (snapshots, loaded) = Snapshots::load(Arc::clone(&options.disk), &dir.snapshots(), visit)?;
        let (start, leftover) = match &loaded {
            None => (Start::BEGINNING, Vec::new()),
            Some(loaded) => {
                let times = loaded.segments.iter().map(|segment| segment.last_time);
                let start = Start {
                    lsn: loaded.head.mark.raw(),
                    number: loaded.head.next_batch,
                    highest_time: times.max().unwrap_or(0),
                    newest_row: loaded.newest_row.raw(),
                };
                (start, check_segments(disk, &dir, loaded)?)
            }
        };
        let recovered = recover(disk, &dir, manifest.store, start, options.segment_bytes)?;
        manifest.incarnation += 1;
        manifest.place = place;
        manifest.write(disk, &dir)?;
        let report = OpenReport {
            store: manifest.store,
            incarnation: manifest.incarnation,
            created,
            previous_clean_stop: recovered.clean_stop,
            last_time_ms: recovered.highest_time,
            from_snapshot: loaded.is_some(),
            batches_replayed: recovered.accepted.len() as u64,
            cut: recovered.cut.clone(),
            moved,
            durability: options.durability,
        };
        let found = Found {
            loaded,
            rows,
            snapshots,
            leftover,
            start: Mark::new(start.lsn),
        };
        let store = Self::start(&options, dir, &manifest, recovered, found, lock)?;
        Ok((store, report))
    }

    fn start(
        options: &Options,
        dir: DataDir,
        manifest: &Manifest,
        recovered: Recovered,
        found: Found,
        lock: LockGuard,
    ) -> Result<Self> {
        let segment_bytes = options.segment_bytes;
        let active = recovered.active;
        let cursor = Cursor {
            segment: active.header.number,
            offset: u64::from(SEGMENT_HEADER_BYTES),
            size: active.header.size,
        };
        let durable = recovered.next_number - 1;
        let mut append = Append::new(
            cursor,
            segment_bytes,
            recovered.next_number,
            recovered.highest_time,
            manifest.incarnation << 32,
        );
        append.sync_commits = options.durability == Durability::Sync;
        let mut state = State::new(log::frame::segment_of(found.start.raw()));
        let from_snapshot = found.loaded.is_some();
        if let Some(loaded) = found.loaded {
            append.restore(&loaded);
            state.restore(loaded, found.rows);
        }
        let mut recent = Recent::new(options.recent_bytes);
        let settlement = Arc::new(Settlement::default());
        settlement.start(durable);
        let feed = FeedQueue::new(Box::new({
            let settlement = Arc::clone(&settlement);
            move |batch| settlement.finished(batch.write)
        }));
        let (mut changes, mut left) = (Vec::new(), Vec::new());
        for accepted in recovered.accepted {
            if accepted.segment != state.active.number {
                state.switch(accepted.segment, accepted.batch.write);
                state.fed_before_active = append.last_fed;
            }
            for entry in &accepted.batch.entries {
                append.replay(entry, accepted.batch.body(entry));
            }
            state.apply(&accepted.batch, accepted.start, accepted.time);
            changes.extend(changes_of(&accepted.batch, &options.cataloged));
            if accepted.batch.entries.is_empty() {
                continue;
            }
            let batch = Arc::new(accepted.batch);
            append.last_fed = batch.end;
            recent.push(Arc::clone(&batch), &mut left);
            left.clear();
            feed.queue(FeedItem::Batch(batch));
        }
        state.switch(active.header.number, recovered.next_number);
        state.fed_before_active = append.last_fed;
        let end = append.mark();
        state.end = end;
        append.handed_on_mark = state.end;
        feed.push(FeedItem::CaughtUp);
        let spares = dir.log_files(options.disk.as_ref())?.spares;
        let log = Arc::new(Log {
            dir,
            disk: Arc::clone(&options.disk),
            store: manifest.store,
            clock: options.clock.clone(),
            durability: options.durability,
            append: Mutex::new(append),
            work: Condvar::new(),
            state: RwLock::new(state),
            recent: RwLock::new(recent),
            feed,
            settlement,
            preparer: Preparer::new(spares),
            open: log::reader::OpenSegments::default(),
            sync_begun: AtomicU64::new(0),
            born: Instant::now(),
            synced: AtomicU64::new(durable),
            counters: log::counters::Counters::default(),
            blocks: BlockCache::new(SIDECAR_CACHE_BYTES),
            sidecars: log::cold::OpenSidecars::default(),
            pins: Arc::default(),
            heals: Mutex::default(),
            damage_table: options.damage,
            damaged: Mutex::default(),
            listing: OnceLock::new(),
        });
        log.open
            .insert(active.header.number, Arc::clone(&active.file), active.header.salt);
        log.preparer.want(active.header.number + 1, segment_bytes);
        if !options.cataloged.is_empty() {
            let tables = options.cataloged.clone();
            let listing = log
                .listing
                .get_or_init(|| Listing::start(&log, tables, found.start, recovered.end));
            listing.replayed(changes, end);
        }
        let writer = Writer::new(Arc::clone(&log), active, segment_bytes, durable);
        let keeper = Keeper::new(
            Arc::clone(&log),
            found.snapshots,
            options.snapshots,
            segment_bytes,
            manifest.incarnation,
            found.leftover,
        );
        let store = Self {
            log,
            commits: Mutex::default(),
            threads: Mutex::default(),
            stepper: Mutex::default(),
            #[cfg(any(test, feature = "testing"))]
            keeper: Mutex::default(),
            from_snapshot,
            lock: Mutex::new(Some(lock)),
            segment_bytes,
        };
        #[cfg(any(test, feature = "testing"))]
        if options.stepped {
            *store.stepper.lock() = Some(writer);
            *store.keeper.lock() = Some(keeper);
            return Ok(store);
        }
        store.spawn(writer, keeper)?;
        Ok(store)
    }

    fn spawn(&self, writer: Writer, mut keeper: Keeper) -> Result<()> {
        let failed = |error| Error::Io(format!("cannot start a thread: {error}"));
        let mut threads = self.threads.lock();
        let log = Arc::clone(&self.log);
        let segment_bytes = self.segment_bytes;
        let maintenance = std::thread::Builder::new().name("maintenance".into()).spawn(move || {
            let keep = &mut |pace: &dyn Fn()| {
                let polite = || {
                    pace();
                    log.give_way();
                };
                if let Err(error) = keeper.step(false, &polite) {
                    tracing::warn!(%error, "maintenance of the store failed, and is tried again");
                }
            };
            let site = Site {
                give_way: &|| log.give_way(),
                ..log.site(segment_bytes)
            };
            log.preparer.run(&site, keep);
        });
        threads.push(maintenance.map_err(failed)?);
        let writer = std::thread::Builder::new()
            .name("log-writer".into())
            .spawn(move || writer.run());
        threads.push(writer.map_err(failed)?);
        Ok(())
    }

    /// Without threads: lets the writer do everything there is to do, and every deadline count as passed if `hurry`.
    /// Returns whether it waits for space.
    #[cfg(any(test, feature = "testing"))]
    pub fn pump(&self, hurry: bool) -> bool {
        let Some(writer) = &mut *self.stepper.lock() else {
            return false;
        };
        self.step_until_idle(writer, hurry)
    }

    /// Without threads: writes sidecars and a snapshot, and gives back what nobody needs.
    ///
    /// # Errors
    /// What failed.
    #[cfg(any(test, feature = "testing"))]
    pub fn keep(&self) -> Result<()> {
        match &mut *self.keeper.lock() {
            Some(keeper) => keeper.step(true, &|| ()),
            None => Ok(()),
        }
    }

    fn step_until_idle(&self, writer: &mut Writer, hurry: bool) -> bool {
        let log = &self.log;
        let mut blocked = 0;
        loop {
            match writer.step(hurry) {
                Step::Done => {}
                Step::Blocked if blocked > 8 => return true,
                Step::Blocked => {
                    blocked += 1;
                    while log.preparer.work(&log.site(self.segment_bytes)) {}
                }
                Step::Idle(_) | Step::Ended => return false,
            }
        }
    }

    fn end(&self, how: Stop) {
        self.log.stop(how);
        if let Some(mut writer) = self.stepper.lock().take() {
            self.step_until_idle(&mut writer, false);
        }
        let threads = std::mem::take(&mut *self.threads.lock());
        // The writer, last in the list, may still need a segment of maintenance.
        for thread in threads.into_iter().rev() {
            if thread.join().is_err() {
                tracing::error!("a thread of the store panicked");
            }
            self.log.preparer.stop();
        }
        if let Some(listing) = self.log.listing.get() {
            listing.close();
        }
        self.lock.lock().take();
    }

    /// Whether the catalog answers for a table.
    fn is_listed(&self, table: Table) -> bool {
        self.log.listing.get().is_some_and(|listing| listing.holds(table))
    }

    /// The data directory.
    pub fn dir(&self) -> &Path {
        self.log.dir.root()
    }
}

impl Drop for LocalStore {
    fn drop(&mut self) {
        self.end(Stop::Abandon);
    }
}

/// What a start goes on with besides the log.
struct Found {
    loaded: Option<Loaded>,
    rows: Rows,
    snapshots: Snapshots,
    leftover: Vec<u32>,
    /// Where the log behind the snapshot begins.
    start: Mark,
}

/// R19, as far as the newest snapshot tells; returns segments before it that it does not list.
fn check_segments(disk: &dyn Disk, dir: &DataDir, loaded: &Loaded) -> Result<Vec<u32>> {
    let files = dir.log_files(disk)?;
    for error in &loaded.passed_over {
        tracing::error!(%error, "a snapshot does not verify; the start reads an older one");
    }
    for segment in &loaded.segments {
        // An older snapshot lists what was given back since.
        if loaded.passed_over.is_empty() && files.segments.binary_search(&segment.number).is_err() {
            return Err(Error::Damaged {
                file: dir.shown(&dir.segment(segment.number)),
                offset: 0,
                cause: "the segment is missing, although the snapshot lists it".into(),
            });
        }
    }
    let first = log::frame::segment_of(loaded.head.mark.raw());
    let listed = |number: &u32| loaded.segments.iter().any(|segment| segment.number == *number);
    Ok(files
        .segments
        .into_iter()
        .filter(|number| *number < first && !listed(number))
        .collect())
}

/// Whose directory it is; a new one gets its first segment and then a MANIFEST.
fn identify(disk: &dyn Disk, dir: &DataDir, options: &Options) -> Result<(Manifest, bool)> {
    let files = dir.log_files(disk)?;
    if let Some(manifest) = Manifest::read(disk, dir)? {
        if files.segments.is_empty() {
            return Err(Error::Refused(format!(
                "`{}` names a store, but its log is missing; put the whole directory back from a backup",
                DataDir::full(&dir.manifest())
            )));
        }
        return Ok((manifest, false));
    }
    let store = match files.segments.as_slice() {
        [] if options.require_existing => {
            return Err(Error::Refused(format!(
                "`{}` holds no store, and a new one is not allowed here; name the directory of a store, or mount its disk",
                DataDir::full(dir.root())
            )));
        }
        [] => {
            let snapshots = dir.snapshots();
            let names = disk.list(&snapshots);
            let names = names.map_err(|error| dir.io("list", &snapshots, &error))?;
            if names
                .iter()
                .any(|name| Path::new(name).extension().is_some_and(|end| end == "snap"))
            {
                return Err(without_manifest(dir));
            }
            let mut store = [0; 16];
            let drawn = getrandom::fill(&mut store);
            drawn.map_err(|error| Error::Io(format!("no random number to be had: {error}")))?;
            let path = dir.segment(1);
            // Nobody waits for a first start, and zeros serve whoever comes first.
            make_segment(disk, dir, 1, options.segment_bytes, store, &mut || true)
                .map_err(|error| dir.io("make", &path, &error))?;
            store
        }
        [1] => interrupted_first_start(disk, dir)?.ok_or_else(|| without_manifest(dir))?,
        _ => return Err(without_manifest(dir)),
    };
    let manifest = Manifest {
        store,
        incarnation: 0,
        place: disk
            .place(dir.root())
            .map_err(|error| dir.io("look at", dir.root(), &error))?,
    };
    manifest.write(disk, dir)?;
    Ok((manifest, true))
}

/// R25
fn without_manifest(dir: &DataDir) -> Error {
    Error::Refused(format!(
        "`{}` holds data and no MANIFEST, which says whose they are; nothing is begun anew over them: put MANIFEST back \
         from a backup, or name another data directory",
        DataDir::full(dir.root())
    ))
}

/// The store's id, if the first segment is whole and never held anything: then a first start was interrupted.
fn interrupted_first_start(disk: &dyn Disk, dir: &DataDir) -> Result<Option<[u8; 16]>> {
    let path = dir.segment(1);
    let (file, header) = log::segment::open_segment(disk, dir, 1).map_err(|error| dir.io("read", &path, &error))?;
    let mut first = [0; 64];
    let read = file.read_at(&mut first, u64::from(SEGMENT_HEADER_BYTES));
    read.map_err(|error| dir.io("read", &path, &error))?;
    // Its name may be in the cache only, and a MANIFEST must not outlive it.
    let log_dir = dir.log();
    disk.sync_dir(&log_dir)
        .map_err(|error| dir.io("sync", &log_dir, &error))?;
    Ok(header.filter(|_| first == [0; 64]).map(|header| header.store))
}

/// Runs what may read the disk on a thread that may block.
fn blocking<T: Send + 'static>(act: impl FnOnce() -> Result<T> + Send + 'static) -> Fetch<'static, T> {
    Fetch::wait(async move {
        let failed = |error| Err(Error::Io(format!("a read was given up: {error}")));
        tokio::task::spawn_blocking(act).await.unwrap_or_else(failed)
    })
}

impl MessageLog for LocalStore {
    fn create(&self, commit: &mut Commit, name: &[u8], sequence: Option<SequenceId>, class: RetentionClass) -> LogId {
        let log = self.log.append.lock().reserve_log();
        let sequence = sequence.unwrap_or(SequenceId(log.0));
        commit.log_created(log, &LogCreated { sequence, class, name });
        log
    }

    fn holds(&self, once: OnceKey) -> bool {
        self.log.append.lock().holds(once)
    }

    fn held(&self, owner: u64) -> Vec<OnceKey> {
        self.log.append.lock().held(owner)
    }

    fn logs(&self, visit: &mut dyn FnMut(LogId, &[u8], &Bounds)) {
        for (log, state) in &self.log.state.read().logs {
            visit(LogId(*log), &state.name, &state.bounds());
        }
    }

    fn bounds(&self, log: LogId) -> Option<Bounds> {
        Some(self.log.state.read().logs.get(&log.0)?.bounds())
    }

    fn locate(&self, log: LogId, at: At) -> Fetch<'_, Offset> {
        match at {
            At::Mark(_) | At::Last(_) => match self.log.locate_warm(log, at) {
                Ok(Some(position)) => return Fetch::ready(Ok(position)),
                Ok(None) => {}
                Err(error) => return Fetch::ready(Err(error)),
            },
            At::Time(_) => {}
        }
        let shared = Arc::clone(&self.log);
        blocking(move || shared.locate(log, at))
    }

    fn read<'a>(&'a self, log: LogId, from: Offset, limit: Limit, into: &'a mut ReadBuf) -> Fetch<'a, Progress> {
        if self.log.reads_cold(log, from) {
            let shared = Arc::clone(&self.log);
            return Fetch::wait(async move {
                let mut buffer = std::mem::take(into);
                let (buffer, result) = blocking(move || {
                    let result = shared.read_cold(log, from, limit, &mut buffer);
                    Ok((buffer, result))
                })
                .await?;
                *into = buffer;
                result
            });
        }
        let plan = match self.log.plan(log, from, limit) {
            Ok(plan) => plan,
            Err(error) => {
                into.clear();
                return Fetch::ready(Err(error));
            }
        };
        if plan.is_warm() {
            return Fetch::ready(self.log.copy(&plan, into));
        }
        let shared = Arc::clone(&self.log);
        Fetch::wait(async move {
            let mut buffer = std::mem::take(into);
            let (buffer, result) = blocking(move || {
                let result = shared.copy(&plan, &mut buffer);
                Ok((buffer, result))
            })
            .await?;
            *into = buffer;
            result
        })
    }

    fn touched<'a>(&'a self, from: Mark, limit: Limit, into: &'a mut Vec<Touched>) -> Fetch<'a, Mark> {
        {
            let state = self.log.state.read();
            let cold = state.cold.range(log::frame::segment_of(from.raw())..).next();
            if cold.is_none_or(|segment| log::frame::lsn(*segment, 0) >= limit.before.raw()) {
                return Fetch::ready(Ok(state.touched(from, limit, into)));
            }
        }
        let shared = Arc::clone(&self.log);
        Fetch::wait(async move {
            let mut found = std::mem::take(into);
            let (found, result) = blocking(move || {
                let result = shared.touched_cold(from, limit, &mut found);
                Ok((found, result))
            })
            .await?;
            *into = found;
            result
        })
    }

    fn count(&self, log: LogId, range: Range<Offset>) -> Fetch<'_, u64> {
        let state = self.log.state.read();
        if !state.logs.contains_key(&log.0) {
            return Fetch::ready(Err(Error::NoLog(log)));
        }
        if state.cold_part(log.0, range.start.0).is_none() {
            return Fetch::ready(Ok(state.count(log.0, range.start.0, range.end.0)));
        }
        drop(state);
        let shared = Arc::clone(&self.log);
        blocking(move || shared.count_cold(log, range.start, range.end))
    }

    fn feed(&self) -> Feed {
        self.log.feed.take()
    }

    fn pin(&self, mark: Mark) -> Pin {
        Pin {
            _guard: Box::new(self.log.pins.hold(mark)),
        }
    }
}

impl MetaStore for LocalStore {
    fn derive(&self, table: Table, key: &[u8], row: Option<&[u8]>) {
        debug_assert!(
            self.log.listing.get().is_none_or(|listing| !listing.holds(table)),
            "a start does not derive again what the catalog has, so its tables have no derived rows"
        );
        let mark = self.log.feed.finished_mark();
        self.log.state.write().apply_row(table, key, row, mark);
    }

    fn get(&self, table: Table, key: &[u8]) -> Fetch<'_, Option<Row>> {
        if self.is_listed(table) {
            let (shared, key) = (Arc::clone(&self.log), key.to_vec());
            return blocking(move || match shared.listing.get().and_then(Listing::catalog) {
                Some(catalog) => catalog.get(table, &key),
                None => Ok(shared.state.read().rows.get(table, &key)),
            });
        }
        Fetch::ready(Ok(self.log.state.read().rows.get(table, key)))
    }

    fn scan(&self, table: Table, range: Range<Vec<u8>>, limit: usize) -> Fetch<'_, Vec<KeyedRow>> {
        if self.is_listed(table) {
            let shared = Arc::clone(&self.log);
            return blocking(move || match shared.listing.get().and_then(Listing::catalog) {
                Some(catalog) => catalog.scan(table, range, limit),
                None => Ok(shared.state.read().rows.scan(table, range, limit)),
            });
        }
        Fetch::ready(Ok(self.log.state.read().rows.scan(table, range, limit)))
    }

    fn load(&self, visit: &mut dyn FnMut(Table, &[u8], &Row)) -> Result<()> {
        // Without a snapshot everything is in the log, and the feed brings it.
        if self.from_snapshot {
            self.log.state.read().rows.visit(visit);
        }
        Ok(())
    }

    fn lease(&self, owner: u64, _ttl: Duration) -> Fetch<'_, Lease> {
        let epoch = Epoch(self.log.append.lock().lease(owner));
        Fetch::ready(Ok(Lease {
            owner,
            epoch,
            ttl: None,
        }))
    }

    fn renew(&self, _lease: &Lease) -> Fetch<'_, ()> {
        Fetch::ready(Ok(()))
    }
}

impl Store for LocalStore {
    fn begin(&self, class: Class) -> Commit {
        match self.commits.lock().pop() {
            Some(mut commit) => {
                commit.reset(class);
                commit
            }
            None => Commit::new(class),
        }
    }

    fn commit(&self, commit: Commit) -> std::result::Result<Ticket, Refused> {
        debug_assert!(
            commit.class != Class::A || commit.entries.iter().all(|entry| entry.kind != EntryKind::Row),
            "a commit of class A holds records only"
        );
        let result = self.log.commit(&commit);
        if commit.arena.capacity() <= ARENA_BYTES_KEPT {
            let mut commits = self.commits.lock();
            if commits.len() < COMMITS_KEPT {
                commits.push(commit);
            }
        }
        result
    }

    fn sync(&self) -> Ticket {
        self.log.sync()
    }

    fn notify(&self, ticket: &Ticket, who: WaiterId) {
        self.log.notify(ticket, who);
    }

    fn outcome(&self, ticket: &Ticket) -> Option<Result<()>> {
        self.log.outcome(ticket)
    }

    fn settled(&self, ticket: &Ticket) -> Fetch<'_, ()> {
        self.log.settlement.settled(ticket.write)
    }

    fn mark(&self) -> Mark {
        self.log.append.lock().mark()
    }

    fn state(&self) -> StoreState {
        self.log.store_state()
    }

    fn written(&self) -> Written {
        self.log.counters.read()
    }

    fn close(&self) -> Result<()> {
        self.end(Stop::Clean);
        match self.state() {
            StoreState::Latched(cause) => Err(Error::Io(cause)),
            StoreState::Ready | StoreState::Full | StoreState::Slow => Ok(()),
        }
    }
}
