//! The frontends: what clients speak, translated to the broker and back.

pub mod http;
