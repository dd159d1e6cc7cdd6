//! `evermq bench`: measures any MQTT broker, and the disk and the bare log as controls. It is a client like any other:
//! nothing here knows the broker's inside.
//!
//! It is to cost well below what it measures: packets are built from heads made once, a connection is read and written
//! once a round with as many packets as there are, and nothing is allocated for a message.
//!
//! Latencies count from when a message was *due*. Without a rate that is when the window let it go; with one it is the
//! time it should have been sent at, so a broker that stalls is not spared the messages it kept from being sent.

pub mod args;
mod connections;
mod crew;
mod disk;
mod gauge;
mod histogram;
mod http;
mod link;
mod load;
mod log;
mod offline;
mod plan;
mod poller;
mod process;
mod publisher;
mod report;
mod shared;
mod sink;
mod stamp;
mod storm;
mod watch;
mod wire;
mod worker;

use self::args::{BenchArgs, What};

/// Measures, and prints what was found.
///
/// # Errors
/// The reason why it could not be measured, for people.
pub fn run(args: &BenchArgs) -> Result<(), String> {
    match &args.what {
        What::Live(load) => report::print(&load::run("live", load)?, load.target.watch.json),
        What::FanOut(load) => report::print(&load::run("fan-out", load)?, load.target.watch.json),
        What::FanIn(load) => report::print(&load::run("fan-in", load)?, load.target.watch.json),
        What::Publish(load) => report::print(&load::run("publish", load)?, load.target.watch.json),
        What::Offline(offline) => report::print(&offline::run(offline)?, offline.target.watch.json),
        What::Connect(connect) => report::print(&connections::connect(connect)?, connect.target.watch.json),
        What::Idle(idle) => report::print(&connections::idle(idle)?, idle.target.watch.json),
        What::Http(what) => http::run(what),
        What::Sink(sink) => sink::run(sink),
        What::Disk(disk) => report::print(&disk::run(disk)?, disk.json),
        What::Log(log) => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .build()
                .map_err(|error| format!("cannot start: {error}"))?;
            report::print(&log::run(log, &runtime)?, log.json)
        }
    }
}
