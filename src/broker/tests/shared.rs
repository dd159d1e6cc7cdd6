//! Share groups: each message to one member.

use super::*;

/// Messages of the test on several threads.
const COUNT: usize = 10_000;
const FILTER: &str = "$share/g/t/#";

async fn member(world: &World, name: &str) -> Client {
    let mut member = world.connect(name).await;
    member.subscribe(FILTER, QOS2).await;
    member.quiet().await;
    member
}

async fn all(members: &mut [&mut Client]) -> Vec<Got> {
    let mut got = Vec::new();
    for _ in 0..3 {
        for member in members.iter_mut() {
            member.quiet().await;
            got.extend(member.got.drain(..));
        }
    }
    got
}

fn numbers(got: &[Got]) -> Vec<usize> {
    let mut numbers: Vec<_> = got.iter().map(|got| got.text.parse().unwrap()).collect();
    numbers.sort_unstable();
    numbers
}

/// v5 4.8.2; QoS 0 messages included.
#[tokio::test]
async fn each_message_goes_to_one_member_and_none_is_lost() {
    let world = World::new().await;
    let mut one = member(&world, "one").await;
    let mut two = member(&world, "two").await;
    let mut publisher = world.connect("p").await;
    for at in 0..300 {
        let qos = [QOS0, QOS1, QOS2][at % 3];
        publisher.publish(&format!("t/{}", at % 4), qos, &at.to_string()).await;
    }
    let got = all(&mut [&mut one, &mut two]).await;
    assert_eq!(numbers(&got), (0..300).collect::<Vec<_>>());
}

#[tokio::test]
async fn early_messages_reach_the_group_with_their_durable_batch() {
    let world = World::new().await;
    let mut one = member(&world, "one").await;
    let mut publisher = world.connect("p").await;
    publisher.publish("t/1", QOS1, "0").await;
    one.receive(1).await;
    world.store.hold();
    publisher.send("t/1", &message(QOS0, b"1"));
    publisher.send("t/1", &message(QOS1, b"2"));
    world.store.release();
    assert_eq!(one.texts(2).await, ["1", "2"]);
}

/// v5 [MQTT-4.8.2-4], [MQTT-4.8.2-5]
#[tokio::test]
async fn qos_1_goes_back_before_newer_ones_and_qos_2_stays_when_a_member_leaves() {
    let world = World::new().await;
    let mut one = member(&world, "one").await;
    one.acks = false;
    let mut publisher = world.connect("p").await;
    publisher.publish("t", QOS1, "0").await;
    publisher.publish("t", QOS2, "1").await;
    publisher.publish("t", QOS1, "2").await;
    let got = one.receive(3).await;
    one.lost();
    let mut two = member(&world, "two").await;
    publisher.publish("t", QOS1, "3").await;
    assert_eq!(two.texts(3).await, ["0", "2", "3"]);
    let mut one = world.connect("one").await;
    let again = one.receive(1).await;
    assert_eq!(
        (again[0].text.as_str(), again[0].id, again[0].dup),
        ("1", got[1].id, true)
    );
    two.receive(0).await;
}

#[tokio::test]
async fn a_qos_2_message_of_a_member_that_ends_is_given_to_nobody_else() {
    let world = World::new().await;
    let mut one = member(&world, "one").await;
    one.acks = false;
    let mut two = member(&world, "two").await;
    two.acks = false;
    let mut publisher = world.connect("p").await;
    publisher.publish("t", QOS2, "0").await;
    publisher.publish("t", QOS1, "1").await;
    let got = all(&mut [&mut one, &mut two]).await;
    assert_eq!(got.len(), 2);
    for name in ["one", "two"] {
        world.broker.delete_session(name, true, &caller()).await.unwrap();
        if name == "one" {
            two = member(&world, "three").await;
        }
    }
    assert!(numbers(&all(&mut [&mut two]).await).iter().all(|at| *at == 1));
}

#[tokio::test]
async fn messages_wait_for_the_group_while_all_members_are_absent() {
    let mut world = World::new().await;
    let one = member(&world, "one").await;
    one.disconnect();
    let mut publisher = world.connect("p").await;
    for at in 0..100 {
        publisher.publish(&format!("other/{at}"), QOS1, "x").await;
        publisher.publish("t", QOS1, &at.to_string()).await;
    }
    world.crash().await;
    let mut one = world.connect("one").await;
    let got = one.receive(100).await;
    let texts: Vec<_> = got.iter().map(|got| got.text.parse::<usize>().unwrap()).collect();
    assert_eq!(texts, (0..100).collect::<Vec<_>>());
    one.disconnect();
    world.stop_and_start().await;
    let mut one = world.connect("one").await;
    one.receive(0).await;
}

