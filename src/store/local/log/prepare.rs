//! The next segment, ready before it is needed. The maintenance thread makes it; the writer takes it and never makes
//! one itself.
//!
//! It is written with zeros as far as the log leaves time for it. When the log goes so fast that zeros would only take
//! the disk from it, or the writer stands before the end of its segment, the rest is left reserved (`segment.rs` says
//! what that costs and gains).
//!
//! **Invariants**
//! - A segment handed to the writer has header, length, space and name durable, and reads as zeros behind its header, or
//!   as what an earlier use left under another salt.
//! - An error other than "no space" is final; "no space" is tried again.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::super::data_dir::DataDir;
use super::super::disk::{Disk, is_full};
use super::segment::{Segment, make_segment, make_spare, recycle, use_spare};

/// Spares that are kept at the most.
pub(crate) const SPARES_MAX: usize = 4;
/// How long to wait before a full disk is tried again.
pub(crate) const FULL_RETRY: Duration = Duration::from_millis(200);
/// Bytes a second of the log from which on zeros take more from it than they give.
const HURRY_BYTES_PER_SECOND: u64 = 48_000_000;
/// Over what time that is taken.
const PACE_WINDOW: Duration = Duration::from_millis(50);

/// Where segments are made.
pub(crate) struct Site<'a> {
    pub(crate) disk: &'a dyn Disk,
    pub(crate) dir: &'a DataDir,
    pub(crate) store: [u8; 16],
    pub(crate) segment_bytes: u64,
    /// Lets commits go first that are late.
    pub(crate) give_way: &'a dyn Fn(),
}

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
    /// The writer stands before the end of its segment.
    awaited: AtomicBool,
    /// Bytes of log written in this run.
    written: AtomicU64,
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

