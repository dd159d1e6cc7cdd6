//! EverMQ: a persistent, storage-centric message broker.
//!
//! ```text
//!   main -> server -> { frontend::mqtt, frontend::http } -> broker -> store
//!                          config, clock: leaves anyone may use
//! ```
//!
//! The arrow is also a list of things each part does not know. The [`store`] speaks of logs, offsets, tables and keys;
//! it has never heard of MQTT, HTTP, topics or sessions. The [`broker`] speaks of topics, sessions, subscriptions and
//! positions; it sees no packets, no JSON, no files. The [`frontend`]s translate and keep nothing: whatever a client
//! was promised is in the store before the promise is given.
//!
//! Read in this order: [`store`] (the seam), [`store::local`] (how it lies on disk), [`broker`], [`frontend`],
//! [`server`].

pub mod store;

pub mod broker;

pub mod frontend;

pub mod config;
pub mod server;

pub mod bench;

pub mod clock;

#[cfg(any(test, feature = "testing"))]
pub mod fuzzing;