/// QoS 2 stays exactly once across a crash; what of QoS 1 was acknowledged is not given out again without bound.
#[tokio::test]
async fn after_a_crash_qos_1_in_flight_is_the_groups_again_and_qos_2_its_members() {
    let mut world = World::new().await;
    let mut one = member(&world, "one").await;
    one.acks = false;
    let mut publisher = world.connect("p").await;
    publisher.publish("t", QOS1, "0").await;
    publisher.publish("t", QOS2, "1").await;
    let got = one.receive(2).await;
    world.crash().await;
    let mut two = member(&world, "two").await;
    assert_eq!(two.texts(1).await, ["0"]);
    let mut one = world.connect("one").await;
    let again = one.receive(1).await;
    assert_eq!((again[0].text.as_str(), again[0].id), ("1", got[1].id));
}

/// Nobody's full window keeps a message from who has room.
#[tokio::test]
async fn a_member_without_room_passes_the_message_on() {
    let world = World::new().await;
    let narrow = |name| Connect {
        receive_maximum: 1,
        ..connect(name)
    };
    let mut members = Vec::new();
    for name in ["one", "two", "three"] {
        let (mut member, _) = world.connect_with(narrow(name)).await;
        member.subscribe(FILTER, QOS1).await;
        member.acks = false;
        member.quiet().await;
        members.push(member);
    }
    let absent = member(&world, "absent").await;
    absent.disconnect();
    let mut publisher = world.connect("p").await;
    let mut texts = Vec::new();
    for at in 0..3 {
        publisher.publish("t", QOS1, &at.to_string()).await;
        world.settled().await;
        // Only who is woken looks.
        let mut idle = 0;
        while idle < 10 {
            idle += 1;
            for member in &mut members {
                let signal = Arc::clone(member.connection.signal());
                let woken = tokio::time::timeout(Duration::from_millis(1), signal.woken())
                    .await
                    .is_ok();
                if woken {
                    idle = 0;
                    while member.pump().await {}
                }
            }
        }
        texts.extend(
            members
                .iter_mut()
                .flat_map(|member| member.got.drain(..))
                .map(|got| got.text),
        );
    }
    texts.sort();
    assert_eq!(texts, ["0", "1", "2"]);
}

#[tokio::test]
async fn an_api_member_takes_what_it_asks_for_and_the_others_get_the_rest() {
    let world = World::new().await;
    world.api_session("api").await;
    world.api_subscribe("api", FILTER).await;
    let mut publisher = world.connect("p").await;
    for at in 0..10 {
        publisher.publish("t", QOS1, &at.to_string()).await;
    }
    let fetched = world.fetch("api", 4).await;
    assert_eq!(texts(&fetched), ["0", "1", "2", "3"]);
    let mut one = member(&world, "one").await;
    assert_eq!(numbers(&one.receive(6).await), (4..10).collect::<Vec<_>>());
    assert!(world.fetch("api", 10).await.messages.is_empty());
}

