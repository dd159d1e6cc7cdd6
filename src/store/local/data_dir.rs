//! The data directory: the names in it, the lock on it, and MANIFEST, which says whose it is.
//!
//! ```text
//! MANIFEST, 80 bytes
//!   0  magic u64     8  format version u32    12  zero u32    16  store id [16]    32  incarnation u64
//!  40  machine id [16]    56  device u64      64  inode u64   72  CRC32 of 0..72   76  zero u32
//! ```
//!
//! **Invariants**
//! - MANIFEST is written aside, synced and renamed; it is made only after the first segment is there.
//! - A directory that holds segments and no MANIFEST is never initialised anew, unless the first segment never held
//!   anything: then a first start was interrupted.

use std::path::{Path, PathBuf};

use super::disk::{Disk, LockGuard, Place, read_whole};
use super::log::frame::{FORMAT_VERSION, u32_at, u64_at};
use crate::store::{Error, Result};

const MANIFEST_MAGIC: u64 = u64::from_le_bytes(*b"EVERMQ\x01M");
const MANIFEST_BYTES: usize = 80;

/// The names in a data directory.
#[derive(Clone, Debug)]
pub(crate) struct DataDir {
    root: PathBuf,
}

impl DataDir {
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            root: root.to_path_buf(),
        }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where segments, their sidecars and spares lie.
    pub(crate) fn log(&self) -> PathBuf {
        self.root.join("log")
    }

    pub(crate) fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    /// The catalog's database.
    pub(crate) fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    pub(crate) fn manifest(&self) -> PathBuf {
        self.root.join("MANIFEST")
    }

    pub(crate) fn segment(&self, number: u32) -> PathBuf {
        self.log().join(format!("{number:010}.seg"))
    }

    pub(crate) fn sidecar(&self, number: u32) -> PathBuf {
        self.log().join(format!("{number:010}.idx"))
    }

    pub(crate) fn spare(&self, number: u32) -> PathBuf {
        self.log().join(format!("spare.{number}"))
    }

    /// A path as errors show it: relative to the data directory.
    pub(crate) fn shown(&self, path: &Path) -> String {
        path.strip_prefix(&self.root).unwrap_or(path).display().to_string()
    }

    /// Segments by number, spares by number, and names that are neither.
    pub(crate) fn log_files(&self, disk: &dyn Disk) -> Result<LogFiles> {
        let dir = self.log();
        let names = disk.list(&dir).map_err(|error| self.io("list", &dir, &error))?;
        let mut files = LogFiles::default();
        for name in names {
            if let Some(number) = name.strip_suffix(".seg").and_then(|number| number.parse().ok()) {
                files.segments.push(number);
            } else if let Some(number) = name.strip_prefix("spare.").and_then(|number| number.parse().ok()) {
                files.spares.push(number);
            } else if Path::new(&name).extension().is_none_or(|extension| extension != "idx") {
                files.others.push(name);
            }
        }
        files.segments.sort_unstable();
        Ok(files)
    }

    /// Removes what interrupted writes left aside. Whoever writes such a name again would remove it, too; this is for those
    /// that nobody writes again.
    pub(crate) fn tidy(&self, disk: &dyn Disk) -> Result<()> {
        let mut left = vec![self.root.join("MANIFEST.new")];
        for dir in [self.log(), self.snapshots()] {
            let names = disk.list(&dir).map_err(|error| self.io("list", &dir, &error))?;
            let aside = names
                .iter()
                .filter(|name| Path::new(name).extension().is_some_and(|end| end == "tmp"));
            left.extend(aside.map(|name| dir.join(name)));
        }
        for path in left {
            match disk.unlink(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(self.io("remove", &path, &error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// An I/O error with what was tried and where.
    pub(crate) fn io(&self, tried: &str, path: &Path, error: &std::io::Error) -> Error {
        Error::Io(format!("cannot {tried} `{}`: {error}", self.shown(path)))
    }

    /// Takes the lock.
    pub(crate) fn lock(&self, disk: &dyn Disk) -> Result<LockGuard> {
        let path = self.root.join("LOCK");
        match disk.lock(&path) {
            Ok(Some(guard)) => Ok(guard),
            Ok(None) => Err(Error::Refused(format!(
                "`{}` is in use by another process",
                self.root.display()
            ))),
            Err(error) => Err(self.io("lock", &path, &error)),
        }
    }
}

/// What lies in the log's directory.
#[derive(Default, Debug)]
pub(crate) struct LogFiles {
    /// Ascending.
    pub(crate) segments: Vec<u32>,
    pub(crate) spares: Vec<u32>,
    pub(crate) others: Vec<String>,
}

/// Whose directory it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Manifest {
    pub(crate) store: [u8; 16],
    /// Counts the starts.
    pub(crate) incarnation: u64,
    pub(crate) place: Place,
}

impl Manifest {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(MANIFEST_BYTES);
        bytes.extend_from_slice(&MANIFEST_MAGIC.to_le_bytes());
        bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.store);
        bytes.extend_from_slice(&self.incarnation.to_le_bytes());
        bytes.extend_from_slice(&self.place.machine);
        bytes.extend_from_slice(&self.place.device.to_le_bytes());
        bytes.extend_from_slice(&self.place.inode.to_le_bytes());
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes
    }

    fn decode(bytes: &[u8]) -> std::result::Result<Self, String> {
        let short = || "it is too short".to_owned();
        if bytes.len() < MANIFEST_BYTES {
            return Err(short());
        }
        if u64_at(bytes, 0) != Some(MANIFEST_MAGIC) {
            return Err("it is not a MANIFEST".into());
        }
        let version = u32_at(bytes, 8).ok_or_else(short)?;
        if version > FORMAT_VERSION {
            return Err(format!(
                "its format version {version} is newer than {FORMAT_VERSION}, the newest this build knows; use a newer build"
            ));
        }
        if u32_at(bytes, 72) != Some(crc32fast::hash(bytes.get(..72).ok_or_else(short)?)) {
            return Err("its checksum is wrong".into());
        }
        let id = |at: usize| bytes.get(at..).and_then(|id| id.first_chunk::<16>()).copied();
        Ok(Self {
            store: id(16).ok_or_else(short)?,
            incarnation: u64_at(bytes, 32).ok_or_else(short)?,
            place: Place {
                machine: id(40).ok_or_else(short)?,
                device: u64_at(bytes, 56).ok_or_else(short)?,
                inode: u64_at(bytes, 64).ok_or_else(short)?,
            },
        })
    }

    /// Reads it; `None` if there is none.
    pub(crate) fn read(disk: &dyn Disk, dir: &DataDir) -> Result<Option<Self>> {
        let path = dir.manifest();
        match read_whole(disk, &path, 4096) {
            Ok(bytes) => Self::decode(&bytes)
                .map(Some)
                .map_err(|cause| Error::Refused(format!("`{}` cannot be used: {cause}", dir.shown(&path)))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(dir.io("read", &path, &error)),
        }
    }

    /// Writes it aside, syncs and renames it.
    pub(crate) fn write(&self, disk: &dyn Disk, dir: &DataDir) -> Result<()> {
        let path = dir.manifest();
        let aside = path.with_extension("new");
        let write = || {
            match disk.unlink(&aside) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let file = disk.create(&aside)?;
            file.write_at(&self.encode(), 0)?;
            file.sync_all()?;
            disk.rename(&aside, &path)
        };
        write().map_err(|error| dir.io("write", &path, &error))
    }
}

#[cfg(test)]
mod tests {
    use super::super::disk::RealDisk;
    use super::super::faulty_disk::FaultyDisk;
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            store: [3; 16],
            incarnation: 5,
            place: Place {
                machine: [1; 16],
                device: 2,
                inode: 3,
            },
        }
    }

    #[test]
    fn a_manifest_reads_back_and_no_flipped_byte_passes() {
        let bytes = manifest().encode();
        assert_eq!(bytes.len(), MANIFEST_BYTES);
        assert_eq!(Manifest::decode(&bytes), Ok(manifest()));
        for at in 0..76 {
            let mut bytes = bytes.clone();
            bytes[at] ^= 0x40;
            assert!(Manifest::decode(&bytes).is_err(), "byte {at}");
        }
        for end in 0..bytes.len() {
            assert!(Manifest::decode(&bytes[..end]).is_err());
        }
    }

    #[test]
    fn a_manifest_is_the_old_or_the_new_one_wherever_the_power_fails() {
        let dir = DataDir::new(Path::new("data"));
        let newer = Manifest {
            incarnation: 6,
            ..manifest()
        };
        for stop in 1..9 {
            for seed in 0..20 {
                let disk = FaultyDisk::new();
                manifest().write(&disk, &dir).unwrap();
                disk.stop_at(stop);
                let written = newer.write(&disk, &dir).is_ok();
                disk.power_cut(seed);
                let read = Manifest::read(&disk, &dir).unwrap().unwrap();
                assert!(read == newer || (read == manifest() && !written));
            }
        }
    }

    #[test]
    fn a_second_process_is_refused_and_told_why() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = DataDir::new(scratch.path());
        let guard = dir.lock(&RealDisk).unwrap();
        let Err(error) = dir.lock(&RealDisk) else {
            panic!("locked twice")
        };
        assert!(error.to_string().contains("in use by another process"));
        drop(guard);
        dir.lock(&RealDisk).unwrap();
    }
}
