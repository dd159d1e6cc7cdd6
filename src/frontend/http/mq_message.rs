//! Arguments of the message actions of `mq`, checked and typed, and messages as results show them.
//!
//! **Invariants**
//! - A request is read as a whole before anything of it is done: one bad message or action rejects all of it.

use serde_json::Value;

use super::envelope::Call;
use super::error_code::{CodeSet, ErrorCode, Fault, Warning};
use super::mq_session::{CLIENT_NAME_BYTES_MAX, check_topic_name, required_client_name};
use super::params::{Params, wrong_type};
use super::payload::{
    Correlation, Decoded, Encoding, Format, PayloadType, Said, Wanted, decode, encode, read_format, user_properties,
};
use super::reply::{Object, Out};
use super::time::{self, StartFrom};
use crate::broker::SubscribeAction;
use crate::broker::login::LoginSettings;
use crate::broker::message::Qos;
use crate::broker::subscription::{RetainHandling, SubscriptionOptions};
use crate::broker::topic_filter::TopicFilter;

const TOPIC_BYTES_MAX: usize = 65_500;
const FILTER_BYTES_MAX: usize = 65_535;
const TEXT_BYTES_MAX: usize = 65_535;
const NAME_BYTES_MAX: usize = 64;
const MESSAGES_DEFAULT: i64 = 20;
const MESSAGES_MAX: i64 = 65_535;
const SUBSCRIPTION_ID_MAX: i64 = 268_435_455;

/// When a subscription brings retained messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Retained {
    /// At each subscribing.
    OnSubscription,
    /// If the filter was not subscribed before.
    OnNewSubscription,
    /// Not at all.
    Never,
}

impl Retained {
    const VALUES: &[&str] = &["onSubscription", "onNewSubscription", "never"];

    /// Its spelling on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::OnSubscription => "onSubscription",
            Self::OnNewSubscription => "onNewSubscription",
            Self::Never => "never",
        }
    }
}

/// One element of `subscriptionActions`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SubscriptionAction {
    /// Adds the filter, or replaces its options.
    Add(SubscriptionParams),
    /// Drops the filter.
    Remove(String),
}

/// A filter with its options.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SubscriptionParams {
    /// Length checked; its form is the broker's business.
    pub filter: String,
    /// Sent along with each message.
    pub identifier: Option<u32>,
    /// Whether expired messages come too.
    pub expired: bool,
    /// Retained messages.
    pub retained: Retained,
    /// Whether messages published under the same client name come too.
    pub own: bool,
    /// Kept with the subscription.
    pub user_properties: Vec<(String, String)>,
    /// 0 to 2.
    pub qos: u8,
}

impl SubscriptionParams {
    /// As results show it.
    pub fn show(&self) -> Object {
        let mut object = Object::new()
            .with("topicFilter", self.filter.as_str())
            .with_some("subscriptionIdentifier", self.identifier)
            .with("receiveRetainedMessages", self.retained.name())
            .with("receiveMyMessages", self.own)
            .with("includeExpiredMessages", self.expired)
            .with("qos", u16::from(self.qos));
        if !self.user_properties.is_empty() {
            object.set("userProperties", show_user_properties(&self.user_properties));
        }
        object
    }
}

/// `subscribeToMq`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SubscribeParams {
    /// Whose subscriptions.
    pub client_name: String,
    /// At least one, in order.
    pub actions: Vec<SubscriptionAction>,
}

