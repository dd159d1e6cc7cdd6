//! MQTT over a real socket: a module per chapter of the specification.

#[path = "../common/mqtt.rs"]
mod client;

mod harness;
