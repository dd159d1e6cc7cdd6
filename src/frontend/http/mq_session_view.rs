//! MQ sessions, their wills and labels as results show them (spec/sessions.md 7, 8 and 11).

use serde_json::{Map, Value};

use super::envelope::Call;
use super::payload::{Format, Wanted, encode, user_properties};
use super::properties::{Shown, kind_of};
use super::reply::{Object, Out};
use super::time;
use crate::broker::SessionView;
use crate::broker::label::Label;
use crate::broker::rows::extras::ExtrasRow;
use crate::broker::session::{ConnectionStatus, Protocol, SessionKind, SessionStatus};
use crate::broker::will::Will;

/// Members of a will that are kept as they were sent, because its bytes do not say how.
pub const WILL_VERBATIM: [&str; 3] = ["willPayload", "willCorrelationData", "willExpirySeconds"];

/// The spelling of a kind.
pub fn kind_name(kind: SessionKind) -> &'static str {
    match kind {
        SessionKind::Mqtt => "mqtt",
        SessionKind::MqApi => "mqApi",
    }
}

/// The spelling of a status.
pub fn status_name(status: SessionStatus) -> &'static str {
    match status {
        SessionStatus::Normal => "normal",
        SessionStatus::Hidden => "hidden",
        SessionStatus::Banned => "banned",
        SessionStatus::Inactive => "inactive",
    }
}

/// The spelling of a connection status.
pub fn connection_name(status: ConnectionStatus) -> &'static str {
    match status {
        ConnectionStatus::Disconnected => "disconnected",
        ConnectionStatus::Connected => "connected",
        ConnectionStatus::ConnectedTemporarily => "connectedTemporarily",
    }
}

fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::V31 => "3.1",
        Protocol::V311 => "3.1.1",
        Protocol::V5 => "5.0",
    }
}

/// A session with everything that is known of it but statistics and topics.
pub fn show(call: &Call, view: &SessionView) -> Object {
    let settings = &view.settings;
    let [binary, variant, options @ ..] = &settings.default_formats;
    let [option_binary, option_variant, option_data, option_number] = options;
    let [send_min, send_max, backlog_max, filters_min, filters_max] = settings.health_limits;
    let mut object = Object::new()
        .with("clientName", view.client_name.as_str())
        .with("cleanSession", settings.clean_session)
        .with("temporarySession", settings.temporary)
        .with("sessionStatus", status_name(settings.status))
        .with("username", view.owner.as_str())
        .with("ipaddress", view.address.as_str())
        .with("port", view.port)
        .with("mqttProtocol", protocol_name(settings.protocol))
        .with("keepAliveSeconds", settings.keep_alive_seconds)
        .with("connectionStatus", connection_name(view.connection))
        .with_some(
            "connectionDateTime",
            (view.connected != 0).then(|| time::seconds(view.connected)),
        )
        .with_some("disconnectionDateTime", view.disconnected.map(time::seconds))
        .with_some(
            "disconnectionReason",
            Some(view.disconnect_reason.as_str()).filter(|reason| !reason.is_empty()),
        )
        .with("defaultBinaryFormat", binary.as_str())
        .with("defaultVariantFormat", variant.as_str())
        .with(
            "defaultResponseOptions",
            Object::new()
                .with("binaryFormat", option_binary.as_str())
                .with("variantFormat", option_variant.as_str())
                .with("dataFormat", option_data.as_str())
                .with("numberFormat", option_number.as_str()),
        )
        .with("sessionType", kind_name(view.kind))
        .with("internalSession", false)
        .with("sessionExpiryInterval", settings.session_expiry_seconds)
        .with("mqttPayloadType", settings.payload_type.as_str())
        .with("receiveMaximum", settings.receive_maximum)
        .with("maximumPacketSize", settings.maximum_packet_size)
        .with("topicAliasMaximum", settings.topic_alias_maximum)
        .with("requestProblemInformation", settings.request_problem_information)
        .with("requestResponseInformation", settings.request_response_information)
        .with("userProperties", pairs(&settings.user_properties));
    show_will(&mut object, view.will.as_ref(), &call.options.binary_format);
    if let Some(label) = settings
        .label
        .and_then(|id| call.api.broker.labels().get(crate::broker::label::LabelId(id)))
    {
        object.set("label", show_label(&label));
    }
    object.set_user_text("metadata", &settings.metadata);
    object
        .with("minHealthySendRatePerMinute", send_min)
        .with("maxHealthySendRatePerMinute", send_max)
        .with("maxHealthyBacklogRatePerMinute", backlog_max)
        .with("minHealthySubscribedTopicFiltersCount", filters_min)
        .with("maxHealthySubscribedTopicFiltersCount", filters_max)
        .with("maximumQoS", 2)
        .with("retainAvailable", true)
        .with("wildcardSubscriptionAvailable", true)
        .with("subscriptionIdentifiersAvailable", true)
        .with("sharedSubscriptionAvailable", true)
        .with("brokerKeepAlive", settings.keep_alive_seconds)
}

