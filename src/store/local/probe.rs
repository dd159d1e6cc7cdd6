//! What the fuzz target of the store checks: a data directory in which bytes were changed, files cut and removed. It
//! opens with a prefix of what was acknowledged, or it is refused, and a second attempt finds the same; with repaired
//! checksums, as forged files have them, it does anything but panic. See [`crate::fuzzing`].

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use super::data_dir::DataDir;
use super::disk::Disk;
use super::faulty_disk::FaultyDisk;
use super::log::frame::{
    BATCH_HEADER_BYTES, BatchHeader, RECORD_PREFIX_BYTES, SEGMENT_HEADER_BYTES, SegmentHeader, align8, lsn, offset_of,
    segment_of, u32_at,
};
use super::{LocalStore, Options};
use crate::clock::Clock;
use crate::store::{
    Class, Commit, EntryKind, Error, FeedItem, Limit, LogId, Mark, MessageLog, Offset, ReadBuf, Result, RetentionClass,
    Store, Table,
};

/// Bytes of one change in the input.
const CHANGE_BYTES: usize = 8;
/// Changes that are made at the most.
const CHANGE_COUNT_MAX: usize = 32;
/// Records in the directory.
const RECORD_COUNT: u32 = 120;
const ROWS: Table = Table(3);

/// A directory as a kill leaves it, its files, and what is in its log.
struct Specimen {
    disk: FaultyDisk,
    files: Vec<PathBuf>,
    log: LogId,
    bodies: Vec<Vec<u8>>,
}

fn options(disk: &FaultyDisk) -> Options {
    Options {
        segment_bytes: 8192,
        clock: Clock::manual(1_800_000_000_000),
        disk: Arc::new(disk.clone()),
        stepped: true,
        ..Options::new("data")
    }
}

fn hand_over(store: &LocalStore, commit: Commit) -> Result<()> {
    let taken = store.commit(commit).map(drop);
    store.pump(true);
    taken.map_err(|refused| Error::Io(refused.to_string()))
}

fn make() -> Result<Specimen> {
    let disk = FaultyDisk::new();
    let (store, _) = LocalStore::open(options(&disk))?;
    let mut commit = store.begin(Class::C);
    let log = store.create(&mut commit, b"a", None, RetentionClass(0));
    hand_over(&store, commit)?;
    let mut bodies = Vec::new();
    for number in 0..RECORD_COUNT {
        let body = format!("{number} {}", "x".repeat(number as usize * 7 % 90)).into_bytes();
        let mut commit = store.begin(if number % 5 == 0 { Class::C } else { Class::A });
        commit.append(log, &[&body], false);
        if number % 5 == 0 {
            commit.put(ROWS, &number.to_be_bytes(), &body);
        }
        hand_over(&store, commit)?;
        bodies.push(body);
        if number == RECORD_COUNT / 2 {
            store.keep()?;
        }
    }
    drop(store);
    disk.kill();
    let dir = DataDir::new(std::path::Path::new("data"));
    let mut files = vec![dir.manifest()];
    for folder in [dir.log(), dir.snapshots()] {
        let names = disk.list(&folder).unwrap_or_default();
        files.extend(names.into_iter().map(|name| folder.join(name)));
    }
    files.sort();
    Ok(Specimen {
        disk,
        files,
        log,
        bodies,
    })
}

fn specimen() -> &'static Specimen {
    static SPECIMEN: OnceLock<Specimen> = OnceLock::new();
    SPECIMEN.get_or_init(|| match make() {
        Ok(specimen) => specimen,
        Err(error) => panic!("{error}"),
    })
}

