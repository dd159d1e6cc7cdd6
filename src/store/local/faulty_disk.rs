//! A disk for tests with two levels, cache and platter: it forgets what was not synced, tears it at sector boundaries,
//! keeps it in any order, fails on demand, and tells what was asked of it.
//!
//! A process that is killed leaves the cache as it is ([`FaultyDisk::kill`]); a power cut leaves the platter and, of
//! what was in the cache only, a random part ([`FaultyDisk::power_cut`]).
//!
//! **Invariants**
//! - What was synced without an error survives everything.
//! - After a failed sync the cache counts as clean, as on Linux: a later sync writes none of it.
//! - The same seed and the same operations give the same platter.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::disk::{Disk, DiskFile, LockGuard, Place};

/// What a torn write is made of.
pub const SECTOR_BYTES: usize = 512;

/// One operation that changes something, as the trace tells it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// A file was made.
    Create(PathBuf),
    /// Bytes were written to a file: offset and length.
    Write(PathBuf, u64, usize),
    /// A file was synced.
    Sync(PathBuf),
    /// Space was reserved for the first bytes of a file.
    Reserve(PathBuf, u64),
    /// A file was cut or extended.
    SetLen(PathBuf, u64),
    /// A file was renamed; includes the sync of the directory.
    Rename(PathBuf, PathBuf),
    /// A name was removed.
    Unlink(PathBuf),
    /// A directory was synced.
    SyncDir(PathBuf),
    /// A test left a note, to order it against the operations.
    Note(String),
}

/// How an operation fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// `EIO`.
    Broken,
    /// `ENOSPC`.
    Full,
}

#[derive(Default)]
struct Inode {
    name: PathBuf,
    cache: Vec<u8>,
    platter: Vec<u8>,
    dirty: BTreeSet<usize>,
    length_dirty: bool,
}

#[derive(Clone)]
enum DirOp {
    Link(PathBuf, usize),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf, usize),
}

#[derive(Default)]
struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    pending: Vec<DirOp>,
    locked: BTreeSet<PathBuf>,
    generation: u64,
    count: u64,
    stop_at: Option<u64>,
    stopped: bool,
    fail_at: Option<(u64, Fault)>,
    fail_sync: Option<Fault>,
    full: bool,
    read_fails: Option<(PathBuf, u64)>,
    trace: Vec<Op>,
}

/// The disk; clones share it. Open files of an earlier life fail.
#[derive(Clone, Default)]
pub struct FaultyDisk(Arc<Mutex<State>>);

struct FaultyFile {
    disk: FaultyDisk,
    inode: usize,
    generation: u64,
}

struct Locked {
    disk: FaultyDisk,
    path: PathBuf,
    generation: u64,
}

impl Drop for Locked {
    fn drop(&mut self) {
        let mut state = self.disk.0.lock();
        if state.generation == self.generation {
            state.locked.remove(&self.path);
        }
    }
}

/// A small generator whose numbers depend on the seed alone.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Starts at a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def1)
    }

    /// The next 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound
    }
}

fn stopped() -> io::Error {
    io::Error::other("the machine has stopped")
}

impl State {
    fn begin(&mut self, generation: u64, op: Op) -> io::Result<()> {
        if self.stopped || generation != self.generation {
            return Err(stopped());
        }
        self.count += 1;
        if self.stop_at.is_some_and(|at| self.count >= at) {
            self.stopped = true;
            return Err(stopped());
        }
        let is_sync = matches!(op, Op::Sync(_) | Op::SyncDir(_));
        let grows = matches!(op, Op::Create(_) | Op::Write(..) | Op::Reserve(..));
        let fault = match self.fail_at {
            Some((at, fault)) if at == self.count => Some(fault),
            _ if is_sync => self.fail_sync,
            _ if grows && self.full => Some(Fault::Full),
            _ => None,
        };
        self.trace.push(op);
        match fault {
            None => Ok(()),
            Some(Fault::Broken) => Err(io::Error::from_raw_os_error(5)),
            Some(Fault::Full) => Err(io::Error::from_raw_os_error(28)),
        }
    }

    fn sync_names(&mut self, dir: &Path) {
        let ops = std::mem::take(&mut self.pending);
        for op in ops {
            let here = match &op {
                DirOp::Link(path, _) | DirOp::Unlink(path) => path.parent() == Some(dir),
                DirOp::Rename(from, to, _) => from.parent() == Some(dir) || to.parent() == Some(dir),
            };
            if here {
                apply(&mut self.durable_names, op);
            } else {
                self.pending.push(op);
            }
        }
    }
}

