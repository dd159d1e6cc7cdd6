//! Topic filters with `+`, `#` and `$share`, and how one filter matches one name.

use std::fmt;
use std::sync::Arc;

use super::topic_name::{self, InvalidTopic, SYSTEM_PREFIX};

/// A valid filter; cheap to clone. Equal text is equal filter.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TopicFilter {
    text: Arc<str>,
    /// Where the filter proper begins: behind `$share/<group>/`, else 0.
    start: u16,
    wildcard: bool,
}

impl TopicFilter {
    /// Checks a filter.
    ///
    /// # Errors
    /// See [`InvalidTopic`]. Spec: v5 [MQTT-4.7.1-1], [MQTT-4.7.1-2], [MQTT-4.8.2-1], [MQTT-4.8.2-2].
    pub fn parse(text: &str) -> Result<Self, InvalidTopic> {
        topic_name::check(text)?;
        let start = match text.strip_prefix("$share/") {
            None => 0,
            Some(shared) => {
                let (group, filter) = shared.split_once('/').ok_or(InvalidTopic::ShareGroup)?;
                if group.is_empty() || filter.is_empty() || group.contains(['+', '#']) {
                    return Err(InvalidTopic::ShareGroup);
                }
                text.len() - filter.len()
            }
        };
        if text == "$share" {
            return Err(InvalidTopic::ShareGroup);
        }
        let filter = text.get(start..).unwrap_or_default();
        let mut levels = filter.split('/').peekable();
        while let Some(level) = levels.next() {
            let alone = level.len() == 1;
            let misplaced = level.contains('+') && !alone || level.contains('#') && (!alone || levels.peek().is_some());
            if misplaced {
                return Err(InvalidTopic::MisplacedWildcard);
            }
        }
        Ok(Self {
            text: text.into(),
            start: start as u16,
            wildcard: filter.contains(['+', '#']),
        })
    }

    /// The whole text, `$share/<group>/` included.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The part that is matched against names.
    pub fn filter(&self) -> &str {
        self.text.get(usize::from(self.start)..).unwrap_or_default()
    }

    /// The share group's name, if it is a shared filter.
    pub fn group(&self) -> Option<&str> {
        self.text.get(7..usize::from(self.start).checked_sub(1)?)
    }

    /// Whether it belongs to a share group.
    pub fn is_shared(&self) -> bool {
        self.start > 0
    }

    /// Whether it holds `+` or `#`.
    pub fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    /// Whether it names the server's own topics, which only administrators may ask for.
    pub fn is_system(&self) -> bool {
        self.filter().starts_with(SYSTEM_PREFIX) || self.filter() == "faircomAdmin"
    }

    /// Whether a name matches. Leading wildcards match no `$...` name.
    ///
    /// Spec: v5 [MQTT-4.7.2-1], 4.7.1.
    pub fn matches(&self, name: &str) -> bool {
        let filter = self.filter();
        if name.starts_with('$') && filter.starts_with(['+', '#']) {
            return false;
        }
        let mut levels = name.split('/');
        for wanted in filter.split('/') {
            if wanted == "#" {
                return true;
            }
            match levels.next() {
                Some(level) if wanted == "+" || wanted == level => {}
                _ => return false,
            }
        }
        levels.next().is_none()
    }

    /// The text before the first level with a wildcard: every matching name starts with it.
    pub fn literal_prefix(&self) -> &str {
        let filter = self.filter();
        let end = filter.find(['+', '#']).unwrap_or(filter.len());
        // `a/#` matches `a` too.
        filter.get(..end).map_or("", |prefix| {
            if filter.get(end..) == Some("#") {
                prefix.strip_suffix('/').unwrap_or(prefix)
            } else {
                prefix
            }
        })
    }
}

impl fmt::Display for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::parse(text).unwrap()
    }

    /// v5 [MQTT-4.7.1-1], [MQTT-4.7.1-2]
    #[test]
    fn wildcards_must_stand_alone_and_the_multi_level_one_last() {
        for text in ["a+", "+a/b", "a/#/b", "a#", "#/", "a/b#"] {
            assert_eq!(TopicFilter::parse(text), Err(InvalidTopic::MisplacedWildcard), "{text}");
        }
        for text in ["#", "+", "a/+/b", "+/+", "/+", "a/#", "/", "a//b"] {
            assert!(TopicFilter::parse(text).is_ok(), "{text}");
        }
    }

    /// v5 [MQTT-4.8.2-1], [MQTT-4.8.2-2]
    #[test]
    fn a_shared_filter_has_a_group_without_wildcards_and_a_filter() {
        for text in [
            "$share",
            "$share/",
            "$share/g",
            "$share/g/",
            "$share//a",
            "$share/+/a",
            "$share/g#/a",
        ] {
            assert_eq!(TopicFilter::parse(text), Err(InvalidTopic::ShareGroup), "{text}");
        }
        let shared = filter("$share/payers/pay/+");
        assert_eq!((shared.group(), shared.filter()), (Some("payers"), "pay/+"));
        assert!(shared.matches("pay/x") && shared.is_wildcard());
        assert_eq!(filter("$share/g//").filter(), "/");
        assert_eq!(filter("a/b").group(), None);
    }

    /// v5 4.7.1.2, 4.7.1.3, [MQTT-4.7.2-1]
    #[test]
    fn filters_match_as_the_specification_says() {
        let cases = [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
            ("sport/#", "sport", true),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("#", "$SYS/x", false),
            ("+/x", "$SYS/x", false),
            ("$SYS/#", "$SYS/x", true),
            ("#", "/", true),
            ("a/+/c", "a//c", true),
        ];
        for (text, name, expected) in cases {
            assert_eq!(filter(text).matches(name), expected, "{text} on {name}");
            if expected {
                assert!(name.starts_with(filter(text).literal_prefix()), "{text}");
            }
        }
    }
}
