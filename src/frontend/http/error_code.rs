//! Every number a response can carry, and the one place that chooses among them.
//!
//! The parameter checker serves the actions of both APIs, which use different numbers for the same mistake:
//! [`CodeSet`] says whose numbers apply. Numbers are stable: a client's program compares them.
#![warn(clippy::wildcard_enum_match_arm)]

use std::fmt;

use crate::broker::account::AccountError;
use crate::broker::error::{PublishRefused, SessionRefused, StoreFailed};
use crate::broker::label::LabelError;
use crate::broker::login::LoginError;
use crate::broker::topic_name::InvalidTopic;
use crate::store::{Error as StoreError, Refused};

/// One number of the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ErrorCode(pub i32);

impl ErrorCode {
    /// Object not found.
    pub const NOT_FOUND: Self = Self(100);
    /// Warning: account to drop not found.
    pub const DROP_NOT_FOUND: Self = Self(101);
    /// Feature not supported: a known API or action that is not offered.
    pub const NOT_SUPPORTED: Self = Self(12006);
    /// Storage failure or bug.
    pub const INTERNAL: Self = Self(12009);
    /// Invalid argument value (admin).
    pub const INVALID_VALUE: Self = Self(12012);
    /// Time-out inside the server.
    pub const TIMEOUT: Self = Self(12014);
    /// Limit exceeded.
    pub const LIMIT: Self = Self(12015);
    /// Name already exists.
    pub const EXISTS: Self = Self(12020);
    /// Required parameter, or the token, missing.
    pub const MISSING: Self = Self(12025);
    /// Object in use.
    pub const IN_USE: Self = Self(12026);
    /// Payload too large.
    pub const TOO_LARGE: Self = Self(12028);
    /// Administrator rights needed.
    pub const NOT_ADMIN: Self = Self(12030);
    /// Token unknown or expired.
    pub const INVALID_TOKEN: Self = Self(12031);
    /// Login failed.
    pub const LOGIN_FAILED: Self = Self(12033);
    /// Parameter longer than allowed (admin).
    pub const TOO_LONG: Self = Self(12034);
    /// Feature not supported by the message engine.
    pub const MQ_NOT_SUPPORTED: Self = Self(14201);
    /// Out of memory of a session.
    pub const MQ_NO_MEMORY: Self = Self(14206);
    /// Client name already in use.
    pub const CLIENT_NAME_IN_USE: Self = Self(14221);
    /// Binary string or payload not in its declared format.
    pub const INVALID_FORMAT: Self = Self(14222);
    /// Session is not a subscriber.
    pub const NOT_SUBSCRIBED: Self = Self(14225);
    /// Invalid parameter value (mq).
    pub const MQ_INVALID_VALUE: Self = Self(14228);
    /// Operation not valid in the current state.
    pub const INVALID_STATE: Self = Self(14229);
    /// Table name not found.
    pub const TABLE_NOT_FOUND: Self = Self(14231);
    /// Broker connection not found.
    pub const BROKER_NOT_FOUND: Self = Self(14233);
    /// Broker connection in use.
    pub const BROKER_IN_USE: Self = Self(14235);
    /// Topic not found.
    pub const TOPIC_NOT_FOUND: Self = Self(14236);
    /// Session not found.
    pub const SESSION_NOT_FOUND: Self = Self(14237);
    /// Message engine is not active.
    pub const NOT_ACTIVE: Self = Self(14239);
    /// Invalid share group.
    pub const INVALID_GROUP: Self = Self(14241);
    /// Invalid topic name or filter.
    pub const INVALID_TOPIC: Self = Self(14243);
    /// Parameter longer than allowed (mq).
    pub const MQ_TOO_LONG: Self = Self(14245);
    /// Listener not found.
    pub const LISTENER_NOT_FOUND: Self = Self(14246);
    /// Message table in use.
    pub const TABLE_IN_USE: Self = Self(14247);
    /// No id is left.
    pub const NO_ID: Self = Self(14248);
    /// Missing action, unknown parameter, bad value in the envelope.
    pub const ENVELOPE_VALUE: Self = Self(14700);
    /// Unknown API or action.
    pub const UNKNOWN_ACTION: Self = Self(14701);
    /// Wrong JSON type.
    pub const WRONG_TYPE: Self = Self(14702);
    /// Part of an offered action that is not implemented.
    pub const NOT_IMPLEMENTED: Self = Self(14703);
    /// The body is not a JSON object, or HTTP was used wrongly.
    pub const TRANSPORT: Self = Self(14704);
}

/// Whose numbers the parameter checker uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CodeSet {
    /// Actions of `admin`.
    Admin,
    /// Actions of `mq`.
    Mq,
}

impl CodeSet {
    /// A value that is not allowed.
    pub fn invalid_value(self) -> ErrorCode {
        match self {
            Self::Admin => ErrorCode::INVALID_VALUE,
            Self::Mq => ErrorCode::MQ_INVALID_VALUE,
        }
    }

    /// A number out of its range.
    pub fn out_of_range(self) -> ErrorCode {
        match self {
            Self::Admin => ErrorCode::LIMIT,
            Self::Mq => ErrorCode::MQ_INVALID_VALUE,
        }
    }

    /// A string, array or object longer than allowed.
    pub fn too_long(self) -> ErrorCode {
        match self {
            Self::Admin => ErrorCode::TOO_LONG,
            Self::Mq => ErrorCode::MQ_TOO_LONG,
        }
    }

    /// A string that is not in its declared binary format.
    pub fn invalid_format(self) -> ErrorCode {
        match self {
            Self::Admin => ErrorCode::INVALID_VALUE,
            Self::Mq => ErrorCode::INVALID_FORMAT,
        }
    }
}

