//! Moments as text: always UTC, written without a zone, read with or without one.

use chrono::{DateTime, NaiveDate, NaiveDateTime};

/// `YYYY-MM-DDTHH:MM:SS`.
pub fn seconds(ms: i64) -> String {
    written(ms, "%Y-%m-%dT%H:%M:%S")
}

/// `YYYY-MM-DDTHH:MM:SS.mmm`.
pub fn milliseconds(ms: i64) -> String {
    written(ms, "%Y-%m-%dT%H:%M:%S%.3f")
}

fn written(ms: i64, format: &str) -> String {
    // A clock cannot be that far off; if a row says so, the text should not be the reason for a failure.
    DateTime::from_timestamp_millis(ms)
        .unwrap_or(DateTime::UNIX_EPOCH)
        .format(format)
        .to_string()
}

/// A date, a date with a time, or one with `Z` or an offset: milliseconds since 1970 UTC. A blank may stand for `T`.
pub fn parse(text: &str) -> Option<i64> {
    if let Ok(date) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        return Some(date.and_hms_opt(0, 0, 0)?.and_utc().timestamp_millis());
    }
    for format in ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M"] {
        if let Ok(moment) = NaiveDateTime::parse_from_str(text, format) {
            return Some(moment.and_utc().timestamp_millis());
        }
    }
    for format in ["%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M%#z"] {
        let offset = text.strip_suffix(['Z', 'z']).map(|rest| format!("{rest}+00:00"));
        if let Ok(moment) = DateTime::parse_from_str(offset.as_deref().unwrap_or(text), format) {
            return Some(moment.timestamp_millis());
        }
    }
    None
}

/// Where a read of a topic's history begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartFrom {
    /// The most recent messages.
    Tail,
    /// The oldest stored message.
    Head,
    /// Received at this moment or later, ms since 1970 UTC.
    Time(i64),
    /// This position or a later one.
    Position(u64),
}

impl StartFrom {
    /// Reads text: a name, a position, or a moment.
    pub fn parse(text: &str) -> Option<Self> {
        if text.eq_ignore_ascii_case("tail") {
            return Some(Self::Tail);
        }
        if text.eq_ignore_ascii_case("head") {
            return Some(Self::Head);
        }
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            // Beyond any position there is nothing; that is an empty answer, not an error.
            return Some(Self::Position(text.parse().unwrap_or(u64::MAX)));
        }
        parse(text).map(Self::Time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_in_utc_without_a_zone() {
        assert_eq!(seconds(1_772_445_361_204), "2026-03-02T09:56:01");
        assert_eq!(milliseconds(1_772_445_361_204), "2026-03-02T09:56:01.204");
        assert_eq!(milliseconds(0), "1970-01-01T00:00:00.000");
        assert_eq!(seconds(i64::MAX), "1970-01-01T00:00:00");
    }

    #[test]
    fn moments_are_read_with_and_without_time_and_zone() {
        let midnight = 1_720_656_000_000;
        for (text, wanted) in [
            ("2024-07-11", midnight),
            ("2024-07-11T00:00:01", midnight + 1000),
            ("2024-07-11T00:00:01.5", midnight + 1500),
            ("2024-07-11T00:00:01.250Z", midnight + 1250),
            ("2024-07-11T02:00:00+02:00", midnight),
            ("2024-07-10T22:00:00-0200", midnight),
        ] {
            assert_eq!(parse(text), Some(wanted), "{text}");
        }
        for text in ["", "yesterday", "2024-13-01", "2024-07-11T25:00:00", "11.07.2024"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_starting_point_is_a_name_a_position_or_a_moment() {
        assert_eq!(StartFrom::parse("TAIL"), Some(StartFrom::Tail));
        assert_eq!(StartFrom::parse("head"), Some(StartFrom::Head));
        assert_eq!(StartFrom::parse("52233"), Some(StartFrom::Position(52_233)));
        assert_eq!(StartFrom::parse("2024-07-11"), Some(StartFrom::Time(1_720_656_000_000)));
        assert_eq!(
            StartFrom::parse("99999999999999999999999"),
            Some(StartFrom::Position(u64::MAX))
        );
        assert_eq!(StartFrom::parse("soon"), None);
    }
}
