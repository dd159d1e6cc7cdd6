//! The few things the store asks of a disk, and the real one. Everything the embedded store writes goes through here,
//! so that tests can watch the order of writes and syncs, and take the power away between any two of them.
//!
//! What lies in the files is the business of their own modules.
//!
//! **Invariants**
//! - A name is durable only after [`Disk::sync_dir`] of its directory; [`Disk::rename`] includes that.
//! - Nothing here retries or hides an error.

use std::any::Any;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Held while the data directory is in use; dropping it gives the directory back.
pub type LockGuard = Box<dyn Any + Send + Sync>;

/// Where a directory lives, to notice copies and clones.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Place {
    /// The machine's id, zeros if it has none.
    pub machine: [u8; 16],
    /// The file system's device number.
    pub device: u64,
    /// The directory's inode.
    pub inode: u64,
}

/// A disk: directories and the names in them.
pub trait Disk: Send + Sync {
    /// Makes a directory and its missing parents, durably.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// Makes a new empty file, readable and writable; fails if the name exists.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens an existing file, readable and writable.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Renames, replacing what was there, and makes it durable: the directories of both names are synced.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a name; durable with the directory's next sync.
    fn unlink(&self, path: &Path) -> io::Result<()>;

    /// Names of the files in a directory, sorted; empty if there is no such directory.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Takes a lock that ends with the guard or the process; `None` if somebody holds it.
    fn lock(&self, path: &Path) -> io::Result<Option<LockGuard>>;

    /// Where a directory lives.
    fn place(&self, dir: &Path) -> io::Result<Place>;
}

/// An open file, read and written at offsets.
pub trait DiskFile: Send + Sync {
    /// Fills `into` from `offset` on; fewer bytes only at the end of the file.
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `bytes` at `offset`. After an error any part of it may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// `fdatasync`: the contents, and what is needed to find them.
    fn sync_data(&self) -> io::Result<()>;

    /// `fsync`.
    fn sync_all(&self) -> io::Result<()>;

    /// Reserves the space of the first `bytes` bytes: the file is at least so long, reads as zeros where nothing was
    /// written, and finds space for what is written there. [`io::ErrorKind::Unsupported`] where that cannot be had.
    fn reserve(&self, bytes: u64) -> io::Result<()>;

    /// Cuts or extends the file.
    fn set_len(&self, bytes: u64) -> io::Result<()>;

    /// Its length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Whether it has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// How many names it has; above 1 a backup shares it.
    fn link_count(&self) -> io::Result<u64>;
}

/// Reads a whole file of at most `bytes_max` bytes.
pub fn read_whole(disk: &dyn Disk, path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let file = disk.open(path)?;
    let bytes = file.len()?;
    if bytes > bytes_max {
        return Err(io::Error::other(format!(
            "{bytes} bytes where {bytes_max} are the most"
        )));
    }
    let mut content = vec![0; usize::try_from(bytes).unwrap_or(usize::MAX)];
    let read = file.read_at(&mut content, 0)?;
    content.truncate(read);
    Ok(content)
}

/// Whether an error says that there is no space, which ends when space returns.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The machine's files.
#[derive(Clone, Copy, Default, Debug)]
pub struct RealDisk;

struct RealFile(File);

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

impl Disk for RealDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut missing: Vec<PathBuf> = Vec::new();
        let mut at = dir;
        while !at.exists() {
            missing.push(at.to_path_buf());
            at = parent(at);
        }
        for dir in missing.iter().rev() {
            std::fs::create_dir(dir)?;
            self.sync_dir(parent(dir))?;
        }
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        Ok(Arc::new(RealFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(RealFile(
            OpenOptions::new().read(true).write(true).open(path)?,
        )))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        #[expect(clippy::disallowed_methods, reason = "this is the durable rename")]
        std::fs::rename(from, to)?;
        let (old, new) = (parent(from), parent(to));
        self.sync_dir(new)?;
        if old == new { Ok(()) } else { self.sync_dir(old) }
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let entries = match std::fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<Option<LockGuard>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn place(&self, dir: &Path) -> io::Result<Place> {
        let metadata = std::fs::metadata(dir)?;
        let mut machine = [0; 16];
        if let Ok(text) = std::fs::read_to_string("/etc/machine-id") {
            for (byte, pair) in machine.iter_mut().zip(text.trim().as_bytes().chunks_exact(2)) {
                let pair = std::str::from_utf8(pair).unwrap_or_default();
                *byte = u8::from_str_radix(pair, 16).unwrap_or_default();
            }
        }
        Ok(Place {
            machine,
            device: metadata.dev(),
            inode: metadata.ino(),
        })
    }
}

impl DiskFile for RealFile {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut read = 0;
        while let Some(rest) = into.get_mut(read..).filter(|rest| !rest.is_empty()) {
            match self.0.read_at(rest, offset + read as u64) {
                Ok(0) => break,
                Ok(bytes) => read += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.0.sync_all()
    }

    fn reserve(&self, bytes: u64) -> io::Result<()> {
        use rustix::io::Errno;
        let reserved = rustix::fs::fallocate(&self.0, rustix::fs::FallocateFlags::empty(), 0, bytes);
        reserved.map_err(|errno| match errno {
            Errno::OPNOTSUPP | Errno::NOSYS => io::ErrorKind::Unsupported.into(),
            errno => errno.into(),
        })
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn link_count(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.nlink())
    }
}