impl SubscribeParams {
    /// Reads the action.
    ///
    /// # Errors
    /// As the checker says.
    pub fn read(params: &mut Params, strict: bool, warnings: &mut Vec<Warning>) -> Result<Self, Fault> {
        let client_name = required_client_name(params)?;
        let items = params.required("subscriptionActions", Params::objects)?;
        if items.is_empty() {
            return Err(params.invalid("subscriptionActions", "must have at least one element"));
        }
        let mut actions = Vec::with_capacity(items.len());
        for mut item in items {
            let action = item.required("subscriptionAction", |item, name| item.choice(name, &["add", "remove"]))?;
            let filter = item.required_string("topicFilter", 1..=FILTER_BYTES_MAX)?;
            item.alias("QoS", "qos");
            item.alias("receiveMyOwnMessages", "receiveMyMessages");
            let subscription = SubscriptionParams {
                filter,
                identifier: item
                    .integer("subscriptionIdentifier", 1..=SUBSCRIPTION_ID_MAX)?
                    .map(|id| id as u32),
                expired: item.boolean("includeExpiredMessages")?.unwrap_or(false),
                retained: match item.choice("receiveRetainedMessages", Retained::VALUES)? {
                    Some("never") => Retained::Never,
                    Some("onNewSubscription") => Retained::OnNewSubscription,
                    _ => Retained::OnSubscription,
                },
                own: item.boolean("receiveMyMessages")?.unwrap_or(true),
                user_properties: item.user_properties("userProperties")?.unwrap_or_default(),
                qos: item.integer("qos", 0..=2)?.unwrap_or(2) as u8,
            };
            item.finish(strict, warnings)?;
            actions.push(match action {
                "add" => SubscriptionAction::Add(subscription),
                _ => SubscriptionAction::Remove(subscription.filter),
            });
        }
        Ok(Self { client_name, actions })
    }
}

/// Adds and removes topic filters of a session of either kind; all of it or nothing.
pub async fn subscribe(call: &mut Call) -> Result<Out, Fault> {
    let strict = call.api.strict_params;
    let request = SubscribeParams::read(&mut call.params, strict, &mut call.warnings)?;
    call.finish_params()?;
    let mut actions = Vec::with_capacity(request.actions.len());
    for action in &request.actions {
        actions.push(action.to_broker()?);
    }
    let caller = call.caller()?;
    let broker = call.api.broker.clone();
    for absent in broker.subscribe(&request.client_name, actions, &caller).await? {
        call.warnings.push(Warning::new(
            ErrorCode::NOT_SUBSCRIBED,
            format!("The session has no subscription \"{absent}\"."),
        ));
    }
    let held = broker.subscriptions(&request.client_name, &caller)?;
    let shown: Vec<Out> = held
        .into_iter()
        .map(|held| SubscriptionParams::of_broker(held.filter, held.options).show().into())
        .collect();
    Ok(Object::new()
        .with("clientName", request.client_name.as_str())
        .with("subscriptions", shown)
        .into())
}

impl SubscriptionAction {
    fn to_broker(&self) -> Result<SubscribeAction, Fault> {
        let added = match self {
            Self::Remove(filter) => return Ok(SubscribeAction::Remove(TopicFilter::parse(filter)?)),
            Self::Add(added) => added,
        };
        let filter = TopicFilter::parse(&added.filter)?;
        if added.filter.starts_with("$share/") && !added.own {
            return Err(Fault::new(
                ErrorCode::MQ_INVALID_VALUE,
                "Property \"receiveMyMessages\" must not be false for a shared filter.",
            ));
        }
        Ok(SubscribeAction::Add(
            filter,
            SubscriptionOptions {
                qos: Qos::from_bits(added.qos).unwrap_or(Qos::ExactlyOnce),
                no_local: !added.own,
                retain_as_published: false,
                retain_handling: match added.retained {
                    Retained::OnSubscription => RetainHandling::OnSubscription,
                    Retained::OnNewSubscription => RetainHandling::OnNewSubscription,
                    Retained::Never => RetainHandling::Never,
                },
                identifier: added.identifier,
                include_expired: added.expired,
                user_properties: added.user_properties.clone(),
            },
        ))
    }
}

impl SubscriptionParams {
    /// As the broker holds it.
    pub fn of_broker(filter: String, options: SubscriptionOptions) -> Self {
        Self {
            filter,
            identifier: options.identifier,
            expired: options.include_expired,
            retained: match options.retain_handling {
                RetainHandling::OnSubscription => Retained::OnSubscription,
                RetainHandling::OnNewSubscription => Retained::OnNewSubscription,
                RetainHandling::Never => Retained::Never,
            },
            own: !options.no_local,
            user_properties: options.user_properties,
            qos: options.qos as u8,
        }
    }
}

/// Where a message goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Destination {
    /// A topic by name.
    Topic(String),
    /// The topic that has this integration table.
    Table(String),
}

