//! Properties of a message between the API and what is stored: raw MQTT 5 bytes for what MQTT can carry, a row of
//! extras for the rest.
//!
//! **Invariants**
//! - What was stored here is shown as it was given: order, kinds and lengths included.
//! - The raw bytes are what an MQTT 5 packet may hold, whatever the API was given.

use super::error_code::{ErrorCode, Fault};
use super::mq_message::MessageView;
use super::payload::{Correlation, PayloadType, Wanted};
use super::reply::Object;
use crate::broker::message::PayloadType as StoredType;
use crate::broker::rows::extras::ExtrasRow;
use crate::broker::rows::record::{Origin, Record};
use crate::broker::{Fetched, FetchedMessage};

const CONTENT_TYPE: u8 = 0x03;
const RESPONSE_TOPIC: u8 = 0x08;
const CORRELATION_DATA: u8 = 0x09;
const USER_PROPERTY: u8 = 0x26;
/// The longest string of MQTT.
const MQTT_BYTES_MAX: usize = 65_535;

/// The properties of a message as the API gives them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Given<'a> {
    /// Media type.
    pub content_type: Option<&'a str>,
    /// Where answers go.
    pub response_topic: Option<&'a str>,
    /// Correlation data.
    pub correlation: Option<&'a Correlation>,
    /// In order.
    pub user_properties: &'a [(String, String)],
}

/// The same as they are stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stored {
    /// Raw MQTT 5 bytes.
    pub properties: Vec<u8>,
    /// The row, or nothing.
    pub extras: Vec<u8>,
    /// What the record says about its payload.
    pub payload_type: StoredType,
}

impl Given<'_> {
    /// The stored form, together with the payload type.
    pub fn to_stored(self, kind: &PayloadType) -> Stored {
        let mut raw = Vec::new();
        let mut extras = ExtrasRow::default();
        for (id, text) in [(CONTENT_TYPE, self.content_type), (RESPONSE_TOPIC, self.response_topic)] {
            if let Some(text) = text {
                raw.push(id);
                put(&mut raw, text.as_bytes());
            }
        }
        if let Some(correlation) = self.correlation {
            raw.push(CORRELATION_DATA);
            put(&mut raw, &correlation.bytes);
            extras.correlation_is_json = correlation.is_json;
        }
        for (place, (key, value)) in self.user_properties.iter().enumerate() {
            // MQTT has no U+0000 in its strings.
            let fits = |text: &str| text.len() <= MQTT_BYTES_MAX && !text.contains('\0');
            if fits(key) && fits(value) {
                raw.push(USER_PROPERTY);
                put(&mut raw, key.as_bytes());
                put(&mut raw, value.as_bytes());
            } else {
                extras
                    .long_user_properties
                    .push((place as u32, key.clone(), value.clone()));
            }
        }
        let payload_type = match kind {
            PayloadType::Binary => StoredType::Binary,
            PayloadType::Utf8 => StoredType::Utf8,
            PayloadType::Json => StoredType::Json,
            PayloadType::Named(name) => {
                extras.payload_type.clone_from(name);
                StoredType::Named
            }
        };
        Stored {
            properties: raw,
            extras: extras.to_bytes(),
            payload_type,
        }
    }
}

/// Whoever calls has checked the length.
fn put(raw: &mut Vec<u8>, bytes: &[u8]) {
    debug_assert!(bytes.len() <= MQTT_BYTES_MAX);
    raw.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
    raw.extend_from_slice(bytes);
}

/// Properties read from stored bytes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Shown<'a> {
    /// Media type.
    pub content_type: Option<&'a str>,
    /// Where answers go.
    pub response_topic: Option<&'a str>,
    /// Correlation data.
    pub correlation: Option<Correlation>,
    /// In order.
    pub user_properties: Vec<(&'a str, &'a str)>,
}

impl<'a> Shown<'a> {
    /// Reads raw bytes and extras. What is not understood ends the reading: it was checked when it came in.
    pub fn of(mut raw: &'a [u8], extras: &'a ExtrasRow) -> Self {
        let mut shown = Self::default();
        while let Some((id, rest)) = raw.split_first() {
            let Some((bytes, rest)) = take(rest) else { break };
            raw = rest;
            match *id {
                CONTENT_TYPE => shown.content_type = std::str::from_utf8(bytes).ok(),
                RESPONSE_TOPIC => shown.response_topic = std::str::from_utf8(bytes).ok(),
                CORRELATION_DATA => {
                    shown.correlation = Some(Correlation {
                        bytes: bytes.to_vec(),
                        is_json: extras.correlation_is_json,
                    });
                }
                USER_PROPERTY => {
                    let Some((value, rest)) = take(raw) else { break };
                    raw = rest;
                    if let (Ok(key), Ok(value)) = (std::str::from_utf8(bytes), std::str::from_utf8(value)) {
                        shown.user_properties.push((key, value));
                    }
                }
                _ => break,
            }
        }
        for (place, key, value) in &extras.long_user_properties {
            let place = (*place as usize).min(shown.user_properties.len());
            shown.user_properties.insert(place, (key, value));
        }
        shown
    }
}

