//! Arguments of the session actions of `mq`, checked and typed; what they do is the broker's business.
//!
//! Names and limits are those of the API; `None` is "not given", which means a default on creation and "unchanged" on
//! alteration.

use serde_json::Value;

use super::envelope::Call;
use super::error_code::{CodeSet, ErrorCode, Fault, Warning};
use super::login::Page;
use super::params::{LabelParam, Params};
use super::payload::{Correlation, Decoded, Encoding, Format, PayloadType, Said, decode};
use super::reply::Out;
use crate::broker::login::LoginSettings;

/// The longest client name, in bytes. MQTT itself has 65,535: the ones above can only be MQ API sessions.
pub const CLIENT_NAME_BYTES_MAX: usize = 65_550;
/// "Never", as the API writes it: one more than fits 32 bits.
pub const EXPIRY_NEVER: u64 = 4_294_967_296;
const TOPIC_BYTES_MAX: usize = 65_500;
const TEXT_BYTES_MAX: usize = 65_535;
const PACKET_BYTES_MAX: i64 = 268_435_460;

const STATUS_VALUES: &[&str] = &["normal", "hidden", "banned", "inactive"];
const PROTOCOL_VALUES: &[&str] = &["5.0", "3.1.1"];
const CONNECTION_VALUES: &[&str] = &["disconnected", "connected", "connectedTemporarily", "unknown"];
const TYPE_VALUES: &[&str] = &["mqtt", "mqApi"];
const HEALTH_VALUES: &[&str] = &["healthy", "unhealthy", "offline"];
const SORT_VALUES: &[&str] = &["lastConnect", "lastDisconnect", "clientName", "ipAddress"];

/// What a request says about a will.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct WillParams {
    /// Empty takes the will away.
    pub topic: Option<String>,
    /// Its bytes.
    pub payload: Option<Decoded>,
    /// Its payload as it was sent.
    pub payload_json: Option<Value>,
    /// 0 to 2.
    pub qos: Option<u8>,
    /// Whether it is retained.
    pub retain: Option<bool>,
    /// Media type.
    pub content_type: Option<String>,
    /// Correlation data.
    pub correlation: Option<Correlation>,
    /// Whether its payload is said to be text.
    pub is_text: Option<bool>,
    /// Life time once published; 0 never ends.
    pub expiry_seconds: Option<u64>,
    /// Delay of publication.
    pub delay_seconds: Option<u64>,
    /// Where answers go.
    pub response_topic: Option<String>,
    /// User properties.
    pub user_properties: Option<Vec<(String, String)>>,
}

/// Thresholds of health; 0 switches one off.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HealthParams {
    /// Messages published per minute at least.
    pub send_rate_min: Option<u64>,
    /// Messages published per minute at most.
    pub send_rate_max: Option<u64>,
    /// Growth of the backlog per minute at most.
    pub backlog_rate_max: Option<u64>,
    /// Subscribed filters at least.
    pub filters_min: Option<u64>,
    /// Subscribed filters at most.
    pub filters_max: Option<u64>,
}

/// Properties of a session, as `createMqApiSession` and `alterMqSession` take them.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct SessionParams {
    /// Key of the session; empty on creation asks for a generated one.
    pub client_name: String,
    /// Whether it is bound to its login.
    pub temporary: Option<bool>,
    /// Creation: stored. Alteration: a command to reset the session.
    pub clean: Option<bool>,
    /// `normal`, `hidden`, `banned` or `inactive`.
    pub status: Option<&'static str>,
    /// `5.0` or `3.1.1`.
    pub protocol: Option<&'static str>,
    /// Keep-alive.
    pub keep_alive_seconds: Option<u64>,
    /// Expiry; [`EXPIRY_NEVER`] and one less never end.
    pub expiry_seconds: Option<u64>,
    /// Default payload type of messages published through it.
    pub payload_type: Option<PayloadType>,
    /// In-flight window.
    pub receive_maximum: Option<u16>,
    /// Largest packet.
    pub packet_bytes_max: Option<u32>,
    /// Topic aliases.
    pub topic_alias_maximum: Option<u16>,
    /// Stored.
    pub problem_information: Option<bool>,
    /// Stored.
    pub response_information: Option<bool>,
    /// User properties of the session.
    pub user_properties: Option<Vec<(String, String)>>,
    /// Its will.
    pub will: WillParams,
    /// Its label by name.
    pub label: Option<LabelParam>,
    /// Its label by id.
    pub label_id: Option<u32>,
    /// JSON text of an object.
    pub metadata: Option<String>,
    /// Thresholds.
    pub health: HealthParams,
}