/// One message of `publishMessagesToMq`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PublishParams {
    /// In whose name.
    pub client_name: String,
    /// Where to.
    pub destination: Destination,
    /// The payload as it was sent: the session's own `mqttPayloadType` may decide what it means.
    pub payload: Option<Value>,
    /// What the message says about its payload.
    pub said: Said,
    /// Media type.
    pub content_type: Option<String>,
    /// Correlation data.
    pub correlation: Option<Correlation>,
    /// Life time in seconds; `None` never ends.
    pub expiry_seconds: Option<u32>,
    /// Whether it becomes the retained message.
    pub retain: bool,
    /// Where answers go.
    pub response_topic: Option<String>,
    /// User properties.
    pub user_properties: Vec<(String, String)>,
    /// 0 to 2.
    pub qos: u8,
}

/// `publishMessagesToMq`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PublishRequest {
    /// At least one, in order.
    pub messages: Vec<PublishParams>,
    /// What the request says about all payloads.
    pub said: Said,
    /// `variantFormat` of the request.
    pub variant_format: Option<&'static str>,
}

impl PublishRequest {
    /// Reads the action; payloads are decoded by [`PublishRequest::payload`], once the sessions are known.
    ///
    /// # Errors
    /// As the checker says.
    pub fn read(params: &mut Params, strict: bool, warnings: &mut Vec<Warning>) -> Result<Self, Fault> {
        params.alias("sourcePayloadFormat", "mqttPayloadType");
        let client_name = params.string("clientName", 1..=CLIENT_NAME_BYTES_MAX)?;
        let topic = read_topic(params, TOPIC_BYTES_MAX)?;
        let said = Said::read(params)?;
        let variant_format = params.choice("variantFormat", super::envelope::VARIANT_VALUES)?;
        let items = params.required("messages", Params::objects)?;
        if items.is_empty() {
            return Err(params.invalid("messages", "must have at least one element"));
        }
        let mut messages = Vec::with_capacity(items.len());
        for mut item in items {
            let own_name = item.string("clientName", 1..=CLIENT_NAME_BYTES_MAX)?;
            let client_name = own_name.or_else(|| client_name.clone());
            let client_name = client_name.ok_or_else(|| params.missing("clientName"))?;
            let destination = read_destination(&mut item, TOPIC_BYTES_MAX)?;
            let destination = destination.or_else(|| topic.clone().map(Destination::Topic));
            let destination = destination.ok_or_else(|| params.missing("topic"))?;
            let message = PublishParams {
                client_name,
                destination,
                payload: item.raw("payload"),
                said: Said::read(&mut item)?,
                content_type: item.string("contentType", 0..=TEXT_BYTES_MAX)?,
                correlation: Correlation::read(&mut item, "correlationData")?,
                // 0 is "never", as on the wire of neither protocol.
                expiry_seconds: item
                    .integer("expirySeconds", 0..=i64::from(u32::MAX))?
                    .map(|seconds| seconds as u32)
                    .filter(|seconds| *seconds > 0),
                retain: item.boolean("retain")?.unwrap_or(false),
                response_topic: read_response_topic(&mut item)?,
                user_properties: item.user_properties("userProperties")?.unwrap_or_default(),
                qos: item.integer("qos", 0..=2)?.unwrap_or(2) as u8,
            };
            item.finish(strict, warnings)?;
            messages.push(message);
        }
        Ok(Self {
            messages,
            said,
            variant_format,
        })
    }

    /// The bytes of the payload of one of its messages, by the chain of formats.
    ///
    /// # Errors
    /// 14222.
    pub fn payload(
        &self,
        said: &Said,
        payload: Option<Value>,
        session: &PayloadType,
        login: &LoginSettings,
        warnings: &mut Vec<Warning>,
    ) -> Result<Decoded, Fault> {
        let encoding = Encoding::of_message(said, &self.said, session, self.variant_format, login);
        decode("payload", payload, encoding, warnings)
    }
}

fn read_topic(params: &mut Params, bytes_max: usize) -> Result<Option<String>, Fault> {
    let topic = params.string("topic", 1..=bytes_max)?;
    if let Some(topic) = &topic {
        check_topic_name("topic", topic)?;
    }
    Ok(topic)
}

