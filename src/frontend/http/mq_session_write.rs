//! `createMqApiSession` and `alterMqSession`: what is given becomes settings, a will and a label of the broker.
//!
//! **Invariants**
//! - A label is made only when nothing but the store can still refuse the request.

use serde_json::{Map, Value};

use super::envelope::Call;
use super::error_code::{ErrorCode, Fault};
use super::mq_session::{SessionParams, WillParams};
use super::mq_session_view::{WILL_VERBATIM, show};
use super::params::LabelParam;
use super::payload::{Correlation, PayloadType};
use super::properties::{Given, Shown, kind_of};
use super::reply::Out;
use crate::broker::error::{PublishRefused, SessionRefused};
use crate::broker::label::LabelId;
use crate::broker::login::LoginSettings;
use crate::broker::message::Qos;
use crate::broker::rows::extras::ExtrasRow;
use crate::broker::session::{NEVER_EXPIRES, Protocol, SessionSettings, SessionStatus};
use crate::broker::topic_name::{TopicName, open_to_clients};
use crate::broker::will::Will;
use crate::broker::{Caller, CreateSession, SessionChange};

/// Seconds a will lives, and seconds until it is published, unless it says otherwise.
const WILL_SECONDS: u64 = 60;

/// Creates a session of the API.
pub async fn create(call: &mut Call) -> Result<Out, Fault> {
    let settings = call.settings();
    let params = SessionParams::read_create(&mut call.params, &settings, &mut call.warnings)?;
    call.finish_params()?;
    let caller = call.caller()?;
    let will = new_will(&params.will, params.payload_type.as_ref(), None)?.flatten();
    let label = LabelChoice::of(call, params.label.as_ref(), params.label_id)?;
    if !params.client_name.is_empty() {
        check_free(call, &params.client_name, &caller)?;
    }
    let mut settings = new_settings(&params, &settings);
    settings.label = label.resolve(call)?.flatten();
    let create = CreateSession {
        client_name: params.client_name,
        settings,
        will,
    };
    let broker = call.api.broker.clone();
    let view = broker.create_session(create, &caller).await?;
    Ok(show(call, &view).with("sessionPresent", false).into())
}

/// Changes a session of either kind; its client stays connected.
pub async fn alter(call: &mut Call) -> Result<Out, Fault> {
    let settings = call.settings();
    let params = SessionParams::read_alter(
        &mut call.params,
        call.envelope.get("cleanSession"),
        &settings,
        &mut call.warnings,
    )?;
    call.finish_params()?;
    let caller = call.caller()?;
    let broker = call.api.broker.clone();
    let held = broker.describe_session(&params.client_name, &caller)?;
    let will = new_will(&params.will, params.payload_type.as_ref(), held.will.as_ref())?;
    let label = LabelChoice::of(call, params.label.as_ref(), params.label_id)?.resolve(call)?;
    let health = params.health;
    let change = SessionChange {
        temporary: params.temporary,
        session_expiry_seconds: params.expiry_seconds,
        keep_alive_seconds: params.keep_alive_seconds,
        status: params.status.map(status_of),
        reset: params.clean == Some(true),
        will,
        label,
        metadata: params.metadata,
        user_properties: params.user_properties,
        health_limits: [
            health.send_rate_min,
            health.send_rate_max,
            health.backlog_rate_max,
            health.filters_min,
            health.filters_max,
        ],
        payload_type: params.payload_type.map(|kind| kind.name().to_owned()),
        protocol: params.protocol.map(protocol_of),
        receive_maximum: params.receive_maximum,
        maximum_packet_size: params.packet_bytes_max,
        topic_alias_maximum: params.topic_alias_maximum,
        request_problem_information: params.problem_information,
        request_response_information: params.response_information,
    };
    let view = broker.alter_session(&params.client_name, change, &caller).await?;
    Ok(show(call, &view).into())
}

fn status_of(name: &str) -> SessionStatus {
    match name {
        "hidden" => SessionStatus::Hidden,
        "banned" => SessionStatus::Banned,
        "inactive" => SessionStatus::Inactive,
        _ => SessionStatus::Normal,
    }
}

fn protocol_of(name: &str) -> Protocol {
    match name {
        "3.1.1" => Protocol::V311,
        _ => Protocol::V5,
    }
}