/// Why an action fails: what the client is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The number.
    pub code: ErrorCode,
    /// The text; cut to 256 bytes where it is sent.
    pub message: String,
}

impl Fault {
    /// A number with its text.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code.0)
    }
}

/// Something worth knowing that is no failure.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Warning {
    /// The number.
    pub code: ErrorCode,
    /// The text.
    pub message: String,
}

impl Warning {
    /// A number with its text.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

/// Text as a sentence: broker errors begin in lower case and have no full stop.
fn sentence(error: &impl fmt::Display) -> String {
    let text = error.to_string().replace('`', "\"");
    let mut characters = text.chars();
    let first: String = characters.next().into_iter().flat_map(char::to_uppercase).collect();
    format!("{first}{}.", characters.as_str())
}

impl From<Refused> for Fault {
    fn from(refused: Refused) -> Self {
        let code = match refused {
            Refused::Full => ErrorCode::LIMIT,
            Refused::Busy => ErrorCode::TIMEOUT,
            Refused::WritesDisabled(_) | Refused::Fenced => ErrorCode::INTERNAL,
        };
        Self::new(code, sentence(&refused))
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Io(_) | StoreError::Damaged { .. } | StoreError::NoLog(_) | StoreError::Refused(_) => {
                Self::new(ErrorCode::INTERNAL, sentence(&error))
            }
        }
    }
}

impl From<StoreFailed> for Fault {
    fn from(failed: StoreFailed) -> Self {
        match failed {
            StoreFailed::Refused(refused) => refused.into(),
            StoreFailed::Lost(error) => error.into(),
        }
    }
}

impl From<InvalidTopic> for Fault {
    fn from(invalid: InvalidTopic) -> Self {
        let code = match invalid {
            InvalidTopic::Empty => ErrorCode::MQ_INVALID_VALUE,
            InvalidTopic::TooLong => ErrorCode::MQ_TOO_LONG,
            InvalidTopic::ShareGroup => ErrorCode::INVALID_GROUP,
            InvalidTopic::Nul | InvalidTopic::Wildcard | InvalidTopic::MisplacedWildcard => ErrorCode::INVALID_TOPIC,
        };
        Self::new(code, sentence(&invalid))
    }
}

impl From<PublishRefused> for Fault {
    fn from(refused: PublishRefused) -> Self {
        match refused {
            PublishRefused::Topic(invalid) => invalid.into(),
            PublishRefused::NotOpen => Self::new(ErrorCode::INVALID_TOPIC, sentence(&refused)),
            PublishRefused::Store(failed) => failed.into(),
        }
    }
}

impl From<SessionRefused> for Fault {
    fn from(refused: SessionRefused) -> Self {
        let code = match refused {
            SessionRefused::Unknown(_) => ErrorCode::SESSION_NOT_FOUND,
            SessionRefused::NameInUse(_) => ErrorCode::CLIENT_NAME_IN_USE,
            SessionRefused::NotOwner(_) | SessionRefused::SystemFilter(_) => ErrorCode::NOT_ADMIN,
            SessionRefused::Banned(_) | SessionRefused::WrongKind(_) => ErrorCode::INVALID_STATE,
            SessionRefused::NotSubscribed(_) => ErrorCode::NOT_SUBSCRIBED,
            SessionRefused::TooManyPositions => ErrorCode::MQ_NO_MEMORY,
            SessionRefused::Publish(refused) => return refused.into(),
            SessionRefused::Store(failed) => return failed.into(),
        };
        // These are sentences already.
        Self::new(code, refused.to_string())
    }
}

impl From<LoginError> for Fault {
    fn from(error: LoginError) -> Self {
        let code = match error {
            LoginError::Limit(..) => ErrorCode::LIMIT,
            LoginError::Gone => return invalid_token(),
            LoginError::CannotBecomePermanent => ErrorCode::INVALID_VALUE,
            LoginError::Refused(refused) => return refused.into(),
            LoginError::Store(error) => return error.into(),
            LoginError::NoRandomness => ErrorCode::INTERNAL,
        };
        Self::new(code, sentence(&error))
    }
}

impl From<AccountError> for Fault {
    fn from(error: AccountError) -> Self {
        let code = match error {
            AccountError::Exists(_) => ErrorCode::EXISTS,
            AccountError::NotFound(_) => ErrorCode::NOT_FOUND,
            AccountError::LastAdministrator => ErrorCode::IN_USE,
            AccountError::Refused(refused) => return refused.into(),
            AccountError::Store(error) => return error.into(),
            AccountError::Hashing(_) => ErrorCode::INTERNAL,
        };
        Self::new(code, sentence(&error))
    }
}

impl From<LabelError> for Fault {
    fn from(error: LabelError) -> Self {
        let code = match error {
            LabelError::Exists { .. } => ErrorCode::EXISTS,
            LabelError::NotFound(_) => ErrorCode::NOT_FOUND,
            LabelError::NoIds => ErrorCode::LIMIT,
            LabelError::Refused(refused) => return refused.into(),
            LabelError::Store(error) => return error.into(),
        };
        Self::new(code, sentence(&error))
    }
}

/// The one text clients are known to look for.
pub const INVALID_TOKEN_TEXT: &str = "'authToken' does not match any existing session. Use a valid 'authToken' or use \
                                      'createSession' to create a valid 'authToken'.";

/// The token is unknown, expired or deleted.
pub fn invalid_token() -> Fault {
    Fault::new(ErrorCode::INVALID_TOKEN, INVALID_TOKEN_TEXT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_error_reads_as_a_sentence() {
        let fault = Fault::from(AccountError::Exists("PRESS4".into()));
        assert_eq!(fault.message, "Account \"PRESS4\" exists already.");
        assert_eq!(fault.code, ErrorCode(12020));
    }
}