fn apply(names: &mut BTreeMap<PathBuf, usize>, op: DirOp) {
    match op {
        DirOp::Link(path, inode) => {
            names.insert(path, inode);
        }
        DirOp::Unlink(path) => {
            names.remove(&path);
        }
        DirOp::Rename(from, to, inode) => {
            names.remove(&from);
            names.insert(to, inode);
        }
    }
}

impl FaultyDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// Operations so far that changed something.
    pub fn count(&self) -> u64 {
        self.0.lock().count
    }

    /// What was asked so far.
    pub fn trace(&self) -> Vec<Op> {
        self.0.lock().trace.clone()
    }

    /// Puts a note into the trace.
    pub fn note(&self, text: &str) {
        self.0.lock().trace.push(Op::Note(text.to_owned()));
    }

    /// From the `n`-th operation from now on (1 is the next) everything fails, as if the process were gone.
    pub fn stop_at(&self, n: u64) {
        let mut state = self.0.lock();
        state.stop_at = Some(state.count + n);
    }

    /// The `n`-th operation from now on fails, that one alone.
    pub fn fail_at(&self, n: u64, fault: Fault) {
        let mut state = self.0.lock();
        state.fail_at = Some((state.count + n, fault));
    }

    /// Every sync fails until told otherwise.
    pub fn fail_syncs(&self, fault: Option<Fault>) {
        self.0.lock().fail_sync = fault;
    }

    /// Everything that takes space fails with `ENOSPC` until told otherwise.
    pub fn set_full(&self, full: bool) {
        self.0.lock().full = full;
    }

    /// Reads that touch this byte of this file fail with `EIO`.
    pub fn fail_read(&self, path: &Path, offset: u64) {
        self.0.lock().read_fails = Some((path.to_path_buf(), offset));
    }

    /// The process is gone, the machine stays: what was written is in the cache.
    pub fn kill(&self) {
        let mut state = self.0.lock();
        state.generation += 1;
        state.locked.clear();
        state.stopped = false;
        state.stop_at = None;
        state.fail_at = None;
        state.fail_sync = None;
        state.full = false;
        state.read_fails = None;
    }

    /// The power is gone: of what was not synced a random part, sector by sector, has reached the platter.
    pub fn power_cut(&self, seed: u64) {
        self.kill();
        let mut state = self.0.lock();
        let mut random = Random::new(seed);
        // A fifth of the cuts each loses or keeps everything, as idle and busy machines do.
        let chance = match random.below(5) {
            0 => 0,
            1 => 100,
            _ => 20 + random.below(60),
        };
        for op in std::mem::take(&mut state.pending) {
            if random.below(100) < chance {
                apply(&mut state.durable_names, op);
            }
        }
        for inode in &mut state.inodes {
            if inode.length_dirty && random.below(100) < chance {
                inode.platter.resize(inode.cache.len(), 0);
            }
            for sector in std::mem::take(&mut inode.dirty) {
                if random.below(100) < chance {
                    let start = sector * SECTOR_BYTES;
                    let end = (start + SECTOR_BYTES).min(inode.cache.len());
                    if inode.platter.len() < end {
                        continue;
                    }
                    inode.platter[start..end].copy_from_slice(&inode.cache[start..end]);
                }
            }
            inode.cache = inode.platter.clone();
            inode.length_dirty = false;
        }
        state.names = state.durable_names.clone();
    }

    /// Changes bytes of a file in cache and on the platter: damage.
    pub fn damage(&self, path: &Path, offset: usize, change: impl Fn(&mut [u8])) {
        let mut state = self.0.lock();
        let inode = state.names[path];
        let inode = &mut state.inodes[inode];
        change(&mut inode.cache[offset..]);
        let end = inode.cache.len().min(inode.platter.len());
        if offset < end {
            change(&mut inode.platter[offset..end]);
        }
    }

    /// The bytes of a file, as its reader would see them.
    pub fn content(&self, path: &Path) -> Vec<u8> {
        let state = self.0.lock();
        state
            .names
            .get(path)
            .map(|inode| state.inodes[*inode].cache.clone())
            .unwrap_or_default()
    }

    /// Puts a file there, durably.
    pub fn plant(&self, path: &Path, bytes: &[u8]) {
        let mut state = self.0.lock();
        let inode = state.inodes.len();
        state.inodes.push(Inode {
            name: path.to_path_buf(),
            cache: bytes.to_vec(),
            platter: bytes.to_vec(),
            ..Inode::default()
        });
        state.names.insert(path.to_path_buf(), inode);
        state.durable_names.insert(path.to_path_buf(), inode);
    }

    /// Removes a file, durably: damage.
    pub fn lose(&self, path: &Path) {
        let mut state = self.0.lock();
        state.names.remove(path);
        state.durable_names.remove(path);
    }

    /// An independent copy, as it is.
    #[must_use]
    pub fn fork(&self) -> Self {
        let state = self.0.lock();
        let inodes = state
            .inodes
            .iter()
            .map(|inode| Inode {
                name: inode.name.clone(),
                cache: inode.cache.clone(),
                platter: inode.platter.clone(),
                dirty: inode.dirty.clone(),
                length_dirty: inode.length_dirty,
            })
            .collect();
        Self(Arc::new(Mutex::new(State {
            inodes,
            names: state.names.clone(),
            durable_names: state.durable_names.clone(),
            pending: state.pending.clone(),
            ..State::default()
        })))
    }

    fn file(&self, inode: usize, generation: u64) -> Arc<dyn DiskFile> {
        Arc::new(FaultyFile {
            disk: self.clone(),
            inode,
            generation,
        })
    }
}

