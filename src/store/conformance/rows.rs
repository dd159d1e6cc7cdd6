//! Rows and once-keys.

use super::{Class, Harness, Mark, Reader, TABLE, TABLES, bodies, key, patient, row, texts};

/// Within a commit, over commits, after a start.
pub async fn the_newest_row_wins(harness: &mut dyn Harness) {
    let mut reader = Reader::of(harness).await;
    assert_eq!(row(&*reader.store, "k").await, None);
    let mut commit = reader.store.begin(Class::B);
    commit.put(TABLE, b"k", b"1");
    commit.put(TABLE, b"k", b"2");
    commit.put(TABLE, b"gone", b"1");
    commit.delete(TABLE, b"gone");
    commit.delete(TABLE, b"never there");
    reader.commit(commit).await;
    assert_eq!(row(&*reader.store, "k").await.as_deref(), Some("2"));
    assert_eq!(row(&*reader.store, "gone").await, None);
    reader.put("k", "3").await;
    let before = reader.store.mark();
    let read = patient(reader.store.get(TABLE, b"k"))
        .await
        .expect("readable")
        .expect("there");
    assert!(read.mark < before && read.mark > Mark::START);
    drop(reader);
    harness.restart(false);
    assert_eq!(row(&*harness.store(), "k").await.as_deref(), Some("3"));
    assert_eq!(row(&*harness.store(), "gone").await, None);
}

/// Keys are bytes; tables do not mix.
pub async fn a_scan_is_half_open_ordered_and_limited(harness: &mut dyn Harness) {
    let mut reader = Reader::of(harness).await;
    for name in ["b", "a", "d", "c", "ab"] {
        reader.put(name, name).await;
    }
    let mut commit = reader.store.begin(Class::B);
    commit.put(TABLES[1], b"b", b"other table");
    commit.delete(TABLE, b"c");
    reader.commit(commit).await;
    for (from, upto, limit, expected) in [
        ("", "z", 10, vec!["a", "ab", "b", "d"]),
        ("a", "b", 10, vec!["a", "ab"]),
        ("aa", "d", 10, vec!["ab", "b"]),
        ("", "z", 2, vec!["a", "ab"]),
        ("b", "b", 10, vec![]),
        ("z", "a", 10, vec![]),
    ] {
        let range = from.as_bytes().to_vec()..upto.as_bytes().to_vec();
        let rows = patient(reader.store.scan(TABLE, range, limit)).await.expect("readable");
        let keys: Vec<String> = rows
            .iter()
            .map(|(key, _)| String::from_utf8_lossy(key).into_owned())
            .collect();
        assert_eq!(keys, expected, "{from:?}..{upto:?}");
        assert!(rows.iter().all(|(key, row)| *key == row.bytes));
    }
}

/// The second ticket settles with the first record; a start forgets no key.
pub async fn a_held_once_key_keeps_a_second_record_out(harness: &mut dyn Harness) {
    let mut reader = Reader::of(harness).await;
    let log = reader.create("t").await;
    let mut tickets = Vec::new();
    for body in ["first", "second"] {
        let mut commit = reader.store.begin(Class::A);
        commit.append_once(log, &[body.as_bytes()], key(1));
        commit.want_offsets();
        tickets.push(reader.store.commit(commit).expect("taken"));
        assert!(reader.store.holds(key(1)), "also while it is on its way");
    }
    for ticket in &tickets {
        reader.settle(ticket).await;
    }
    assert!(matches!(tickets.as_slice(), [a, b] if a.offsets == b.offsets && a.offsets.len() == 1));
    let mut mixed = reader.store.begin(Class::A);
    mixed.append_once(log, &[b"third"], key(1));
    mixed.append(log, &[b"beside"], false);
    reader.commit(mixed).await;
    assert_eq!(texts(&bodies(&*reader.store, log).await), ["first", "beside"]);
    for clean in [false, true] {
        drop(reader);
        harness.restart(clean);
        reader = Reader::of(harness).await;
        assert_eq!(reader.store.held(7), [key(1)]);
        assert!(reader.store.held(8).is_empty());
        let mut commit = reader.store.begin(Class::A);
        commit.append_once(log, &[b"fourth"], key(1));
        commit.want_offsets();
        let ticket = reader.commit(commit).await;
        assert_eq!(Some(&ticket.offsets), tickets.first().map(|first| &first.offsets));
        assert_eq!(texts(&bodies(&*reader.store, log).await), ["first", "beside"]);
    }
}

/// From the release on, also within the commit, and for good.
pub async fn a_released_once_key_can_be_used_again(harness: &mut dyn Harness) {
    let mut reader = Reader::of(harness).await;
    let log = reader.create("t").await;
    let mut commit = reader.store.begin(Class::A);
    commit.append_once(log, &[b"one"], key(1));
    commit.release(key(1));
    commit.append_once(log, &[b"two"], key(1));
    commit.append_once(log, &[b"other"], key(2));
    reader.commit(commit).await;
    let mut commit = reader.store.begin(Class::B);
    commit.release(key(1));
    commit.release(key(9));
    reader.commit(commit).await;
    assert!(!reader.store.holds(key(1)));
    drop(reader);
    harness.restart(false);
    let mut reader = Reader::of(harness).await;
    assert_eq!(reader.store.held(7), [key(2)]);
    let mut commit = reader.store.begin(Class::A);
    commit.append_once(log, &[b"three"], key(1));
    reader.commit(commit).await;
    assert_eq!(
        texts(&bodies(&*reader.store, log).await),
        ["one", "two", "other", "three"]
    );
}
