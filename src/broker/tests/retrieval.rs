//! MQ API sessions: retrieval, and their life.

use super::*;
use crate::broker::SessionChange;
use crate::broker::error::SessionRefused;
use crate::broker::session::SessionStatus;

async fn published(world: &World, count: usize) -> Client {
    let mut publisher = world.connect("p").await;
    for at in 0..count {
        let qos = [QOS0, QOS1][at % 2];
        publisher.publish(&format!("t/{}", at % 3), qos, &at.to_string()).await;
    }
    publisher
}

#[tokio::test]
async fn pages_across_topics_are_in_order_and_disjoint_and_survive_a_crash() {
    let mut world = World::new().await;
    world.api_session("api").await;
    world.api_subscribe("api", "t/#").await;
    published(&world, 100).await;
    let mut all = Vec::new();
    for page in 0..10 {
        if page == 5 {
            world.crash().await;
        }
        let fetched = world.fetch("api", 10).await;
        assert_eq!(fetched.more, page < 9);
        all.extend(texts(&fetched));
    }
    assert_eq!(all, (0..100).map(|at| at.to_string()).collect::<Vec<_>>());
    assert!(world.fetch("api", 10).await.messages.is_empty());
}

#[tokio::test]
async fn a_retrieval_of_one_topic_runs_ahead_and_the_others_stay() {
    let mut world = World::new().await;
    world.api_session("api").await;
    world.api_subscribe("api", "t/#").await;
    published(&world, 9).await;
    let one = Fetch {
        topic: Some("t/1".into()),
        ..fetch("api", 2)
    };
    let fetched = world.broker.fetch(&one, &caller()).await.unwrap();
    assert_eq!(texts(&fetched), ["1", "4"]);
    world.crash().await;
    assert_eq!(
        texts(&world.fetch("api", 100).await),
        ["0", "2", "3", "5", "6", "7", "8"]
    );
    let other = Fetch {
        topic: Some("not/subscribed".into()),
        ..fetch("api", 2)
    };
    assert!(matches!(
        world.broker.fetch(&other, &caller()).await,
        Err(SessionRefused::NotSubscribed(_))
    ));
}

#[tokio::test]
async fn retained_messages_come_first_also_when_only_one_topic_is_asked_for() {
    let world = World::new().await;
    let mut publisher = world.connect("p").await;
    for topic in ["a", "b", "c"] {
        let retained = Publish {
            retain: true,
            ..message(QOS1, topic.as_bytes())
        };
        publisher.publish_message(topic, &retained).await;
    }
    world.api_session("api").await;
    world.api_subscribe("api", "+").await;
    publisher.publish("a", QOS1, "live").await;
    let fetched = world.fetch("api", 100).await;
    assert_eq!(texts(&fetched), ["a", "b", "c", "live"]);
    assert!(fetched.messages[0].retained && !fetched.messages[3].retained);
}

#[tokio::test]
async fn a_waiting_call_returns_with_the_first_message_whatever_its_class() {
    let world = Arc::new(World::new().await);
    world.api_session("api").await;
    world.api_subscribe("api", "t").await;
    let mut publisher = world.connect("p").await;
    for qos in [QOS0, QOS1] {
        let waits = tokio::spawn({
            let world = Arc::clone(&world);
            async move {
                let wait = Fetch {
                    wait: Duration::from_secs(100),
                    ..fetch("api", 10)
                };
                world.broker.fetch(&wait, &caller()).await
            }
        });
        while world
            .broker
            .0
            .sessions
            .get("api")
            .unwrap()
            .state
            .lock()
            .waiting
            .is_empty()
        {
            tokio::task::yield_now().await;
        }
        world.store.hold();
        publisher.send("t", &message(qos, b"x"));
        tokio::task::yield_now().await;
        world.store.release();
        let fetched = tokio::time::timeout(PATIENCE, waits).await.unwrap().unwrap().unwrap();
        assert_eq!(texts(&fetched), ["x"]);
    }
}

#[tokio::test]
async fn several_waiting_calls_are_served_one_after_the_other() {
    let world = Arc::new(World::new().await);
    world.api_session("api").await;
    world.api_subscribe("api", "t").await;
    let mut publisher = world.connect("p").await;
    let mut tasks = Vec::new();
    for number in 0..3 {
        tasks.push(tokio::spawn({
            let world = Arc::clone(&world);
            async move {
                let wait = Fetch {
                    wait: Duration::from_secs(100),
                    ..fetch("api", 1)
                };
                texts(&world.broker.fetch(&wait, &caller()).await.unwrap())
            }
        }));
        while world.broker.0.sessions.get("api").unwrap().state.lock().waiting.len() <= number {
            tokio::task::yield_now().await;
        }
    }
    for at in 0..3 {
        publisher.publish("t", QOS1, &at.to_string()).await;
    }
    let mut all = Vec::new();
    for task in tasks {
        all.extend(tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap());
    }
    all.sort();
    assert_eq!(all, ["0", "1", "2"]);
}