/// The broker has the last word; this only keeps a request that fails from making a label.
fn check_free(call: &Call, name: &str, caller: &Caller) -> Result<(), Fault> {
    match call.api.broker.describe_session(name, caller) {
        Err(SessionRefused::Unknown(_)) => Ok(()),
        _ => Err(SessionRefused::NameInUse(name.to_owned()).into()),
    }
}

/// The settings of a new session, by its kind (spec/sessions.md 2.1 and 2.2).
fn new_settings(params: &SessionParams, login: &LoginSettings) -> SessionSettings {
    let temporary = params.temporary.unwrap_or(false);
    let expiry = match params.expiry_seconds.unwrap_or(0) {
        seconds if seconds >= u64::from(u32::MAX) => NEVER_EXPIRES,
        seconds => seconds,
    };
    let defaults = SessionSettings::default();
    let health = params.health;
    SessionSettings {
        clean_session: temporary || params.clean.unwrap_or(false),
        temporary,
        status: params.status.map_or(defaults.status, status_of),
        protocol: params.protocol.map_or(defaults.protocol, protocol_of),
        keep_alive_seconds: params.keep_alive_seconds.filter(|_| temporary).unwrap_or(0),
        session_expiry_seconds: if temporary { expiry } else { NEVER_EXPIRES },
        payload_type: params
            .payload_type
            .as_ref()
            .map_or(defaults.payload_type, |kind| kind.name().to_owned()),
        receive_maximum: params.receive_maximum.unwrap_or(defaults.receive_maximum),
        maximum_packet_size: params.packet_bytes_max.unwrap_or(defaults.maximum_packet_size),
        topic_alias_maximum: params.topic_alias_maximum.unwrap_or(defaults.topic_alias_maximum),
        request_problem_information: params
            .problem_information
            .unwrap_or(defaults.request_problem_information),
        request_response_information: params
            .response_information
            .unwrap_or(defaults.request_response_information),
        user_properties: params.user_properties.clone().unwrap_or_default(),
        label: None,
        metadata: params.metadata.clone().unwrap_or(defaults.metadata),
        health_limits: [
            health.send_rate_min,
            health.send_rate_max,
            health.backlog_rate_max,
            health.filters_min,
            health.filters_max,
        ]
        .map(Option::unwrap_or_default),
        default_formats: [
            &login.default_binary_format,
            &login.default_variant_format,
            &login.response.binary_format,
            &login.response.variant_format,
            &login.response.data_format,
            &login.response.number_format,
        ]
        .map(Clone::clone),
    }
}

/// What a request says about the label, checked and not yet done.
enum LabelChoice {
    Unchanged,
    Removed,
    Existing(LabelId),
    Named(String, String),
}

impl LabelChoice {
    fn of(call: &Call, label: Option<&LabelParam>, id: Option<u32>) -> Result<Self, Fault> {
        let labels = call.api.broker.labels();
        let named = match label {
            None => Self::Unchanged,
            Some(label) if label.name.is_empty() => Self::Removed,
            Some(label) => {
                let group = label.group.as_deref().unwrap_or_default();
                match labels.find(group, &label.name) {
                    Some(found) => Self::Existing(found.id),
                    None => Self::Named(group.to_owned(), label.name.clone()),
                }
            }
        };
        let Some(id) = id.map(LabelId) else {
            return Ok(named);
        };
        if labels.get(id).is_none() {
            return Err(Fault::new(
                ErrorCode::NOT_FOUND,
                format!("Label {} does not exist.", id.0),
            ));
        }
        match named {
            Self::Unchanged => Ok(Self::Existing(id)),
            Self::Existing(other) if other == id => Ok(named),
            _ => Err(Fault::new(
                ErrorCode::MQ_INVALID_VALUE,
                "Properties \"label\" and \"labelId\" must denote the same label.",
            )),
        }
    }

    #[expect(clippy::option_option, reason = "unchanged, taken away, and given are three answers")]
    fn resolve(self, call: &Call) -> Result<Option<Option<u32>>, Fault> {
        Ok(match self {
            Self::Unchanged => None,
            Self::Removed => Some(None),
            Self::Existing(id) => Some(Some(id.0)),
            Self::Named(group, name) => Some(Some(call.api.broker.labels().find_or_create(&group, &name)?.0)),
        })
    }
}

