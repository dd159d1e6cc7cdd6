//! Positions, paging, share groups, acknowledgement by token and starting points (spec/messages.md 6 to 8).

use std::time::Duration;

use serde_json::{Value, json};

use super::Bench;
use super::messages::{FETCH, HISTORY, PUBLISH, payloads, subscribe, with_subscribers};

fn hex(from: u32, to: u32) -> Vec<Value> {
    (from..=to).map(|number| json!(format!("{number:04X}"))).collect()
}

async fn publish(bench: &Bench, token: &str, topic: &str, from: u32, to: u32) -> Vec<u64> {
    let messages: Vec<Value> = hex(from, to)
        .into_iter()
        .map(|payload| json!({"payload": payload}))
        .collect();
    let params = json!({"clientName": "worker", "topic": topic, "messages": messages});
    let published = bench.act(token, PUBLISH, params).await;
    let data = published["data"].as_array().unwrap();
    data.iter().map(|message| message["id"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn pages_over_several_topics_have_everything_once_and_each_topic_in_order() {
    let (bench, token) = with_subscribers(&[("worker", "t/#"), ("other", "t/#")]).await;
    for round in 0..3 {
        for (place, topic) in ["t/a", "t/b", "t/c"].iter().enumerate() {
            let from = round * 10 + place as u32 * 100;
            publish(&bench, &token, topic, from, from + 9).await;
        }
    }
    let mut seen: Vec<(String, String)> = Vec::new();
    loop {
        let page = bench
            .act(&token, FETCH, json!({"clientName": "worker", "maxMessages": 7}))
            .await;
        let data = page["data"].as_array().unwrap();
        assert!(data.len() <= 7);
        for message in data {
            let text = |name: &str| message[name].as_str().unwrap().to_owned();
            seen.push((text("topic"), text("payload")));
        }
        if page["moreMessages"] == false {
            break;
        }
    }
    assert_eq!(seen.len(), 90);
    for (place, topic) in ["t/a", "t/b", "t/c"].iter().enumerate() {
        let of_topic = seen
            .iter()
            .filter(|(seen, _)| seen == topic)
            .map(|(_, payload)| json!(payload));
        let from = place as u32 * 100;
        assert_eq!(of_topic.collect::<Vec<_>>(), hex(from, from + 29));
    }
    let one = json!({"clientName": "other", "topic": "t/b", "maxMessages": 100});
    assert_eq!(payloads(&bench.act(&token, FETCH, one.clone()).await), hex(100, 129));
    assert!(payloads(&bench.act(&token, FETCH, one).await).is_empty());
    let rest = bench
        .act(&token, FETCH, json!({"clientName": "other", "maxMessages": 100}))
        .await;
    assert_eq!(
        rest["data"].as_array().unwrap().len(),
        60,
        "the other topics stayed where they were"
    );
}

#[tokio::test]
async fn a_topic_that_is_not_subscribed_is_refused() {
    let (bench, token) = with_subscribers(&[("worker", "t/+")]).await;
    for (topic, code) in [
        ("u", 14225),
        ("t/#", 14225),
        ("t/a/b", 14225),
        ("", 14228),
        ("t/a", 0),
        ("t/+", 0),
    ] {
        let answer = bench
            .call(json!({"action": FETCH, "authToken": token, "params": {"clientName": "worker", "topic": topic}}))
            .await;
        assert_eq!(answer["errorCode"], code, "{topic}: {answer}");
    }
}

#[tokio::test]
async fn a_first_message_on_a_new_topic_reaches_a_wildcard() {
    let (bench, token) = with_subscribers(&[("worker", "t/+/x")]).await;
    publish(&bench, &token, "t/new/x", 1, 1).await;
    let fetched = bench.act(&token, FETCH, json!({"clientName": "worker"})).await;
    assert_eq!(fetched["data"][0]["topic"], "t/new/x");
}

#[tokio::test]
async fn a_share_group_hands_each_message_to_one_member_and_the_history_keeps_all() {
    let (bench, token) = with_subscribers(&[("worker", "$share/g/t"), ("second", "$share/g/t"), ("plain", "t")]).await;
    publish(&bench, &token, "t", 1, 20).await;
    let first = bench
        .act(&token, FETCH, json!({"clientName": "worker", "maxMessages": 8}))
        .await;
    assert_eq!(first["data"].as_array().unwrap().len(), 8);
    assert_eq!(first["moreMessages"], true);
    let second = bench
        .act(&token, FETCH, json!({"clientName": "second", "topic": "$share/g/t"}))
        .await;
    let mut all = payloads(&first);
    all.extend(payloads(&second));
    assert_eq!(all, hex(1, 20));
    let plain = bench.act(&token, FETCH, json!({"clientName": "plain"})).await;
    assert_eq!(payloads(&plain), hex(1, 20));
    for topic in ["t", "$share/g/t"] {
        let history = bench
            .act(&token, HISTORY, json!({"topic": topic, "startFrom": "head"}))
            .await;
        assert_eq!(payloads(&history), hex(1, 20));
    }
}

#[tokio::test]
async fn a_batch_comes_again_until_its_token_is_passed() {
    let (bench, token) = with_subscribers(&[("worker", "t"), ("stranger", "t")]).await;
    publish(&bench, &token, "t", 1, 6).await;
    let manual = |token: Value| json!({"clientName": "worker", "maxMessages": 4, "acknowledge": "manual", "acknowledgeToken": token});
    let first = bench.act(&token, FETCH, manual(Value::Null)).await;
    assert_eq!(payloads(&first), hex(1, 4));
    assert!(first["data"][0].get("redelivered").is_none());
    let again = bench.act(&token, FETCH, manual(Value::Null)).await;
    assert_eq!(payloads(&again), hex(1, 4));
    let marks = again["data"].as_array().unwrap().iter();
    assert!(marks.clone().all(|message| message["redelivered"] == true), "{again}");
    let invented = bench.act(&token, FETCH, manual("bm9uc2Vuc2U=".into())).await;
    assert_eq!(payloads(&invented), hex(1, 4), "an invented token moves nothing");
    let theirs = json!({"clientName": "stranger", "acknowledgeToken": first["acknowledgeToken"]});
    assert_eq!(payloads(&bench.act(&token, FETCH, theirs).await), hex(1, 6));

    let rest = bench
        .act(&token, FETCH, manual(first["acknowledgeToken"].clone()))
        .await;
    assert_eq!(payloads(&rest), hex(5, 6));
    let late = bench
        .act(&token, FETCH, manual(first["acknowledgeToken"].clone()))
        .await;
    assert_eq!(payloads(&late), hex(5, 6), "an old token moves nothing back");
    let automatic = bench.act(&token, FETCH, json!({"clientName": "worker"})).await;
    assert_eq!(payloads(&automatic), hex(5, 6));
    assert!(automatic.get("acknowledgeToken").is_none());
    let empty = bench.act(&token, FETCH, manual(rest["acknowledgeToken"].clone())).await;
    assert_eq!(empty, json!({"data": [], "moreMessages": false}));
}

#[tokio::test]
async fn an_expired_message_is_skipped_unless_it_is_wanted_and_stays_in_the_history() {
    let (bench, token) = with_subscribers(&[("worker", "t"), ("keen", "x")]).await;
    subscribe(
        &bench,
        &token,
        "keen",
        json!({"topicFilter": "t", "includeExpiredMessages": true}),
    )
    .await;
    let messages = json!([{"payload": "01", "expirySeconds": 1}, {"payload": "02", "expirySeconds": 0},
        {"payload": "03"}, {"payload": "04", "expirySeconds": 4_294_967_295_u64}]);
    bench
        .act(
            &token,
            PUBLISH,
            json!({"clientName": "worker", "topic": "t", "messages": messages}),
        )
        .await;
    bench.clock.advance(Duration::from_secs(1));
    let fetched = bench.act(&token, FETCH, json!({"clientName": "worker"})).await;
    assert_eq!(payloads(&fetched), [json!("02"), json!("03"), json!("04")]);
    let keen = bench.act(&token, FETCH, json!({"clientName": "keen"})).await;
    assert_eq!(keen["data"].as_array().unwrap().len(), 4);
    assert_eq!(
        (&keen["data"][0]["expired"], &keen["data"][0]["expirySeconds"]),
        (&json!(true), &json!(1))
    );
    assert!(keen["data"][1].get("expirySeconds").is_none());
    let history = bench.act(&token, HISTORY, json!({"topic": "t"})).await;
    assert_eq!(history["data"][0]["expired"], true);
    let alive = bench
        .act(&token, HISTORY, json!({"topic": "t", "includeExpiredMessages": false}))
        .await;
    assert_eq!(alive["data"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn a_history_starts_at_tail_head_moment_and_position() {
    let (bench, token) = with_subscribers(&[("worker", "x")]).await;
    let mut ids = publish(&bench, &token, "t", 1, 3).await;
    bench.clock.advance(Duration::from_secs(10));
    ids.extend(publish(&bench, &token, "t", 4, 6).await);
    let (first, last) = (ids[0], *ids.last().unwrap());
    let day_before = "2026-03-01";
    for (start, messages_max, wanted) in [
        (Value::Null, 2, 5..=6),
        (json!("tail"), 4, 3..=6),
        (json!(["TAIL"]), 100, 1..=6),
        (json!("head"), 2, 1..=2),
        (json!(["head"]), 100, 1..=6),
        (json!(day_before), 3, 1..=3),
        (json!("2026-03-02T09:56:01.204"), 100, 1..=6),
        (json!("2026-03-02T09:56:01.205"), 100, 4..=6),
        (json!("2026-03-02T10:56:11.204+01:00"), 100, 4..=6),
        (json!("2026-03-02T09:56:11.204Z"), 100, 4..=6),
        (json!(0), 100, 1..=6),
        (json!(first), 100, 1..=6),
        (json!(ids[2]), 2, 3..=4),
        (json!(ids[2].to_string()), 2, 3..=4),
        (json!([last]), 100, 6..=6),
    ] {
        let params = json!({"topic": "t", "startFrom": start, "maxMessages": messages_max});
        let page = bench.act(&token, HISTORY, params).await;
        assert_eq!(payloads(&page), hex(*wanted.start(), *wanted.end()), "{start}");
        assert_eq!(page["moreMessages"], *wanted.end() < 6, "{start}");
        let next = page["nextStartFrom"].as_u64().unwrap();
        assert_eq!(next, ids[*wanted.end() as usize - 1] + 1, "{start}");
    }
    for start in [
        json!(last + 1),
        json!(u64::MAX),
        json!("2030-01-01"),
        json!("99999999999999999999999"),
    ] {
        let page = bench
            .act(&token, HISTORY, json!({"topic": "t", "startFrom": start}))
            .await;
        assert_eq!(page["data"], json!([]), "{start}");
        assert_eq!(page["moreMessages"], false);
        assert_eq!(page["nextStartFrom"], last + 1, "{start}");
    }
    let mut pages = Vec::new();
    let mut start = json!("head");
    loop {
        let params = json!({"topic": "t", "startFrom": start, "maxMessages": 4});
        let page = bench.act(&token, HISTORY, params).await;
        pages.extend(payloads(&page));
        start = page["nextStartFrom"].clone();
        if page["moreMessages"] == false {
            break;
        }
    }
    assert_eq!(pages, hex(1, 6));
    publish(&bench, &token, "t", 7, 7).await;
    let followed = bench
        .act(&token, HISTORY, json!({"topic": "t", "startFrom": start}))
        .await;
    assert_eq!(payloads(&followed), hex(7, 7));
}

#[tokio::test]
async fn a_history_is_found_by_topic_or_table_and_moves_no_position() {
    let (bench, token) = with_subscribers(&[("worker", "Test/#")]).await;
    publish(&bench, &token, "Test/topic-1", 1, 3).await;
    for source in [
        json!({"topic": "Test/topic-1"}),
        json!({"topic": "$share/anyone/Test/topic-1"}),
        json!({"tableName": "mqtt_msg_test_topic_1", "databaseName": "faircom", "ownerName": "admin"}),
        json!({"tableName": "MQTT_MSG_test_topic_1"}),
    ] {
        let history = bench.act(&token, HISTORY, source.clone()).await;
        assert_eq!(payloads(&history), hex(1, 3), "{source}");
    }
    let fetched = bench.act(&token, FETCH, json!({"clientName": "worker"})).await;
    assert_eq!(payloads(&fetched), hex(1, 3));
    for (params, code) in [
        (json!({}), 12025),
        (json!({"topic": "a", "tableName": "b"}), 14228),
        (json!({"topic": "nowhere"}), 14236),
        (json!({"topic": ""}), 14228),
        (json!({"topic": "a/#"}), 14243),
        (json!({"topic": "$share/g"}), 14241),
        (json!({"topic": "x".repeat(65_536)}), 14245),
        (json!({"topic": "x".repeat(65_535)}), 14236),
        (json!({"tableName": "mqtt_msg_nowhere"}), 14231),
        (json!({"tableName": "customers"}), 14231),
        (json!({"tableName": "x".repeat(65)}), 14245),
        (json!({"topic": "Test/topic-1", "maxMessages": 0}), 14228),
        (json!({"topic": "Test/topic-1", "maxMessages": 65_536}), 14228),
        (json!({"topic": "Test/topic-1", "startFrom": "yesterday"}), 14228),
        (json!({"topic": "Test/topic-1", "startFrom": -1}), 14228),
        (json!({"topic": "Test/topic-1", "startFrom": []}), 14228),
        (json!({"topic": "Test/topic-1", "startFrom": {}}), 14702),
        (json!({"topic": "Test/topic-1", "binaryFormat": "octal"}), 14228),
        (json!({"topic": "Test/topic-1", "includeExpiredMessages": 2}), 14702),
    ] {
        assert_eq!(bench.refusal(&token, HISTORY, params.clone()).await, code, "{params}");
    }
}

#[tokio::test]
async fn each_limit_of_a_retrieval_is_exact() {
    let (bench, token) = with_subscribers(&[("worker", "t")]).await;
    for (name, value, code) in [
        ("maxMessages", json!(1), 0),
        ("maxMessages", json!(65_535), 0),
        ("maxMessages", json!(0), 14228),
        ("maxMessages", json!(65_536), 14228),
        ("maxMessages", json!("x"), 14702),
        ("waitSeconds", json!(-1), 14228),
        ("waitSeconds", json!(61), 14228),
        ("acknowledge", json!("never"), 14228),
        ("acknowledgeSeconds", json!(0), 14228),
        ("acknowledgeSeconds", json!(3600), 0),
        ("acknowledgeSeconds", json!(3601), 14228),
        ("acknowledgeToken", json!(1), 14702),
        ("binaryFormat", json!("JSON"), 0),
        ("binaryFormat", json!("x"), 14228),
        ("clientName", json!("nobody"), 14237),
        ("clientName", json!(""), 14228),
        ("clientName", Value::Null, 12025),
    ] {
        let mut params = json!({"clientName": "worker"});
        params[name] = value.clone();
        let answer = bench
            .call(json!({"action": FETCH, "authToken": token, "params": params}))
            .await;
        assert_eq!(answer["errorCode"], code, "{name} {value}: {answer}");
    }
}

#[tokio::test]
async fn a_banned_session_is_refused_and_a_waiting_call_ends_with_its_session() {
    let (bench, token) = with_subscribers(&[("worker", "t"), ("doomed", "t")]).await;
    bench
        .act(
            &token,
            "alterMqSession",
            json!({"clientName": "worker", "sessionStatus": "banned"}),
        )
        .await;
    let subscription = json!([{"subscriptionAction": "remove", "topicFilter": "t"}]);
    for (action, params) in [
        (FETCH, json!({"clientName": "worker"})),
        (PUBLISH, json!({"clientName": "worker", "topic": "t", "messages": [{}]})),
        (
            PUBLISH,
            json!({"clientName": "worker", "topic": "t", "messages": [{"payload": "not hex"}]}),
        ),
        (
            "subscribeToMq",
            json!({"clientName": "worker", "subscriptionActions": subscription}),
        ),
    ] {
        assert_eq!(bench.refusal(&token, action, params).await, 14229, "{action}");
    }
    let (code, ()) = tokio::join!(
        bench.refusal(&token, FETCH, json!({"clientName": "doomed", "waitSeconds": 60})),
        async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let delete = json!({"clientName": "doomed", "permanentlyDeleteSession": true});
            bench.act(&token, "deleteMqSession", delete).await;
        }
    );
    assert_eq!(code, 14237);
}

#[tokio::test]
async fn a_caller_who_hangs_up_while_waiting_takes_nothing() {
    use tokio::io::AsyncWriteExt;
    let (bench, token) = with_subscribers(&[("worker", "t")]).await;
    let body =
        json!({"action": FETCH, "authToken": token, "params": {"clientName": "worker", "waitSeconds": 60}}).to_string();
    let mut stream = bench.connect().await;
    let head = format!(
        "POST /api HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(stream);
    tokio::time::sleep(Duration::from_millis(100)).await;
    publish(&bench, &token, "t", 1, 2).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let fetched = bench.act(&token, FETCH, json!({"clientName": "worker"})).await;
    assert_eq!(payloads(&fetched), hex(1, 2));
}

#[tokio::test]
async fn concurrent_retrievals_have_disjoint_batches() {
    let (bench, token) = with_subscribers(&[("worker", "t")]).await;
    publish(&bench, &token, "t", 1, 40).await;
    let fetch = || bench.act(&token, FETCH, json!({"clientName": "worker", "maxMessages": 10}));
    let (a, b, c, d) = tokio::join!(fetch(), fetch(), fetch(), fetch());
    let mut all: Vec<String> = [a, b, c, d]
        .iter()
        .flat_map(payloads)
        .map(|payload| payload.as_str().unwrap().to_owned())
        .collect();
    all.sort();
    assert_eq!(all.into_iter().map(Value::from).collect::<Vec<_>>(), hex(1, 40));
}
