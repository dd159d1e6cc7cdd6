//! MQTT over WebSocket and TLS, HTTP over TLS, and the settings of the listeners.

#![expect(clippy::unwrap_used, reason = "a failed setup is a failed test")]
#![expect(clippy::indexing_slicing, reason = "a wrong index is a failed test")]

#[path = "../common/mod.rs"]
mod common;

use common::mqtt as client;

mod certificates;
mod https;
mod program;
mod stalled;
mod tls;
mod websocket;
mod world;