/// confluentinc/kafka-rest#582.
#[tokio::test]
async fn a_caller_that_vanishes_while_it_waits_takes_nothing() {
    let world = World::new().await;
    world.api_session("api").await;
    world.api_subscribe("api", "t").await;
    let mut publisher = world.connect("p").await;
    {
        let wait = Fetch {
            wait: Duration::from_secs(100),
            ..fetch("api", 10)
        };
        let caller = caller();
        let waits = world.broker.fetch(&wait, &caller);
        tokio::select! {
            _ = waits => panic!("there is nothing"),
            () = async { for _ in 0..50 { tokio::task::yield_now().await } } => {}
        }
    }
    publisher.publish("t", QOS1, "x").await;
    assert_eq!(texts(&world.fetch("api", 10).await), ["x"]);
}

#[tokio::test]
async fn a_session_that_is_deleted_or_banned_answers_its_waiting_call_at_once() {
    for banned in [false, true] {
        let world = Arc::new(World::new().await);
        world.api_session("api").await;
        let waits = tokio::spawn({
            let world = Arc::clone(&world);
            async move {
                let wait = Fetch {
                    wait: Duration::from_secs(100),
                    ..fetch("api", 10)
                };
                world.broker.fetch(&wait, &caller()).await
            }
        });
        while world
            .broker
            .0
            .sessions
            .get("api")
            .unwrap()
            .state
            .lock()
            .waiting
            .is_empty()
        {
            tokio::task::yield_now().await;
        }
        if banned {
            let ban = SessionChange {
                status: Some(SessionStatus::Banned),
                ..SessionChange::default()
            };
            world.broker.alter_session("api", ban, &caller()).await.unwrap();
        } else {
            world.broker.delete_session("api", true, &caller()).await.unwrap();
        }
        let answer = tokio::time::timeout(PATIENCE, waits).await.unwrap().unwrap();
        match answer {
            Err(SessionRefused::Banned(_)) => assert!(banned),
            Err(SessionRefused::Unknown(_)) => assert!(!banned),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_manual_retrieval_comes_again_until_its_token_is_passed() {
    let mut world = World::new().await;
    world.api_session("api").await;
    world.api_subscribe("api", "t/#").await;
    published(&world, 6).await;
    let manual = Fetch {
        manual: Some(Duration::from_secs(60)),
        ..fetch("api", 4)
    };
    let first = world.broker.fetch(&manual, &caller()).await.unwrap();
    assert!(first.messages.iter().all(|message| !message.redelivered));
    let again = world.broker.fetch(&manual, &caller()).await.unwrap();
    assert_eq!(texts(&again), ["0", "1", "2", "3"]);
    assert!(again.messages.iter().all(|message| message.redelivered));
    world.crash().await;
    let mut publisher = world.connect("p").await;
    publisher.publish("t/0", QOS1, "6").await;
    let with_token = Fetch {
        acknowledge_token: first.acknowledge_token.clone(),
        ..manual.clone()
    };
    for _ in 0..2 {
        let next = world.broker.fetch(&with_token, &caller()).await.unwrap();
        assert_eq!(texts(&next), ["4", "5", "6"]);
    }
    let invented = Fetch {
        acknowledge_token: Some("AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".into()),
        ..manual
    };
    assert_eq!(
        world.broker.fetch(&invented, &caller()).await.unwrap().messages.len(),
        3
    );
}

#[tokio::test]
async fn a_permanent_session_keeps_what_waits_across_an_alteration_and_a_snapshot() {
    let mut world = World::new().await;
    world.api_session("api").await;
    world.api_subscribe("api", "t").await;
    let mut publisher = world.connect("p").await;
    publisher.publish("t", QOS1, "x").await;
    let change = SessionChange {
        metadata: Some("{\"a\":1}".into()),
        ..SessionChange::default()
    };
    world.broker.alter_session("api", change, &caller()).await.unwrap();
    world.settled().await;
    world.store.snapshot();
    world.crash().await;
    assert_eq!(texts(&world.fetch("api", 10).await), ["x"]);
}

#[tokio::test]
async fn a_session_altered_to_temporary_keeps_its_filters_and_ends_with_the_server() {
    let mut world = World::new().await;
    world.api_session("api").await;
    world.api_subscribe("api", "t").await;
    let change = |temporary| SessionChange {
        temporary: Some(temporary),
        ..SessionChange::default()
    };
    let mut publisher = world.connect("p").await;
    publisher.publish("t", QOS1, "a").await;
    let view = world
        .broker
        .alter_session("api", change(true), &caller())
        .await
        .unwrap();
    assert!(view.settings.temporary);
    publisher.publish("t", QOS1, "b").await;
    world
        .broker
        .alter_session("api", change(false), &caller())
        .await
        .unwrap();
    world.crash().await;
    publisher = world.connect("p").await;
    publisher.publish("t", QOS1, "c").await;
    assert_eq!(texts(&world.fetch("api", 10).await), ["a", "b", "c"]);
    world
        .broker
        .alter_session("api", change(true), &caller())
        .await
        .unwrap();
    world.crash().await;
    assert!(matches!(
        world.broker.fetch(&fetch("api", 1), &caller()).await,
        Err(SessionRefused::Unknown(_))
    ));
}

#[tokio::test]
async fn an_inactive_session_is_woken_by_a_message_action_and_has_missed_nothing() {
    let world = World::new().await;
    world.api_session("api").await;
    world.api_subscribe("api", "t").await;
    world.broker.delete_session("api", false, &caller()).await.unwrap();
    let mut publisher = world.connect("p").await;
    publisher.publish("t", QOS1, "x").await;
    let view = world.broker.describe_session("api", &caller()).unwrap();
    assert_eq!(view.settings.status, SessionStatus::Inactive);
    assert_eq!(texts(&world.fetch("api", 10).await), ["x"]);
    let view = world.broker.describe_session("api", &caller()).unwrap();
    assert_eq!(view.settings.status, SessionStatus::Normal);
}

#[tokio::test]
async fn a_temporary_session_without_activity_ends_after_keep_alive_and_expiry() {
    let world = World::new().await;
    let settings = SessionSettings {
        temporary: true,
        clean_session: true,
        keep_alive_seconds: 10,
        session_expiry_seconds: 20,
        ..SessionSettings::default()
    };
    world.api_session_with("api", settings).await;
    world.advance(Duration::from_secs(14)).await;
    world.fetch("api", 1).await;
    world.advance(Duration::from_secs(16)).await;
    assert!(world.broker.describe_session("api", &caller()).is_ok());
    world.advance(Duration::from_secs(20)).await;
    assert!(world.broker.describe_session("api", &caller()).is_err());
}

/// spec/messages.md 6.2 (7), spec/semantics.md 4
#[tokio::test]
async fn what_is_retained_comes_once_also_when_its_topic_was_asked_for_first_and_the_server_crashed() {
    let mut world = World::new().await;
    let mut publisher = world.connect("p").await;
    for topic in ["r/a", "r/b"] {
        let retained = Publish {
            retain: true,
            ..message(QOS1, topic.as_bytes())
        };
        publisher.publish_message(topic, &retained).await;
    }
    world.api_session("api").await;
    world.api_subscribe("api", "r/+").await;
    publisher.publish("r/b", QOS1, "live").await;
    let one = Fetch {
        topic: Some("r/b".into()),
        ..fetch("api", 10)
    };
    let fetched = world.broker.fetch(&one, &caller()).await.unwrap();
    assert_eq!(texts(&fetched), ["r/b", "live"]);
    assert_eq!(
        fetched.messages.iter().map(|one| one.retained).collect::<Vec<_>>(),
        [true, false]
    );
    world.crash().await;
    assert_eq!(texts(&world.fetch("api", 10).await), ["r/a"]);
    assert!(world.fetch("api", 10).await.messages.is_empty());
}

/// spec/semantics.md 6: a filter verbatim selects that filter alone.
#[tokio::test]
async fn a_filter_verbatim_brings_what_it_alone_covers() {
    let world = World::new().await;
    world.api_session("api").await;
    world.api_subscribe("api", "t/+").await;
    let identified = SubscriptionOptions {
        identifier: Some(7),
        ..options(QOS2)
    };
    let add = crate::broker::SubscribeAction::Add(TopicFilter::parse("t/#").unwrap(), identified);
    world.broker.subscribe("api", vec![add], &caller()).await.unwrap();
    let mut publisher = world.connect("p").await;
    publisher.publish("t/x", QOS1, "x").await;
    let one = Fetch {
        topic: Some("t/+".into()),
        ..fetch("api", 10)
    };
    let fetched = world.broker.fetch(&one, &caller()).await.unwrap();
    assert_eq!(texts(&fetched), ["x"]);
    assert!(fetched.messages[0].subscription_ids.is_empty());
}
