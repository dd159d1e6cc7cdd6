//! Reason codes of MQTT 5.0 and what becomes of them in MQTT 3.1.1, which can say much less.
//!
//! **Invariants**
//! - Every mapping is exhaustive: a new code stops the build until someone chooses its counterpart.

use std::fmt;

use super::NotAuthenticated;
use crate::broker::connection::SubscribeRefused;
use crate::broker::error::{ConnectRefused, PublishRefused, StoreFailed};
use crate::broker::session::Closing;
use crate::store::Refused;

/// Reason codes of MQTT 5.0 (section 2.4). Codes that share a value share a variant: 0x00 is also *Normal
/// disconnection* and *Granted `QoS` 0*.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(u8)]
pub enum ReasonCode {
    /// It was done; normal disconnection; granted with at most once.
    #[default]
    Success = 0x00,
    /// Granted with at least once.
    GrantedQos1 = 0x01,
    /// Granted with exactly once.
    GrantedQos2 = 0x02,
    /// The client leaves and wants its will published.
    DisconnectWithWill = 0x04,
    /// Accepted, and nobody subscribes.
    NoMatchingSubscribers = 0x10,
    /// There was nothing to unsubscribe.
    NoSubscriptionExisted = 0x11,
    /// Another step of authentication.
    ContinueAuthentication = 0x18,
    /// Authentication begins anew.
    ReAuthenticate = 0x19,
    /// No reason is told.
    UnspecifiedError = 0x80,
    /// The bytes are not a packet.
    MalformedPacket = 0x81,
    /// The packet is one, but not allowed here or not like this.
    ProtocolError = 0x82,
    /// Valid, and not done by this server.
    ImplementationSpecificError = 0x83,
    /// The protocol version is unknown here.
    UnsupportedProtocolVersion = 0x84,
    /// The client id is not allowed.
    ClientIdentifierNotValid = 0x85,
    /// User name or password are wrong.
    BadUserNameOrPassword = 0x86,
    /// The account may not do this.
    NotAuthorized = 0x87,
    /// The server is not available.
    ServerUnavailable = 0x88,
    /// The server is busy; try again later.
    ServerBusy = 0x89,
    /// The client is banned.
    Banned = 0x8A,
    /// The server stops.
    ServerShuttingDown = 0x8B,
    /// The authentication method is not supported, or not the present one.
    BadAuthenticationMethod = 0x8C,
    /// Nothing came for one and a half times the keep alive.
    KeepAliveTimeout = 0x8D,
    /// Another connection uses the client id.
    SessionTakenOver = 0x8E,
    /// The filter is not allowed.
    TopicFilterInvalid = 0x8F,
    /// The topic name is not allowed.
    TopicNameInvalid = 0x90,
    /// The packet id is in use.
    PacketIdentifierInUse = 0x91,
    /// The packet id is not known.
    PacketIdentifierNotFound = 0x92,
    /// More unacknowledged publishes than Receive Maximum allows.
    ReceiveMaximumExceeded = 0x93,
    /// The topic alias is 0, too large, or stands for nothing.
    TopicAliasInvalid = 0x94,
    /// The packet is larger than Maximum Packet Size.
    PacketTooLarge = 0x95,
    /// Messages come too fast.
    MessageRateTooHigh = 0x96,
    /// A limit is reached.
    QuotaExceeded = 0x97,
    /// An administrator did it.
    AdministrativeAction = 0x98,
    /// The payload is not what its format indicator says.
    PayloadFormatInvalid = 0x99,
    /// Retained messages are not supported.
    RetainNotSupported = 0x9A,
    /// The quality of service is not supported.
    QosNotSupported = 0x9B,
    /// Another server should be used for now.
    UseAnotherServer = 0x9C,
    /// Another server should be used from now on.
    ServerMoved = 0x9D,
    /// Shared subscriptions are not supported.
    SharedSubscriptionsNotSupported = 0x9E,
    /// Connections come too fast.
    ConnectionRateExceeded = 0x9F,
    /// The connection lasted as long as it may.
    MaximumConnectTime = 0xA0,
    /// Subscription identifiers are not supported.
    SubscriptionIdentifiersNotSupported = 0xA1,
    /// Wildcards are not supported.
    WildcardSubscriptionsNotSupported = 0xA2,
}

