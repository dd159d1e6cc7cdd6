//! MQTT over a real socket: a module per chapter of the specification.

#![expect(clippy::unwrap_used, reason = "a failed setup is a failed test")]

#[path = "../common/mqtt.rs"]
mod client;

mod harness;
