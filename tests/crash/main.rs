//! The program is killed again and again under load, and what was promised is looked for after each start.
//!
//! The story of a round: publishers with QoS 1 and QoS 2 send what they have, with several messages under way, and send
//! again after the last crash what was not acknowledged; subscribers with QoS 1 and QoS 2 take what comes, one of them
//! slowly, one of them only now and then; programs publish and fetch over HTTP; clients with wills wait. At some moment the program dies by SIGKILL, sometimes already while it starts,
//! sometimes it may stop in order. Then the history of every topic must have each acknowledged message where it was.
//!
//! `EVERMQ_CRASH_SEED` repeats a run, `EVERMQ_CRASH_ROUNDS` sets its length.

#![allow(clippy::indexing_slicing, reason = "a missing part is a failed test")]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the seed and what was found are for the person who reads the failure"
)]

#[path = "../common/http.rs"]
mod http;
#[path = "../common/mqtt.rs"]
mod mqtt;

mod api;
mod history;
mod payload;
mod program;
mod publisher;
mod random;
mod subscriber;
mod unacknowledged;
mod wills;
mod world;

use std::time::{Duration, Instant};

use crate::mqtt::Received;
use crate::program::Site;
use crate::random::Random;
use crate::world::World;

/// What everybody does at the moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// Publish and receive.
    Load,
    /// Nothing new is published.
    Drain,
    /// What is not idle ends when it is.
    Quit,
}

/// What a server says that stops in order.
pub(crate) const SHUTTING_DOWN: Received = Received::Disconnect(0x8B);

/// Rounds without a wish.
const ROUNDS: u64 = 50;
/// On a machine that is too busy for them there are as many as fit into this time.
const RUN_MAX: Duration = Duration::from_secs(200);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_every_kill() {
    let seed = Random::seed();
    let wish = std::env::var("EVERMQ_CRASH_ROUNDS").ok();
    let wish = wish.map(|text| text.parse::<u64>().expect("EVERMQ_CRASH_ROUNDS is a number"));
    println!("EVERMQ_CRASH_SEED={seed}");
    let site = Site::new();
    let mut random = Random::new(seed);
    let mut world = World::new(random.fork());
    let begin = Instant::now();
    for round in 1..=wish.unwrap_or(ROUNDS) {
        if random.one_in(6) {
            site.start_and_kill(Duration::from_millis(random.between(0, 400)));
        }
        let program = site.start();
        println!(
            "round {round} at {:.1} s: {}",
            begin.elapsed().as_secs_f32(),
            program.greeting.trim()
        );
        world.look(&program, round % 10 == 0).await;
        let load_max = if random.one_in(8) { 2_500 } else { 600 };
        let load = Duration::from_millis(random.between(50, load_max));
        world.load(program, load, round).await;
        if wish.is_none() && begin.elapsed() > RUN_MAX {
            println!("the machine is busy: {round} rounds are all there are");
            break;
        }
    }
    let program = site.start();
    world.look(&program, true).await;
    world.settle(&program).await;
    world.report();
    assert!(program.stop().success());
}
