//! The next segment, ready before it is needed. The maintenance thread makes it; the writer takes it and never makes
//! one itself.
//!
//! **Invariants**
//! - A segment handed to the writer has header, zeros and name durable.
//! - An error other than "no space" is final; "no space" is tried again.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::super::data_dir::DataDir;
use super::super::disk::{Disk, is_full};
use super::segment::{Segment, make_segment, make_spare, recycle, use_spare};

/// Spares that are kept at the most.
pub(crate) const SPARES_MAX: usize = 4;
/// How long to wait before a full disk is tried again.
pub(crate) const FULL_RETRY: Duration = Duration::from_millis(200);

#[derive(Default)]
struct Desk {
    wanted: Option<(u32, u64)>,
    ready: Option<Segment>,
    failed: Option<String>,
    full: bool,
    spares: Vec<u32>,
    next_spare: u32,
    /// Spares to keep besides the next segment.
    spares_wanted: usize,
}

/// Where writer and maintenance meet.
pub(crate) struct Preparer {
    desk: Mutex<Desk>,
    changed: Condvar,
    stopped: AtomicBool,
}

/// Why there is no next segment.
#[derive(Debug)]
pub(crate) enum NotReady {
    /// There is no space; try again.
    Full,
    /// It is being made.
    Later,
    /// It cannot be made, ever.
    Failed(String),
}

impl Preparer {
    pub(crate) fn new(spares: Vec<u32>) -> Self {
        // Numbers of spares are far from those of segments, under which new ones are made.
        let next_spare = spares.iter().copied().max().unwrap_or(0).max(1 << 31) + 1;
        Self {
            desk: Mutex::new(Desk {
                spares,
                next_spare,
                ..Desk::default()
            }),
            changed: Condvar::new(),
            stopped: AtomicBool::new(false),
        }
    }

    /// Says which segment comes next; maintenance begins to make it.
    pub(crate) fn want(&self, number: u32, size: u64) {
        self.desk.lock().wanted = Some((number, size));
        self.changed.notify_all();
    }

    /// The next segment if it is ready.
    pub(crate) fn take(&self, number: u32, size: u64) -> Result<Segment, NotReady> {
        let mut desk = self.desk.lock();
        if let Some(cause) = &desk.failed {
            return Err(NotReady::Failed(cause.clone()));
        }
        let fits = |segment: &Segment| segment.header.number == number && segment.header.size >= size;
        if desk.ready.as_ref().is_some_and(fits)
            && let Some(segment) = desk.ready.take()
        {
            // The log moves: from now on the one behind the next is worth having, too.
            desk.spares_wanted = 1;
            return Ok(segment);
        }
        if desk.wanted != Some((number, size)) {
            desk.wanted = Some((number, size));
            self.changed.notify_all();
        }
        Err(if desk.full { NotReady::Full } else { NotReady::Later })
    }

