//! What clients speak: each frontend translates between its protocol and the broker's handle, and keeps nothing.

pub mod http;
pub mod mqtt;
pub mod tls;
