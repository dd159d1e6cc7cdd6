//! Topic aliases of one connection, both directions. Spec: v5 section 3.3.2.3.4.
//!
//! **Invariants**
//! - Aliases live as long as the connection and mean nothing outside it.
//! - What both directions remember is bounded by the maxima that were agreed on and by [`NAME_BYTES_MAX`]. Names of
//!   topics that exist do not count in a client's aliases: all of the agreed ones can be used (v5 [MQTT-3.3.2-12]).

use std::num::NonZeroU16;

use ahash::AHashMap;

use super::frame::Malformed;
use super::reason::ReasonCode;
use crate::broker::topic_name::TopicName;

/// Bytes of topic names that each direction remembers at most.
pub const NAME_BYTES_MAX: usize = 1 << 20;

const INVALID: Malformed = Malformed::because(
    ReasonCode::TopicAliasInvalid,
    "the topic alias is larger than the maximum or stands for nothing",
);

/// A topic behind a client's alias.
#[derive(Debug)]
enum Name {
    /// The broker has the topic, and holds its name anyway.
    Shared(TopicName),
    /// The broker has not taken it.
    Own(Box<str>),
}

impl Name {
    fn as_str(&self) -> &str {
        match self {
            Self::Shared(name) => name,
            Self::Own(name) => name,
        }
    }

    fn own_bytes(&self) -> usize {
        match self {
            Self::Shared(_) => 0,
            Self::Own(name) => name.len(),
        }
    }
}

/// Aliases the client made.
#[derive(Debug, Default)]
pub struct IncomingAliases {
    names: Vec<Option<Name>>,
    /// Of names that nobody else holds.
    bytes: usize,
}

impl IncomingAliases {
    /// The topic of a PUBLISH: the one named, which the alias stands for from now on, or the one the alias stands for.
    ///
    /// `maximum` is what the CONNACK said.
    pub fn resolve<'a>(&'a mut self, alias: NonZeroU16, topic: &'a str, maximum: u16) -> Result<&'a str, Malformed> {
        if alias.get() > maximum {
            return Err(INVALID);
        }
        let at = usize::from(alias.get()) - 1;
        if topic.is_empty() {
            let held = self.names.get(at).and_then(Option::as_ref);
            return held.map(Name::as_str).ok_or(INVALID);
        }
        let held = self.names.get(at).and_then(Option::as_ref);
        if held.is_none_or(|held| held.as_str() != topic) {
            self.put(at, Name::Own(topic.into()));
            if self.bytes > NAME_BYTES_MAX {
                return Err(Malformed::because(
                    ReasonCode::QuotaExceeded,
                    "the topics behind the topic aliases are too long in sum",
                ));
            }
        }
        Ok(topic)
    }

    /// The broker has taken the topic that an alias stands for: its name need not be held twice.
    pub fn share(&mut self, alias: NonZeroU16, name: &TopicName) {
        let at = usize::from(alias.get()) - 1;
        if let Some(Some(Name::Own(held))) = self.names.get(at)
            && **held == **name
        {
            self.put(at, Name::Shared(name.clone()));
        }
    }

    fn put(&mut self, at: usize, name: Name) {
        if self.names.len() <= at {
            self.names.resize_with(at + 1, || None);
        }
        if let Some(held) = self.names.get_mut(at) {
            self.bytes = self.bytes + name.own_bytes() - held.as_ref().map_or(0, Name::own_bytes);
            *held = Some(name);
        }
    }
}

/// How a topic is named in a PUBLISH to the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Naming {
    /// By its name.
    Name,
    /// By its name, and from now on by the alias.
    Both(NonZeroU16),
    /// By the alias.
    Alias(NonZeroU16),
}

/// Aliases we made. The topics that come first get them: what a device listens to seldom changes.
#[derive(Debug, Default)]
pub struct OutgoingAliases {
    maximum: u16,
    names: AHashMap<Box<str>, NonZeroU16>,
    bytes: usize,
    last: Option<(Box<str>, NonZeroU16)>,
}

impl OutgoingAliases {
    /// None yet, and at most as many as the client's CONNECT allows.
    pub fn new(maximum: u16) -> Self {
        Self {
            maximum,
            ..Self::default()
        }
    }