impl SessionParams {
    /// Reads `createMqApiSession`; the client name may be missing.
    ///
    /// # Errors
    /// As the checker says.
    pub fn read_create(params: &mut Params, login: &LoginSettings, warnings: &mut Vec<Warning>) -> Result<Self, Fault> {
        let name = params.string("clientName", 0..=CLIENT_NAME_BYTES_MAX)?;
        let read = Self::read(params, name.unwrap_or_default(), login, warnings)?;
        let has_will = read.will.topic.as_ref().is_some_and(|topic| !topic.is_empty());
        if has_will && read.will.payload.is_none() {
            return Err(params.missing("willPayload"));
        }
        Ok(read)
    }

    /// Reads `alterMqSession`; `envelope_clean` is `cleanSession` of the envelope, where one published example has it.
    ///
    /// # Errors
    /// As the checker says.
    pub fn read_alter(
        params: &mut Params,
        envelope_clean: Option<&Value>,
        login: &LoginSettings,
        warnings: &mut Vec<Warning>,
    ) -> Result<Self, Fault> {
        let name = required_client_name(params)?;
        let mut read = Self::read(params, name, login, warnings)?;
        if read.clean.is_none()
            && let Some(value) = envelope_clean.filter(|value| !value.is_null())
        {
            read.clean = Some(super::params::boolean("cleanSession", value)?);
        }
        Ok(read)
    }

    fn read(
        params: &mut Params,
        client_name: String,
        login: &LoginSettings,
        warnings: &mut Vec<Warning>,
    ) -> Result<Self, Fault> {
        if client_name.contains('\0') {
            return Err(params.invalid("clientName", "must not contain U+0000"));
        }
        params.alias("clientStatus", "sessionStatus");
        let temporary = params.boolean("temporarySession")?;
        let clean = params.boolean("cleanSession")?;
        let status = params.choice("sessionStatus", STATUS_VALUES)?;
        let protocol = read_protocol(params)?;
        let keep_alive_seconds = unsigned(params, "keepAliveSeconds", i64::MAX)?;
        let expiry_seconds = unsigned(params, "sessionExpiryInterval", EXPIRY_NEVER as i64)?;
        let format = super::payload::read_format(params, "binaryFormat")?;
        let payload_type = PayloadType::read(params, "mqttPayloadType")?;
        let receive_maximum = params.integer("receiveMaximum", 1..=65_535)?.map(|value| value as u16);
        let packet_bytes_max = params.integer("maximumPacketSize", 1..=PACKET_BYTES_MAX)?;
        let topic_alias_maximum = params.integer("topicAliasMaximum", 0..=65_535)?;
        let problem_information = params.boolean("requestProblemInformation")?;
        let response_information = params.boolean("requestResponseInformation")?;
        let user_properties = params.user_properties("userProperties")?;
        let said = Said {
            format,
            kind: payload_type.clone(),
        };
        let will = WillParams::read(params, &said, login, warnings)?;
        Ok(Self {
            client_name,
            temporary,
            clean,
            status,
            protocol,
            keep_alive_seconds,
            expiry_seconds,
            payload_type,
            receive_maximum,
            packet_bytes_max: packet_bytes_max.map(|value| value as u32),
            topic_alias_maximum: topic_alias_maximum.map(|value| value as u16),
            problem_information,
            response_information,
            user_properties,
            will,
            label: params.label("label")?,
            label_id: read_label_id(params)?,
            metadata: params.metadata("metadata")?,
            health: HealthParams::read(params)?,
        })
    }
}

