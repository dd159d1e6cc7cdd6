//! The frontends: stateless views of the broker for one protocol each. They translate; what was promised to a client
//! is kept by the broker.

pub mod http;
pub mod mqtt;
