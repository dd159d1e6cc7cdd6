//! Many at once: publishers at full rate, subscribers that are live, that lag and that join, on several threads.

use super::*;

const PER_PUBLISHER: usize = 15_000;
const PUBLISHERS: usize = 2;

/// Publishes `PER_PUBLISHER` messages in runs, with mixed quality of service.
async fn publish_all(mut client: Client, number: usize, classes: &'static [Qos]) {
    for run in 0..PER_PUBLISHER / 50 {
        for at in 0..50 {
            let text = format!("{number} {}", run * 50 + at);
            let qos = classes[(run + at) % classes.len()];
            let id = client.id();
            client
                .connection
                .publish("t", id, &message(qos, text.as_bytes()))
                .unwrap();
        }
        client.connection.flush();
        while client.connection.waiting_replies() > 4 {
            client
                .until("acknowledgements", |client| client.connection.waiting_replies() <= 4)
                .await;
        }
        client.replies.clear();
        tokio::task::yield_now().await;
    }
    client
        .until("acknowledgements", |client| client.connection.waiting_replies() == 0)
        .await;
}

struct Checked {
    next: Vec<usize>,
    position: u64,
}

impl Checked {
    fn check(&mut self, name: &str, got: &Got) {
        assert!(
            got.position > self.position,
            "{name}: {} behind {}",
            got.position,
            self.position
        );
        self.position = got.position;
        let (number, at) = got.text.split_once(' ').unwrap();
        let next = &mut self.next[number.parse::<usize>().unwrap()];
        assert_eq!(at.parse::<usize>().unwrap(), *next, "{name}: a gap or a duplicate");
        *next += 1;
    }
}

async fn subscribe_all(world: Arc<World>, number: usize) {
    let name = format!("s{number}");
    let mut client = world.connect(&name).await;
    let mut checked = Checked {
        next: vec![0; PUBLISHERS],
        position: 0,
    };
    let mut rounds = 0;
    while checked.next.iter().any(|next| *next < PER_PUBLISHER) {
        client.until("more", |client| !client.got.is_empty()).await;
        rounds += 1;
        while let Some(got) = client.got.pop_front() {
            checked.check(&name, &got);
        }
        match number % 4 {
            // Always there.
            0 => {}
            // Slow: takes its turns late, and lags.
            1 => {
                for _ in 0..200 {
                    tokio::task::yield_now().await;
                }
            }
            // Goes and returns, everything acknowledged; sometimes it takes its own session over.
            2 if rounds % 20 == 0 => {
                while client.pump().await {}
                while let Some(got) = client.got.pop_front() {
                    checked.check(&name, &got);
                }
                if client.staged.is_none() && client.connection.waiting_replies() == 0 {
                    if rounds % 40 == 0 {
                        let old = std::mem::replace(&mut client, world.connect(&name).await);
                        drop(old);
                    } else {
                        client.disconnect();
                        client = world.connect(&name).await;
                    }
                }
            }
            _ => {}
        }
    }
}

async fn two_publishers_and_ten_subscribers(classes: &'static [Qos]) {
    let world = Arc::new(World::new().await);
    for number in 0..10 {
        let mut client = world.connect(&format!("s{number}")).await;
        let filter = ["t", "#", "+"][number % 3];
        client.subscribe(filter, QOS1).await;
        client.disconnect();
    }
    let mut tasks = Vec::new();
    for number in 0..PUBLISHERS {
        let client = world.connect(&format!("p{number}")).await;
        tasks.push(tokio::spawn(publish_all(client, number, classes)));
    }
    for number in 0..10 {
        tasks.push(tokio::spawn(subscribe_all(Arc::clone(&world), number)));
    }
    for task in tasks {
        task.await.unwrap();
    }
}

/// Every subscriber gets every message of the topic, in the order of positions, whatever way it gets them.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_subscriber_sees_every_message_in_order_on_several_threads() {
    two_publishers_and_ten_subscribers(&[QOS1]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn mixed_classes_keep_their_order_on_several_threads() {
    two_publishers_and_ten_subscribers(&[QOS0, QOS1, QOS0, QOS0, QOS1]).await;
}

#[tokio::test]
async fn every_subscriber_sees_every_message_in_order_on_one_thread() {
    two_publishers_and_ten_subscribers(&[QOS1, QOS0]).await;
}

/// The store holds back and releases while everything runs: early messages pass, and come again marked as passed.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn early_messages_are_neither_lost_nor_doubled_while_batches_wait_for_the_disk() {
    let world = Arc::new(World::new().await);
    for number in 0..10 {
        let mut client = world.connect(&format!("s{number}")).await;
        client.subscribe(["t", "#"][number % 2], QOS1).await;
        client.disconnect();
    }
    let mut tasks = Vec::new();
    for number in 0..PUBLISHERS {
        let client = world.connect(&format!("p{number}")).await;
        tasks.push(tokio::spawn(publish_all(client, number, &[QOS0, QOS0, QOS0, QOS1])));
    }
    for number in 0..10 {
        tasks.push(tokio::spawn(subscribe_all(Arc::clone(&world), number)));
    }
    let disk = tokio::spawn({
        let store = world.store.clone();
        async move {
            loop {
                store.hold();
                for _ in 0..20 {
                    tokio::task::yield_now().await;
                }
                store.release();
                tokio::task::yield_now().await;
            }
        }
    });
    for task in tasks {
        task.await.unwrap();
    }
    disk.abort();
}
