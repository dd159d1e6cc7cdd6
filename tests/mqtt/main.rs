//! MQTT over a real socket: a module per chapter of the specification.

#![expect(clippy::unwrap_used, reason = "a failed setup is a failed test")]

#[path = "../common/mod.rs"]
mod common;

use common::mqtt as client;

mod connack;
mod connect;
mod disconnect;
mod flow;
mod harness;
mod malformed;
mod publish;
mod qos1;
mod qos2;
mod retain;
mod session;
mod shared;
mod strings;
mod subscribe;
mod topics;
mod will;
