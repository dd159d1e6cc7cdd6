//! What the fuzz targets of the broker check: topic names and filters against a plain model, publish records and rows
//! as they are read from the disk. See [`crate::fuzzing`].

use super::rows::account::AccountRow;
use super::rows::extras::ExtrasRow;
use super::rows::label::{LabelRow, NextLabelRow};
use super::rows::login::LoginRow;
use super::rows::record::Record;
use super::rows::session::{
    GroupPartRow, GroupRow, PositionRow, PublishedTopicsRow, RetainedServedRow, SecretRow, SentRow, SessionRow,
    StartedRow, SubscriptionRow, TopicPositionRow, TotalsRow, WillRow,
};
use super::rows::topic::RetainedRow;
use super::rows::{StoredRow, decode, encode};
use super::topic_filter::TopicFilter;
use super::topic_name::{TOPIC_BYTES_MAX, TopicName};

/// Judges a filter and a name, the two lines of the input: both are parsed as the specification says, and match as it
/// says.
pub fn topic(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (filter_text, name_text) = text.split_once('\n').unwrap_or((&text, &text));
    let name = TopicName::parse(name_text);
    let filter = TopicFilter::parse(filter_text);
    assert_eq!(name.is_ok(), is_name(name_text), "{name_text:?}");
    assert_eq!(filter.is_ok(), is_filter(filter_text), "{filter_text:?}");
    let Ok(filter) = filter else { return };
    assert_eq!(filter.as_str(), filter_text);
    assert_eq!(filter.is_shared(), filter.group().is_some());
    match filter.group() {
        Some(group) => assert_eq!(format!("$share/{group}/{}", filter.filter()), filter_text),
        None => assert_eq!(filter.filter(), filter_text),
    }
    assert_eq!(filter.is_wildcard(), filter.filter().contains(['+', '#']));
    let Ok(name) = name else { return };
    let levels = |text: &str| text.split('/').map(str::to_owned).collect::<Vec<_>>();
    let matches = fits(&levels(filter.filter()), &levels(&name))
        && !(name.starts_with('$') && filter.filter().starts_with(['+', '#']));
    assert_eq!(filter.matches(&name), matches, "{filter_text:?} on {name_text:?}");
    if matches {
        assert!(name.starts_with(filter.literal_prefix()));
    }
}

fn is_text(text: &str) -> bool {
    (1..=TOPIC_BYTES_MAX).contains(&text.len()) && !text.contains('\0')
}

fn is_name(text: &str) -> bool {
    is_text(text) && !text.contains(['+', '#'])
}

fn is_filter(text: &str) -> bool {
    let mut levels: Vec<&str> = text.split('/').collect();
    if levels.first() == Some(&"$share") {
        let group = levels.get(1).copied().unwrap_or_default();
        if group.is_empty() || group.contains(['+', '#']) || levels.len() < 3 {
            return false;
        }
        levels.drain(..2);
        if levels == [""] {
            return false;
        }
    }
    let last = levels.len() - 1;
    is_text(text)
        && levels.iter().enumerate().all(|(at, level)| {
            let plain = !level.contains(['+', '#']);
            plain || *level == "+" || (*level == "#" && at == last)
        })
}

fn fits(filter: &[String], name: &[String]) -> bool {
    match (filter.split_first(), name.split_first()) {
        (Some((wanted, _)), _) if wanted == "#" => true,
        (Some((wanted, filter)), Some((level, name))) => (wanted == "+" || wanted == level) && fits(filter, name),
        (None, None) => true,
        _ => false,
    }
}

/// Reads a publish record: what is read is written as the same, and its clocks do not overflow.
pub fn record(bytes: &[u8]) {
    let Some(record) = Record::parse(bytes) else {
        return;
    };
    assert_eq!(Record::says_retain(bytes), record.retain);
    let written = record.parts(&record.head()).concat();
    assert_eq!(Record::parse(&written), Some(record));
    assert_eq!(written.len(), bytes.len());
    for time in [0, 1_800_000_000_000, i64::MAX, i64::MIN] {
        for now in [0, 1_800_000_000_000, i64::MAX] {
            let left = record.expiry_left(time, now);
            assert_eq!(left.is_some(), record.expiry.is_some());
            if record.expired(time, now) {
                assert_eq!(left, Some(0));
            }
        }
    }
}

/// Reads a row of the kind that the first byte tells, with a valid checksum behind the rest: no length makes room that
/// is not there, and what is read is written as the same bytes.
pub fn row(bytes: &[u8]) {
    const KINDS: [fn(&[u8]); 20] = [
        kept::<SessionRow>,
        kept::<SubscriptionRow>,
        kept::<PositionRow>,
        kept::<TopicPositionRow>,
        kept::<SentRow>,
        kept::<GroupRow>,
        kept::<GroupPartRow>,
        kept::<WillRow>,
        kept::<RetainedServedRow>,
        kept::<TotalsRow>,
        kept::<PublishedTopicsRow>,
        kept::<StartedRow>,
        kept::<SecretRow>,
        kept::<RetainedRow>,
        kept::<LabelRow>,
        kept::<NextLabelRow>,
        kept::<AccountRow>,
        kept::<LoginRow>,
        kept::<ExtrasRow>,
        |_| (),
    ];
    let Some((&kind, body)) = bytes.split_first() else {
        return;
    };
    let mut row = body.to_vec();
    row.extend_from_slice(&crc32fast::hash(body).to_le_bytes());
    if let Some(read) = KINDS.get(usize::from(kind) % KINDS.len()) {
        read(&row);
    }
}

fn kept<R: StoredRow>(row: &[u8]) {
    if let Ok(read) = decode::<R>(row) {
        assert_eq!(encode(&read), row);
    }
}
