//! What an operator reads when a data directory cannot be opened: which path, why, and what to do.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;

use super::data_dir::DataDir;
use super::disk::{Disk, DiskFile, LockGuard, Place, RealDisk};
use super::faulty_disk::FaultyDisk;
use super::harness::{Machine, options, segment};
use super::{LocalStore, Options};
use crate::store::Error;

/// The text of a refusal, which names the whole path.
fn refusal(options: Options, path: &Path, cause: &str, remedy: &str) -> Error {
    let Err(error) = LocalStore::open(options) else {
        panic!("it opened")
    };
    let text = error.to_string();
    let path = format!("`{}`", std::path::absolute(path).unwrap().display());
    for part in [path.as_str(), cause, remedy] {
        assert!(text.contains(part), "{text} :: {part}");
    }
    error
}

fn real(dir: &Path) -> Options {
    Options {
        segment_bytes: 8192,
        stepped: true,
        ..Options::new(dir)
    }
}

/// A disk on which nothing can be made.
struct Closed(ErrorKind);

impl Closed {
    fn error<T>(&self) -> io::Result<T> {
        Err(self.0.into())
    }
}

impl Disk for Closed {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        if dir.exists() { Ok(()) } else { self.error() }
    }
    fn create(&self, _: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.error()
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        RealDisk.open(path)
    }
    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        self.error()
    }
    fn unlink(&self, _: &Path) -> io::Result<()> {
        self.error()
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.sync_dir(dir)
    }
    fn lock(&self, _: &Path) -> io::Result<Option<LockGuard>> {
        self.error()
    }
    fn place(&self, dir: &Path) -> io::Result<Place> {
        RealDisk.place(dir)
    }
}

#[test]
fn a_directory_that_cannot_be_written_to_is_named() {
    let scratch = tempfile::tempdir().unwrap();
    for (kind, remedy) in [
        (ErrorKind::PermissionDenied, "the right to write"),
        (ErrorKind::ReadOnlyFilesystem, "mount it writable"),
        (ErrorKind::StorageFull, "free space"),
    ] {
        let closed = |dir: &Path| Options {
            disk: Arc::new(Closed(kind)),
            ..real(dir)
        };
        let cause = io::Error::from(kind).to_string();
        let new = scratch.path().join("new");
        refusal(closed(&new), &new, &cause, remedy);
        // One that was made when that was possible.
        let made = scratch.path().join("made");
        drop(LocalStore::open(real(&made)).unwrap());
        refusal(closed(&made), &made.join("LOCK"), &cause, remedy);
    }
}

#[test]
fn a_path_that_cannot_be_is_named() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("file");
    std::fs::write(&file, b"x").unwrap();
    refusal(real(&file), &file.join("log"), "ot a directory", "name another");
    let below = file.join("data");
    refusal(real(&below), &below, "ot a directory", "name another");
    assert_eq!(std::fs::read(&file).unwrap(), b"x");
    let impossible = Path::new("/proc/no such place/data");
    refusal(real(impossible), impossible, "No such file", "name another");
    let Err(error) = LocalStore::open(real(Path::new(""))) else {
        panic!("it opened")
    };
    assert!(error.to_string().contains("empty path"), "{error}");
}

#[test]
fn a_second_process_is_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let (store, _) = LocalStore::open(real(scratch.path())).unwrap();
    let error = refusal(
        real(scratch.path()),
        scratch.path(),
        "in use by another process",
        "stop that one",
    );
    assert!(matches!(error, Error::Refused(_)));
    drop(store);
    LocalStore::open(real(scratch.path())).unwrap();
}

#[test]
fn data_without_a_manifest_are_never_begun_anew() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    drop(LocalStore::open(real(dir)).unwrap());
    drop(LocalStore::open(real(dir)).unwrap());
    std::fs::remove_file(dir.join("MANIFEST")).unwrap();
    let log = || DataDir::new(dir).log_files(&RealDisk).unwrap().segments;
    let before = log();
    refusal(real(dir), dir, "no MANIFEST", "put MANIFEST back");
    assert_eq!(log(), before);
    // Snapshots alone are data, too.
    for number in before {
        std::fs::remove_file(DataDir::new(dir).segment(number)).unwrap();
    }
    std::fs::write(dir.join("snapshots/0000000200001000.base.snap"), b"x").unwrap();
    refusal(real(dir), dir, "no MANIFEST", "put MANIFEST back");
    assert!(log().is_empty() && !dir.join("MANIFEST").exists());
}

#[test]
fn a_manifest_of_a_newer_format_or_a_damaged_one_is_named() {
    let disk = FaultyDisk::new();
    drop(Machine::start(&disk));
    disk.kill();
    let manifest = Path::new("data/MANIFEST");
    let newer = disk.fork();
    newer.damage(manifest, 8, |bytes| bytes[0] = 9);
    refusal(
        options(&newer),
        manifest,
        "format version 9 is newer",
        "use a newer build",
    );
    disk.damage(manifest, 20, |bytes| bytes[0] ^= 1);
    refusal(options(&disk), manifest, "checksum", "from a backup");
}

#[test]
fn files_of_another_store_are_named() {
    let (disk, other) = (FaultyDisk::new(), FaultyDisk::new());
    for disk in [&disk, &other] {
        drop(Machine::start(disk));
        disk.kill();
    }
    let manifest = Path::new("data/MANIFEST");
    disk.plant(manifest, &other.content(manifest));
    let error = refusal(
        options(&disk),
        &segment(1),
        "belongs to another store",
        "from a backup as a whole",
    );
    assert!(matches!(error, Error::Refused(_)));
}

#[test]
fn where_no_new_store_is_allowed_a_missing_one_is_named() {
    let scratch = tempfile::tempdir().unwrap();
    let missing = scratch.path().join("missing");
    let existing = |dir: &Path| Options {
        require_existing: true,
        ..real(dir)
    };
    refusal(existing(&missing), &missing, "does not exist", "mount its disk");
    refusal(
        existing(scratch.path()),
        scratch.path(),
        "holds no store",
        "mount its disk",
    );
    assert!(!missing.exists());
}

#[test]
fn what_interrupted_writes_left_aside_is_removed_at_the_start() {
    let disk = FaultyDisk::new();
    drop(Machine::start(&disk));
    disk.kill();
    let left = [
        "data/log/0000000001.idx.tmp",
        "data/snapshots/0000000200001000.base.snap.tmp",
        "data/MANIFEST.new",
    ];
    for path in left {
        disk.plant(Path::new(path), b"half");
    }
    let foreign = Path::new("data/log/notes.txt");
    disk.plant(foreign, b"an operator's");
    drop(Machine::start(&disk));
    for path in left {
        assert!(disk.open(Path::new(path)).is_err(), "{path}");
    }
    assert_eq!(disk.content(foreign), b"an operator's");
}