fn read_response_topic(params: &mut Params) -> Result<Option<String>, Fault> {
    let topic = params.string("responseTopic", 0..=TOPIC_BYTES_MAX)?;
    if let Some(topic) = &topic {
        check_topic_name("responseTopic", topic)?;
    }
    Ok(topic.filter(|topic| !topic.is_empty()))
}

/// `topic` or `tableName`; database and owner are accepted and locate nothing here, where there is one of each.
fn read_destination(params: &mut Params, topic_bytes_max: usize) -> Result<Option<Destination>, Fault> {
    let topic = read_topic(params, topic_bytes_max)?;
    let table = params.string("tableName", 1..=NAME_BYTES_MAX)?;
    params.string("databaseName", 0..=NAME_BYTES_MAX)?;
    params.string("ownerName", 0..=NAME_BYTES_MAX)?;
    match (topic, table) {
        (Some(_), Some(_)) => Err(params.invalid("tableName", "excludes \"topic\"")),
        (Some(topic), None) => Ok(Some(Destination::Topic(topic))),
        (None, Some(table)) => Ok(Some(Destination::Table(table))),
        (None, None) => Ok(None),
    }
}

/// How a batch that was handed out is acknowledged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Acknowledge {
    /// The answer is the acknowledgement.
    Automatic,
    /// By the token of the batch, in a later call; a shared batch returns to its group after so many seconds.
    Manual {
        /// Lease of a shared batch.
        seconds: u32,
    },
}

/// `getMessagesFromMqApiSession`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionGetParams {
    /// Whose messages.
    pub client_name: String,
    /// Only what this topic, or this one of the session's filters, brings.
    pub topic: Option<String>,
    /// At most.
    pub messages_max: usize,
    /// How payloads are wanted.
    pub format: Option<Format>,
    /// How long to wait for the first message.
    pub wait_seconds: u32,
    /// How the batch is acknowledged.
    pub acknowledge: Acknowledge,
    /// The batch that this call acknowledges.
    pub acknowledge_token: Option<String>,
}

impl SessionGetParams {
    /// Reads the action.
    ///
    /// # Errors
    /// As the checker says.
    pub fn read(params: &mut Params) -> Result<Self, Fault> {
        let client_name = required_client_name(params)?;
        let topic = params.string("topic", 1..=FILTER_BYTES_MAX)?;
        let messages_max = read_messages_max(params)?;
        let format = read_format(params, "binaryFormat")?;
        let wait_seconds = params.integer("waitSeconds", 0..=60)?.unwrap_or(0) as u32;
        let is_manual = params.choice("acknowledge", &["automatic", "manual"])? == Some("manual");
        let seconds = params.integer("acknowledgeSeconds", 1..=3600)?.unwrap_or(60) as u32;
        Ok(Self {
            client_name,
            topic,
            messages_max,
            format,
            wait_seconds,
            acknowledge: if is_manual {
                Acknowledge::Manual { seconds }
            } else {
                Acknowledge::Automatic
            },
            acknowledge_token: params.string("acknowledgeToken", 1..=(16 << 20))?,
        })
    }
}

/// `getMessagesFromMqTopic`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicGetParams {
    /// What to read.
    pub source: Destination,
    /// Where to begin.
    pub start: StartFrom,
    /// At most.
    pub messages_max: usize,
    /// How payloads are wanted.
    pub format: Option<Format>,
    /// Whether expired messages come too.
    pub expired: bool,
}

impl TopicGetParams {
    /// Reads the action.
    ///
    /// # Errors
    /// As the checker says; 12025 if there is neither a topic nor a table.
    pub fn read(params: &mut Params) -> Result<Self, Fault> {
        let source = read_destination(params, FILTER_BYTES_MAX)?.ok_or_else(|| params.missing("topic"))?;
        Ok(Self {
            source,
            start: read_start(params)?,
            messages_max: read_messages_max(params)?,
            format: read_format(params, "binaryFormat")?,
            expired: params.boolean("includeExpiredMessages")?.unwrap_or(true),
        })
    }
}

fn read_messages_max(params: &mut Params) -> Result<usize, Fault> {
    Ok(params
        .integer("maxMessages", 1..=MESSAGES_MAX)?
        .unwrap_or(MESSAGES_DEFAULT) as usize)
}