/// Makes the changes that the input tells and opens the directory, twice.
///
/// A change is 8 bytes: what to do, which file, where (u32, little-endian, modulo the file's length), with what (u16).
pub fn log(bytes: &[u8]) {
    let specimen = specimen();
    let disk = specimen.disk.fork();
    let mut forged = false;
    for change in bytes.chunks_exact(CHANGE_BYTES).take(CHANGE_COUNT_MAX) {
        let &[what, file, a, b, c, d, low, high] = change else {
            continue;
        };
        let Some(path) = specimen.files.get(usize::from(file) % specimen.files.len()) else {
            continue;
        };
        let mut content = disk.content(path);
        let at = u32::from_le_bytes([a, b, c, d]) as usize % content.len().max(1);
        match what % 8 {
            0 => write(&mut content, at, &[low]),
            1 => write(&mut content, at, &[low, high]),
            2 => write(&mut content, at, &[low, high, low, high]),
            3 => write(&mut content, at, &[0; 8]),
            4 => content.truncate(at),
            5 => write(&mut content, at, &vec![0; usize::from(low) * 64]),
            6 => {
                forged = true;
                repair(&mut content);
            }
            _ => {
                disk.lose(path);
                continue;
            }
        }
        disk.lose(path);
        disk.plant(path, &content);
    }
    let first = attempt(&disk, specimen.log);
    disk.kill();
    let second = attempt(&disk, specimen.log);
    if forged {
        return;
    }
    match (&first, &second) {
        (Ok(first), Ok(second)) => assert_eq!(first, second, "a second start finds something else"),
        (Err(first), Err(second)) => assert_eq!(first.to_string(), second.to_string()),
        _ => panic!("a second start decides otherwise"),
    }
    if let Ok(Some(found)) = first {
        assert!(specimen.bodies.starts_with(&found), "{} records", found.len());
    }
}

/// The bodies of the log, `None` if a reader is told of damage; the error of a start that is refused.
fn attempt(disk: &FaultyDisk, log: LogId) -> Result<Option<Vec<Vec<u8>>>> {
    let (store, _) = LocalStore::open(options(disk))?;
    let mut feed = store.feed();
    while let Some(item) = feed.try_next() {
        if let FeedItem::Batch(batch) = item {
            for entry in &batch.entries {
                let body = batch.body(entry);
                assert!(entry.kind != EntryKind::Data || body.len() == entry.length as usize);
            }
        }
    }
    let all = Limit {
        records: usize::MAX,
        bytes: usize::MAX,
        before: Mark::END,
    };
    let mut buffer = ReadBuf::default();
    let read = store.log.read_cold(log, Offset(0), all, &mut buffer);
    let bodies = buffer.records.iter().map(|record| buffer.body(record).to_vec());
    Ok(read.is_ok().then(|| bodies.collect()))
}

fn write(content: &mut [u8], at: usize, bytes: &[u8]) {
    let end = (at + bytes.len()).min(content.len());
    if let Some(place) = content.get_mut(at..end) {
        place.copy_from_slice(bytes.get(..end - at).unwrap_or_default());
    }
}

/// Gives a segment the checksums that fit its bytes, as far as its lengths lead from batch to batch.
fn repair(content: &mut [u8]) {
    let Some(crc) = content.get(..48).map(crc32fast::hash) else {
        return;
    };
    write(content, 48, &crc.to_le_bytes());
    let Some(header) = SegmentHeader::decode(content) else {
        return;
    };
    let mut at = SEGMENT_HEADER_BYTES as usize;
    while let Some(length) = repair_batch(content, at, &header) {
        at += length;
    }
}

fn repair_batch(content: &mut [u8], at: usize, segment: &SegmentHeader) -> Option<usize> {
    let field = |content: &[u8], offset| u32_at(content, at + offset);
    let whole = |content: &[u8], offset| super::log::frame::u64_at(content, at + offset);
    let here = lsn(segment.number, at as u32);
    let header = BatchHeader {
        number: whole(content, 8)?,
        lsn: here,
        bytes: field(content, 24)?,
        records: field(content, 28)?,
        durable_through: whole(content, 32)?,
        time: super::log::frame::i64_at(content, at + 40)?,
        flags: field(content, 48)?,
    };
    if header.number == 0 || segment_of(here) != segment.number || offset_of(here) as usize != at {
        return None;
    }
    let mut record = at + BATCH_HEADER_BYTES as usize;
    let end = record.checked_add(header.bytes as usize)?.min(content.len());
    while record < end {
        let length = u32_at(content, record)?.max(RECORD_PREFIX_BYTES) as usize;
        let body_at = record + RECORD_PREFIX_BYTES as usize;
        let body_crc = crc32fast::hash(content.get(body_at..record + length)?);
        write(content, record + 4, &body_crc.to_le_bytes());
        super::log::frame::finish_record(content.get_mut(record..record + length)?, segment.salt)?;
        record += length;
    }
    write(content, at, &header.encode(segment.salt));
    Some(align8(u64::from(BATCH_HEADER_BYTES + header.bytes)) as usize)
}
