//! The broker core.

pub mod account;
pub mod label;
pub mod login;
pub mod rows;