/// How fast the log goes while a segment is made.
struct Pace {
    since: Instant,
    written: u64,
    slice: Instant,
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
            awaited: AtomicBool::new(false),
            written: AtomicU64::new(0),
        }
    }

    /// The writer has written so many bytes of log.
    pub(crate) fn wrote(&self, bytes: usize) {
        self.written.fetch_add(bytes as u64, Ordering::Relaxed);
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
            self.awaited.store(false, Ordering::Relaxed);
            // The log moves: from now on the one behind the next is worth having, too.
            desk.spares_wanted = 1;
            return Ok(segment);
        }
        self.awaited.store(true, Ordering::Relaxed);
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
    pub(crate) fn work(&self, site: &Site<'_>) -> bool {
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
            Some((number, size)) => self.prepare(site, number, size, old, &spares),
            None if spares.len() < spares_wanted => self.make_spare(site),
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

    fn prepare(
        &self,
        site: &Site<'_>,
        number: u32,
        size: u64,
        old: Option<Segment>,
        spares: &[u32],
    ) -> io::Result<Option<Segment>> {
        let (disk, dir) = (site.disk, site.dir);
        if let Some(old) = old {
            // It was prepared in the usual size, and a larger one is needed.
            let spare = self.draw_spare();
            let number = old.header.number;
            drop(old);
            if recycle(disk, dir, number, spare, site.segment_bytes)? {
                self.desk.lock().spares.push(spare);
            }
        }
        if size == site.segment_bytes
            && let Some(spare) = spares.last()
        {
            let segment = use_spare(disk, dir, *spare, number, site.store)?;
            self.desk.lock().spares.retain(|other| other != spare);
            if segment.header.size == size {
                return Ok(Some(segment));
            }
            // A spare of another size, from other settings.
            drop(segment);
            let spare = self.draw_spare();
            recycle(disk, dir, number, spare, size)?;
        }
        let mut pace = self.pace();
        let go_on = &mut || self.has_time(&mut pace, site);
        make_segment(disk, dir, number, size, site.store, go_on).map(Some)
    }

    fn make_spare(&self, site: &Site<'_>) -> io::Result<Option<Segment>> {
        let spare = self.draw_spare();
        let mut pace = self.pace();
        let go_on = &mut || self.has_time(&mut pace, site);
        make_spare(site.disk, site.dir, spare, site.segment_bytes, go_on)?;
        self.desk.lock().spares.push(spare);
        Ok(None)
    }

    fn pace(&self) -> Pace {
        let now = Instant::now();
        Pace {
            since: now,
            written: self.written.load(Ordering::Relaxed),
            slice: now,
        }
    }

    /// Whether there is time for another slice of zeros.
    fn has_time(&self, pace: &mut Pace, site: &Site<'_>) -> bool {
        if self.awaited.load(Ordering::Relaxed) || self.stopped.load(Ordering::Relaxed) {
            return false;
        }
        let written = self.written.load(Ordering::Relaxed) - pace.written;
        if written > 0 {
            // The log has the disk for half of the time, and goes first if it is late.
            std::thread::sleep(pace.slice.elapsed());
            (site.give_way)();
        }
        let elapsed = pace.since.elapsed();
        if elapsed >= PACE_WINDOW {
            if u128::from(written) * 1000 > u128::from(HURRY_BYTES_PER_SECOND) * elapsed.as_millis() {
                return false;
            }
            *pace = self.pace();
        }
        pace.slice = Instant::now();
        true
    }

    /// Gives a segment that nobody needs back to the disk or to the spares.
    pub(crate) fn give_back(&self, site: &Site<'_>, number: u32) -> io::Result<()> {
        if self.desk.lock().spares.len() >= SPARES_MAX {
            site.disk.unlink(&site.dir.segment(number))?;
            return site.disk.sync_dir(&site.dir.log());
        }
        let spare = self.draw_spare();
        if recycle(site.disk, site.dir, number, spare, site.segment_bytes)? {
            self.desk.lock().spares.push(spare);
        }
        Ok(())
    }

    /// Gives up a spare, so that the log can use its space.
    pub(crate) fn give_up_spare(&self, site: &Site<'_>) -> io::Result<()> {
        let spare = self.desk.lock().spares.pop();
        match spare {
            Some(spare) => {
                site.disk.unlink(&site.dir.spare(spare))?;
                site.disk.sync_dir(&site.dir.log())
            }
            None => Ok(()),
        }
    }

    /// The maintenance thread's life: the next segment first, then whatever else there is to keep.
    pub(crate) fn run(&self, site: &Site<'_>, keep: &mut dyn FnMut(&dyn Fn())) {
        while !self.stopped.load(Ordering::Acquire) {
            if !self.work(site) {
                keep(&|| {
                    self.work(site);
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::super::faulty_disk::{FaultyDisk, Op};
    use super::*;

    const SIZE: u64 = 1 << 20;

    /// Bytes that were written to make segment 1, which `prepare` asks for.
    fn bytes_to_make_one(prepare: impl Fn(&Preparer)) -> usize {
        let (disk, dir) = (FaultyDisk::new(), DataDir::new(Path::new("data")));
        let site = Site {
            disk: &disk,
            dir: &dir,
            store: [1; 16],
            segment_bytes: SIZE,
            give_way: &|| (),
        };
        let preparer = Preparer::new(Vec::new());
        prepare(&preparer);
        assert!(preparer.work(&site));
        let segment = preparer.take(1, SIZE).unwrap();
        assert_eq!(segment.file.len().unwrap(), SIZE);
        let written = disk.trace().into_iter().map(|op| match op {
            Op::Write(_, _, bytes) => bytes,
            _ => 0,
        });
        written.sum()
    }

    #[test]
    fn a_segment_is_zeroed_while_there_is_time_and_taken_as_it_is_when_the_writer_waits() {
        assert!(bytes_to_make_one(|preparer| preparer.want(1, SIZE)) > SIZE as usize);
        let waited = bytes_to_make_one(|preparer| {
            assert!(matches!(preparer.take(1, SIZE), Err(NotReady::Later)));
        });
        assert!(waited <= 4096, "{waited}");
    }

    #[test]
    fn zeros_stop_when_the_log_goes_faster_than_they_pay() {
        let preparer = Preparer::new(Vec::new());
        let late = |written: u64| Pace {
            since: Instant::now().checked_sub(PACE_WINDOW).unwrap(),
            written,
            slice: Instant::now(),
        };
        let (disk, dir) = (FaultyDisk::new(), DataDir::new(Path::new("data")));
        let site = Site {
            disk: &disk,
            dir: &dir,
            store: [1; 16],
            segment_bytes: SIZE,
            give_way: &|| (),
        };
        let in_a_window = HURRY_BYTES_PER_SECOND as usize / 20;
        preparer.wrote(in_a_window / 4);
        assert!(preparer.has_time(&mut late(0), &site));
        preparer.wrote(2 * in_a_window);
        assert!(!preparer.has_time(&mut late(0), &site));
    }
}
