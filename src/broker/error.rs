//! What the broker's operations can answer besides success: small facts, one enum per operation.

use std::fmt;

use super::topic_name::InvalidTopic;
use crate::store;

/// The store could not take or keep what was asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StoreFailed {
    /// Definite: nothing was stored.
    Refused(store::Refused),
    /// Indefinite: ask again after a restart.
    Lost(store::Error),
}

impl fmt::Display for StoreFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refused) => refused.fmt(f),
            Self::Lost(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StoreFailed {}

impl From<store::Refused> for StoreFailed {
    fn from(refused: store::Refused) -> Self {
        Self::Refused(refused)
    }
}

impl From<store::Error> for StoreFailed {
    fn from(error: store::Error) -> Self {
        Self::Lost(error)
    }
}

/// Why a broker did not open.
#[derive(Debug)]
pub enum OpenError {
    /// The store could not be read or written.
    Store(StoreFailed),
    /// A row is not readable.
    Row(String),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(error) => error.fmt(f),
            Self::Row(cause) => write!(f, "the stored state cannot be read: {cause}"),
        }
    }
}

impl std::error::Error for OpenError {}

impl<E: Into<StoreFailed>> From<E> for OpenError {
    fn from(error: E) -> Self {
        Self::Store(error.into())
    }
}

/// Why a CONNECT was refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ConnectRefused {
    /// The name belongs to an MQ API session. v5 0x85, v3 2.
    NameOfApiSession,
    /// The session is banned. v5 0x8A, v3 5.
    Banned,
    /// Another account owns the session. v5 0x87, v3 5.
    NotOwner,
    /// The store failed. v5 0x88, v3 3.
    Store(StoreFailed),
}

impl<E: Into<StoreFailed>> From<E> for ConnectRefused {
    fn from(error: E) -> Self {
        Self::Store(error.into())
    }
}

impl fmt::Display for ConnectRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NameOfApiSession => f.write_str("the client identifier is the name of an MQ API session"),
            Self::Banned => f.write_str("the session is banned"),
            Self::NotOwner => f.write_str("another account owns the session"),
            Self::Store(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ConnectRefused {}

/// Why a publish was refused; nothing of it is stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PublishRefused {
    /// The topic name is invalid.
    Topic(InvalidTopic),
    /// Clients may not publish to it.
    NotOpen,
    /// The store refused.
    Store(StoreFailed),
}

impl From<InvalidTopic> for PublishRefused {
    fn from(invalid: InvalidTopic) -> Self {
        Self::Topic(invalid)
    }
}

impl<E: Into<StoreFailed>> From<E> for PublishRefused {
    fn from(error: E) -> Self {
        Self::Store(error.into())
    }
}

impl fmt::Display for PublishRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Topic(invalid) => invalid.fmt(f),
            Self::NotOpen => f.write_str("clients may not publish to this topic"),
            Self::Store(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for PublishRefused {}

/// Why an operation on a named session was refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SessionRefused {
    /// There is no such session.
    Unknown(String),
    /// A session of that name exists.
    NameInUse(String),
    /// The account may not use it.
    NotOwner(String),
    /// It is banned.
    Banned(String),
    /// The operation does not exist for this kind of session.
    WrongKind(String),
    /// The topic is not among what the session subscribes to.
    NotSubscribed(String),
    /// It holds as many positions of single topics as a session may.
    TooManyPositions,
    /// A filter is reserved for administrators.
    SystemFilter(String),
    /// The topic cannot be published to.
    Publish(PublishRefused),
    /// The store failed.
    Store(StoreFailed),
}

impl<E: Into<StoreFailed>> From<E> for SessionRefused {
    fn from(error: E) -> Self {
        Self::Store(error.into())
    }
}

impl From<PublishRefused> for SessionRefused {
    fn from(refused: PublishRefused) -> Self {
        match refused {
            PublishRefused::Store(failed) => Self::Store(failed),
            other => Self::Publish(other),
        }
    }
}

impl fmt::Display for SessionRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(name) => write!(f, "MQ session \"{name}\" does not exist."),
            Self::NameInUse(name) => write!(f, "A session with the client name \"{name}\" exists already."),
            Self::NotOwner(name) => write!(f, "Session \"{name}\" belongs to another account."),
            Self::Banned(name) => write!(f, "Session \"{name}\" is banned."),
            Self::WrongKind(name) => write!(
                f,
                "Session \"{name}\" is an MQTT session; only its client can retrieve."
            ),
            Self::NotSubscribed(topic) => write!(f, "The session has no subscription for \"{topic}\"."),
            Self::TooManyPositions => {
                f.write_str("The session holds 100,000 positions of single topics; retrieve without \"topic\" first.")
            }
            Self::SystemFilter(filter) => write!(f, "Only administrators may subscribe to \"{filter}\"."),
            Self::Publish(refused) => refused.fmt(f),
            Self::Store(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for SessionRefused {}