/// A name, a position or a moment, or a list of one of these.
fn read_start(params: &mut Params) -> Result<StartFrom, Fault> {
    const NAME: &str = "startFrom";
    let value = match params.value(NAME) {
        None => return Ok(StartFrom::Tail),
        Some(Value::Array(items)) => match <[Value; 1]>::try_from(items) {
            Ok([item]) => item,
            Err(_) => return Err(params.invalid(NAME, "must have exactly one element")),
        },
        Some(value) => value,
    };
    let start = match &value {
        Value::String(text) => StartFrom::parse(text),
        Value::Number(number) => StartFrom::parse(&number.to_string()),
        other => return Err(wrong_type(NAME, "a string or an integer", other)),
    };
    start.ok_or_else(|| {
        params.invalid(
            NAME,
            format_args!("has invalid value {value}. Use \"tail\", \"head\", a date, a date-time or a position"),
        )
    })
}

/// A message as results show it. Borrowed from wherever it was read.
#[derive(Clone, Debug)]
pub struct MessageView<'a> {
    /// Position in its topic.
    pub id: u64,
    /// The concrete topic.
    pub topic: &'a str,
    /// Its bytes.
    pub payload: &'a [u8],
    /// Its payload type.
    pub kind: PayloadType,
    /// When it was received, ms since 1970 UTC.
    pub received_ms: i64,
    /// As published.
    pub retain: bool,
    /// Delivered because it was the retained message when somebody subscribed.
    pub retained: bool,
    /// As published.
    pub qos: u8,
    /// If the publisher set it.
    pub content_type: Option<&'a str>,
    /// If the publisher set it.
    pub correlation: Option<Correlation>,
    /// If the publisher set it.
    pub response_topic: Option<&'a str>,
    /// In the publisher's order.
    pub user_properties: Vec<(&'a str, &'a str)>,
    /// As given; `None` is never.
    pub expiry_seconds: Option<u32>,
    /// Its life time is over.
    pub expired: bool,
    /// It was handed out before and not acknowledged.
    pub redelivered: bool,
    /// Of all matching subscriptions.
    pub subscription_identifiers: Vec<u32>,
    /// Client name of the publisher, empty for the server; `None` if it is not to be shown.
    pub publisher: Option<&'a str>,
}

impl MessageView<'_> {
    /// As JSON, with the payload as wanted.
    pub fn show(&self, wanted: &Wanted) -> Object {
        let (payload, format) = encode(self.payload, &self.kind, wanted);
        let mut object = Object::new()
            .with("id", self.id)
            .with("topic", self.topic)
            .with("payload", payload)
            .with("binaryFormat", format.name())
            .with("mqttPayloadType", self.kind.name())
            .with("createTimestamp", time::milliseconds(self.received_ms))
            .with("retain", self.retain);
        if self.retained {
            object.set("retained", true);
        }
        object.set("qos", u16::from(self.qos));
        object = object
            .with_some("contentType", self.content_type)
            .with_some(
                "correlationData",
                self.correlation.as_ref().map(|data| data.show(wanted.binary)),
            )
            .with_some("responseTopic", self.response_topic)
            .with_some("expirySeconds", self.expiry_seconds);
        if !self.user_properties.is_empty() {
            object.set("userProperties", user_properties(self.user_properties.iter().copied()));
        }
        for (name, holds) in [("expired", self.expired), ("redelivered", self.redelivered)] {
            if holds {
                object.set(name, true);
            }
        }
        if !self.subscription_identifiers.is_empty() {
            let identifiers: Vec<Out> = self.subscription_identifiers.iter().map(|id| (*id).into()).collect();
            object.set("subscriptionIdentifiers", identifiers);
        }
        object.with_some("publisherClientName", self.publisher)
    }
}

fn show_user_properties(properties: &[(String, String)]) -> Out {
    user_properties(properties.iter().map(|(key, value)| (key.as_str(), value.as_str())))
}

