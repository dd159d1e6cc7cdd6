//! Labels as stored. Key: the id, u32 big-endian, so that a scan is ascending; key 0 holds the next id, which is
//! written when a label is deleted, because ids are never reused.

use serde::{Deserialize, Serialize};

use super::RowError;
use super::StoredRow;

/// One label.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LabelRow {
    /// Group; empty is the default group.
    pub group: String,
    /// Name within the group.
    pub name: String,
    /// JSON text as the user gave it; `None` is null.
    pub value: Option<String>,
    /// Number inside the group.
    pub number: Option<i16>,
    /// Sort position: the digits of a JSON number.
    pub sequence: Option<String>,
    /// Should no longer be offered for new uses.
    pub deprecated: bool,
    /// Free text.
    pub description: String,
    /// JSON text of an object as the user gave it.
    pub metadata: String,
}

impl StoredRow for LabelRow {
    const VERSION: u8 = 1;
}

/// The row under key 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NextLabelRow(pub u32);

impl StoredRow for NextLabelRow {
    const VERSION: u8 = 1;
}

/// The key of a label.
pub fn key(id: u32) -> [u8; 4] {
    id.to_be_bytes()
}

/// The id in a key.
///
/// # Errors
/// [`RowError::Malformed`] if it is not 4 bytes.
pub fn parse_key(key: &[u8]) -> Result<u32, RowError> {
    Ok(u32::from_be_bytes(
        key.try_into().map_err(|_| RowError::Malformed("key".into()))?,
    ))
}

#[cfg(test)]
mod tests {
    use super::super::checks::survives_the_round_trip_and_nothing_else;
    use super::*;

    #[test]
    fn a_label_survives_the_round_trip() {
        survives_the_round_trip_and_nothing_else(&LabelRow {
            group: "plant/zone/".into(),
            name: "north".into(),
            value: Some("{\"a\":12.50}".into()),
            number: Some(-3),
            sequence: Some("1.50".into()),
            deprecated: true,
            description: String::new(),
            metadata: "{}".into(),
        });
        survives_the_round_trip_and_nothing_else(&NextLabelRow(9));
        assert_eq!(parse_key(&key(7)), Ok(7));
        assert_eq!(parse_key(&[1, 2]), Err(RowError::Malformed("key".into())));
    }
}
