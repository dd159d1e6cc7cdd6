//! The catalog's thread: opens, checks, fills, writes, and begins anew when the database is of no use.
//!
//! **Invariants**
//! - It takes at most a twentieth of a core, unless a caller waits for it.
//! - What a database says it holds is what it holds: the row about all rows is written with them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::tree::{Cause, Meta, Tree};
use super::{Mode, Overlay, Shared, State};
use crate::store::local::disk::{Disk, RealDisk};
use crate::store::{Mark, ROW_KEY_BYTES_MAX, Table};

/// Rows in one write.
const BATCH_ROWS: usize = 2_000;
/// How long opening may take.
const OPEN_LIMIT: Duration = Duration::from_mins(1);
/// After a failure to make a new database: how long until the next attempt.
const RETRY: Duration = Duration::from_mins(1);
/// A mark that moved without a change of ours is written after so long, to save a rebuild at the next start.
const IDLE: Duration = Duration::from_secs(5);
/// For each moment of work so many of rest.
const REST: u32 = 19;
/// The longest rest.
const REST_MAX: Duration = Duration::from_secs(5);
/// What the files may exceed four times the rows by.
const SIZE_SLACK_BYTES: u64 = 64 << 20;

/// Why the database is left.
enum Left {
    /// The store closes.
    Stop,
    /// It is of no use, and kept as evidence.
    Bad(Cause),
    /// A new one could not be made.
    Failed(Cause),
    /// It is right, and too large or too old.
    Outgrown(&'static str),
}

pub(super) fn run(shared: &Shared) {
    let mut first = true;
    let mut failures = 0;
    loop {
        let left = match bring_up(shared, first) {
            Ok((tree, meta)) => {
                failures = 0;
                let left = serve(shared, &tree, meta);
                shared.state.lock().mode = Mode::Off;
                tree.close();
                left
            }
            Err(left) => {
                failures += 1;
                left
            }
        };
        first = false;
        shared.state.lock().mode = Mode::Off;
        match left {
            Left::Stop => break,
            Left::Bad(cause) => set_aside(shared, &cause),
            Left::Outgrown(reason) => {
                tracing::info!(reason, "the catalog is made anew");
                remove(shared);
            }
            Left::Failed(cause) => {
                tracing::warn!(cause, "no catalog can be made; lists are answered from memory");
                remove(shared);
            }
        }
        // The first failure is what was found; one behind it is the disk's, or the source's.
        if failures > 1 {
            rest_before_retry(shared);
        }
        if shared.state.lock().stop {
            break;
        }
    }
    shared.state.lock().finished = true;
    shared.done.notify_all();
}

/// Opens the database, checks it or fills it, and lets it answer.
fn bring_up(shared: &Shared, first: bool) -> Result<(Tree, Meta), Left> {
    let existed = shared.dir().exists();
    let stopped = || shared.state.lock().stop;
    let tree = match Tree::open(shared.dir(), OPEN_LIMIT, &stopped) {
        Ok(tree) => tree,
        Err(_) if stopped() => return Err(Left::Stop),
        Err(cause) if existed => return Err(Left::Bad(cause)),
        Err(cause) => return Err(Left::Failed(cause)),
    };
    let judged = match (existed, first) {
        (true, true) => judge(shared, &tree),
        // What was handed over meanwhile is not in it.
        (true, false) => Err(Left::Outgrown("it could not be set aside")),
        (false, _) => fill(shared, &tree),
    };
    match judged {
        Ok(meta) => {
            publish(shared, &tree, &meta);
            Ok((tree, meta))
        }
        Err(left) => {
            tree.close();
            Err(left)
        }
    }
}

/// Whether the database that a start finds can be used.
fn judge(shared: &Shared, tree: &Tree) -> Result<Meta, Left> {
    let meta = tree.meta().map_err(Left::Bad)?;
    let meta = meta.ok_or(Left::Outgrown("it was not filled to the end"))?;
    if meta.tables != tables(shared) {
        return Err(Left::Outgrown("it holds other tables"));
    }
    if meta.applied > shared.options.end {
        return Err(Left::Bad("it is ahead of the log".to_owned()));
    }
    if meta.applied < shared.options.floor {
        return Err(Left::Outgrown("it has missed changes"));
    }
    tree.verify(&meta, &|spent| rest(shared, spent)).map_err(Left::Bad)?;
    Ok(meta)
}

fn tables(shared: &Shared) -> u32 {
    let mut tags: Vec<u8> = shared.options.tables.iter().map(|table| table.0).collect();
    tags.sort_unstable();
    crc32fast::hash(&tags)
}

/// From now on the database answers.
fn publish(shared: &Shared, tree: &Tree, meta: &Meta) {
    let mut state = shared.state.lock();
    state.condemned = None;
    state.known = meta.applied;
    let known = meta.applied;
    state.pending.retain(|_, pending| pending.mark >= known);
    state.upto = state.upto.max(known);
    state.applied = known;
    state.mode = Mode::Open(tree.clone());
    drop(state);
    shared.done.notify_all();
}

/// Fills a new database from the source.
fn fill(shared: &Shared, tree: &Tree) -> Result<Meta, Left> {
    let applied = {
        let mut state = shared.state.lock();
        // The source holds whatever was handed over until now; what comes later is collected.
        state.pending.clear();
        state.mode = Mode::Opening;
        state.known = Mark::START;
        state.upto
    };
    let mut meta = Meta {
        tables: tables(shared),
        ..Meta::default()
    };
    for table in &shared.options.tables {
        fill_table(shared, tree, *table, &mut meta)?;
    }
    // The source may be ahead of the last sync, and what it lost must not live on here.
    (shared.options.barrier)().map_err(|error| Left::Failed(error.to_string()))?;
    meta.applied = applied;
    tree.write(std::iter::empty(), &mut meta).map_err(Left::Failed)?;
    tree.sync().map_err(Left::Failed)?;
    Ok(meta)
}

fn fill_table(shared: &Shared, tree: &Tree, table: Table, meta: &mut Meta) -> Result<(), Left> {
    let mut from = Vec::new();
    loop {
        let begun = Instant::now();
        let range = from..vec![0xff; ROW_KEY_BYTES_MAX];
        let rows = (shared.source)(table, range, BATCH_ROWS).map_err(|error| Left::Failed(error.to_string()))?;
        let Some((last, _)) = rows.last() else {
            return Ok(());
        };
        from = [last.as_slice(), &[0]].concat();
        let changes = rows
            .iter()
            .map(|(key, row)| (table, key.as_slice(), row.mark, Some(row.bytes.as_slice())));
        tree.write_unfinished(changes, meta).map_err(Left::Failed)?;
        if !rest(shared, begun.elapsed()) {
            return Err(Left::Stop);
        }
    }
}

/// Writes what is handed over, until there is a reason to leave.
fn serve(shared: &Shared, tree: &Tree, mut meta: Meta) -> Left {
    loop {
        let (writing, upto, stop) = {
            let mut state = shared.state.lock();
            wait_for_work(shared, &mut state);
            if let Some(cause) = state.condemned.take() {
                return Left::Bad(cause);
            }
            state.writing = Arc::new(std::mem::take(&mut state.pending));
            (Arc::clone(&state.writing), state.upto, state.stop)
        };
        let begun = Instant::now();
        if let Err(cause) = write(shared, tree, &writing, upto, &mut meta) {
            return Left::Bad(cause);
        }
        let mut state = shared.state.lock();
        state.writing = Arc::default();
        state.applied = upto;
        let stop = stop && state.pending.is_empty();
        drop(state);
        shared.done.notify_all();
        if stop {
            return Left::Stop;
        }
        match tree.size() {
            Ok(size) if size > meta.bytes * 4 + SIZE_SLACK_BYTES => {
                return Left::Outgrown("its files exceed four times its rows");
            }
            Ok(_) => {}
            Err(cause) => return Left::Bad(cause),
        }
        rest(shared, begun.elapsed());
    }
}

fn wait_for_work(shared: &Shared, state: &mut parking_lot::MutexGuard<'_, State>) {
    loop {
        let behind = state.upto > state.applied;
        if !state.pending.is_empty() || state.stop || state.condemned.is_some() || (behind && state.waiting > 0) {
            return;
        }
        if shared.work.wait_for(state, IDLE).timed_out() && state.upto > state.applied {
            return;
        }
    }
}

fn write(shared: &Shared, tree: &Tree, writing: &Overlay, upto: Mark, meta: &mut Meta) -> Result<(), Cause> {
    let mut changes = writing
        .iter()
        .map(|((table, key), pending)| (*table, key.as_slice(), pending.mark, pending.row.as_deref()))
        .peekable();
    while changes.peek().is_some() {
        let begun = Instant::now();
        tree.write(changes.by_ref().take(BATCH_ROWS), meta)?;
        if changes.peek().is_some() {
            rest(shared, begun.elapsed());
        }
    }
    // Only now everything before the mark is in it.
    meta.applied = upto;
    tree.write(std::iter::empty(), meta)?;
    tree.sync()
}

/// Rests in proportion to the time spent, unless a caller waits; false when it is time to stop.
fn rest(shared: &Shared, spent: Duration) -> bool {
    let until = Instant::now() + (spent * REST).min(REST_MAX);
    let mut state = shared.state.lock();
    while !state.stop && state.waiting == 0 && state.condemned.is_none() {
        if shared.work.wait_until(&mut state, until).timed_out() {
            break;
        }
    }
    !state.stop
}

fn rest_before_retry(shared: &Shared) {
    let until = Instant::now() + RETRY;
    let mut state = shared.state.lock();
    while !state.stop && !shared.work.wait_until(&mut state, until).timed_out() {}
}

/// Renames the database, in place of the one that was set aside before, if any.
fn set_aside(shared: &Shared, cause: &str) {
    let dir = shared.dir();
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name().and_then(|name| name.to_str())) else {
        return remove(shared);
    };
    let prefix = format!("{name}.bad-");
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    for old in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix)) {
        remove_path(&old.path());
    }
    let aside = parent.join(format!("{prefix}{}", shared.options.clock.wall_ms()));
    tracing::warn!(cause, aside = %aside.display(), "the catalog is set aside and made anew");
    if dir.exists() && RealDisk.rename(dir, &aside).is_err() {
        remove(shared);
    }
}

fn remove(shared: &Shared) {
    remove_path(shared.dir());
}

fn remove_path(path: &std::path::Path) {
    let removed = if path.is_dir() {
        std::fs::remove_dir_all(path)
    } else {
        std::fs::remove_file(path)
    };
    if let Err(error) = removed
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(%error, path = %path.display(), "removing a useless catalog failed");
    }
}