fn take(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

/// The payload type of a stored message.
pub fn kind_of(stored: StoredType, extras: &ExtrasRow) -> PayloadType {
    match stored {
        StoredType::Binary => PayloadType::Binary,
        StoredType::Utf8 => PayloadType::Utf8,
        StoredType::Json => PayloadType::Json,
        StoredType::Named if extras.payload_type.is_empty() => PayloadType::Binary,
        StoredType::Named => PayloadType::Named(extras.payload_type.clone()),
    }
}

/// The type of a message whose record says nothing: MQTT has nothing but the Payload Format Indicator (spec/messages.md 2.3).
fn kind_of_record(record: &Record<'_>, extras: &ExtrasRow) -> PayloadType {
    match kind_of(record.payload_type, extras) {
        PayloadType::Binary if record.payload_utf8 && record.origin != Origin::Http => PayloadType::Utf8,
        kind => kind,
    }
}

/// A retrieved message as results show it.
///
/// # Errors
/// 12009 if its stored bytes are no message.
pub fn show(message: &FetchedMessage, wanted: &Wanted) -> Result<Object, Fault> {
    let record = message.record().ok_or_else(|| {
        Fault::new(
            ErrorCode::INTERNAL,
            format!("Message {} of \"{}\" cannot be read.", message.position, message.topic),
        )
    })?;
    let extras = ExtrasRow::of_bytes(record.extras);
    let shown = Shown::of(record.properties, &extras);
    let view = MessageView {
        id: message.position,
        topic: &message.topic,
        payload: record.payload,
        kind: kind_of_record(&record, &extras),
        received_ms: message.time,
        retain: record.retain,
        retained: message.retained,
        qos: record.qos as u8,
        content_type: shown.content_type,
        correlation: shown.correlation,
        response_topic: shown.response_topic,
        user_properties: shown.user_properties,
        expiry_seconds: record.expiry,
        expired: message.expired,
        redelivered: message.redelivered,
        subscription_identifiers: message.subscription_ids.clone(),
        publisher: Some(record.publisher),
    };
    Ok(view.show(wanted))
}

/// A batch as a result shows it.
///
/// # Errors
/// As [`show`].
pub fn show_batch(fetched: &Fetched, wanted: &Wanted) -> Result<Object, Fault> {
    let messages: Result<Vec<_>, Fault> = fetched
        .messages
        .iter()
        .map(|message| show(message, wanted).map(Into::into))
        .collect();
    Ok(Object::new()
        .with("data", messages?)
        .with("moreMessages", fetched.more)
        .with_some("acknowledgeToken", fetched.acknowledge_token.as_deref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_shown_as_given_with_the_long_ones_in_their_places() {
        let long = "v".repeat(65_536);
        let user: Vec<(String, String)> = [("a", "1"), ("b", &long), ("a", "1"), ("c", ""), ("d", "\0")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .to_vec();
        let correlation = Correlation {
            bytes: br#"{"n":12.50}"#.to_vec(),
            is_json: true,
        };
        let given = Given {
            content_type: Some("text/plain"),
            response_topic: Some("answers/1"),
            correlation: Some(&correlation),
            user_properties: &user,
        };
        let stored = given.to_stored(&PayloadType::Named("png".into()));
        assert_eq!(stored.payload_type, StoredType::Named);
        assert!(stored.properties.len() < 200, "what is too long is not in the packet");
        let extras = ExtrasRow::of_bytes(&stored.extras);
        let shown = Shown::of(&stored.properties, &extras);
        assert_eq!(shown.content_type, given.content_type);
        assert_eq!(shown.response_topic, given.response_topic);
        assert_eq!(shown.correlation.as_ref(), Some(&correlation));
        let pairs: Vec<_> = user.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(shown.user_properties, pairs);
        assert_eq!(kind_of(stored.payload_type, &extras), PayloadType::Named("png".into()));
    }

    #[test]
    fn a_message_without_anything_stores_nothing() {
        let stored = Given::default().to_stored(&PayloadType::Json);
        assert!(stored.properties.is_empty() && stored.extras.is_empty());
        assert_eq!(Shown::of(&[], &ExtrasRow::default()), Shown::default());
    }

    #[test]
    fn bytes_cut_short_are_read_as_far_as_they_go() {
        let stored = Given {
            content_type: Some("a"),
            response_topic: Some("b"),
            ..Given::default()
        }
        .to_stored(&PayloadType::Binary);
        let extras = ExtrasRow::default();
        for length in 0..stored.properties.len() {
            let shown = Shown::of(&stored.properties[..length], &extras);
            assert_eq!(shown.content_type.is_some(), length >= 4);
            assert_eq!(shown.response_topic, None);
        }
    }
}
