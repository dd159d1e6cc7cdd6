//! CONNECT and its answer: who the client is, whether it is let in, and what holds on this connection.
//!
//! **Invariants**
//! - Nothing a client sends before its CONNECT was accepted has an effect.
//! - Only the wait for the CONNECT is cut short; once the broker is asked, its answer is awaited.
//!
//! Spec: sections 3.1 and 3.2 of both versions.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

use super::connection::{Client, Serving, write_all};
use super::frame::{Cut, Kind, Malformed, REMAINING_LENGTH_MAX, Version, cut};
use super::input::{Input, Taken};
use super::output::Output;
use super::packet::{self, Connack, Connect, Packet};
use super::reason::ReasonCode;
use super::rules::{self, Answer};
use super::{Credentials, Frontend};
use crate::broker::connection as broker;
use crate::broker::message::PayloadType;
use crate::broker::session::{Closing, Protocol};
use crate::broker::will::Will;

/// What stands at the beginning of a connection.
enum First {
    Connect(Box<Connect>),
    Refused(Option<Answer>, Malformed),
    NotYet,
}

/// Takes the first packet of a connection; what is behind it stays for later.
fn first_packet(bytes: &[u8], bytes_max: u32) -> (Taken, First) {
    let refused = |answer, why| {
        (
            Taken {
                used: bytes.len(),
                needed: 0,
            },
            First::Refused(answer, why),
        )
    };
    let frame = match cut(bytes, bytes_max) {
        Cut::Incomplete(needed) => return (Taken { used: 0, needed }, First::NotYet),
        Cut::Malformed(why) => return refused(None, why),
        Cut::Frame(frame) => frame,
    };
    let mut scratch = Vec::new();
    match packet::decode(&frame, None, &mut scratch) {
        Ok(Packet::Connect(connect)) => {
            let taken = Taken {
                used: frame.whole.len(),
                needed: 0,
            };
            (taken, First::Connect(connect))
        }
        Ok(_) => refused(None, Malformed::protocol("the first packet is not a CONNECT")),
        Err(why) if frame.kind == Kind::Connect => refused(rules::answer(frame.body), why),
        Err(why) => refused(None, why),
    }
}

/// Reads until a CONNECT is there; `None` if none came.
async fn receive<S>(frontend: &Frontend, stream: &mut S, input: &mut Input) -> io::Result<Option<First>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let clock = frontend.broker.clock();
    let timeout = clock.sleep_until(clock.now() + frontend.settings.connect_timeout);
    let bytes_max = frontend.settings.packet_bytes_max;
    let reading = async {
        loop {
            match input
                .read(stream, &frontend.budget, |bytes| first_packet(bytes, bytes_max))
                .await?
            {
                Some(First::NotYet) => {}
                first => return Ok(first),
            }
        }
    };
    tokio::select! {
        first = reading => first,
        () = timeout => Ok(None),
        () = frontend.stopped() => Ok(None),
    }
}

/// Opens a connection: from the first byte to the accepting CONNACK, which is in the output. `None`: it has ended.
pub(super) async fn open<S>(frontend: &Arc<Frontend>, mut stream: S, peer: SocketAddr) -> Option<Box<Serving<S>>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let mut input = Input::default();
    let connect = match receive(frontend, &mut stream, &mut input).await {
        Ok(Some(First::Connect(connect))) => connect,
        Ok(Some(First::Refused(answer, why))) => {
            tracing::debug!(%peer, %why, "a first packet is refused");
            // Before 5.0 a wrong CONNECT has no answer, except two that have a code of their own. v3.1.1 [MQTT-3.1.4-1]
            let named = ReasonCode::UnsupportedProtocolVersion == why.reason
                || ReasonCode::ClientIdentifierNotValid == why.reason;
            if let Some(answer) = answer
                && (answer.version.is_v5() || named)
            {
                refuse(&mut stream, answer, why.reason, why.text).await;
            }
            return None;
        }
        Ok(Some(First::NotYet) | None) => {
            tracing::debug!(%peer, "a connection ends without a CONNECT");
            return None;
        }
        Err(error) => {
            tracing::debug!(%peer, %error, "a connection is lost before its CONNECT");
            return None;
        }
    };
    let answer = Answer {
        version: connect.version,
        bytes_max: connect.maximum_packet_size,
        problem_information: connect.request_problem_information,
    };
    match accept(frontend, *connect, peer).await {
        Ok((client, connack)) => {
            let mut output = Output::default();
            output.buffer().extend_from_slice(&connack);
            Some(Box::new(Serving::new(
                Arc::clone(frontend),
                stream,
                input,
                output,
                client,
            )))
        }
        Err(refused) => {
            tracing::info!(%peer, reason = %refused.reason, "a client is refused: {}", refused.text);
            refuse(&mut stream, answer, refused.reason, &refused.text).await;
            None
        }
    }
}

