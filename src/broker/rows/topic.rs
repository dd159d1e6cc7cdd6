//! What is stored of a topic beside its log.

use serde::{Deserialize, Serialize};

use super::StoredRow;

/// Version 1 of the retained row: where the retained message of a topic lies.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RetainedRow {
    /// Position of the retained message.
    pub position: u64,
    /// Its mark.
    pub mark: [u8; 8],
}

impl StoredRow for RetainedRow {
    const VERSION: u8 = 1;
}
