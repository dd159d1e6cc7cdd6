//! What a message has and MQTT cannot carry: it travels in the record, beside the raw properties, and comes back over
//! HTTP as it was given.

use serde::{Deserialize, Serialize};

use super::StoredRow;

/// The extras of a record; none at all if they say nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ExtrasRow {
    /// The correlation data was a JSON value other than a string; the raw property holds its text.
    pub correlation_is_json: bool,
    /// Name of the payload type, if the record says `Named`; else empty.
    pub payload_type: String,
    /// User properties that are too long for MQTT, each with its place among all of the message's, ascending.
    pub long_user_properties: Vec<(u32, String, String)>,
}

impl StoredRow for ExtrasRow {
    const VERSION: u8 = 1;
}

impl ExtrasRow {
    /// The bytes in the record; empty if there is nothing to say.
    pub fn to_bytes(&self) -> Vec<u8> {
        if *self == Self::default() {
            Vec::new()
        } else {
            self.to_row()
        }
    }

    /// Reads them back. Bytes of another version say nothing that this program understands; the message is shown
    /// without them rather than held back.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        if bytes.is_empty() {
            return Self::default();
        }
        Self::from_row(bytes).unwrap_or_else(|error| {
            tracing::warn!(%error, "a message's extras cannot be read");
            Self::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extras_that_say_nothing_take_no_bytes_and_others_read_back() {
        assert!(ExtrasRow::default().to_bytes().is_empty());
        assert_eq!(ExtrasRow::of_bytes(&[]), ExtrasRow::default());
        let row = ExtrasRow {
            correlation_is_json: true,
            payload_type: "png".into(),
            long_user_properties: vec![(3, "k".into(), "v".repeat(70_000))],
        };
        assert_eq!(ExtrasRow::of_bytes(&row.to_bytes()), row);
        assert_eq!(ExtrasRow::of_bytes(&[9, 9, 9]), ExtrasRow::default());
    }
}
