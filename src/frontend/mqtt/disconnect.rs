//! How connections end: what the client says, what it is told, and what it means for its will and its session.
//!
//! Spec: v5 sections 3.14 and 4.13, v3.1.1 sections 3.14 and 4.8.

use std::fmt;
use std::io;

use super::connection::Client;
use super::frame::Malformed;
use super::packet::{self, Disconnect, Packet};
use super::reason::ReasonCode;
use crate::broker::connection::Ending;
use crate::broker::session::Closing;

/// Why a connection ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// DISCONNECT: without a will.
    Left {
        /// A new session expiry, seconds.
        session_expiry: Option<u32>,
    },
    /// DISCONNECT with a reason that publishes the will.
    LeftWithWill {
        /// A new session expiry, seconds.
        session_expiry: Option<u32>,
    },
    /// The client broke the protocol, or cannot be answered otherwise.
    Refused(Malformed),
    /// The broker wants it.
    Closing(Closing),
    /// The stream ended or failed.
    Lost(&'static str),
}

impl From<Malformed> for End {
    fn from(why: Malformed) -> Self {
        Self::Refused(why)
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(why) => why.fmt(f),
            Self::Left { .. } | Self::LeftWithWill { .. } | Self::Closing(_) | Self::Lost(_) => {
                f.write_str(self.text())
            }
        }
    }
}

impl End {
    pub(super) fn lost(error: &io::Error) -> Self {
        Self::Lost(match error.kind() {
            io::ErrorKind::ConnectionReset => "the client reset the connection",
            io::ErrorKind::TimedOut => "the client did not answer any more",
            io::ErrorKind::BrokenPipe | io::ErrorKind::WriteZero => "the client takes nothing any more",
            _ => "the connection failed",
        })
    }

    const fn text(&self) -> &'static str {
        match self {
            Self::Left { .. } => "the client disconnected",
            Self::LeftWithWill { .. } => "the client disconnected and wants its will published",
            Self::Refused(why) => why.text,
            Self::Lost(why) => why,
            Self::Closing(reason) => match reason {
                Closing::TakenOver => "another connection uses the session",
                Closing::Administrative => "an administrator ended it",
                Closing::NotAuthorized => "its account is not allowed any more",
                Closing::KeepAlive => "nothing came for one and a half times the keep alive",
                Closing::ShuttingDown => "the server stops",
                Closing::StoreFailed => "the store has failed",
            },
        }
    }

    /// Appends the DISCONNECT that tells the client, if it is told.
    pub(super) fn encode(&self, client: &Client, out: &mut Vec<u8>) {
        let reason = match self {
            Self::Left { .. } | Self::LeftWithWill { .. } | Self::Lost(_) => return,
            Self::Refused(why) => why.reason,
            Self::Closing(reason) => ReasonCode::from(*reason),
        };
        let text = client.problem_information.then(|| self.text());
        packet::encode_disconnect(out, client.version, reason, text, client.bytes_max);
    }

    /// What it means for will and session.
    pub(super) fn ending(&self) -> Ending {
        match self {
            Self::Left { session_expiry } => Ending::Normal {
                session_expiry_seconds: session_expiry.map(u64::from),
            },
            Self::LeftWithWill { session_expiry } => Ending::WithWill {
                session_expiry_seconds: session_expiry.map(u64::from),
                reason: self.text(),
            },
            Self::Closing(Closing::ShuttingDown) => Ending::ServerStops,
            Self::Refused(_) | Self::Closing(_) | Self::Lost(_) => Ending::WithWill {
                session_expiry_seconds: None,
                reason: self.text(),
            },
        }
    }
}

/// A packet that has no place in an accepted connection.
pub(super) const fn unexpected(packet: &Packet<'_>) -> End {
    End::Refused(match packet {
        // v5 [MQTT-4.12.0-6]: the CONNECT had no authentication method, or it would not have been accepted.
        Packet::Auth(_) => Malformed::protocol("an AUTH came without an authentication method in the CONNECT"),
        _ => Malformed::protocol("a second CONNECT came"),
    })
}

impl Client {
    /// DISCONNECT.
    pub(super) fn disconnect(&self, disconnect: &Disconnect) -> End {
        let session_expiry = disconnect.session_expiry;
        if session_expiry.is_some_and(|seconds| seconds > 0) && self.session_expiry == 0 {
            // v5 [MQTT-3.14.2-2]
            return End::Refused(Malformed::protocol(
                "the session expiry was 0 and cannot be raised at the end",
            ));
        }
        if disconnect.reason == ReasonCode::Success {
            End::Left { session_expiry }
        } else {
            End::LeftWithWill { session_expiry }
        }
    }
}