/// Whose numbers these actions use.
pub const CODES: CodeSet = CodeSet::Mq;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn params(value: Value) -> Params {
        match value {
            Value::Object(members) => Params::new(members, CODES),
            _ => panic!("not an object"),
        }
    }

    fn publish(value: Value) -> Result<PublishRequest, Fault> {
        PublishRequest::read(&mut params(value), true, &mut Vec::new())
    }

    #[test]
    fn a_message_may_name_its_own_session_and_destination() {
        let request = publish(
            json!({"clientName": "a", "topic": "t", "sourcePayloadFormat": "utf8", "messages": [
                {"payload": "hello", "expirySeconds": 0},
                {"payload": null, "clientName": "b", "topic": "u", "mqttPayloadType": "binary"},
                {"tableName": "mqtt_msg_x", "binaryFormat": "JSON", "payload": {"n": 1}, "retain": "true"},
            ]}),
        )
        .unwrap();
        let [first, second, third] = &request.messages[..] else {
            panic!()
        };
        assert_eq!((&*first.client_name, first.expiry_seconds, first.qos), ("a", None, 2));
        assert_eq!(
            (&*second.client_name, &second.destination),
            ("b", &Destination::Topic("u".into()))
        );
        assert_eq!(third.destination, Destination::Table("mqtt_msg_x".into()));
        let login = LoginSettings::default();
        let bytes = |message: &PublishParams| {
            let payload = message.payload.clone();
            let decoded = request.payload(&message.said, payload, &PayloadType::Binary, &login, &mut Vec::new());
            decoded.unwrap().bytes
        };
        assert_eq!(bytes(first), b"hello");
        assert_eq!(bytes(second), b"null", "a bare null is JSON, not a missing payload");
        assert_eq!(bytes(third), br#"{"n":1}"#);
    }

    #[test]
    fn a_publish_that_lacks_something_has_its_number() {
        let one = json!([{"payload": ""}]);
        for (value, code) in [
            (json!({"clientName": "a", "topic": "t"}), 12025),
            (json!({"clientName": "a", "topic": "t", "messages": []}), 14228),
            (json!({"clientName": "a", "topic": "t", "messages": {}}), 14702),
            (json!({"clientName": "a", "topic": "t", "messages": [1]}), 14702),
            (json!({"topic": "t", "messages": one}), 12025),
            (json!({"clientName": "a", "messages": one}), 12025),
            (json!({"clientName": "a", "topic": "", "messages": one}), 14228),
            (json!({"clientName": "a", "topic": "t/#", "messages": one}), 14243),
            (
                json!({"clientName": "a", "topic": "t".repeat(65_501), "messages": one}),
                14245,
            ),
            (
                json!({"clientName": "a", "topic": "t", "messages": [{"topic": "u", "tableName": "v"}]}),
                14228,
            ),
            (
                json!({"clientName": "a", "topic": "t", "messages": [{"responseTopic": "+"}]}),
                14243,
            ),
            (
                json!({"clientName": "a", "topic": "t", "messages": [{"expirySeconds": 4_294_967_296_u64}]}),
                14228,
            ),
            (
                json!({"clientName": "a", "topic": "t", "messages": [{"foo": 1}]}),
                14700,
            ),
            (
                json!({"clientName": "a", "topic": "t", "messages": [{"userProperties": [{"key": "k"}]}]}),
                12025,
            ),
        ] {
            assert_eq!(publish(value.clone()).unwrap_err().code.0, code, "{value}");
        }
    }

    #[test]
    fn subscription_actions_have_their_defaults_and_show_them() {
        let request = json!({"clientName": "a", "subscriptionActions": [
            {"subscriptionAction": "ADD", "topicFilter": "invoice/#", "subscriptionIdentifier": 7,
             "receiveRetainedMessages": "NEVER", "QoS": 1},
            {"subscriptionAction": "remove", "topicFilter": "quote/+"},
        ]});
        let read = SubscribeParams::read(&mut params(request), true, &mut Vec::new()).unwrap();
        let SubscriptionAction::Add(added) = &read.actions[0] else {
            panic!()
        };
        assert_eq!(
            Out::from(added.show()).finish(false, &[]),
            json!({"topicFilter": "invoice/#", "subscriptionIdentifier": 7, "receiveRetainedMessages": "never",
                "receiveMyMessages": true, "includeExpiredMessages": false, "qos": 1})
        );
        assert_eq!(read.actions[1], SubscriptionAction::Remove("quote/+".into()));
        for (action, code) in [
            (json!([]), 14228),
            (json!([{"topicFilter": "a"}]), 12025),
            (json!([{"subscriptionAction": "add"}]), 12025),
            (json!([{"subscriptionAction": "toggle", "topicFilter": "a"}]), 14228),
            (
                json!([{"subscriptionAction": "add", "topicFilter": "a", "subscriptionIdentifier": 0}]),
                14228,
            ),
        ] {
            let request = json!({"clientName": "a", "subscriptionActions": action});
            let read = SubscribeParams::read(&mut params(request), true, &mut Vec::new());
            assert_eq!(read.unwrap_err().code.0, code, "{action}");
        }
    }

    #[test]
    fn a_history_begins_where_it_is_told_to() {
        let start = |value: Value| TopicGetParams::read(&mut params(json!({"topic": "t", "startFrom": value})));
        for (value, wanted) in [
            (Value::Null, StartFrom::Tail),
            (json!(["TAIL"]), StartFrom::Tail),
            (json!("head"), StartFrom::Head),
            (json!(53), StartFrom::Position(53)),
            (json!(["53"]), StartFrom::Position(53)),
            (json!("1970-01-01T00:00:01Z"), StartFrom::Time(1000)),
        ] {
            assert_eq!(start(value.clone()).unwrap().start, wanted, "{value}");
        }
        for (value, code) in [
            (json!(-1), 14228),
            (json!("soon"), 14228),
            (json!([1, 2]), 14228),
            (json!(true), 14702),
        ] {
            assert_eq!(start(value.clone()).unwrap_err().code.0, code, "{value}");
        }
        let both = TopicGetParams::read(&mut params(json!({"topic": "t", "tableName": "x"})));
        assert_eq!(both.unwrap_err().code.0, 14228);
        assert_eq!(TopicGetParams::read(&mut params(json!({}))).unwrap_err().code.0, 12025);
    }

    #[test]
    fn a_message_is_shown_with_its_own_digits_whatever_the_number_format() {
        let message = MessageView {
            id: 53,
            topic: "invoice/new",
            payload: br#"{"invoice":4711,"amount":12.50}"#,
            kind: PayloadType::Json,
            received_ms: 1_772_445_361_204,
            retain: false,
            retained: false,
            qos: 2,
            content_type: Some("application/json"),
            correlation: Some(Correlation {
                bytes: br#"{"req":9}"#.to_vec(),
                is_json: true,
            }),
            response_topic: None,
            user_properties: vec![("tenant", "acme")],
            expiry_seconds: Some(3600),
            expired: false,
            redelivered: false,
            subscription_identifiers: vec![7],
            publisher: Some("billing-worker"),
        };
        let wanted = Wanted {
            format: None,
            variant: "json".into(),
            binary: Format::Hex,
        };
        assert_eq!(
            Out::from(message.show(&wanted)).finish(true, &[]).to_string(),
            concat!(
                r#"{"id":"53","topic":"invoice/new","payload":{"invoice":4711,"amount":12.50},"binaryFormat":"json","#,
                r#""mqttPayloadType":"json","createTimestamp":"2026-03-02T09:56:01.204","retain":false,"qos":"2","#,
                r#""contentType":"application/json","correlationData":{"req":9},"expirySeconds":"3600","#,
                r#""userProperties":[{"key":"tenant","value":"acme"}],"subscriptionIdentifiers":["7"],"#,
                r#""publisherClientName":"billing-worker"}"#
            )
        );
    }

    #[test]
    fn a_retrieval_has_its_defaults_and_bounds() {
        let read = SessionGetParams::read(&mut params(json!({"clientName": "a"}))).unwrap();
        assert_eq!((read.messages_max, read.wait_seconds), (20, 0));
        assert_eq!(read.acknowledge, Acknowledge::Automatic);
        for value in [
            json!({"clientName": "a", "maxMessages": 0}),
            json!({"clientName": "a", "maxMessages": 65_536}),
            json!({"clientName": "a", "waitSeconds": 61}),
            json!({"clientName": "a", "acknowledge": "later"}),
            json!({"clientName": ""}),
        ] {
            assert_eq!(
                SessionGetParams::read(&mut params(value.clone())).unwrap_err().code.0,
                14228,
                "{value}"
            );
        }
    }
}