/// The will after a request: `None` leaves it, `Some(None)` takes it away. What is not given stays as `held` has it,
/// else gets its default.
#[expect(clippy::option_option, reason = "unchanged, taken away, and given are three answers")]
fn new_will(
    given: &WillParams,
    said_kind: Option<&PayloadType>,
    held: Option<&Will>,
) -> Result<Option<Option<Will>>, Fault> {
    if given.topic.as_deref() == Some("") {
        return Ok(Some(None));
    }
    let Some(topic) = given.topic.clone().or_else(|| held.map(|held| held.topic.clone())) else {
        return Ok(None);
    };
    if *given == WillParams::default() {
        return Ok(None);
    }
    if given.topic.is_some() {
        TopicName::parse(&topic)?;
        if !open_to_clients(&topic) {
            return Err(PublishRefused::NotOpen.into());
        }
    }
    let held_extras = held.map_or_else(ExtrasRow::default, |held| ExtrasRow::of_bytes(&held.extras));
    let held_shown = held.map_or_else(Shown::default, |held| Shown::of(&held.properties, &held_extras));
    let (payload, kind, payload_utf8) = match (&given.payload, held) {
        (Some(payload), _) => (
            payload.bytes.clone(),
            said_kind.cloned().unwrap_or_else(|| payload.kind()),
            given.is_text.unwrap_or(false),
        ),
        (None, Some(held)) => (
            held.payload.clone(),
            kind_of(held.payload_type, &held_extras),
            given.is_text.unwrap_or(held.payload_utf8),
        ),
        (None, None) => {
            return Err(Fault::new(
                ErrorCode::MISSING,
                "Required property \"willPayload\" is missing from \"params\".",
            ));
        }
    };
    let mut sent: Map<String, Value> = held
        .and_then(|held| serde_json::from_str(&held.api_json).ok())
        .unwrap_or_default();
    let [payload_name, correlation_name, expiry_name] = WILL_VERBATIM;
    if let Some(value) = &given.payload_json {
        sent.insert(payload_name.to_owned(), value.clone());
    }
    let correlation = match &given.correlation {
        Some(correlation) => {
            sent.insert(correlation_name.to_owned(), correlation.to_value());
            Some(correlation.clone())
        }
        None => held_shown.correlation.clone(),
    };
    let expiry_seconds = match (given.expiry_seconds, held) {
        (Some(seconds), _) => {
            sent.insert(expiry_name.to_owned(), seconds.into());
            u32::try_from(seconds).ok().filter(|seconds| *seconds > 0)
        }
        (None, Some(held)) => held.expiry_seconds,
        (None, None) => Some(WILL_SECONDS as u32),
    };
    let held_user: Vec<(String, String)> = held_shown
        .user_properties
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    let not_empty = |text: &&str| !text.is_empty();
    let stored = Given {
        content_type: given
            .content_type
            .as_deref()
            .or(held_shown.content_type)
            .filter(not_empty),
        response_topic: given
            .response_topic
            .as_deref()
            .or(held_shown.response_topic)
            .filter(not_empty),
        // The documented default is the empty string: no correlation data.
        correlation: correlation.as_ref().filter(|data| !is_empty(data)),
        user_properties: given.user_properties.as_deref().unwrap_or(&held_user),
    }
    .to_stored(&kind);
    Ok(Some(Some(Will {
        topic,
        qos: match given.qos {
            Some(qos) => Qos::from_bits(qos).unwrap_or(Qos::ExactlyOnce),
            None => held.map_or(Qos::ExactlyOnce, |held| held.qos),
        },
        retain: given.retain.unwrap_or(held.is_some_and(|held| held.retain)),
        payload,
        payload_utf8,
        payload_type: stored.payload_type,
        properties: stored.properties,
        extras: stored.extras,
        expiry_seconds,
        delay_seconds: given
            .delay_seconds
            .or(held.map(|held| held.delay_seconds))
            .unwrap_or(WILL_SECONDS),
        api_json: Value::Object(sent).to_string(),
    })))
}

fn is_empty(correlation: &Correlation) -> bool {
    correlation.bytes.is_empty() && !correlation.is_json
}
