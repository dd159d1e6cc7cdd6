//! One message stays unacknowledged while thousands of later ones are acknowledged in any order.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::Phase;
use crate::mqtt::Level;
use crate::program::Site;
use crate::publisher::{self, Publisher};
use crate::random::Random;
use crate::subscriber::{self, Subscriber};
use crate::world::{join, wait_for};

const LATER: usize = 10_000;

/// The subscriber acknowledges 10,000 messages of both `QoS` in a random order, but never the first. After the crash it
/// gets that one again, with DUP, and besides at most the last hundred or those of the last second; none of `QoS` 2.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_unacknowledged_message_does_not_bring_back_the_ten_thousand_after_it() {
    let seed = Random::seed();
    println!("EVERMQ_CRASH_SEED={seed}");
    let mut random = Random::new(seed);
    let site = Site::new();
    let program = site.start();
    let mut held_back = Subscriber::new("held-back", Level::V5, &[("case/#", 2)]);
    held_back.keeps = Some("c1|1|1|".to_owned());
    let subscriber = Arc::new(Mutex::new(held_back));
    let (phase, watched) = watch::channel(Phase::Load);
    let mut everybody = JoinSet::new();
    let it = Arc::clone(&subscriber);
    everybody.spawn(subscriber::run(it, program.mqtt, watched.clone(), random.fork()));
    wait_for("SUBACK", || {
        subscriber::unsubscribed(&[Arc::clone(&subscriber)])
            .into_iter()
            .collect()
    })
    .await;
    let publishers: Vec<_> = [1, 1, 2, 2]
        .iter()
        .zip(["c1", "c2", "c3", "c4"])
        .map(|(qos, name)| {
            let mut publisher = Publisher::new(name, Level::V311, *qos, &["case/1", "case/2"]);
            publisher.hurries = true;
            Arc::new(Mutex::new(publisher))
        })
        .collect();
    for publisher in &publishers {
        let publisher = Arc::clone(publisher);
        everybody.spawn(publisher::run(publisher, program.mqtt, watched.clone(), random.fork()));
    }
    wait_for("ten thousand messages", || {
        let missing = LATER.saturating_sub(subscriber.lock().count());
        if missing == 0 {
            String::new()
        } else {
            missing.to_string()
        }
    })
    .await;
    // Publishers end; the subscriber answers what it has left.
    phase.send_replace(Phase::Drain);
    wait_for("the last acknowledgements", || {
        let open = publishers
            .iter()
            .filter(|publisher| !publisher.lock().is_idle())
            .count();
        if open == 0 { String::new() } else { open.to_string() }
    })
    .await;
    let killed = std::time::Instant::now();
    program.kill();
    join(everybody).await;
    let count = {
        let mut subscriber = subscriber.lock();
        subscriber.killed(killed);
        subscriber.keeps = None;
        subscriber.count()
    };
    assert_eq!(subscriber.lock().repeats, 0);

    let program = site.start();
    let mut everybody = JoinSet::new();
    let it = Arc::clone(&subscriber);
    everybody.spawn(subscriber::run(it, program.mqtt, watched, random.fork()));
    wait_for("the first message", || {
        let first = subscriber
            .lock()
            .came_again
            .iter()
            .any(|payload| payload.starts_with("c1|1|1|"));
        if first { String::new() } else { "it".to_owned() }
    })
    .await;
    // Nothing says that there is no more; whatever came too late would be a missed failure, not a wrong one.
    tokio::time::sleep(Duration::from_secs(1)).await;
    phase.send_replace(Phase::Quit);
    join(everybody).await;
    let subscriber = subscriber.lock();
    println!("{} of {count} came again", subscriber.repeats);
    assert_eq!(subscriber.repeats_without_dup, 0);
    assert!(program.stop().success());
}