/// Every reason code, ascending.
pub const ALL: [ReasonCode; 43] = {
    use ReasonCode as R;
    [
        R::Success,
        R::GrantedQos1,
        R::GrantedQos2,
        R::DisconnectWithWill,
        R::NoMatchingSubscribers,
        R::NoSubscriptionExisted,
        R::ContinueAuthentication,
        R::ReAuthenticate,
        R::UnspecifiedError,
        R::MalformedPacket,
        R::ProtocolError,
        R::ImplementationSpecificError,
        R::UnsupportedProtocolVersion,
        R::ClientIdentifierNotValid,
        R::BadUserNameOrPassword,
        R::NotAuthorized,
        R::ServerUnavailable,
        R::ServerBusy,
        R::Banned,
        R::ServerShuttingDown,
        R::BadAuthenticationMethod,
        R::KeepAliveTimeout,
        R::SessionTakenOver,
        R::TopicFilterInvalid,
        R::TopicNameInvalid,
        R::PacketIdentifierInUse,
        R::PacketIdentifierNotFound,
        R::ReceiveMaximumExceeded,
        R::TopicAliasInvalid,
        R::PacketTooLarge,
        R::MessageRateTooHigh,
        R::QuotaExceeded,
        R::AdministrativeAction,
        R::PayloadFormatInvalid,
        R::RetainNotSupported,
        R::QosNotSupported,
        R::UseAnotherServer,
        R::ServerMoved,
        R::SharedSubscriptionsNotSupported,
        R::ConnectionRateExceeded,
        R::MaximumConnectTime,
        R::SubscriptionIdentifiersNotSupported,
        R::WildcardSubscriptionsNotSupported,
    ]
};

impl ReasonCode {
    /// The byte on the wire.
    pub const fn byte(self) -> u8 {
        self as u8
    }

    /// The code of a byte, if there is one.
    pub fn from_byte(byte: u8) -> Option<Self> {
        // The list is ascending, and Success is by far the most frequent.
        if byte == 0 {
            return Some(Self::Success);
        }
        ALL.binary_search_by_key(&byte, |code| code.byte())
            .ok()
            .and_then(|at| ALL.get(at))
            .copied()
    }

    /// Whether it tells of a failure.
    pub const fn is_error(self) -> bool {
        self.byte() >= 0x80
    }

    /// The CONNACK return code of 3.1.1 (section 3.2.2.3) nearest to this one.
    pub const fn v3_connack(self) -> u8 {
        match self {
            Self::Success
            | Self::GrantedQos1
            | Self::GrantedQos2
            | Self::DisconnectWithWill
            | Self::NoMatchingSubscribers
            | Self::NoSubscriptionExisted
            | Self::ContinueAuthentication
            | Self::ReAuthenticate => 0x00,
            Self::UnsupportedProtocolVersion => 0x01,
            Self::ClientIdentifierNotValid => 0x02,
            Self::UnspecifiedError
            | Self::MalformedPacket
            | Self::ProtocolError
            | Self::ImplementationSpecificError
            | Self::ServerUnavailable
            | Self::ServerBusy
            | Self::ServerShuttingDown
            | Self::KeepAliveTimeout
            | Self::SessionTakenOver
            | Self::TopicFilterInvalid
            | Self::TopicNameInvalid
            | Self::PacketIdentifierInUse
            | Self::PacketIdentifierNotFound
            | Self::ReceiveMaximumExceeded
            | Self::TopicAliasInvalid
            | Self::PacketTooLarge
            | Self::MessageRateTooHigh
            | Self::QuotaExceeded
            | Self::AdministrativeAction
            | Self::PayloadFormatInvalid
            | Self::RetainNotSupported
            | Self::QosNotSupported
            | Self::UseAnotherServer
            | Self::ServerMoved
            | Self::SharedSubscriptionsNotSupported
            | Self::ConnectionRateExceeded
            | Self::MaximumConnectTime
            | Self::SubscriptionIdentifiersNotSupported
            | Self::WildcardSubscriptionsNotSupported => 0x03,
            Self::BadUserNameOrPassword => 0x04,
            Self::NotAuthorized | Self::Banned | Self::BadAuthenticationMethod => 0x05,
        }
    }