#[tokio::test]
async fn a_group_ends_with_its_last_member_and_begins_anew_at_the_end() {
    let world = World::new().await;
    let mut one = member(&world, "one").await;
    one.unsubscribe(FILTER).await;
    let mut publisher = world.connect("p").await;
    publisher.publish("t", QOS1, "old").await;
    one.subscribe(FILTER, QOS1).await;
    publisher.publish("t", QOS1, "new").await;
    assert_eq!(one.texts(1).await, ["new"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn members_on_several_threads_share_everything_without_loss_or_double() {
    let world = Arc::new(World::new().await);
    let mut tasks = Vec::new();
    let (done, _) = tokio::sync::watch::channel(0_usize);
    let done = Arc::new(done);
    for number in 0..5 {
        let mut member = member(&world, &format!("m{number}")).await;
        let done = Arc::clone(&done);
        tasks.push(tokio::spawn(async move {
            let mut watch = done.subscribe();
            let mut got = Vec::new();
            loop {
                while member.pump().await {}
                let new = member.got.len();
                got.extend(member.got.drain(..));
                done.send_modify(|all| *all += new);
                if *watch.borrow_and_update() >= COUNT {
                    return got;
                }
                let signal = Arc::clone(member.connection.signal());
                tokio::select! {
                    () = signal.woken() => {}
                    _ = watch.changed() => {}
                    () = tokio::time::sleep(PATIENCE) => panic!("a message is stuck at {}", *done.borrow()),
                }
            }
        }));
    }
    for number in 0..2 {
        let mut publisher = world.connect(&format!("p{number}")).await;
        tasks.push(tokio::spawn(async move {
            for at in 0..COUNT / 2 {
                let text = (number * COUNT / 2 + at).to_string();
                publisher.send(
                    &format!("t/{}", at % 3),
                    &message([QOS0, QOS1][at % 2], text.as_bytes()),
                );
                if at % 50 == 0 {
                    tokio::task::yield_now().await;
                }
            }
            while publisher.connection.waiting_replies() > 0 {
                publisher
                    .until("acknowledgements", |client| client.connection.waiting_replies() == 0)
                    .await;
            }
            Vec::new()
        }));
    }
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.unwrap());
    }
    assert_eq!(numbers(&all), (0..COUNT).collect::<Vec<_>>());
}

fn manual(name: &str, messages_max: usize) -> Fetch {
    Fetch {
        manual: Some(Duration::from_secs(60)),
        ..fetch(name, messages_max)
    }
}

/// spec/semantics.md 6
#[tokio::test]
async fn a_leased_batch_comes_again_and_returns_to_the_group_when_nobody_acknowledges() {
    let mut world = World::new().await;
    world.api_session("one").await;
    world.api_session("two").await;
    world.api_subscribe("one", FILTER).await;
    world.api_subscribe("two", FILTER).await;
    let mut publisher = world.connect("p").await;
    for at in 0..4 {
        publisher.publish("t", QOS1, &at.to_string()).await;
    }
    let first = world.broker.fetch(&manual("one", 2), &caller()).await.unwrap();
    assert_eq!(texts(&first), ["0", "1"]);
    let again = world.broker.fetch(&manual("one", 2), &caller()).await.unwrap();
    assert_eq!(texts(&again), ["0", "1"]);
    assert!(again.messages.iter().all(|message| message.redelivered));
    assert_eq!(
        texts(&world.fetch("two", 1).await),
        ["2"],
        "what is leased is nobody else's"
    );
    world.advance(Duration::from_secs(61)).await;
    assert_eq!(texts(&world.fetch("two", 1).await), ["0"], "the lease has ended");
    // Late, the token still acknowledges what nobody has taken since: 1, not 0.
    let late = Fetch {
        acknowledge_token: again.acknowledge_token.clone(),
        ..fetch("one", 10)
    };
    let rest = world.broker.fetch(&late, &caller()).await.unwrap();
    assert_eq!(texts(&rest), ["3"]);
    world.crash().await;
    assert!(world.fetch("two", 10).await.messages.is_empty());
}

/// spec/semantics.md 6
#[tokio::test]
async fn a_token_acknowledges_a_leased_batch_for_good_and_a_crash_returns_what_is_leased() {
    let mut world = World::new().await;
    world.api_session("one").await;
    world.api_subscribe("one", FILTER).await;
    let mut publisher = world.connect("p").await;
    for at in 0..3 {
        publisher.publish("t", QOS1, &at.to_string()).await;
    }
    let first = world.broker.fetch(&manual("one", 2), &caller()).await.unwrap();
    let next = Fetch {
        acknowledge_token: first.acknowledge_token.clone(),
        ..manual("one", 2)
    };
    assert_eq!(texts(&world.broker.fetch(&next, &caller()).await.unwrap()), ["2"]);
    world.crash().await;
    assert_eq!(texts(&world.fetch("one", 10).await), ["2"]);
    world.crash().await;
    assert!(world.fetch("one", 10).await.messages.is_empty());
}

/// spec/messages.md 6.1
#[tokio::test]
async fn a_retrieval_of_one_topic_takes_from_its_groups_that_topic_alone() {
    let mut world = World::new().await;
    world.api_session("one").await;
    world.api_subscribe("one", "$share/g/+").await;
    let mut publisher = world.connect("p").await;
    for at in 0..6 {
        publisher.publish(["a", "b"][at % 2], QOS1, &at.to_string()).await;
    }
    let of_b = Fetch {
        topic: Some("b".into()),
        ..fetch("one", 2)
    };
    assert_eq!(texts(&world.broker.fetch(&of_b, &caller()).await.unwrap()), ["1", "3"]);
    world.crash().await;
    let mut rest = texts(&world.fetch("one", 10).await);
    rest.sort();
    assert_eq!(rest, ["0", "2", "4", "5"]);
    assert!(world.fetch("one", 10).await.messages.is_empty());
}
