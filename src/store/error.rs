//! What can go wrong in a store, and whether the outcome is known.

use std::fmt;

use super::types::LogId;

/// Why a commit was not taken. Definite: nothing of it is or will be stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refused {
    /// There is no space for new records.
    Full,
    /// A write or sync failed earlier; writes stay disabled until restart.
    WritesDisabled(String),
    /// Another holder has the owner's lease.
    Fenced,
    /// Too much waits to be written; try again.
    Busy,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("the store is full; free space or raise its quota"),
            Self::WritesDisabled(cause) => write!(f, "writes are disabled until restart: {cause}"),
            Self::Fenced => f.write_str("another holder has taken over"),
            Self::Busy => f.write_str("too much waits to be written; try again"),
        }
    }
}

impl std::error::Error for Refused {}

/// Why a read, an open or a ticket failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Error {
    /// Indefinite for a ticket: recovery decides whether the commit is there. The text names file and cause.
    Io(String),
    /// Stored bytes do not verify.
    Damaged {
        /// File, relative to the data directory.
        file: String,
        /// Byte offset in it.
        offset: u64,
        /// What is wrong and what it concerns.
        cause: String,
    },
    /// No such log.
    NoLog(LogId),
    /// The data directory cannot be opened as it is; the text says why and what to do.
    Refused(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(cause) | Self::Refused(cause) => f.write_str(cause),
            Self::Damaged { file, offset, cause } => write!(f, "`{file}` is damaged at byte {offset}: {cause}"),
            Self::NoLog(log) => write!(f, "log {} does not exist", log.0),
        }
    }
}

impl std::error::Error for Error {}

/// Result of store operations.
pub type Result<T> = std::result::Result<T, Error>;
