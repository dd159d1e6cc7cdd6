//! Base and delta snapshots: what a start reads, so that it need not read the log from its beginning.
//!
//! A base holds everything up to a mark, a delta what changed since the file before it. Files are named by their mark:
//! `snapshots/<mark as 16 hex digits>.base.snap` and `.delta.snap`. A new base is merged from files, never from memory,
//! and stands at the mark of the newest delta; so a delta behind it continues the older chain just as well, and a
//! damaged base costs nothing but time.
//!
//! When snapshots are due, and that everything before the mark is durable, is the caller's business.
//!
//! **Invariants**
//! - A file has its name only when all its bytes are durable.
//! - The files behind a base are linked: each names the mark of the one before it.
//! - The newest two bases and every delta behind the older of them are kept.

mod file;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use self::file::{Head, Kind, LogState, OnceState, SegmentState};
use self::file::{Item, Reader, RowItem, Verified, Writer};
use super::disk::Disk;
use crate::store::{Error, LogId, Mark, Result, Row, Table};

/// Deltas of a chain at most, so that a start does not open thousands of files.
const DELTAS_MAX: usize = 64;

/// What became of a row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RowChange {
    /// Where it was written or deleted.
    pub mark: Mark,
    /// Its bytes; `None` if it was deleted.
    pub row: Option<Vec<u8>>,
}

/// Rows that changed, in the order of the file.
pub type RowChanges = BTreeMap<(Table, Vec<u8>), RowChange>;

/// Logs that changed; `None` if the log was removed.
pub type LogChanges = BTreeMap<LogId, Option<LogState>>;

/// What one snapshot says: as a whole head, segments and once-keys; of logs and rows what changed since the one before
/// (all of them in the first).
#[derive(Clone, Copy)]
pub struct Contents<'a> {
    /// What it stands for.
    pub head: Head,
    /// All segments.
    pub segments: &'a [SegmentState],
    /// All held once-keys.
    pub once: &'a [OnceState],
    /// Changed logs.
    pub logs: &'a LogChanges,
    /// Changed rows.
    pub rows: &'a RowChanges,
}

/// What a chain says, but for its rows, which are visited.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Loaded {
    /// What it stands for.
    pub head: Head,
    /// All segments.
    pub segments: Vec<SegmentState>,
    /// All held once-keys.
    pub once: Vec<OnceState>,
    /// All logs, by number.
    pub logs: Vec<LogState>,
    /// The highest mark of a row; the log must reach behind it.
    pub newest_row: Mark,
    /// What is wrong with newer files that had to be passed over.
    pub passed_over: Vec<Error>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Named {
    mark: u64,
    kind: Kind,
    bytes: u64,
}

impl Named {
    fn parse(name: &str) -> Option<Self> {
        let (mark, kind) = name.split_once('.')?;
        let kind = match kind {
            "base.snap" => Kind::Base,
            "delta.snap" => Kind::Delta,
            _ => return None,
        };
        if mark.len() != 16 {
            return None;
        }
        let mark = u64::from_str_radix(mark, 16).ok()?;
        Some(Self { mark, kind, bytes: 0 })
    }

    fn name(&self) -> String {
        match self.kind {
            Kind::Base => format!("{:016x}.base.snap", self.mark),
            Kind::Delta => format!("{:016x}.delta.snap", self.mark),
        }
    }
}

/// The snapshots of a store.
pub struct Snapshots {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// The chain that the next delta continues: a base and its deltas.
    chain: Vec<Named>,
    /// The mark of the oldest base that is kept beside it.
    older_base: Option<u64>,
    /// Files that the next write sets aside, because they would stand in the way of the chain.
    aside: Vec<Named>,
}