fn pairs(properties: &[(String, String)]) -> Out {
    user_properties(properties.iter().map(|(key, value)| (key.as_str(), value.as_str())))
}

/// The members of a will; without one the four documented ones, with their defaults.
fn show_will(object: &mut Object, will: Option<&Will>, binary_format: &str) {
    let Some(will) = will else {
        object.set("willTopic", "");
        object.set("willQoS", 2);
        object.set("willPayload", Value::Null);
        object.set("willRetain", false);
        return;
    };
    let mut sent: Map<String, Value> = serde_json::from_str(&will.api_json).unwrap_or_default();
    let extras = ExtrasRow::of_bytes(&will.extras);
    let shown = Shown::of(&will.properties, &extras);
    let binary = Format::parse(binary_format).unwrap_or(Format::Hex);
    let payload = sent.remove("willPayload").map_or_else(
        || {
            let wanted = Wanted {
                format: None,
                variant: "json".into(),
                binary,
            };
            encode(&will.payload, &kind_of(will.payload_type, &extras), &wanted).0
        },
        Out::User,
    );
    let correlation = match (sent.remove("willCorrelationData"), &shown.correlation) {
        (Some(value), _) => Out::User(value),
        (None, Some(correlation)) => correlation.show(binary),
        (None, None) => "".into(),
    };
    let expiry = sent
        .remove("willExpirySeconds")
        .unwrap_or_else(|| will.expiry_seconds.unwrap_or(0).into());
    object.set("willTopic", will.topic.as_str());
    object.set("willQoS", u16::from(will.qos as u8));
    object.set("willPayload", payload);
    object.set("willRetain", will.retain);
    object.set("willContentType", shown.content_type.unwrap_or_default());
    object.set("willCorrelationData", correlation);
    let indicator = if will.payload_utf8 { "utf8" } else { "none" };
    object.set("willPayloadFormatIndicator", indicator);
    object.set("willExpirySeconds", expiry);
    object.set("willDelaySeconds", will.delay_seconds);
    object.set("willResponseTopic", shown.response_topic.unwrap_or_default());
    object.set(
        "willUserProperties",
        user_properties(shown.user_properties.iter().copied()),
    );
}

/// A label with all its members.
pub fn show_label(label: &Label) -> Object {
    let stored = &label.stored;
    let text = |text: &Option<String>| text.as_deref().map_or(Out::Own(Value::Null), Out::user_text);
    // A sequence is a number of ours by its form, a user's by its digits.
    let sequence = match text(&stored.sequence) {
        Out::User(number) => Out::Own(number),
        other => other,
    };
    let mut object = Object::new()
        .with("id", label.id.0)
        .with("group", stored.group.as_str())
        .with("name", stored.name.as_str())
        .with("value", text(&stored.value))
        .with("enum", stored.number.map_or(Value::Null, Value::from))
        .with("sequence", sequence)
        .with("deprecated", stored.deprecated)
        .with("description", stored.description.as_str());
    object.set_user_text("metadata", &stored.metadata);
    object
}