/// A CONNACK that takes the client no further; one that is too large for it is left out.
async fn refuse<S>(stream: &mut S, answer: Answer, reason: ReasonCode, text: &str)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let mut output = Output::default();
    let connack = Connack::refused(reason, answer.problem_information.then_some(text));
    packet::encode_connack(output.buffer(), answer.version, &connack, answer.bytes_max);
    write_all(stream, &mut output).await;
}

/// Why a well-formed CONNECT is refused.
struct Refused {
    reason: ReasonCode,
    text: String,
}

impl Refused {
    fn new(reason: ReasonCode, text: impl Into<String>) -> Self {
        Self {
            reason,
            text: text.into(),
        }
    }
}

/// The CONNACK of a client that is let in; empty if it is too large for it.
fn accepting(
    (version, bytes_max): (Version, u32),
    session_present: bool,
    assigned_client_id: Option<&str>,
    settings: &super::Settings,
) -> Vec<u8> {
    let connack = Connack {
        session_present,
        receive_maximum: settings.receive_maximum,
        // Some clients (paho) take a larger value for an error, and it says hardly less.
        maximum_packet_size: Some(settings.packet_bytes_max.min(REMAINING_LENGTH_MAX)),
        assigned_client_id,
        topic_alias_maximum: settings.topic_alias_maximum,
        ..Connack::default()
    };
    let mut out = Vec::new();
    packet::encode_connack(&mut out, version, &connack, bytes_max);
    out
}

async fn accept(frontend: &Frontend, connect: Connect, peer: SocketAddr) -> Result<(Client, Vec<u8>), Refused> {
    if connect.authentication_method.is_some() {
        // v5 4.12
        let text = "enhanced authentication is not supported";
        return Err(Refused::new(ReasonCode::BadAuthenticationMethod, text));
    }
    let assigned = connect.client_id.is_empty();
    // v3.1.1 [MQTT-3.1.3-8]
    if assigned && !connect.version.is_v5() && !connect.clean_start {
        let text = "an empty client identifier needs a clean session";
        return Err(Refused::new(ReasonCode::ClientIdentifierNotValid, text));
    }
    let credentials = Credentials {
        username: connect.username,
        password: connect.password,
        peer,
    };
    let identity = frontend
        .authenticator
        .authenticate(credentials)
        .await
        .map_err(|why| Refused::new(ReasonCode::from(why), why.to_string()))?;
    let client_name = if assigned {
        assigned_name().map_err(|error| Refused::new(ReasonCode::ServerUnavailable, error.to_string()))?
    } else {
        connect.client_id
    };
    let for_client = (connect.version, connect.maximum_packet_size);
    // Its size does not depend on the session; better no session than one whose client cannot be told.
    if accepting(for_client, false, assigned.then_some(&*client_name), &frontend.settings).is_empty() {
        let text = "the CONNACK exceeds the client's maximum packet size";
        return Err(Refused::new(ReasonCode::PacketTooLarge, text));
    }
    let asked = broker::Connect {
        client_name,
        account: identity.account,
        administrator: identity.administrator,
        protocol: match connect.version {
            Version::V31 => Protocol::V31,
            Version::V311 => Protocol::V311,
            Version::V5 => Protocol::V5,
        },
        clean_start: connect.clean_start,
        session_expiry_seconds: u64::from(connect.session_expiry),
        keep_alive_seconds: connect.keep_alive,
        receive_maximum: connect.receive_maximum.get(),
        maximum_packet_size: connect.maximum_packet_size,
        topic_alias_maximum: connect.topic_alias_maximum,
        request_problem_information: connect.request_problem_information,
        request_response_information: connect.request_response_information,
        user_properties: connect.user_properties,
        will: connect.will.map(will),
        peer,
    };
    let answer = frontend.broker.connect(asked).await;
    let (handle, session_present) =
        answer.map_err(|refused| Refused::new(ReasonCode::from(&refused), refused.to_string()))?;
    if frontend.is_stopping() {
        handle.signal().close(Closing::ShuttingDown);
    }
    let client = Client::new(
        handle,
        connect.version,
        connect.maximum_packet_size,
        connect.request_problem_information,
        connect.topic_alias_maximum,
        connect.session_expiry,
        connect.keep_alive,
        &frontend.settings,
    );
    let assigned_client_id = assigned.then(|| client.handle.client_name());
    let connack = accepting(for_client, session_present, assigned_client_id, &frontend.settings);
    Ok((client, connack))
}

/// A client identifier nobody has. Spec: v5 [MQTT-3.1.3-6].
fn assigned_name() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(format!("auto-{:032x}", u128::from_le_bytes(bytes)))
}

fn will(will: packet::Will) -> Will {
    Will {
        topic: will.topic,
        qos: super::publish::qos(will.qos),
        retain: will.retain,
        payload: will.payload,
        payload_utf8: will.payload_utf8,
        payload_type: if will.payload_utf8 {
            PayloadType::Utf8
        } else {
            PayloadType::Binary
        },
        properties: will.properties,
        expiry_seconds: will.expiry,
        delay_seconds: u64::from(will.delay),
        extras: Vec::new(),
        api_json: String::new(),
    }
}