impl WillParams {
    fn read(
        params: &mut Params,
        said: &Said,
        login: &LoginSettings,
        warnings: &mut Vec<Warning>,
    ) -> Result<Self, Fault> {
        let topic = params.string("willTopic", 0..=TOPIC_BYTES_MAX)?;
        if let Some(topic) = &topic {
            check_topic_name("willTopic", topic)?;
        }
        let payload_json = params.value("willPayload");
        let payload = match &payload_json {
            None => None,
            Some(value) => {
                let encoding = will_encoding(said, value, login);
                Some(decode("willPayload", Some(value.clone()), encoding, warnings)?)
            }
        };
        let qos = params.integer("willQoS", 0..=2)?.map(|qos| qos as u8);
        let retain = params.boolean("willRetain")?;
        let content_type = params.string("willContentType", 0..=TEXT_BYTES_MAX)?;
        let correlation = Correlation::read(params, "willCorrelationData")?;
        let indicator = params.choice("willPayloadFormatIndicator", &["none", "utf8"])?;
        let implied = said.format.is_some_and(Format::is_text).then_some(true);
        let response_topic = params.string("willResponseTopic", 0..=TOPIC_BYTES_MAX);
        Ok(Self {
            topic,
            payload,
            payload_json,
            qos,
            retain,
            content_type,
            correlation,
            is_text: implied.or(indicator.map(|indicator| indicator == "utf8")),
            expiry_seconds: unsigned(params, "willExpirySeconds", i64::MAX)?,
            delay_seconds: unsigned(params, "willDelaySeconds", i64::MAX)?,
            response_topic: match response_topic? {
                Some(topic) => {
                    check_topic_name("willResponseTopic", &topic)?;
                    Some(topic)
                }
                None => None,
            },
            user_properties: params.user_properties("willUserProperties")?,
        })
    }
}

/// A will's string without any format is text: the published example sends it so.
fn will_encoding(said: &Said, value: &Value, login: &LoginSettings) -> Encoding {
    let nothing = Said::default();
    match Encoding::of_message(said, &nothing, &PayloadType::Binary, None, login) {
        Encoding::Default(_) if said.format.is_none() && said.kind.is_none() && value.is_string() => {
            Encoding::Said(Format::Utf8)
        }
        encoding => encoding,
    }
}

impl HealthParams {
    fn read(params: &mut Params) -> Result<Self, Fault> {
        Ok(Self {
            send_rate_min: unsigned(params, "minHealthySendRatePerMinute", i64::MAX)?,
            send_rate_max: unsigned(params, "maxHealthySendRatePerMinute", i64::MAX)?,
            backlog_rate_max: unsigned(params, "maxHealthyBacklogRatePerMinute", i64::MAX)?,
            filters_min: unsigned(params, "minHealthySubscribedTopicFiltersCount", i64::MAX)?,
            filters_max: unsigned(params, "maxHealthySubscribedTopicFiltersCount", i64::MAX)?,
        })
    }
}

/// `listMqSessions`. Empty lists mean everything.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ListParams {
    /// Names begin with it.
    pub name_begins: String,
    /// Any of these.
    pub connection: Vec<&'static str>,
    /// Any of these; empty is all but `hidden`.
    pub status: Vec<&'static str>,
    /// Any of these.
    pub kind: Vec<&'static str>,
    /// Any of these.
    pub health: Vec<&'static str>,
    /// Sessions without any threshold, alone or besides `health`.
    pub without_measures: bool,
    /// First key.
    pub ascending: Option<&'static str>,
    /// Second key.
    pub descending: Option<&'static str>,
    /// By name.
    pub label: Option<LabelParam>,
    /// By id.
    pub label_id: Option<u32>,
    /// Words and phrases.
    pub metadata: String,
}

impl ListParams {
    /// Reads the action.
    ///
    /// # Errors
    /// As the checker says.
    pub fn read(params: &mut Params) -> Result<(Self, Page), Fault> {
        let list = Self {
            name_begins: params
                .string("partialClientName", 0..=CLIENT_NAME_BYTES_MAX)?
                .unwrap_or_default(),
            connection: params.choices("connectionStatusFilter", CONNECTION_VALUES)?,
            status: params.choices("sessionStatusFilter", STATUS_VALUES)?,
            kind: params.choices("sessionTypeFilter", TYPE_VALUES)?,
            health: params.choices("healthFilter", HEALTH_VALUES)?,
            without_measures: params.boolean("unsetHealthMeasures")?.unwrap_or(false),
            ascending: params.choice("sortAscending", SORT_VALUES)?,
            descending: params.choice("sortDescending", SORT_VALUES)?,
            label: params.label("label")?,
            label_id: read_label_id(params)?,
            metadata: params.string("metadataFilter", 0..=TEXT_BYTES_MAX)?.unwrap_or_default(),
        };
        Ok((list, Page::read(params)?))
    }
}

