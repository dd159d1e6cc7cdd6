//! Every format that was ever released opens: the specimens under `migrations/` are copied, opened and read.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::fs;
use std::path::{Path, PathBuf};

use evermq::store::local::{LocalStore, Options, SnapshotPolicy};
use evermq::store::{
    Class, Feed, FeedItem, Limit, LogId, Mark, MessageLog, MetaStore, Offset, OnceKey, ReadBuf, RetentionClass, Store,
    Table,
};

const ROWS: Table = Table(3);
const KEY: OnceKey = OnceKey {
    owner: 9,
    generation: 1,
    id: 7,
};

fn specimen(version: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("migrations/v{version}"))
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn options(dir: &Path) -> Options {
    Options {
        segment_bytes: 8192,
        snapshots: SnapshotPolicy {
            log_bytes: 0,
            ..SnapshotPolicy::default()
        },
        ..Options::new(dir)
    }
}

async fn catch_up(feed: &mut Feed) {
    while !matches!(feed.next().await, FeedItem::CaughtUp) {}
}

async fn bodies(store: &LocalStore, log: LogId) -> Vec<Vec<u8>> {
    let limit = Limit {
        records: usize::MAX,
        bytes: usize::MAX,
        before: Mark::END,
    };
    let mut buffer = ReadBuf::default();
    store.read(log, Offset(0), limit, &mut buffer).await.unwrap();
    buffer
        .records
        .iter()
        .map(|record| buffer.body(record).to_vec())
        .collect()
}

fn logs(store: &LocalStore) -> Vec<(Vec<u8>, LogId)> {
    let mut logs = Vec::new();
    store.logs(&mut |log, name, _| logs.push((name.to_vec(), log)));
    logs.sort();
    logs
}

fn a(at: u32) -> Vec<u8> {
    [&at.to_le_bytes()[..], &[b'a'; 500]].concat()
}

fn b(at: u32) -> Vec<u8> {
    format!("record {at} of b").into_bytes()
}

#[tokio::test]
async fn a_directory_of_version_1_opens_with_everything_in_it() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("data");
    copy(&specimen(1), &dir);
    let (store, report) = LocalStore::open(options(&dir)).unwrap();
    assert!(!report.created && report.from_snapshot && report.moved);
    assert!(report.batches_replayed > 0);
    assert_eq!(report.cut, None);
    catch_up(&mut store.feed()).await;
    let logs = logs(&store);
    let [(name_a, log_a), (name_b, log_b)] = logs.as_slice() else {
        panic!("{logs:?}")
    };
    assert_eq!(
        (name_a.as_slice(), name_b.as_slice()),
        (&b"plant/a"[..], &b"plant/b"[..])
    );
    assert_eq!(bodies(&store, *log_a).await, (10..40).map(a).collect::<Vec<_>>());
    assert_eq!(store.bounds(*log_a).unwrap().first, Offset(11));
    assert_eq!(
        bodies(&store, *log_b).await,
        [b(0), b(1), b(2), b(3), b"once".to_vec(), b(4)]
    );
    assert_eq!(store.get(ROWS, b"floor").await.unwrap().unwrap().bytes, b"39");
    assert_eq!(store.held(9), [KEY]);
    store.close().unwrap();
}

#[tokio::test]
async fn a_damaged_copy_of_version_1_is_refused_with_file_and_place() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("data");
    copy(&specimen(1), &dir);
    // Behind the snapshot, in the segment before the last: its batches were acknowledged.
    let mut segments: Vec<_> = fs::read_dir(dir.join("log"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    segments.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
    segments.sort();
    let damaged = segments
        .iter()
        .rev()
        .find(|path| fs::read(path).unwrap()[4096..4100] != [0; 4])
        .unwrap();
    let mut bytes = fs::read(damaged).unwrap();
    bytes[4096 + 60] ^= 1;
    fs::write(damaged, bytes).unwrap();
    let Err(error) = LocalStore::open(options(&dir)) else {
        panic!("it opened")
    };
    let name = damaged.file_name().unwrap().to_string_lossy().into_owned();
    assert!(
        error
            .to_string()
            .contains(&format!("log/{name}` is damaged at byte 4096")),
        "{error}"
    );
}

/// Writes the specimen of the present version. Run by hand, once per version.
#[tokio::test]
#[ignore = "writes the specimen of a new version"]
async fn write_the_specimen() {
    let dir = specimen(1);
    assert!(!dir.exists(), "a released specimen is never changed");
    let (store, _) = LocalStore::open(options(&dir)).unwrap();
    let mut feed = store.feed();
    catch_up(&mut feed).await;
    let reader = tokio::spawn(async move { while !matches!(feed.next().await, FeedItem::Closed) {} });
    let mut commit = store.begin(Class::C);
    let log_a = store.create(&mut commit, b"plant/a", None, RetentionClass(0));
    let log_b = store.create(&mut commit, b"plant/b", None, RetentionClass(0));
    store.commit(commit).unwrap();
    for at in 0..40 {
        let mut commit = store.begin(Class::C);
        commit.append(log_a, &[&a(at)], false);
        if at == 12 {
            commit.trim(log_a, Offset(11));
        }
        if at % 8 == 0 {
            commit.append(log_b, &[&b(at / 8)], false);
        }
        if at == 30 {
            commit.append_once(log_b, &[b"once"], KEY);
        }
        commit.put(ROWS, b"floor", at.to_string().as_bytes());
        let ticket = store.commit(commit).unwrap();
        store.settled(&ticket).await.unwrap();
        if at == 25 {
            // Until maintenance has written a snapshot of it.
            while !fs::read_dir(dir.join("snapshots")).unwrap().any(|entry| {
                let path = entry.unwrap().path();
                path.extension().is_some_and(|extension| extension == "snap")
            }) {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        }
    }
    reader.abort();
    drop(store);
}
