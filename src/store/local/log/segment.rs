//! Segment files: how one is made, how a used one becomes a spare, how a spare becomes the next one.
//!
//! ```text
//!  create, reserve, zeros, sync    header, sync          rename, sync of the directory
//!   (nothing) --------> spare.<n> ------------> spare.<n> ---------------------------> <number>.seg
//!                           ^                                                            |
//!                           +---------- rename, sync of the directory <------------------+  no longer needed
//! ```
//!
//! # Why zeros, and why not always
//!
//! A sync into bytes that were written before needs no change of the file's map of extents and so no commit of the file
//! system's journal: it takes half the time. But the zeros are bytes to write like others, and they go to the same disk
//! (ext4, two cores; a log of that many bytes a sync, alone and beside a thread that writes zeros as fast as the log
//! goes on):
//!
//! | bytes a sync | written before, alone | zeros beside it, 256 KiB a sync | reserved only |
//! |---|---|---|---|
//! | 16 KiB | 107 MB/s, p50 0.14 ms | 86 MB/s, 0.13 ms | 72 MB/s, 0.21 ms |
//! | 64 KiB | 308 MB/s, 0.18 ms | 147 MB/s, 0.27 ms | 214 MB/s, 0.28 ms |
//! | 400 KiB | 726 MB/s, 0.46 ms | 306 MB/s, 1.15 ms | 404 MB/s, 0.88 ms |
//!
//! In slices of 4 MiB a sync the zeros hold up the log's syncs for 7 to 12 ms. So zeros are written in small slices while
//! the log has time, and a segment in the making is taken as it is, reserved, when the log has none.
//!
//! **Invariants**
//! - A file is named `<number>.seg` only when its header, with a salt drawn for this use, and all its bytes are durable.
//! - Making and recycling is the work of the maintenance thread and of recovery, never of the writer.

use std::io;
use std::sync::Arc;

use super::super::data_dir::DataDir;
use super::super::disk::{Disk, DiskFile};
use super::frame::{SEGMENT_HEADER_BYTES, SegmentHeader};

/// Zeros written and synced at once: what a sync of the log may find before it in the disk's queue.
const ZERO_SLICE_BYTES: usize = 256 << 10;

/// A segment that can be written to.
#[derive(Clone)]
pub(crate) struct Segment {
    pub(crate) header: SegmentHeader,
    pub(crate) file: Arc<dyn DiskFile>,
}

/// A random number for one use of a file.
pub(crate) fn draw_salt() -> io::Result<u64> {
    getrandom::u64().map_err(|error| io::Error::other(format!("no random number to be had: {error}")))
}

/// Makes a file of `size` bytes under a name that means nothing yet; synced. Its space is reserved, and zeros are written
/// into it as long as `go_on` wants it, which is asked before each slice.
pub(crate) fn make_spare(
    disk: &dyn Disk,
    dir: &DataDir,
    spare: u32,
    size: u64,
    go_on: &mut dyn FnMut() -> bool,
) -> io::Result<()> {
    let path = dir.spare(spare);
    match disk.unlink(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.create(&path)?;
    let reserved = match file.reserve(size) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::Unsupported => false,
        Err(error) => return Err(error),
    };
    let zeros = vec![0; ZERO_SLICE_BYTES.min(usize::try_from(size).unwrap_or(ZERO_SLICE_BYTES))];
    let mut at = 0;
    // Where nothing can be reserved, only zeros make sure of the space.
    while at < size && (go_on() || !reserved) {
        let slice = zeros.len().min(usize::try_from(size - at).unwrap_or(zeros.len()));
        file.write_at(zeros.get(..slice).unwrap_or_default(), at)?;
        at += slice as u64;
        file.sync_data()?;
    }
    file.sync_all()?;
    disk.sync_dir(&dir.log())
}

/// Turns a spare into segment `number`: new header with a new salt, synced, then the name.
pub(crate) fn use_spare(
    disk: &dyn Disk,
    dir: &DataDir,
    spare: u32,
    number: u32,
    store: [u8; 16],
) -> io::Result<Segment> {
    let path = dir.spare(spare);
    let file = disk.open(&path)?;
    let header = SegmentHeader {
        number,
        store,
        salt: draw_salt()?,
        size: file.len()?,
    };
    file.write_at(&header.encode(), 0)?;
    file.sync_all()?;
    disk.rename(&path, &dir.segment(number))?;
    Ok(Segment { header, file })
}

/// Makes segment `number` from nothing, all in one; `go_on` as in [`make_spare`].
pub(crate) fn make_segment(
    disk: &dyn Disk,
    dir: &DataDir,
    number: u32,
    size: u64,
    store: [u8; 16],
    go_on: &mut dyn FnMut() -> bool,
) -> io::Result<Segment> {
    // The number of the spare is the segment's, so that two in the making never meet.
    make_spare(disk, dir, number, size, go_on)?;
    use_spare(disk, dir, number, number, store)
}

/// Opens a segment and reads its header; `None` in its place if the header does not verify.
pub(crate) fn open_segment(
    disk: &dyn Disk,
    dir: &DataDir,
    number: u32,
) -> io::Result<(Arc<dyn DiskFile>, Option<SegmentHeader>)> {
    let file = disk.open(&dir.segment(number))?;
    let mut bytes = [0; SEGMENT_HEADER_BYTES as usize];
    let read = file.read_at(&mut bytes, 0)?;
    let header = SegmentHeader::decode(bytes.get(..read).unwrap_or_default());
    Ok((file, header))
}

/// Gives up a segment nobody needs: it becomes `spare.<spare>`, or is removed if it is not of full size or shared.
/// Returns whether a spare was won.
pub(crate) fn recycle(disk: &dyn Disk, dir: &DataDir, number: u32, spare: u32, full_size: u64) -> io::Result<bool> {
    let path = dir.segment(number);
    let file = disk.open(&path)?;
    if file.len()? == full_size && file.link_count()? == 1 {
        disk.rename(&path, &dir.spare(spare))?;
        return Ok(true);
    }
    disk.unlink(&path)?;
    disk.sync_dir(&dir.log())?;
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::super::faulty_disk::FaultyDisk;
    use super::*;

    #[test]
    fn a_segment_has_its_name_only_with_all_its_bytes_wherever_the_power_fails() {
        let dir = DataDir::new(Path::new("data"));
        for stop in 1..12 {
            for seed in 0..20 {
                let disk = FaultyDisk::new();
                disk.stop_at(stop);
                // With zeros, and reserved only.
                let made = make_segment(&disk, &dir, 1, 16384, [1; 16], &mut || seed % 2 == 0).is_ok();
                disk.power_cut(seed);
                let named = !dir.log_files(&disk).unwrap().segments.is_empty();
                assert!(named || !made);
                if named {
                    let (file, header) = open_segment(&disk, &dir, 1).unwrap();
                    assert_eq!(header.map(|header| header.size), Some(16384));
                    assert_eq!(file.len().unwrap(), 16384);
                }
            }
        }
    }

    #[test]
    fn every_use_of_a_file_draws_a_new_salt() {
        let dir = DataDir::new(Path::new("data"));
        let disk = FaultyDisk::new();
        let first = make_segment(&disk, &dir, 1, 16384, [1; 16], &mut || true).unwrap();
        assert!(recycle(&disk, &dir, 1, 1, 16384).unwrap());
        let second = use_spare(&disk, &dir, 1, 2, [1; 16]).unwrap();
        assert_ne!(first.header.salt, second.header.salt);
    }
}
