//! Sidecars: the same answers as from memory, and an error for every damaged byte.

use super::*;
use crate::store::local::faulty_disk::{FaultyDisk, Random};

const FILE: &str = "/data/log/5.idx";

fn key() -> SegmentKey {
    SegmentKey {
        number: 5,
        generation: 1,
        salt: 0x1234_5678_9abc_def0,
        end: 9_000_000,
    }
}

type Model = BTreeMap<LogId, Vec<Place>>;

/// A segment of many logs, every third without gaps, and batches whose times step back.
fn built() -> (Vec<u8>, Model, Vec<(u32, i64)>) {
    let mut random = Random::new(5);
    let mut builder = Builder::default();
    let (mut model, mut times) = (Model::new(), Vec::new());
    let mut highest = i64::MIN;
    let mut offset = 4_096;
    for batch in 0..400 {
        let time = 1_000 * batch - random.below(5_000) as i64;
        highest = highest.max(time);
        builder.batch(offset, highest);
        times.push((offset, highest));
        offset += 56;
        for _ in 0..random.below(30) {
            let log = LogId(random.below(300) * 3 + 1);
            let places: &mut Vec<Place> = model.entry(log).or_default();
            let last = places.last().map_or(100, |place| place.position.0);
            let skip = if log.0.is_multiple_of(2) {
                1
            } else {
                random.below(4) + 1
            };
            let place = Place {
                position: Offset(last + skip),
                offset,
            };
            places.push(place);
            builder.record(log, place.position, offset, 10);
            offset += 40 + random.below(4_000) as u32;
        }
    }
    assert!(builder.logs().eq(model.keys().copied()));
    let mut link = |log: LogId| {
        Ok(Link {
            previous: log.0 as u32,
            jump: 2,
            depth: 3,
        })
    };
    (builder.finish(key(), &mut link).unwrap(), model, times)
}

fn open(disk: &FaultyDisk, cache_bytes: usize) -> Result<Sidecar> {
    Sidecar::open(disk, Path::new(FILE), BlockCache::new(cache_bytes), key())
}

fn written() -> (FaultyDisk, Model, Vec<(u32, i64)>) {
    let (bytes, model, times) = built();
    let disk = FaultyDisk::new();
    disk.create_dir(Path::new("/data/log")).unwrap();
    write(&disk, Path::new(FILE), &bytes, &|| {}).unwrap();
    (disk, model, times)
}

#[test]
fn every_record_is_found_by_position_and_by_offset() {
    let (disk, model, _) = written();
    let sidecar = open(&disk, 1 << 20).unwrap();
    assert_eq!(sidecar.logs() as usize, model.len());
    for (index, (log, places)) in model.iter().enumerate() {
        let part = sidecar.part(*log).unwrap().unwrap();
        assert_eq!(sidecar.part_at(index as u32).unwrap(), part);
        assert_eq!(
            (part.count as usize, part.bytes),
            (places.len(), 10 * places.len() as u64)
        );
        assert_eq!(
            (part.link.previous, part.link.jump, part.link.depth),
            (log.0 as u32, 2, 3)
        );
        let mut read = Vec::new();
        sidecar.places(&part, 0, u32::MAX, &mut read).unwrap();
        assert_eq!(&read, places);
        for position in 95..places.last().unwrap().position.0 + 3 {
            let expected = places.partition_point(|place| place.position.0 < position);
            assert_eq!(sidecar.at_position(&part, Offset(position)).unwrap() as usize, expected);
        }
        for place in places {
            for (offset, later) in [(place.offset, 0), (place.offset + 1, 1)] {
                let expected = places.iter().position(|other| other == place).unwrap() + later;
                assert_eq!(sidecar.at_offset(&part, offset).unwrap() as usize, expected);
            }
        }
        assert_eq!(sidecar.place(&part, part.count).unwrap(), None);
    }
    for absent in [0, 2, 3, u64::MAX] {
        assert_eq!(sidecar.part(LogId(absent)).unwrap(), None);
    }
}

#[test]
fn no_record_of_a_time_lies_before_the_batch_it_names() {
    let (disk, _, times) = written();
    let sidecar = open(&disk, 1 << 20).unwrap();
    for (number, (offset, highest)) in times.iter().enumerate() {
        let before = number.checked_sub(1).map_or(i64::MIN, |number| times[number].1);
        if before == *highest {
            continue;
        }
        let found = sidecar.from_time(*highest).unwrap().unwrap();
        assert!(found <= *offset, "the first record of this time lies at {offset}");
        assert!(offset - found <= TIME_STEP_BYTES + (128 << 10), "and is not far behind");
    }
    let last = times.last().unwrap().1;
    assert_eq!(sidecar.from_time(last + 1).unwrap(), None);
    assert_eq!(sidecar.from_time(i64::MIN).unwrap(), Some(4_096));
}

#[test]
fn an_empty_segment_has_an_empty_sidecar() {
    let bytes = Builder::default().finish(key(), &mut |_| Ok(Link::default())).unwrap();
    let disk = FaultyDisk::new();
    disk.plant(Path::new(FILE), &bytes);
    let sidecar = open(&disk, 1 << 20).unwrap();
    assert_eq!(
        (
            sidecar.logs(),
            sidecar.part(LogId(1)).unwrap(),
            sidecar.from_time(0).unwrap()
        ),
        (0, None, None)
    );
}