impl Disk for FaultyDisk {
    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.0.lock();
        let generation = state.generation;
        state.begin(generation, Op::Create(path.to_path_buf()))?;
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = state.inodes.len();
        state.inodes.push(Inode {
            name: path.to_path_buf(),
            ..Inode::default()
        });
        state.names.insert(path.to_path_buf(), inode);
        state.pending.push(DirOp::Link(path.to_path_buf(), inode));
        Ok(self.file(inode, generation))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.0.lock();
        if state.stopped {
            return Err(stopped());
        }
        let inode = *state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.file(inode, state.generation))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        let generation = state.generation;
        state.begin(generation, Op::Rename(from.to_path_buf(), to.to_path_buf()))?;
        let inode = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_path_buf(), inode);
        state.inodes[inode].name = to.to_path_buf();
        state
            .pending
            .push(DirOp::Rename(from.to_path_buf(), to.to_path_buf(), inode));
        // The sync of the directory is an operation of its own, between which and the rename the power can fail.
        for dir in [to.parent(), from.parent()].into_iter().flatten() {
            state.begin(generation, Op::SyncDir(dir.to_path_buf()))?;
            state.sync_names(dir);
            if from.parent() == to.parent() {
                break;
            }
        }
        Ok(())
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        let generation = state.generation;
        state.begin(generation, Op::Unlink(path.to_path_buf()))?;
        state.names.remove(path).ok_or(io::ErrorKind::NotFound)?;
        state.pending.push(DirOp::Unlink(path.to_path_buf()));
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.0.lock();
        if state.stopped {
            return Err(stopped());
        }
        let names = state.names.keys().filter(|path| path.parent() == Some(dir));
        let names = names.filter_map(|path| path.file_name());
        Ok(names.map(|name| name.to_string_lossy().into_owned()).collect())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        let generation = state.generation;
        state.begin(generation, Op::SyncDir(dir.to_path_buf()))?;
        state.sync_names(dir);
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Option<LockGuard>> {
        let mut state = self.0.lock();
        if !state.locked.insert(path.to_path_buf()) {
            return Ok(None);
        }
        Ok(Some(Box::new(Locked {
            disk: self.clone(),
            path: path.to_path_buf(),
            generation: state.generation,
        })))
    }

    fn place(&self, _dir: &Path) -> io::Result<Place> {
        Ok(Place {
            machine: [7; 16],
            device: 1,
            inode: 2,
        })
    }
}

