//! Topic names: concrete, without wildcards, validated where they are made.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// The longest topic name and filter, in bytes of UTF-8 (MQTT's length field).
pub const TOPIC_BYTES_MAX: usize = 65_535;

/// The prefix of the topics that the server itself publishes to.
pub const SYSTEM_PREFIX: &str = "faircomAdmin/";

/// Why a name or filter was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InvalidTopic {
    /// It has no characters.
    Empty,
    /// It is longer than [`TOPIC_BYTES_MAX`].
    TooLong,
    /// It holds U+0000.
    Nul,
    /// A name holds `+` or `#`.
    Wildcard,
    /// `+` or `#` do not stand alone in their level, or `#` is not the last level.
    MisplacedWildcard,
    /// `$share/` is not followed by a group without wildcards and a filter.
    ShareGroup,
}

impl fmt::Display for InvalidTopic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "it is empty",
            Self::TooLong => "it is longer than 65535 bytes",
            Self::Nul => "it contains U+0000",
            Self::Wildcard => "a topic name must not contain `+` or `#`",
            Self::MisplacedWildcard => "`+` and `#` must stand alone in their level, and `#` must be the last one",
            Self::ShareGroup => "`$share/` must be followed by a group name without wildcards, `/` and a filter",
        })
    }
}

impl std::error::Error for InvalidTopic {}

/// A valid topic name; cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TopicName(Arc<str>);

impl TopicName {
    /// Checks a name.
    ///
    /// # Errors
    /// See [`InvalidTopic`]. Spec: v5 [MQTT-4.7.1-1], [MQTT-4.7.3-1], [MQTT-4.7.3-2].
    pub fn parse(name: &str) -> Result<Self, InvalidTopic> {
        check(name)?;
        if name.bytes().any(|byte| byte == b'+' || byte == b'#') {
            return Err(InvalidTopic::Wildcard);
        }
        Ok(Self(name.into()))
    }

    /// Whether clients may publish to it (spec/topics.md 2).
    pub fn is_open_to_clients(&self) -> bool {
        open_to_clients(self)
    }
}

/// Whether clients may publish to a topic of this name: not `$...`, not the system topics.
pub fn open_to_clients(name: &str) -> bool {
    !name.starts_with('$') && !name.starts_with(SYSTEM_PREFIX)
}

impl Deref for TopicName {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for TopicName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What names and filters have in common.
pub(super) fn check(text: &str) -> Result<(), InvalidTopic> {
    if text.is_empty() {
        Err(InvalidTopic::Empty)
    } else if text.len() > TOPIC_BYTES_MAX {
        Err(InvalidTopic::TooLong)
    } else if text.contains('\0') {
        Err(InvalidTopic::Nul)
    } else {
        Ok(())
    }
}
