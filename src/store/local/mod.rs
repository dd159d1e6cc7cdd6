//! The embedded backend: one log of everything, on this machine's disk. Here it is opened, recovered and closed, and
//! here the seam's calls meet the modules that answer them.
//!
//! **Invariants**
//! - [`LocalStore::open`] returns only when everything it will hand out is durable.
//! - One process has the directory; a store that is dropped without [`Store::close`] leaves it as a kill would.

pub mod catalog;
pub(crate) mod data_dir;
pub mod disk;
#[cfg(any(test, feature = "testing"))]
#[expect(clippy::indexing_slicing, reason = "it exists for tests, where a panic is a finding")]
pub mod faulty_disk;
pub(crate) mod log;
pub(crate) mod rows;
pub mod snapshot;

#[cfg(test)]
mod harness;
#[cfg(test)]
mod recovery_tests;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock};

use self::data_dir::{DataDir, Manifest};
use self::disk::{Disk, LockGuard, RealDisk};
use self::log::Log;
use self::log::append::{Append, Cursor, Stop};
use self::log::frame::{FORMAT_VERSION, SEGMENT_HEADER_BYTES};
use self::log::prepare::Preparer;
use self::log::recent::{RECENT_BYTES_MAX, Recent};
pub use self::log::recovery::Cut;
use self::log::recovery::{Recovered, Start, recover};
use self::log::segment::make_segment;
use self::log::settle::Settlement;
use self::log::state::State;
use self::log::writer::{Step, Writer};
use crate::clock::Clock;
use crate::store::feed::{Feed, FeedItem, FeedQueue};
use crate::store::types::{
    At, Bounds, Class, Commit, EntryKind, Epoch, KeyedRow, Lease, Limit, LogCreated, LogId, Mark, Offset, OnceKey,
    Progress, ReadBuf, RetentionClass, Row, SequenceId, StoreState, Table, Ticket, Touched, WaiterId,
};
use crate::store::{Error, Fetch, MessageLog, MetaStore, Pin, Refused, Result, Store};