impl Snapshots {
    /// Verifies the newest chain, or as much of an older one as verifies, then visits its rows: each key once, newest
    /// wins, in the order of (table, key). Without any file there is nothing to load.
    ///
    /// # Errors
    /// [`Error::Damaged`] if there are files and none serves, or if one cannot be read.
    pub fn load(
        disk: Arc<dyn Disk>,
        dir: &Path,
        visit: &mut dyn FnMut(Table, &[u8], &Row),
    ) -> Result<(Self, Option<Loaded>)> {
        let names = disk
            .list(dir)
            .map_err(|error| Error::Io(format!("listing `{}` failed: {error}", dir.display())))?;
        let mut files: Vec<Named> = names.iter().filter_map(|name| Named::parse(name)).collect();
        files.sort_by_key(|file| (file.mark, Reverse(file.kind)));
        let mut snapshots = Self {
            disk,
            dir: dir.to_path_buf(),
            chain: Vec::new(),
            older_base: None,
            aside: Vec::new(),
        };
        let mut passed_over = Vec::new();
        for (at, base) in files
            .iter()
            .enumerate()
            .rev()
            .filter(|(_, file)| file.kind == Kind::Base)
        {
            if let Err(error) = snapshots.extend(base) {
                keep_damage(error, &mut passed_over)?;
                continue;
            }
            let behind = files.get(at + 1..).unwrap_or_default();
            let mut broken = false;
            for delta in behind
                .iter()
                .filter(|file| file.kind == Kind::Delta && file.mark > base.mark)
            {
                if !broken && let Err(error) = snapshots.extend(delta) {
                    keep_damage(error, &mut passed_over)?;
                    broken = true;
                }
                if broken {
                    snapshots.aside.push(delta.clone());
                }
            }
            let bad_bases = behind.iter().filter(|file| file.kind == Kind::Base);
            snapshots.aside.extend(bad_bases.cloned());
            let older = files.iter().take(at).rev().find(|file| file.kind == Kind::Base);
            snapshots.older_base = older.map(|file| file.mark);
            let mut loaded = snapshots.visit_merged(visit)?;
            passed_over.dedup();
            loaded.passed_over = passed_over;
            return Ok((snapshots, Some(loaded)));
        }
        match passed_over.into_iter().next() {
            Some(error) => Err(error),
            None if files.is_empty() => Ok((snapshots, None)),
            None => Err(Error::Damaged {
                file: "snapshots".to_owned(),
                offset: 0,
                cause: "there are deltas and no base".to_owned(),
            }),
        }
    }

    /// Adds a file to the chain if it verifies and continues it.
    fn extend(&mut self, file: &Named) -> Result<()> {
        let path = self.path(file);
        let Verified {
            kind,
            mark,
            previous,
            bytes,
        } = file::verify(&*self.disk, &path)?;
        let due = self.chain.last().map_or(0, |last| last.mark);
        let problem = if kind != file.kind || mark.raw() != file.mark {
            "the name does not fit the header"
        } else if previous.raw() != due {
            "the file before it is missing"
        } else {
            self.chain.push(Named { bytes, ..file.clone() });
            return Ok(());
        };
        Err(Error::Damaged {
            file: file::short(&path),
            offset: 0,
            cause: problem.to_owned(),
        })
    }

    fn path(&self, file: &Named) -> PathBuf {
        self.dir.join(file.name())
    }

    /// The mark that the newest file stands for; the next one must lie behind it.
    pub fn mark(&self) -> Mark {
        Mark::new(self.chain.last().map_or(0, |last| last.mark))
    }

    /// Where the log must be kept from, so that the older chain serves if the newer is damaged.
    pub fn oldest_mark(&self) -> Mark {
        let base = self.chain.first().map(|base| base.mark);
        Mark::new(self.older_base.or(base).unwrap_or(0))
    }

    /// Bytes of all files of the chain.
    pub fn bytes(&self) -> u64 {
        self.chain.iter().map(|file| file.bytes).sum()
    }

