//! Wills: what a session leaves to be published when its connection is lost.

use serde::{Deserialize, Serialize};

use super::message::{PayloadType, Publish, Qos};

/// A will, complete; the same for MQTT and the API.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Will {
    /// Topic name.
    pub topic: String,
    /// Quality of service.
    pub qos: Qos,
    /// Publish as retained.
    pub retain: bool,
    /// The payload.
    pub payload: Vec<u8>,
    /// Payload Format Indicator 1.
    pub payload_utf8: bool,
    /// What the payload is.
    pub payload_type: PayloadType,
    /// Raw MQTT 5 bytes of content type, response topic, correlation data, user properties.
    pub properties: Vec<u8>,
    /// What MQTT cannot carry, as in a record.
    pub extras: Vec<u8>,
    /// Seconds it lives from its publication; `None` for ever.
    pub expiry_seconds: Option<u32>,
    /// Seconds between the loss and the publication.
    pub delay_seconds: u64,
    /// How the API shows it: the JSON members as they were sent; empty for a will of CONNECT.
    pub api_json: String,
}

impl Will {
    /// The message it becomes.
    pub fn message(&self) -> Publish<'_> {
        Publish {
            qos: self.qos,
            retain: self.retain,
            payload_utf8: self.payload_utf8,
            expiry: self.expiry_seconds,
            payload_type: self.payload_type,
            properties: &self.properties,
            extras: &self.extras,
            payload: &self.payload,
        }
    }
}
