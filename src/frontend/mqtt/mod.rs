//! MQTT 3.1, 3.1.1 and 5.0 on the wire.
//!
//! Bytes become packets in three steps: [`frame`] cuts exactly one frame, [`rules`] or [`fast`] hold it against the
//! specification, and only what passed is decoded: PUBLISH, the acknowledgements and PINGREQ in place by [`fast`],
//! everything else by ntex-mqtt's codec behind [`v3`] and [`v5`]. [`packet::next`] is all of it in one call; [`input`] and
//! [`output`] lend it and the encoders their buffers.
//!
//! **Invariants**
//! - ntex-mqtt types do not leave this folder.
//! - The codec never sees bytes that [`rules`] has not accepted, and never more or less than one frame.

pub mod alias;
pub mod fast;
pub mod frame;
pub mod input;
pub mod output;
pub mod packet;
pub mod property;
pub mod reason;
pub mod rules;
pub mod v3;
pub mod v5;

#[cfg(test)]
mod corpus;
#[cfg(test)]
mod oracle;