    /// Waits a moment for a change.
    pub(crate) fn wait(&self) {
        let mut desk = self.desk.lock();
        if desk.ready.is_none() && desk.failed.is_none() && !self.stopped.load(Ordering::Acquire) {
            self.changed.wait_for(&mut desk, FULL_RETRY);
        }
    }

    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        let _desk = self.desk.lock();
        self.changed.notify_all();
    }

    /// A number for a new spare.
    fn draw_spare(&self) -> u32 {
        let mut desk = self.desk.lock();
        desk.next_spare += 1;
        desk.next_spare
    }

    /// Does what is wanted; returns whether there was anything to do.
    pub(crate) fn work(&self, disk: &dyn Disk, dir: &DataDir, store: [u8; 16], segment_bytes: u64) -> bool {
        let (wanted, old, spares, spares_wanted) = {
            let mut desk = self.desk.lock();
            if desk.failed.is_some() {
                return false;
            }
            let done = |ready: &Segment, (number, size): (u32, u64)| {
                ready.header.number == number && ready.header.size >= size
            };
            let wanted = desk
                .wanted
                .filter(|wanted| !desk.ready.as_ref().is_some_and(|ready| done(ready, *wanted)));
            let old = wanted.and_then(|_| desk.ready.take());
            (wanted, old, desk.spares.clone(), desk.spares_wanted)
        };
        let result = match wanted {
            Some((number, size)) => self.prepare(disk, dir, store, (number, size), segment_bytes, old, &spares),
            None if spares.len() < spares_wanted => self.make_spare(disk, dir, segment_bytes),
            None => return false,
        };
        let mut desk = self.desk.lock();
        let worked = match result {
            Ok(ready) => {
                desk.full = false;
                if ready.is_some() {
                    desk.ready = ready;
                    desk.wanted = None;
                }
                true
            }
            Err(error) if is_full(&error) => {
                // A spare nobody has asked for is given up without complaint.
                desk.full = wanted.is_some();
                desk.spares_wanted = 0;
                false
            }
            Err(error) => {
                desk.failed = Some(format!("cannot prepare a segment: {error}"));
                false
            }
        };
        drop(desk);
        self.changed.notify_all();
        worked
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one call, and a struct for it would only rename the arguments"
    )]
    fn prepare(
        &self,
        disk: &dyn Disk,
        dir: &DataDir,
        store: [u8; 16],
        (number, size): (u32, u64),
        segment_bytes: u64,
        old: Option<Segment>,
        spares: &[u32],
    ) -> io::Result<Option<Segment>> {
        if let Some(old) = old {
            // It was prepared in the usual size, and a larger one is needed.
            let spare = self.draw_spare();
            let number = old.header.number;
            drop(old);
            if recycle(disk, dir, number, spare, segment_bytes)? {
                self.desk.lock().spares.push(spare);
            }
        }
        if size == segment_bytes
            && let Some(spare) = spares.last()
        {
            let segment = use_spare(disk, dir, *spare, number, store)?;
            self.desk.lock().spares.retain(|other| other != spare);
            if segment.header.size == size {
                return Ok(Some(segment));
            }
            // A spare of another size, from other settings.
            drop(segment);
            let spare = self.draw_spare();
            recycle(disk, dir, number, spare, size)?;
        }
        make_segment(disk, dir, number, size, store).map(Some)
    }

    fn make_spare(&self, disk: &dyn Disk, dir: &DataDir, size: u64) -> io::Result<Option<Segment>> {
        let spare = self.draw_spare();
        make_spare(disk, dir, spare, size)?;
        self.desk.lock().spares.push(spare);
        Ok(None)
    }

    /// Gives a segment that nobody needs back to the disk or to the spares.
    pub(crate) fn give_back(&self, disk: &dyn Disk, dir: &DataDir, number: u32, segment_bytes: u64) -> io::Result<()> {
        if self.desk.lock().spares.len() >= SPARES_MAX {
            disk.unlink(&dir.segment(number))?;
            return disk.sync_dir(&dir.log());
        }
        let spare = self.draw_spare();
        if recycle(disk, dir, number, spare, segment_bytes)? {
            self.desk.lock().spares.push(spare);
        }
        Ok(())
    }

    /// Gives up a spare, so that the log can use its space.
    pub(crate) fn give_up_spare(&self, disk: &dyn Disk, dir: &DataDir) -> io::Result<()> {
        let spare = self.desk.lock().spares.pop();
        match spare {
            Some(spare) => {
                disk.unlink(&dir.spare(spare))?;
                disk.sync_dir(&dir.log())
            }
            None => Ok(()),
        }
    }

    /// The maintenance thread's life: the next segment first, then whatever else there is to keep.
    pub(crate) fn run(
        &self,
        disk: &dyn Disk,
        dir: &DataDir,
        store: [u8; 16],
        segment_bytes: u64,
        keep: &mut dyn FnMut(&dyn Fn()),
    ) {
        while !self.stopped.load(Ordering::Acquire) {
            if !self.work(disk, dir, store, segment_bytes) {
                keep(&|| {
                    self.work(disk, dir, store, segment_bytes);
                });
                let mut desk = self.desk.lock();
                let idle = desk.wanted.is_none() || desk.full || desk.failed.is_some();
                if idle && !self.stopped.load(Ordering::Acquire) {
                    let pause = if desk.full { FULL_RETRY } else { Duration::from_secs(1) };
                    self.changed.wait_for(&mut desk, pause);
                }
            }
        }
    }
}