impl FaultyFile {
    fn change(&self, op: impl FnOnce(&Path) -> Op, act: impl FnOnce(&mut Inode)) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        let name = state.inodes[self.inode].name.clone();
        let result = state.begin(self.generation, op(&name));
        let inode = &mut state.inodes[self.inode];
        if result.is_ok() {
            act(inode);
        }
        result
    }

    fn sync(&self) -> io::Result<()> {
        let result = self.change(
            |name| Op::Sync(name.to_path_buf()),
            |inode| {
                inode.platter.resize(inode.cache.len(), 0);
                for sector in std::mem::take(&mut inode.dirty) {
                    let start = sector * SECTOR_BYTES;
                    let end = (start + SECTOR_BYTES).min(inode.cache.len());
                    if start < end {
                        inode.platter[start..end].copy_from_slice(&inode.cache[start..end]);
                    }
                }
                inode.length_dirty = false;
            },
        );
        if result.is_err() {
            let mut state = self.disk.0.lock();
            if !state.stopped && state.generation == self.generation {
                state.inodes[self.inode].dirty.clear();
            }
        }
        result
    }
}

impl DiskFile for FaultyFile {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.disk.0.lock();
        if state.stopped || state.generation != self.generation {
            return Err(stopped());
        }
        let inode = &state.inodes[self.inode];
        if let Some((path, at)) = &state.read_fails
            && *path == inode.name
            && (offset..offset + into.len() as u64).contains(at)
        {
            return Err(io::Error::from_raw_os_error(5));
        }
        let start = (offset as usize).min(inode.cache.len());
        let end = (start + into.len()).min(inode.cache.len());
        into[..end - start].copy_from_slice(&inode.cache[start..end]);
        Ok(end - start)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let offset = offset as usize;
        self.change(
            |name| Op::Write(name.to_path_buf(), offset as u64, bytes.len()),
            |inode| {
                let end = offset + bytes.len();
                if inode.cache.len() < end {
                    inode.cache.resize(end, 0);
                    inode.length_dirty = true;
                }
                inode.cache[offset..end].copy_from_slice(bytes);
                inode.dirty.extend(offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES));
            },
        )
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync()
    }

    fn reserve(&self, bytes: u64) -> io::Result<()> {
        self.change(
            |name| Op::Reserve(name.to_path_buf(), bytes),
            |inode| {
                if inode.cache.len() < bytes as usize {
                    inode.cache.resize(bytes as usize, 0);
                    inode.length_dirty = true;
                }
            },
        )
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.change(
            |name| Op::SetLen(name.to_path_buf(), bytes),
            |inode| {
                inode.cache.resize(bytes as usize, 0);
                inode.length_dirty = true;
            },
        )
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.0.lock().inodes[self.inode].cache.len() as u64)
    }

    fn link_count(&self) -> io::Result<u64> {
        Ok(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_synced_survives_a_power_cut_and_what_was_not_may_not() {
        let mut lost = false;
        for seed in 0..50 {
            let disk = FaultyDisk::new();
            let path = Path::new("d/a");
            let file = disk.create(path).unwrap();
            file.write_at(&[1; 2048], 0).unwrap();
            file.sync_data().unwrap();
            disk.sync_dir(Path::new("d")).unwrap();
            file.write_at(&[2; 1024], 1024).unwrap();
            disk.power_cut(seed);
            assert!(file.write_at(&[3], 0).is_err(), "a file of an earlier life");
            let content = disk.content(path);
            assert_eq!(content[..1024], [1; 1024]);
            lost |= content[1024..].contains(&1);
        }
        assert!(lost);
    }

    #[test]
    fn a_name_that_was_not_synced_may_be_lost_and_a_kill_keeps_it() {
        let disk = FaultyDisk::new();
        disk.create(Path::new("d/a")).unwrap();
        disk.kill();
        assert_eq!(disk.list(Path::new("d")).unwrap(), ["a"]);
        let lost = (0..50).any(|seed| {
            let disk = disk.fork();
            disk.power_cut(seed);
            disk.list(Path::new("d")).unwrap().is_empty()
        });
        assert!(lost);
    }

    #[test]
    fn after_a_failed_sync_a_later_sync_does_not_save_what_was_written_before() {
        let disk = FaultyDisk::new();
        let path = Path::new("d/a");
        let file = disk.create(path).unwrap();
        file.write_at(&[1; 512], 0).unwrap();
        file.sync_data().unwrap();
        disk.sync_dir(Path::new("d")).unwrap();
        file.write_at(&[2; 512], 0).unwrap();
        disk.fail_at(1, Fault::Broken);
        assert!(file.sync_data().is_err());
        file.sync_data().unwrap();
        disk.power_cut(1);
        assert_eq!(disk.content(path), [1; 512]);
    }
}
