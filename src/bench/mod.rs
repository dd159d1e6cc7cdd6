//! `evermq bench`: measures any MQTT broker, and the disk and the bare log as controls. It is a client like any other:
//! nothing here knows the broker's inside.
//!
//! It is to cost well below what it measures: packets are built from heads made once, a connection is read and written
//! once a round with as many packets as there are, and nothing is allocated for a message.
//!
//! Latencies count from when a message was *due*. Without a rate that is when the window let it go; with one it is the
//! time it should have been sent at, so a broker that stalls is not spared the messages it kept from being sent.

pub mod args;
mod disk;
mod histogram;
mod link;
mod load;
mod log;
mod plan;
mod process;
mod report;
mod stamp;
mod wire;
mod worker;

use self::args::{BenchArgs, What};

/// Measures, and prints what was found.
///
/// # Errors
/// The reason why it could not be measured, for people.
pub fn run(args: &BenchArgs) -> Result<(), String> {
    match &args.what {
        What::Live(load) => report::load(&load::run("live", load)?, load.json),
        What::FanOut(load) => report::load(&load::run("fan-out", load)?, load.json),
        What::FanIn(load) => report::load(&load::run("fan-in", load)?, load.json),
        What::Publish(load) => report::load(&load::run("publish", load)?, load.json),
        What::Disk(disk) => report::disk(&disk::run(disk)?, disk.json),
        What::Log(log) => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .build()
                .map_err(|error| format!("cannot start: {error}"))?;
            report::log(&log::run(log, &runtime)?, log.json)
        }
    }
}
