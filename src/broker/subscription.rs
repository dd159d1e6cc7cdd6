//! A subscription: a filter of a session with its options, and what applies to one message of one topic.

use serde::{Deserialize, Serialize};

use super::message::Qos;
use super::topic_filter::TopicFilter;
use crate::store::Mark;

/// Which retained messages a SUBSCRIBE makes due. Spec: v5 3.3.1.3, spec/messages.md 4.1.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, Default)]
pub enum RetainHandling {
    /// At each subscribe: `onSubscription`.
    #[default]
    OnSubscription,
    /// Only if the filter was not there: `onNewSubscription`.
    OnNewSubscription,
    /// `never`.
    Never,
}

/// The options of a subscription.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SubscriptionOptions {
    /// The highest quality of service of a delivery.
    pub qos: Qos,
    /// Not what the session itself published.
    pub no_local: bool,
    /// Keep RETAIN as published.
    pub retain_as_published: bool,
    /// Which retained messages it makes due.
    pub retain_handling: RetainHandling,
    /// Sent along with each message, 1 to 268,435,455.
    pub identifier: Option<u32>,
    /// Expired messages too.
    pub include_expired: bool,
    /// Kept with the subscription, in order.
    pub user_properties: Vec<(String, String)>,
}

impl Default for SubscriptionOptions {
    fn default() -> Self {
        Self {
            qos: Qos::ExactlyOnce,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::default(),
            identifier: None,
            include_expired: false,
            user_properties: Vec::new(),
        }
    }
}

/// Retained messages that a subscription has made due and that are not served yet: those set before `mark`, of topics
/// behind `cursor` in byte order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RetainedDue {
    /// Where the subscription was made.
    pub mark: Mark,
    /// The last topic that was served; empty at the beginning.
    pub cursor: String,
}

/// A subscription of one session.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// Its filter.
    pub filter: TopicFilter,
    /// Its options; replaced by the next SUBSCRIBE.
    pub options: SubscriptionOptions,
    /// Messages before it do not concern the subscription; replacing keeps it.
    pub start: Mark,
    /// Retained messages to be served.
    pub due: Option<RetainedDue>,
    /// The same as stored.
    pub(super) due_stored: Option<RetainedDue>,
}

/// What the ordinary subscriptions of a session say about a message of one topic (spec/semantics.md 2).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Applies {
    /// The highest granted `QoS`.
    pub qos: Qos,
    /// Identifiers, ascending: one for each subscription that has one. Spec: v5 [MQTT-3.3.4-3], [MQTT-3.3.4-4].
    pub identifiers: smallvec::SmallVec<[u32; 2]>,
    /// RETAIN stays as published.
    pub retain_as_published: bool,
    /// Expired messages are wanted.
    pub include_expired: bool,
}

/// The ordinary subscriptions of a session that match one topic.
#[derive(Clone, Debug, Default)]
pub struct TopicMatch {
    parts: smallvec::SmallVec<[(Mark, SubscriptionOptions); 1]>,
}

impl TopicMatch {
    pub(super) fn new<'s>(matching: impl Iterator<Item = &'s Subscription>) -> Self {
        Self {
            parts: matching
                .map(|subscription| (subscription.start, subscription.options.clone()))
                .collect(),
        }
    }

    /// Whether any subscription matches.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// The start mark of the oldest matching subscription.
    pub fn oldest_start(&self) -> Mark {
        self.parts.iter().map(|(start, _)| *start).min().unwrap_or(Mark::END)
    }

    /// Whether a subscription of `QoS` 1 or 2 matches: then everything waits for an absent session.
    pub fn waits(&self) -> bool {
        self.parts.iter().any(|(_, options)| options.qos > Qos::AtMostOnce)
    }

    /// What applies to a message with this mark; `own`: the session published it itself.
    pub fn applies(&self, mark: Mark, own: bool) -> Option<Applies> {
        let mut applies: Option<Applies> = None;
        for (start, options) in &self.parts {
            if mark < *start || own && options.no_local {
                continue;
            }
            let all = applies.get_or_insert_with(|| Applies {
                qos: Qos::AtMostOnce,
                identifiers: smallvec::SmallVec::new(),
                retain_as_published: false,
                include_expired: false,
            });
            all.qos = all.qos.max(options.qos);
            all.retain_as_published |= options.retain_as_published;
            all.include_expired |= options.include_expired;
            if let Some(identifier) = options.identifier {
                // One that several subscriptions have is told as often.
                let place = all.identifiers.partition_point(|held| *held < identifier);
                all.identifiers.insert(place, identifier);
            }
        }
        applies
    }
}