/// Bytes of a segment, unless a test wants small ones.
pub const SEGMENT_BYTES: u64 = 64 << 20;
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
            require_existing: false,
            #[cfg(any(test, feature = "testing"))]
            stepped: false,
        }
    }

    fn is_stepped(&self) -> bool {
        #[cfg(any(test, feature = "testing"))]
        {
            self.stepped
        }
        #[cfg(not(any(test, feature = "testing")))]
        {
            false
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
    pub fn open(options: Options) -> Result<(Self, OpenReport)> {
        if !(SEGMENT_BYTES_MIN..=u64::from(u32::MAX)).contains(&options.segment_bytes) {
            return Err(Error::Refused(format!(
                "segments of {} bytes are not possible; at least {SEGMENT_BYTES_MIN}, and less than 4 GiB",
                options.segment_bytes
            )));
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
        let place = disk
            .place(dir.root())
            .map_err(|error| dir.io("look at", dir.root(), &error))?;
        let moved = place != manifest.place;
        if moved {
            tracing::warn!(dir = %dir.root().display(), "the data directory was copied or moved since its last start");
        }
        let recovered = recover(disk, &dir, manifest.store, Start::BEGINNING, options.segment_bytes)?;
        manifest.incarnation += 1;
        manifest.place = place;
        manifest.write(disk, &dir)?;
        let report = OpenReport {
            store: manifest.store,
            incarnation: manifest.incarnation,
            created,
            previous_clean_stop: recovered.clean_stop,
            last_time_ms: recovered.highest_time,
            batches_replayed: recovered.accepted.len() as u64,
            cut: recovered.cut.clone(),
            moved,
            durability: options.durability,
        };
        let store = Self::start(options, dir, &manifest, recovered, lock)?;
        Ok((store, report))
    }

    fn start(
        options: Options,
        dir: DataDir,
        manifest: &Manifest,
        recovered: Recovered,
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
        let first_segment = recovered
            .accepted
            .first()
            .map_or(active.header.number, |first| first.segment);
        let mut state = State::new(first_segment);
        let mut recent = Recent::new(options.recent_bytes);
        let settlement = Arc::new(Settlement::default());
        settlement.start(durable);
        let feed = FeedQueue::new(Box::new({
            let settlement = Arc::clone(&settlement);
            move |batch| settlement.finished(batch.write)
        }));
        for accepted in recovered.accepted {
            if accepted.segment != state.active.number {
                state.switch(accepted.segment);
            }
            for entry in &accepted.batch.entries {
                append.replay(entry, accepted.batch.body(entry));
            }
            state.apply(&accepted.batch, accepted.start, accepted.time);
            if accepted.batch.entries.is_empty() {
                continue;
            }
            let batch = Arc::new(accepted.batch);
            recent.push(Arc::clone(&batch));
            feed.queue(FeedItem::Batch(batch));
        }
        if state.active.number != active.header.number {
            state.switch(active.header.number);
        }
        state.end = append.mark();
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
        });
        log.open
            .insert(active.header.number, Arc::clone(&active.file), active.header.salt);
        log.preparer.want(active.header.number + 1, segment_bytes);
        let writer = Writer::new(Arc::clone(&log), active, segment_bytes, durable);
        let store = Self {
            log,
            commits: Mutex::default(),
            threads: Mutex::default(),
            stepper: Mutex::default(),
            lock: Mutex::new(Some(lock)),
            segment_bytes,
        };
        if options.is_stepped() {
            *store.stepper.lock() = Some(writer);
        } else {
            store.spawn(writer)?;
        }
        Ok(store)
    }

    fn spawn(&self, writer: Writer) -> Result<()> {
        let failed = |error| Error::Io(format!("cannot start a thread: {error}"));
        let mut threads = self.threads.lock();
        let log = Arc::clone(&self.log);
        let segment_bytes = self.segment_bytes;
        let maintenance = std::thread::Builder::new().name("maintenance".into()).spawn(move || {
            log.preparer.run(log.disk.as_ref(), &log.dir, log.store, segment_bytes);
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

    fn step_until_idle(&self, writer: &mut Writer, hurry: bool) -> bool {
        let log = &self.log;
        let mut blocked = 0;
        loop {
            match writer.step(hurry) {
                Step::Done => {}
                Step::Blocked if blocked > 8 => return true,
                Step::Blocked => {
                    blocked += 1;
                    while log
                        .preparer
                        .work(log.disk.as_ref(), &log.dir, log.store, self.segment_bytes)
                    {}
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
        self.lock.lock().take();
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

/// Whose directory it is; a new one gets its first segment and then a MANIFEST.
fn identify(disk: &dyn Disk, dir: &DataDir, options: &Options) -> Result<(Manifest, bool)> {
    let files = dir.log_files(disk)?;
    if let Some(manifest) = Manifest::read(disk, dir)? {
        if files.segments.is_empty() {
            return Err(Error::Refused(format!(
                "`{}` names a store, but its log is missing; restore it from a backup",
                dir.manifest().display()
            )));
        }
        return Ok((manifest, false));
    }
    let store = match files.segments.as_slice() {
        [] if options.require_existing => {
            return Err(Error::Refused(format!(
                "`{}` holds no store, and a new one is not allowed; is its disk mounted?",
                dir.root().display()
            )));
        }
        [] => {
            let mut store = [0; 16];
            let drawn = getrandom::fill(&mut store);
            drawn.map_err(|error| Error::Io(format!("no random number to be had: {error}")))?;
            let path = dir.segment(1);
            make_segment(disk, dir, 1, options.segment_bytes, store).map_err(|error| dir.io("make", &path, &error))?;
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
        "`{}` holds a log of format {FORMAT_VERSION} or another, but no MANIFEST; nothing is initialised anew over it",
        dir.root().display()
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
            At::Mark(_) | At::Last(_) => Fetch::ready(self.log.locate(log, at)),
            At::Time(_) => {
                let shared = Arc::clone(&self.log);
                blocking(move || shared.locate(log, at))
            }
        }
    }

    fn read<'a>(&'a self, log: LogId, from: Offset, limit: Limit, into: &'a mut ReadBuf) -> Fetch<'a, Progress> {
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
        Fetch::ready(Ok(self.log.state.read().touched(from, limit, into)))
    }

    fn count(&self, log: LogId, range: Range<Offset>) -> Fetch<'_, u64> {
        let state = self.log.state.read();
        if !state.logs.contains_key(&log.0) {
            return Fetch::ready(Err(Error::NoLog(log)));
        }
        Fetch::ready(Ok(state.count(log.0, range.start.0, range.end.0)))
    }

    fn feed(&self) -> Feed {
        self.log.feed.take()
    }

    fn pin(&self, _mark: Mark) -> Pin {
        // Nothing is recycled while segments live for ever.
        Pin { _guard: Box::new(()) }
    }
}

impl MetaStore for LocalStore {
    fn derive(&self, table: Table, key: &[u8], row: Option<&[u8]>) {
        let mark = self.log.feed.finished_mark();
        self.log.state.write().rows.apply(table, key, row, mark);
    }

    fn get(&self, table: Table, key: &[u8]) -> Fetch<'_, Option<Row>> {
        Fetch::ready(Ok(self.log.state.read().rows.get(table, key)))
    }

    fn scan(&self, table: Table, range: Range<Vec<u8>>, limit: usize) -> Fetch<'_, Vec<KeyedRow>> {
        Fetch::ready(Ok(self.log.state.read().rows.scan(table, range, limit)))
    }

    fn load(&self, _visit: &mut dyn FnMut(Table, &[u8], &Row)) -> Result<()> {
        // Everything is in the log, and the feed brings it.
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

    fn close(&self) -> Result<()> {
        self.end(Stop::Clean);
        match self.state() {
            StoreState::Latched(cause) => Err(Error::Io(cause)),
            StoreState::Ready | StoreState::Full | StoreState::Slow => Ok(()),
        }
    }
}