    /// Writes the next snapshot: a base if there is none, otherwise a delta. One that stands at the mark of the file
    /// before it says nothing new and is not written. `pace` is called between slices of 1 MiB and may wait there.
    ///
    /// # Errors
    /// [`Error::Io`]; nothing has changed then.
    pub fn write(&mut self, contents: &Contents<'_>, pace: &dyn Fn()) -> Result<()> {
        let mark = contents.head.mark;
        let previous = self.chain.last().map(|last| Mark::new(last.mark));
        match previous {
            Some(previous) if previous == mark => return Ok(()),
            Some(previous) if previous > mark => {
                let cause = "a snapshot cannot stand before the one it continues";
                return Err(Error::Refused(cause.to_owned()));
            }
            _ => {}
        }
        self.set_aside()?;
        let mut named = Named {
            mark: mark.raw(),
            kind: if previous.is_some() { Kind::Delta } else { Kind::Base },
            bytes: 0,
        };
        let disk = Arc::clone(&self.disk);
        if self.chain.is_empty() {
            disk.create_dir(&self.dir)
                .map_err(|error| Error::Io(format!("making `{}` failed: {error}", self.dir.display())))?;
        }
        let mut writer = Writer::create(&*disk, &self.path(&named), previous, &contents.head, pace)?;
        for segment in contents.segments {
            writer.push(&Item::Segment(*segment))?;
        }
        for once in contents.once {
            writer.push(&Item::Once(*once))?;
        }
        let mut state = Vec::new();
        for (id, log) in contents.logs {
            state.clear();
            if let Some(log) = log {
                log.encode(&mut state);
                writer.push(&Item::Log(*id, Some(&state)))?;
            } else if previous.is_some() {
                writer.push(&Item::Log(*id, None))?;
            }
        }
        for ((table, key), change) in contents.rows {
            if change.row.is_some() || previous.is_some() {
                writer.push(&Item::Row(RowItem {
                    table: *table,
                    mark: change.mark,
                    key,
                    row: change.row.as_deref(),
                }))?;
            }
        }
        named.bytes = writer.finish()?;
        self.chain.push(named);
        Ok(())
    }

    /// Whether the deltas have grown so far that a new base pays.
    pub fn merge_due(&self) -> bool {
        let Some((base, deltas)) = self.chain.split_first() else {
            return false;
        };
        let bytes: u64 = deltas.iter().map(|file| file.bytes).sum();
        deltas.len() >= DELTAS_MAX || bytes > base.bytes / 2
    }

    /// Merges the chain into a new base at the mark of its newest file, which begins a new chain, and removes what is
    /// older than the last two chains.
    ///
    /// # Errors
    /// [`Error::Io`] or damage; the chain has not changed then.
    pub fn merge(&mut self, pace: &dyn Fn()) -> Result<()> {
        let (Some(base), Some(newest)) = (self.chain.first(), self.chain.last()) else {
            return Ok(());
        };
        if newest.kind == Kind::Base {
            return Ok(());
        }
        let older_base = base.mark;
        let mut named = Named {
            mark: newest.mark,
            kind: Kind::Base,
            bytes: 0,
        };
        self.set_aside()?;
        let disk = Arc::clone(&self.disk);
        let mut merge = Merge::open(&*disk, self.chain.iter().map(|file| self.path(file)))?;
        let mut writer = Writer::create(&*disk, &self.path(&named), None, &merge.head()?, pace)?;
        merge.run(&mut |item| match item {
            Item::Head(_) | Item::Log(_, None) | Item::Row(RowItem { row: None, .. }) => Ok(()),
            item => writer.push(item),
        })?;
        named.bytes = writer.finish()?;
        self.chain = vec![named];
        self.older_base = Some(older_base);
        self.prune()
    }

    fn visit_merged(&self, visit: &mut dyn FnMut(Table, &[u8], &Row)) -> Result<Loaded> {
        let mut merge = Merge::open(&*self.disk, self.chain.iter().map(|file| self.path(file)))?;
        let mut loaded = Loaded {
            head: merge.head()?,
            segments: Vec::new(),
            once: Vec::new(),
            logs: Vec::new(),
            newest_row: Mark::START,
            passed_over: Vec::new(),
        };
        let mut row = Row {
            bytes: Vec::new(),
            mark: Mark::START,
        };
        merge.run(&mut |item| {
            match item {
                Item::Head(_) | Item::Log(_, None) => {}
                Item::Segment(segment) => loaded.segments.push(*segment),
                Item::Once(once) => loaded.once.push(*once),
                Item::Log(id, Some(bytes)) => loaded.logs.extend(LogState::decode(*id, bytes)),
                Item::Row(item) => {
                    loaded.newest_row = loaded.newest_row.max(item.mark);
                    if let Some(bytes) = item.row {
                        row.bytes.clear();
                        row.bytes.extend_from_slice(bytes);
                        row.mark = item.mark;
                        visit(item.table, item.key, &row);
                    }
                }
            }
            Ok(())
        })?;
        Ok(loaded)
    }

    /// Renames what did not verify, or lies behind what did not: it stays as evidence, and out of the chain.
    fn set_aside(&mut self) -> Result<()> {
        while let Some(file) = self.aside.last() {
            let from = self.path(file);
            let to = self.dir.join(format!("{}.bad", file.name()));
            self.disk
                .rename(&from, &to)
                .map_err(|error| Error::Io(format!("setting `{}` aside failed: {error}", from.display())))?;
            self.aside.pop();
        }
        Ok(())
    }