#[test]
fn positions_too_far_apart_for_the_format_are_refused() {
    let mut builder = Builder::default();
    builder.record(LogId(1), Offset(1), 4_096, 1);
    builder.record(LogId(1), Offset(1 << 40), 5_000, 1);
    assert!(matches!(
        builder.finish(key(), &mut |_| Ok(Link::default())),
        Err(Error::Refused(_))
    ));
}

#[test]
fn a_sidecar_of_another_segment_or_generation_is_not_used() {
    let (disk, ..) = written();
    for other in [
        SegmentKey { number: 6, ..key() },
        SegmentKey { generation: 2, ..key() },
        SegmentKey { salt: 1, ..key() },
        SegmentKey { end: 1, ..key() },
    ] {
        let opened = Sidecar::open(&disk, Path::new(FILE), BlockCache::new(1 << 20), other);
        assert!(matches!(opened, Err(Error::Damaged { .. })));
    }
}

#[test]
fn every_flipped_byte_is_noticed() {
    let (disk, ..) = written();
    let length = disk.content(Path::new(FILE)).len();
    for at in (0..length).step_by(7) {
        let damaged = disk.fork();
        damaged.damage(Path::new(FILE), at, |bytes| bytes[0] ^= 0x40);
        let verified = open(&damaged, 1 << 20).and_then(|sidecar| sidecar.verify());
        let block = at / BLOCK_BYTES * BLOCK_BYTES;
        assert!(
            matches!(&verified, Err(Error::Damaged { file, offset, .. }) if file == "log/5.idx" && *offset == block as u64),
            "byte {at}: {verified:?}"
        );
    }
}

#[test]
fn every_prefix_is_refused_at_open() {
    let (disk, ..) = written();
    let whole = disk.content(Path::new(FILE));
    for length in (0..whole.len()).step_by(61).chain([whole.len() - 1]) {
        let cut = disk.fork();
        cut.plant(Path::new(FILE), &whole[..length]);
        assert!(
            matches!(open(&cut, 1 << 20), Err(Error::Damaged { .. })),
            "{length} bytes"
        );
    }
    let longer = disk.fork();
    longer.plant(Path::new(FILE), &[&whole[..], &[0; BLOCK_BYTES]].concat());
    assert!(matches!(open(&longer, 1 << 20), Err(Error::Damaged { .. })));
}

#[test]
fn the_cache_keeps_to_its_room_and_serves_what_was_used() {
    let (disk, model, _) = written();
    let sidecar = open(&disk, 4 * BLOCK_BYTES).unwrap();
    for log in model.keys() {
        sidecar.part(*log).unwrap().unwrap();
        assert!(sidecar.cache.len() <= 4);
    }
    let first = *model.keys().next().unwrap();
    let part = sidecar.part(first).unwrap();
    disk.fail_read(Path::new(FILE), 0);
    assert_eq!(sidecar.part_at(0).unwrap(), part.unwrap(), "from the cache");
}

#[test]
fn a_failed_write_leaves_the_old_file() {
    let (disk, ..) = written();
    let before = disk.content(Path::new(FILE));
    disk.set_full(true);
    assert!(matches!(
        write(&disk, Path::new(FILE), &[1; 9_000], &|| {}),
        Err(Error::Io(_))
    ));
    disk.set_full(false);
    assert_eq!(disk.content(Path::new(FILE)), before);
    write(&disk, Path::new(FILE), &[1; 9_000], &|| {}).unwrap();
    assert_eq!(disk.content(Path::new(FILE)), [1; 9_000]);
}

/// A log in segments 1 to `segments`, ten positions in each, the even ones.
fn linked(segments: u32) -> Vec<LogPart> {
    let mut parts: Vec<LogPart> = Vec::new();
    for number in 1..=segments {
        let link = link_behind(number - 1, &mut |segment| Ok(parts.get(segment as usize - 1).copied())).unwrap();
        assert_eq!((link.previous, link.depth), (number - 1, number - 1));
        parts.push(LogPart {
            log: LogId(1),
            first: Offset(u64::from(number) * 20),
            count: 10,
            bytes: 0,
            link,
            entry: 0,
            positions: 0,
        });
    }
    parts
}

#[test]
fn any_position_is_found_in_few_probes() {
    let parts = linked(5_000);
    for position in (0..100_100).step_by(37) {
        let mut probes = 0;
        let found = seek(5_000, Offset(position), &mut |segment| {
            probes += 1;
            Ok(parts.get(segment as usize - 1).copied())
        });
        let segment = (position / 20).clamp(1, 5_000) as u32;
        let found = found.unwrap().unwrap();
        assert_eq!(found.segment, segment);
        if segment < 5_000 && position >= 20 {
            assert_eq!(found.newer, segment + 1);
        }
        assert!(probes <= 60, "{probes} probes for {position}");
    }
}

#[test]
fn where_old_segments_are_gone_the_oldest_left_is_found() {
    let parts = linked(1_000);
    let mut probe = |segment: u32| Ok((segment >= 700).then(|| parts[segment as usize - 1]));
    for (position, segment) in [
        (0, 700),
        (700 * 20, 700),
        (700 * 20 - 1, 700),
        (701 * 20 - 1, 700),
        (990 * 20, 990),
    ] {
        assert_eq!(
            seek(1_000, Offset(position), &mut probe).unwrap().unwrap().segment,
            segment
        );
    }
    assert_eq!(seek(600, Offset(1), &mut probe).unwrap(), None);
    assert_eq!(link_behind(600, &mut probe).unwrap().previous, 600);
    assert_eq!(link_behind(NO_SEGMENT, &mut probe).unwrap(), Link::default());
}