    /// The SUBACK return code of 3.1.1 (section 3.9.3): the granted quality of service, or 0x80.
    pub const fn v3_suback(self) -> u8 {
        match self {
            Self::Success => 0x00,
            Self::GrantedQos1 => 0x01,
            Self::GrantedQos2 => 0x02,
            _ => 0x80,
        }
    }
}

impl fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?} (0x{:02X})", self.byte())
    }
}

impl fmt::Display for NotAuthenticated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BadUserNameOrPassword => "user name or password are wrong",
            Self::NotAuthorized => "the client may not connect",
            Self::Unavailable => "the credentials cannot be checked now",
        })
    }
}

impl From<NotAuthenticated> for ReasonCode {
    fn from(why: NotAuthenticated) -> Self {
        match why {
            NotAuthenticated::BadUserNameOrPassword => Self::BadUserNameOrPassword,
            NotAuthenticated::NotAuthorized => Self::NotAuthorized,
            NotAuthenticated::Unavailable => Self::ServerUnavailable,
        }
    }
}

impl From<&ConnectRefused> for ReasonCode {
    fn from(refused: &ConnectRefused) -> Self {
        match refused {
            ConnectRefused::NameOfApiSession => Self::ClientIdentifierNotValid,
            ConnectRefused::Banned => Self::Banned,
            ConnectRefused::NotOwner => Self::NotAuthorized,
            ConnectRefused::Store(StoreFailed::Refused(Refused::Busy)) => Self::ServerBusy,
            ConnectRefused::Store(
                StoreFailed::Refused(Refused::Full | Refused::WritesDisabled(_) | Refused::Fenced)
                | StoreFailed::Lost(_),
            ) => Self::ServerUnavailable,
        }
    }
}

impl From<&PublishRefused> for ReasonCode {
    fn from(refused: &PublishRefused) -> Self {
        match refused {
            PublishRefused::Topic(_) => Self::TopicNameInvalid,
            PublishRefused::NotOpen => Self::NotAuthorized,
            PublishRefused::Store(StoreFailed::Refused(Refused::Full | Refused::Busy)) => Self::QuotaExceeded,
            PublishRefused::Store(
                StoreFailed::Refused(Refused::WritesDisabled(_) | Refused::Fenced) | StoreFailed::Lost(_),
            ) => Self::ImplementationSpecificError,
        }
    }
}

impl From<SubscribeRefused> for ReasonCode {
    fn from(refused: SubscribeRefused) -> Self {
        match refused {
            SubscribeRefused::Invalid(_) => Self::TopicFilterInvalid,
            SubscribeRefused::NotAuthorized => Self::NotAuthorized,
            SubscribeRefused::Quota => Self::QuotaExceeded,
        }
    }
}

impl From<Closing> for ReasonCode {
    fn from(reason: Closing) -> Self {
        match reason {
            Closing::TakenOver => Self::SessionTakenOver,
            Closing::Administrative => Self::AdministrativeAction,
            Closing::NotAuthorized => Self::NotAuthorized,
            Closing::KeepAlive => Self::KeepAliveTimeout,
            Closing::ShuttingDown => Self::ServerShuttingDown,
            Closing::StoreFailed => Self::ImplementationSpecificError,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_read_as_the_code_that_has_it_and_as_nothing_else() {
        for byte in 0..=u8::MAX {
            match ReasonCode::from_byte(byte) {
                Some(code) => assert_eq!(code.byte(), byte),
                None => assert!(ALL.iter().all(|code| code.byte() != byte)),
            }
        }
        assert!(ALL.iter().all(|&code| ReasonCode::from_byte(code.byte()) == Some(code)));
    }

    /// v3.1.1 table 3.1
    #[test]
    fn only_success_is_a_success_for_a_3_1_1_client() {
        for code in ALL {
            assert_eq!(code.v3_connack() != 0, code.is_error(), "{code}");
            assert_eq!(code.v3_suback() >= 0x80, !(0..=2).contains(&code.byte()), "{code}");
        }
        assert_eq!(ReasonCode::ClientIdentifierNotValid.v3_connack(), 2);
        assert_eq!(ReasonCode::Banned.v3_connack(), 5);
    }
}
