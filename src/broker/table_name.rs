//! The names of integration tables: each topic has one by default, made from the topic's name (spec/topics.md 1).

use super::Broker;
use super::topic_filter::TopicFilter;

/// The longest table name, in bytes.
const TABLE_NAME_BYTES_MAX: usize = 64;
const PREFIX: &str = "mqtt_msg_";

/// The table name a topic has unless another topic had it before.
pub fn default_table_name(topic: &str) -> String {
    let fold = |byte: u8| match byte {
        b'a'..=b'z' | b'0'..=b'9' | b'_' => char::from(byte),
        b'A'..=b'Z' => char::from(byte.to_ascii_lowercase()),
        _ => '_',
    };
    let mut name = PREFIX.to_owned();
    name.extend(topic.bytes().take(TABLE_NAME_BYTES_MAX - PREFIX.len()).map(fold));
    name
}

impl Broker {
    /// The topic whose messages lie in a table. Topics that fold to the same name have it with `_2`, `_3`, ... in the
    /// order of their creation.
    pub fn topic_of_table(&self, table: &str) -> Option<String> {
        let table = table.to_ascii_lowercase();
        if !table.starts_with(PREFIX) {
            return None;
        }
        let all = TopicFilter::parse("#").ok()?;
        let topics = self.0.topics.matching(&all, "", usize::MAX);
        let nth = |name: &str, place: usize| {
            let mut same: Vec<_> = topics
                .iter()
                .filter(|topic| default_table_name(&topic.name) == name)
                .collect();
            same.sort_by_key(|topic| topic.log);
            same.get(place).map(|topic| topic.name.to_string())
        };
        nth(&table, 0).or_else(|| {
            let (name, number) = table.rsplit_once('_')?;
            let number: usize = number.parse().ok().filter(|number| *number > 1)?;
            nth(name, number - 1)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_named_after_its_topic() {
        assert_eq!(default_table_name("test/topic1"), "mqtt_msg_test_topic1");
        assert_eq!(default_table_name("Zürich/A-1"), "mqtt_msg_z__rich_a_1");
        assert_eq!(default_table_name(&"x".repeat(100)).len(), 64);
    }
}
