//! The control: what a write with `fdatasync` costs where the log lies, done as the log does it, in a file that was
//! written before.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::args::DiskArgs;
use super::histogram::{Histogram, Percentiles};

/// The file that is written over and over.
const FILE_BYTES: u64 = 16 << 20;

/// What the disk has shown.
#[derive(Debug, Serialize)]
pub(super) struct DiskReport {
    /// Bytes between two syncs.
    pub(super) bytes: u32,
    /// Syncs a second.
    pub(super) syncs_per_second: f64,
    /// Microseconds of a write with its sync.
    pub(super) sync_us: Option<Percentiles>,
}

/// Writes and syncs for a while.
///
/// # Errors
/// The disk's.
pub(super) fn run(args: &DiskArgs) -> Result<DiskReport, String> {
    let path = args.dir.join(".evermq-bench-disk");
    let report = write_and_sync(&path, args).map_err(|error| format!("`{}`: {error}", path.display()));
    let removed = std::fs::remove_file(&path).map_err(|error| format!("`{}`: {error}", path.display()));
    let report = report?;
    removed?;
    Ok(report)
}

fn write_and_sync(path: &Path, args: &DiskArgs) -> std::io::Result<DiskReport> {
    std::fs::create_dir_all(&args.dir)?;
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    let zeros = vec![0; 1 << 20];
    for at in (0..FILE_BYTES).step_by(zeros.len()) {
        file.write_all_at(&zeros, at)?;
    }
    file.sync_all()?;
    let bytes = vec![b'x'; args.bytes as usize];
    let mut histogram = Histogram::default();
    let measured = Duration::try_from_secs_f64(args.seconds).map_err(std::io::Error::other)?;
    let start = Instant::now();
    let mut at = 0;
    while start.elapsed() < measured {
        let begun = Instant::now();
        file.write_all_at(&bytes, at)?;
        file.sync_data()?;
        histogram.record(begun.elapsed().as_nanos() as u64);
        at += u64::from(args.bytes);
        if at + u64::from(args.bytes) > FILE_BYTES {
            at = 0;
        }
    }
    Ok(DiskReport {
        bytes: args.bytes,
        syncs_per_second: histogram.total() as f64 / start.elapsed().as_secs_f64(),
        sync_us: histogram.percentiles(),
    })
}