/// `describeMqSessions`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DescribeParams {
    /// Each once, in the order given.
    pub client_names: Vec<String>,
    /// Add what it is subscribed to.
    pub subscribed: bool,
    /// Add what it has published to.
    pub published: bool,
    /// Add the statistics.
    pub stats: bool,
}

impl DescribeParams {
    /// Reads the action; a lone `clientName` is accepted as older versions had it.
    ///
    /// # Errors
    /// As the checker says.
    pub fn read(params: &mut Params) -> Result<Self, Fault> {
        let lone = params.string("clientName", 0..=CLIENT_NAME_BYTES_MAX)?;
        let names = params.strings("clientNames", 0..=CLIENT_NAME_BYTES_MAX)?;
        let names = match (names, lone) {
            (Some(names), _) => names,
            (None, Some(name)) => vec![name],
            (None, None) => return Err(params.missing("clientNames")),
        };
        if names.is_empty() {
            return Err(params.invalid("clientNames", "must have at least one element"));
        }
        let mut client_names: Vec<String> = Vec::with_capacity(names.len());
        let mut seen = std::collections::HashSet::new();
        for name in names {
            if seen.insert(name.clone()) {
                client_names.push(name);
            }
        }
        Ok(Self {
            client_names,
            subscribed: params.boolean("includeSubscribedTopics")?.unwrap_or(false),
            published: params.boolean("includePublishedTopics")?.unwrap_or(false),
            stats: params.boolean("includeStats")?.unwrap_or(false),
        })
    }
}

/// Deactivates a session, or removes it for good. Under its older name the action always removed.
pub async fn delete(call: &mut Call) -> Result<Out, Fault> {
    let name = required_client_name(&mut call.params)?;
    let permanently = call.params.boolean("permanentlyDeleteSession")?;
    call.finish_params()?;
    let was_older_name = call.action_as_sent.eq_ignore_ascii_case("deleteMqttSession");
    let caller = call.caller()?;
    let deleted = call
        .api
        .broker
        .delete_session(&name, permanently.unwrap_or(was_older_name), &caller);
    deleted.await?;
    Ok(Out::empty())
}

/// A client name that must be there.
///
/// # Errors
/// As the checker says; 14228 if it is empty.
pub fn required_client_name(params: &mut Params) -> Result<String, Fault> {
    params.required_string("clientName", 1..=CLIENT_NAME_BYTES_MAX)
}

/// Complains about what cannot be a topic name. An empty one passes: whether that is allowed differs.
///
/// # Errors
/// 14243.
pub fn check_topic_name(name: &str, topic: &str) -> Result<(), Fault> {
    if topic.contains(['+', '#', '\0']) {
        return Err(Fault::new(
            ErrorCode::INVALID_TOPIC,
            format!("Property \"{name}\" must be a topic name without wildcards."),
        ));
    }
    Ok(())
}

/// The complaint that a session does not exist.
pub fn session_not_found(client_name: &str) -> Fault {
    Fault::new(
        ErrorCode::SESSION_NOT_FOUND,
        format!("MQ session \"{client_name}\" does not exist."),
    )
}

fn read_label_id(params: &mut Params) -> Result<Option<u32>, Fault> {
    Ok(params.integer("labelId", 0..=i64::from(i32::MAX))?.map(|id| id as u32))
}

fn unsigned(params: &mut Params, name: &str, most: i64) -> Result<Option<u64>, Fault> {
    Ok(params.integer(name, 0..=most)?.map(|value| value as u64))
}