    /// Removes what no kept chain needs.
    fn prune(&self) -> Result<()> {
        let failed = |error: io::Error| Error::Io(format!("tidying `{}` failed: {error}", self.dir.display()));
        let kept = self.oldest_mark().raw();
        for name in self.disk.list(&self.dir).map_err(failed)? {
            let plain = name.strip_suffix(".bad").unwrap_or(&name);
            let Some(file) = Named::parse(plain) else {
                continue;
            };
            // A delta at the mark of the oldest kept base is in that base.
            if file.mark < kept || (file.mark == kept && file.kind == Kind::Delta) {
                self.disk.unlink(&self.dir.join(name)).map_err(failed)?;
            }
        }
        self.disk.sync_dir(&self.dir).map_err(failed)
    }
}

/// Damage is passed over, for an older file may serve; a disk that cannot be read is no reason to go back in time.
fn keep_damage(error: Error, passed_over: &mut Vec<Error>) -> Result<()> {
    if matches!(error, Error::Damaged { .. }) {
        passed_over.push(error);
        return Ok(());
    }
    Err(error)
}

/// The key that the merge orders by: logs before rows, as in the files.
type SortKey = (u8, Vec<u8>);

/// Reads files of a chain side by side.
struct Merge {
    /// Oldest first.
    readers: Vec<Reader>,
    head: Option<Head>,
}

impl Merge {
    fn open(disk: &dyn Disk, paths: impl Iterator<Item = PathBuf>) -> Result<Self> {
        let mut merge = Self {
            readers: Vec::new(),
            head: None,
        };
        for path in paths {
            let mut reader = Reader::open(disk, &path)?;
            reader.advance()?;
            merge.head = match reader.item() {
                Some(Item::Head(head)) => Some(head),
                _ => None,
            };
            merge.readers.push(reader);
        }
        Ok(merge)
    }

    /// The head of the newest file.
    fn head(&self) -> Result<Head> {
        self.head.ok_or_else(|| Error::Damaged {
            file: "snapshots".to_owned(),
            offset: file::HEADER_BYTES,
            cause: "the newest snapshot has no head".to_owned(),
        })
    }

    /// Hands out segments and once-keys of the newest file, then logs, then rows, each key once with its newest state.
    fn run(&mut self, each: &mut dyn FnMut(&Item<'_>) -> Result<()>) -> Result<()> {
        let newest = self.readers.len().saturating_sub(1);
        // The greatest comes out first: the smallest key, and of one key the newest file.
        let mut due: BinaryHeap<(Reverse<SortKey>, usize)> = BinaryHeap::new();
        for (number, reader) in self.readers.iter_mut().enumerate() {
            let mut key = (0, Vec::new());
            loop {
                if !reader.advance()? {
                    break;
                }
                match reader.item() {
                    Some(item @ (Item::Segment(_) | Item::Once(_))) if number == newest => each(&item)?,
                    Some(item) if sort_key(&item, &mut key) => {
                        due.push((Reverse(key), number));
                        break;
                    }
                    _ => {}
                }
            }
        }
        let mut last: Option<SortKey> = None;
        while let Some((Reverse(key), number)) = due.pop() {
            let Some(reader) = self.readers.get_mut(number) else {
                continue;
            };
            let known = last.as_ref() == Some(&key);
            if !known && let Some(item) = reader.item() {
                each(&item)?;
            }
            // The key's memory goes round: one allocation a file, not one a row.
            let mut spare = if known {
                key
            } else {
                last.replace(key).unwrap_or_default()
            };
            if reader.advance()?
                && let Some(item) = reader.item()
                && sort_key(&item, &mut spare)
            {
                due.push((Reverse(spare), number));
            }
        }
        Ok(())
    }
}

/// Fills `key` if the item is a log or a row.
fn sort_key(item: &Item<'_>, key: &mut SortKey) -> bool {
    key.1.clear();
    match item {
        Item::Log(id, _) => {
            key.0 = 0;
            key.1.extend_from_slice(&id.0.to_be_bytes());
        }
        Item::Row(row) => {
            key.0 = 1;
            key.1.push(row.table.0);
            key.1.extend_from_slice(row.key);
        }
        _ => return false,
    }
    true
}

#[cfg(test)]
mod tests;
