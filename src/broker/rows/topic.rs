//! What is stored of a topic beside its log.

use serde::{Deserialize, Serialize};

use super::{RowError, decode, encode};

/// Version 1 of the retained row: where the retained message of a topic lies.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RetainedRow {
    /// Position of the retained message.
    pub position: u64,
    /// Its mark.
    pub mark: [u8; 8],
}

impl RetainedRow {
    /// The stored bytes.
    pub fn encode(&self) -> Vec<u8> {
        encode(1, self)
    }

    /// Reads them back.
    ///
    /// # Errors
    /// See [`RowError`].
    pub fn decode(row: &[u8]) -> Result<Self, RowError> {
        decode(1, row)
    }
}