/// A string, or the number 5.0.
fn read_protocol(params: &mut Params) -> Result<Option<&'static str>, Fault> {
    let Some(value) = params.value("mqttProtocol") else {
        return Ok(None);
    };
    let text = match &value {
        Value::String(text) => text.clone(),
        Value::Number(number) if number.as_f64() == Some(5.0) => "5.0".to_owned(),
        Value::Number(number) => number.to_string(),
        other => return Err(super::params::wrong_type("mqttProtocol", "a string", other)),
    };
    match super::params::canonical(&text, PROTOCOL_VALUES) {
        Some(protocol) => Ok(Some(protocol)),
        None => Err(super::params::bad_choice(
            CodeSet::Mq.invalid_value(),
            "mqttProtocol",
            &text,
            PROTOCOL_VALUES,
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn params(value: Value) -> Params {
        match value {
            Value::Object(members) => Params::new(members, CodeSet::Mq),
            _ => panic!("not an object"),
        }
    }

    fn create(value: Value) -> Result<SessionParams, Fault> {
        let mut params = params(value);
        let read = SessionParams::read_create(&mut params, &LoginSettings::default(), &mut Vec::new())?;
        params.finish(true, &mut Vec::new())?;
        Ok(read)
    }

    #[test]
    fn no_property_is_required_on_creation() {
        assert_eq!(create(json!({})).unwrap(), SessionParams::default());
        assert_eq!(
            create(json!({"clientName": null, "label": null})).unwrap(),
            SessionParams::default()
        );
    }

    #[test]
    fn a_wills_bare_string_is_text_and_a_format_says_otherwise() {
        let will = |value: Value| create(value).unwrap().will;
        let bare = will(json!({"willTopic": "a", "willPayload": "gone"}));
        assert_eq!(bare.payload.unwrap().bytes, b"gone");
        assert_eq!(bare.is_text, None);
        let hex = will(json!({"willTopic": "a", "willPayload": "FF", "binaryFormat": "HEX"}));
        assert_eq!(hex.payload.unwrap().bytes, [0xFF]);
        let object = will(json!({"willTopic": "a", "willPayload": {"b": 1}}));
        assert_eq!(object.payload.unwrap().bytes, br#"{"b":1}"#);
        let text = will(json!({"willTopic": "a", "willPayload": "FF", "binaryFormat": "utf8"}));
        assert_eq!(text.is_text, Some(true));
        assert_eq!(create(json!({"willTopic": "a"})).unwrap_err().code.0, 12025);
        assert!(create(json!({"willTopic": ""})).is_ok());
    }

    #[test]
    fn each_bound_of_a_session_property_is_exact() {
        for (value, code) in [
            (json!({"sessionExpiryInterval": 4_294_967_296_u64}), 0),
            (json!({"sessionExpiryInterval": 4_294_967_297_u64}), 14228),
            (json!({"receiveMaximum": 0}), 14228),
            (json!({"receiveMaximum": 65_535}), 0),
            (json!({"mqttProtocol": 5.0}), 0),
            (json!({"mqttProtocol": "3.1"}), 14228),
            (json!({"willQoS": 3}), 14228),
            (json!({"willTopic": "a/+", "willPayload": ""}), 14243),
            (json!({"willResponseTopic": "#"}), 14243),
            (json!({"sessionStatus": "HIDDEN"}), 0),
            (json!({"clientStatus": "banned"}), 0),
            (json!({"clientName": "a\u{0}"}), 14228),
            (json!({"clientName": "x".repeat(65_551)}), 14245),
            (json!({"metadata": {"a": "x".repeat(65_500)}}), 14245),
            (json!({"metadata": []}), 14702),
            (json!({"labelId": -1}), 14228),
            (json!({"keepAliveSeconds": 9_007_199_254_740_993_u64}), 0),
        ] {
            let code_read = create(value.clone()).map_or_else(|fault| fault.code.0, |_| 0);
            assert_eq!(code_read, code, "{value}");
        }
    }

    #[test]
    fn a_clean_command_may_stand_in_the_envelope() {
        let mut alter = params(json!({"clientName": "a"}));
        let clean = json!(true);
        let login = LoginSettings::default();
        let read = SessionParams::read_alter(&mut alter, Some(&clean), &login, &mut Vec::new()).unwrap();
        assert_eq!(read.clean, Some(true));
        let missing = SessionParams::read_alter(&mut params(json!({})), None, &login, &mut Vec::new());
        assert_eq!(missing.unwrap_err().code.0, 12025);
    }

    #[test]
    fn a_name_given_twice_is_described_once() {
        let read = DescribeParams::read(&mut params(json!({"clientNames": ["b", "a", "b"]}))).unwrap();
        assert_eq!(read.client_names, ["b", "a"]);
        assert_eq!(DescribeParams::read(&mut params(json!({}))).unwrap_err().code.0, 12025);
        assert_eq!(
            DescribeParams::read(&mut params(json!({"clientNames": []})))
                .unwrap_err()
                .code
                .0,
            14228
        );
    }
}
