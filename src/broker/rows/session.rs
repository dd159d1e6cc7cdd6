//! A session as stored: settings, subscriptions, positions, what was sent, its will.

use serde::{Deserialize, Serialize};

use super::StoredRow;
use crate::broker::session::{Protocol, SessionKind, SessionSettings};
use crate::broker::subscription::SubscriptionOptions;
use crate::broker::will::Will;

/// Table 1.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SessionRow {
    /// Client name.
    pub client_name: String,
    /// MQTT or MQ API.
    pub kind: SessionKind,
    /// Account that owns it; empty for an anonymous MQTT client.
    pub owner: String,
    /// Raised by each clean start: older once-keys lose their meaning.
    pub generation: u32,
    /// Raised by each change of connection.
    pub epoch: u64,
    /// The incarnation of the server it is connected in; 0 if it is not.
    pub connected_in: u64,
    /// Settings.
    pub settings: SessionSettings,
    /// Protocol of the last connection.
    pub protocol: Protocol,
    /// Peer of the last connection.
    pub address: String,
    /// Its port.
    pub port: u16,
    /// ms since 1970 UTC.
    pub created: i64,
    /// ms since 1970 UTC of the last connection.
    pub connected: i64,
    /// ms since 1970 UTC of the last disconnection.
    pub disconnected: Option<i64>,
    /// Why.
    pub disconnect_reason: String,
    /// A will that is due at this time, ms since 1970 UTC.
    pub will_due: Option<i64>,
}

impl StoredRow for SessionRow {
    const VERSION: u8 = 1;
}

/// What retained messages a subscription row makes due.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum DueRow {
    /// None.
    None,
    /// Those set before this row's own place.
    Here,
    /// Those set before a mark, of topics behind the cursor.
    Behind {
        /// Mark.
        mark: [u8; 8],
        /// The last topic served.
        cursor: String,
    },
}

/// Table 2.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SubscriptionRow {
    /// Options.
    pub options: SubscriptionOptions,
    /// Start mark; `None` is this row's own place.
    pub start: Option<[u8; 8]>,
    /// Retained messages due.
    pub due: DueRow,
}

impl StoredRow for SubscriptionRow {
    const VERSION: u8 = 1;
}

/// Table 3.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PositionRow {
    /// The floor.
    pub floor: [u8; 8],
}

impl StoredRow for PositionRow {
    const VERSION: u8 = 1;
}

/// Table 4.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TopicPositionRow {
    /// The next position to be handed out.
    pub next: u64,
    /// Behind the floor: messages before the floor wait here. Else ahead of it.
    pub behind: bool,
}

impl StoredRow for TopicPositionRow {
    const VERSION: u8 = 1;
}

/// A run of positions of one topic, packet ids in sequence.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SentRun {
    /// The topic's log.
    pub log: u64,
    /// First position.
    pub first: u64,
    /// How many.
    pub count: u32,
}

/// Table 5: one pull.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SentRow {
    /// The session's floor behind this pull.
    pub floor: [u8; 8],
    /// What was sent, in the order of the packet ids.
    pub runs: Vec<SentRun>,
    /// Per id: bits 0-1 exchange (0 sent, 1 released, 2 done), bits 2-3 `QoS`, bit 4 retained.
    pub states: Vec<u8>,
}

impl StoredRow for SentRow {
    const VERSION: u8 = 1;
}

/// Table 6.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GroupRow {
    /// Where the group began; `None` is this row's own place.
    pub start: Option<[u8; 8]>,
    /// Up to where its messages were taken or returned.
    pub floor: Option<[u8; 8]>,
}

impl StoredRow for GroupRow {
    const VERSION: u8 = 1;
}

/// Table 7.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GroupPartRow {
    /// How many positions from the key's first.
    pub count: u32,
    /// The member they are assigned to; `None` for returned ones.
    pub session: Option<u64>,
    /// `QoS` of the delivery.
    pub qos: u8,
}

impl StoredRow for GroupPartRow {
    const VERSION: u8 = 1;
}

/// Table 8.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct WillRow {
    /// Client name of its session, which may not be stored itself.
    pub client_name: String,
    /// Account it is published with.
    pub account: String,
    /// Whether the session is stored: else it ended with the server, and the will is due at the start.
    pub session_stored: bool,
    /// The will.
    pub will: Will,
}

impl StoredRow for WillRow {
    const VERSION: u8 = 1;
}

/// Table 9.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RetainedServedRow {
    /// The mark that made it due; of another one the row says nothing.
    pub due: [u8; 8],
}

impl StoredRow for RetainedServedRow {
    const VERSION: u8 = 1;
}

/// Table 16.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, Default)]
pub struct TotalsRow {
    /// Messages published by the session.
    pub published: u64,
    /// Messages delivered to it.
    pub received: u64,
    /// First and last publish, first and last delivery, ms since 1970 UTC; 0 for never.
    pub times: [i64; 4],
}

impl StoredRow for TotalsRow {
    const VERSION: u8 = 1;
}

/// Table 17: the topics the session published to, the latest last.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, Default)]
pub struct PublishedTopicsRow {
    /// Names.
    pub topics: Vec<String>,
}

impl StoredRow for PublishedTopicsRow {
    const VERSION: u8 = 1;
}

/// Table 18: a start of the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StartedRow {
    /// When, ms since 1970 UTC.
    pub time: i64,
    /// When the previous incarnation stopped in order; `None` after a crash.
    pub previous_clean_stop: Option<i64>,
}

impl StoredRow for StartedRow {
    const VERSION: u8 = 1;
}

/// Table 21.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SecretRow {
    /// Random.
    pub key: [u8; 32],
}

impl StoredRow for SecretRow {
    const VERSION: u8 = 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_read_back() {
        let row = SubscriptionRow {
            options: SubscriptionOptions {
                identifier: Some(7),
                ..SubscriptionOptions::default()
            },
            start: Some([1; 8]),
            due: DueRow::Behind {
                mark: [2; 8],
                cursor: "a/b".into(),
            },
        };
        assert_eq!(SubscriptionRow::from_row(&row.to_row()), Ok(row));
        let row = SentRow {
            floor: [3; 8],
            runs: vec![SentRun {
                log: 1,
                first: 2,
                count: 3,
            }],
            states: vec![0, 1, 2],
        };
        assert_eq!(SentRow::from_row(&row.to_row()), Ok(row));
    }
}
