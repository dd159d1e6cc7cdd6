//! `publishMessagesToMq`: messages in the name of sessions, all of them or none.
//!
//! The order of checks: arguments, topic names, sessions, tables, payloads. Nothing is stored before the last one.

use std::collections::HashMap;

use super::envelope::Call;
use super::error_code::{ErrorCode, Fault};
use super::mq_message::{Destination, PublishRequest};
use super::payload::{Decoded, PayloadType, Said};
use super::properties::{Given, Stored};
use super::reply::{Object, Out};
use crate::broker::error::PublishRefused;
use crate::broker::message::{Publish, Qos};
use crate::broker::topic_name::{TopicName, open_to_clients};

/// A message that only waits to be stored.
struct Prepared {
    client_name: String,
    topic: String,
    qos: Qos,
    retain: bool,
    expiry: Option<u32>,
    payload: Decoded,
    stored: Stored,
}

impl Prepared {
    fn publish(&self) -> (&str, &str, Publish<'_>) {
        let message = Publish {
            qos: self.qos,
            retain: self.retain,
            payload_utf8: self.payload.format.is_text(),
            expiry: self.expiry,
            payload_type: self.stored.payload_type,
            properties: &self.stored.properties,
            extras: &self.stored.extras,
            payload: &self.payload.bytes,
        };
        (&self.client_name, &self.topic, message)
    }
}

/// Publishes; gives topic and position of each message.
pub async fn publish(call: &mut Call) -> Result<Out, Fault> {
    let strict = call.api.strict_params;
    let mut request = PublishRequest::read(&mut call.params, strict, &mut call.warnings)?;
    call.finish_params()?;
    for message in &request.messages {
        if let Destination::Topic(topic) = &message.destination {
            check_open(topic)?;
        }
    }
    let caller = call.caller()?;
    let broker = call.api.broker.clone();
    let mut session_types: HashMap<String, PayloadType> = HashMap::new();
    for message in &request.messages {
        if !session_types.contains_key(&message.client_name) {
            let kind = PayloadType::parse(&broker.payload_type(&message.client_name, &caller)?);
            session_types.insert(message.client_name.clone(), kind);
        }
    }
    let settings = call.settings();
    let mut tables: HashMap<String, String> = HashMap::new();
    let mut prepared = Vec::with_capacity(request.messages.len());
    for (index, message) in std::mem::take(&mut request.messages).into_iter().enumerate() {
        let topic = match message.destination {
            Destination::Topic(topic) => topic,
            Destination::Table(table) => {
                if let Some(topic) = tables.get(&table) {
                    topic.clone()
                } else {
                    let topic = broker.topic_of_table(&table).ok_or_else(|| table_not_found(&table))?;
                    check_open(&topic)?;
                    tables.insert(table, topic.clone());
                    topic
                }
            }
        };
        let nothing = PayloadType::Binary;
        let session_type = session_types.get(&message.client_name).unwrap_or(&nothing);
        let decoded = request.payload(
            &message.said,
            message.payload,
            session_type,
            &settings,
            &mut call.warnings,
        );
        let payload = decoded.map_err(|fault| {
            let place = format!("\"messages[{index}].payload\"");
            Fault::new(fault.code, fault.message.replacen("\"payload\"", &place, 1))
        })?;
        let kind = payload_type(&message.said, &request.said, session_type, &payload);
        let given = Given {
            content_type: message.content_type.as_deref().filter(|text| !text.is_empty()),
            response_topic: message.response_topic.as_deref(),
            correlation: message.correlation.as_ref(),
            user_properties: &message.user_properties,
        };
        prepared.push(Prepared {
            client_name: message.client_name,
            topic,
            qos: Qos::from_bits(message.qos).unwrap_or(Qos::ExactlyOnce),
            retain: message.retain,
            expiry: message.expiry_seconds,
            stored: given.to_stored(&kind),
            payload,
        });
    }
    let messages: Vec<_> = prepared.iter().map(Prepared::publish).collect();
    let published = broker.publish(&messages, &caller).await?;
    let shown: Vec<Out> = published
        .into_iter()
        .map(|(topic, id)| Object::new().with("topic", topic).with("id", id).into())
        .collect();
    Ok(Object::new().with("data", shown).into())
}

/// The type that is stored: what the message says, else what the request says, else what the session stands for where
/// nobody named a format, else what the format stands for.
fn payload_type(message: &Said, request: &Said, session: &PayloadType, payload: &Decoded) -> PayloadType {
    if let Some(kind) = message.kind.as_ref().or(request.kind.as_ref()) {
        return kind.clone();
    }
    let said_format = message.format.or(request.format);
    match session {
        PayloadType::Named(_) if said_format.is_none() => session.clone(),
        _ => payload.kind(),
    }
}

fn check_open(topic: &str) -> Result<(), Fault> {
    TopicName::parse(topic)?;
    if open_to_clients(topic) {
        Ok(())
    } else {
        Err(PublishRefused::NotOpen.into())
    }
}

/// The complaint that no topic has such a table.
pub fn table_not_found(table: &str) -> Fault {
    Fault::new(
        ErrorCode::TABLE_NOT_FOUND,
        format!("Table \"{table}\" is not the integration table of a topic."),
    )
}