    /// How to name `topic` in the next PUBLISH.
    pub fn naming(&mut self, topic: &str) -> Naming {
        if self.maximum == 0 {
            return Naming::Name;
        }
        if let Some((name, alias)) = &self.last
            && **name == *topic
        {
            return Naming::Alias(*alias);
        }
        if let Some(alias) = self.names.get(topic) {
            self.last = Some((topic.into(), *alias));
            return Naming::Alias(*alias);
        }
        let next = u16::try_from(self.names.len() + 1).ok().and_then(NonZeroU16::new);
        match next {
            // An alias costs three bytes: shorter names are better off without.
            Some(alias)
                if alias.get() <= self.maximum && topic.len() > 3 && self.bytes + topic.len() <= NAME_BYTES_MAX =>
            {
                Naming::Both(alias)
            }
            _ => Naming::Name,
        }
    }

    /// The PUBLISH that [`Naming::Both`] was answered for is on its way.
    pub fn sent(&mut self, topic: &str, alias: NonZeroU16) {
        self.bytes += topic.len();
        self.names.insert(topic.into(), alias);
        self.last = Some((topic.into(), alias));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alias(number: u16) -> NonZeroU16 {
        NonZeroU16::new(number).unwrap()
    }

    /// v5 [MQTT-3.3.2-8], [MQTT-3.3.2-12]
    #[test]
    fn a_clients_alias_stands_for_the_topic_it_was_last_sent_with() {
        let mut aliases = IncomingAliases::default();
        assert_eq!(aliases.resolve(alias(2), "", 5), Err(INVALID), "nothing was said yet");
        assert_eq!(aliases.resolve(alias(2), "a/b", 5), Ok("a/b"));
        assert_eq!(aliases.resolve(alias(2), "", 5), Ok("a/b"));
        assert_eq!(aliases.resolve(alias(1), "", 5), Err(INVALID));
        assert_eq!(aliases.resolve(alias(2), "c", 5), Ok("c"));
        assert_eq!(aliases.resolve(alias(2), "", 5), Ok("c"));
        assert_eq!(aliases.resolve(alias(6), "a", 5), Err(INVALID), "beyond the maximum");
    }

    /// v5 [MQTT-3.3.2-12]
    #[test]
    fn every_alias_up_to_the_maximum_can_stand_for_a_long_topic_that_exists() {
        let mut aliases = IncomingAliases::default();
        let name = TopicName::parse(&"x".repeat(60_000)).unwrap();
        for number in 1..=65_535 {
            assert!(aliases.resolve(alias(number), &name, u16::MAX).is_ok());
            aliases.share(alias(number), &name);
        }
        assert_eq!(aliases.bytes, 0);
        assert_eq!(aliases.resolve(alias(65_535), "", u16::MAX), Ok(&*name));
        assert_eq!(aliases.resolve(alias(65_535), "other", u16::MAX), Ok("other"));
        aliases.share(alias(65_535), &name);
        assert_eq!(
            aliases.resolve(alias(65_535), "", u16::MAX),
            Ok("other"),
            "it is another topic by now"
        );
    }

    #[test]
    fn names_behind_aliases_cannot_fill_the_memory() {
        let mut aliases = IncomingAliases::default();
        let long = "x".repeat(60_000);
        let refused = (1..=65_535).find_map(|number| aliases.resolve(alias(number), &long, u16::MAX).err());
        assert_eq!(refused.map(|why| why.reason), Some(ReasonCode::QuotaExceeded));
        assert!(aliases.bytes <= NAME_BYTES_MAX + long.len());
    }

    #[test]
    fn our_aliases_are_used_once_they_were_sent_and_never_beyond_the_clients_maximum() {
        let mut aliases = OutgoingAliases::new(1);
        assert_eq!(aliases.naming("long/topic"), Naming::Both(alias(1)));
        assert_eq!(aliases.naming("long/topic"), Naming::Both(alias(1)), "not sent yet");
        aliases.sent("long/topic", alias(1));
        assert_eq!(aliases.naming("other/topic"), Naming::Name);
        assert_eq!(aliases.naming("long/topic"), Naming::Alias(alias(1)));
        assert_eq!(OutgoingAliases::new(0).naming("long/topic"), Naming::Name);
    }
}
