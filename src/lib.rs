//! EverMQ: a persistent, storage-centric message broker.

pub mod broker;
pub mod clock;
pub mod frontend;
pub mod store;
