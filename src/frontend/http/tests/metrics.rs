//! What a monitor reads.

use std::collections::BTreeMap;

use serde_json::json;
use tokio::io::AsyncWriteExt;

use super::Bench;

/// Samples by name and labels. Panics at what the text format (version 0.0.4) does not allow, and at a sample whose
/// metric has no help and no type before it.
fn parse(text: &str) -> BTreeMap<String, String> {
    let mut samples = BTreeMap::new();
    let (mut helped, mut typed) = ("", "");
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            helped = help.split_once(' ').expect("a name and a text").0;
            continue;
        }
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert!(["counter", "gauge"].contains(&kind), "{line}");
            assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
            typed = name;
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').unwrap();
        let name = sample.split('{').next().unwrap();
        assert_eq!((name, name), (helped, typed), "{line}");
        assert!(
            name.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase()),
            "{line}"
        );
        value.parse::<f64>().unwrap();
        let again = samples.insert(sample.to_owned(), value.to_owned());
        assert_eq!(again, None, "{line}");
    }
    samples
}

async fn scrape(bench: &Bench) -> BTreeMap<String, String> {
    let reply = bench.http("GET", "/metrics", b"").await;
    assert_eq!(reply.status, 200);
    assert!(
        reply
            .head
            .contains("content-type: text/plain; version=0.0.4; charset=utf-8"),
        "{}",
        reply.head
    );
    parse(&reply.body)
}

#[tokio::test]
async fn the_counters_of_the_log_grow_by_what_is_published() {
    let bench = Bench::start().await;
    let token = bench.log_in("ADMIN", "ADMIN").await;
    bench
        .act(&token, "createMqApiSession", json!({"clientName": "a"}))
        .await;
    let params = json!({"clientName": "a", "topic": "t", "messages": [{"payload": "so that the topic exists", "mqttPayloadType": "utf8"}]});
    bench.act(&token, "publishMessagesToMq", params).await;
    let before = scrape(&bench).await;
    let messages: Vec<_> = (0..10)
        .map(|_| json!({"payload": "0123456789", "mqttPayloadType": "utf8"}))
        .collect();
    let params = json!({"clientName": "a", "topic": "t", "messages": messages});
    bench.act(&token, "publishMessagesToMq", params).await;
    let after = scrape(&bench).await;
    let number = |samples: &BTreeMap<String, String>, name: &str| samples[name].parse::<i64>().unwrap();
    let grown = |name: &str| number(&after, name) - number(&before, name);
    assert_eq!(grown("evermq_log_records_total"), 10);
    assert_eq!(grown("evermq_log_batches_total"), 1);
    assert_eq!(grown("evermq_log_syncs_total"), 1);
    assert!(grown("evermq_log_bytes_total") >= 100);
    assert_eq!(grown("evermq_topics"), 0);
}

#[tokio::test]
async fn sizes_are_those_of_the_tables() {
    let bench = Bench::start().await;
    let before = scrape(&bench).await;
    for name in [
        "evermq_sessions",
        "evermq_logins",
        "evermq_topics",
        "evermq_subscriptions",
        "evermq_share_groups",
        "evermq_mqtt_connections",
    ] {
        assert_eq!(before[name], "0", "{name}");
    }
    let token = bench.log_in("ADMIN", "ADMIN").await;
    bench
        .act(&token, "createMqApiSession", json!({"clientName": "a"}))
        .await;
    let add = |filter: &str| json!({"subscriptionAction": "add", "topicFilter": filter});
    let actions = [add("x/#"), add("y"), add("x/#"), add("$share/g/z")];
    let params = json!({"clientName": "a", "subscriptionActions": actions});
    bench.act(&token, "subscribeToMq", params).await;
    let messages = json!([{"payload": "kept", "mqttPayloadType": "utf8", "retain": true}]);
    let params = json!({"clientName": "a", "topic": "y", "messages": messages});
    bench.act(&token, "publishMessagesToMq", params).await;
    let now = scrape(&bench).await;
    assert_eq!(now["evermq_sessions"], "1");
    assert_eq!(now["evermq_logins"], "1");
    assert_eq!(
        (now["evermq_topics"].as_str(), now["evermq_retained_messages"].as_str()),
        ("1", "1")
    );
    assert_eq!(
        now["evermq_subscriptions"], "2",
        "the same filter again is no other one"
    );
    assert_eq!(now["evermq_share_groups"], "1");
    let actions = [json!({"subscriptionAction": "remove", "topicFilter": "y"})];
    let params = json!({"clientName": "a", "subscriptionActions": actions});
    bench.act(&token, "subscribeToMq", params).await;
    assert_eq!(scrape(&bench).await["evermq_subscriptions"], "1");
    bench
        .act(
            &token,
            "deleteMqSession",
            json!({"clientName": "a", "permanentlyDeleteSession": true}),
        )
        .await;
    let gone = scrape(&bench).await;
    assert_eq!(
        (gone["evermq_sessions"].as_str(), gone["evermq_subscriptions"].as_str()),
        ("0", "0")
    );
    assert_eq!(gone["evermq_share_groups"], "0");
}

#[tokio::test]
async fn what_is_in_force_and_how_the_store_is_are_told_without_a_login() {
    let bench = Bench::start().await;
    let now = scrape(&bench).await;
    assert_eq!(now[r#"evermq_durability_info{durability="sync"}"#], "1");
    assert_eq!(now["process_start_time_seconds"], "1772445361.204");
    let version = format!(r#"evermq_build_info{{version="{}"}}"#, env!("CARGO_PKG_VERSION"));
    assert_eq!(now[&version], "1");
    let state = |samples: &BTreeMap<String, String>| {
        let states = ["ready", "slow", "full", "latched"];
        states.map(|state| samples[&format!(r#"evermq_store_state{{state="{state}"}}"#)].clone())
    };
    assert_eq!(state(&now), ["1", "0", "0", "0"]);
    bench.store.set_full(true);
    assert_eq!(state(&scrape(&bench).await), ["0", "0", "1", "0"]);
    bench.store.latch("sync failed");
    assert_eq!(state(&scrape(&bench).await), ["0", "0", "0", "1"]);
}

#[tokio::test]
async fn open_connections_are_counted_the_asking_one_included() {
    let bench = Bench::start().await;
    let mut other = bench.connect().await;
    // What was answered is served, and so counted.
    other
        .write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    other.readable().await.unwrap();
    assert_eq!(scrape(&bench).await["evermq_http_connections"], "2");
}

#[tokio::test]
async fn only_reading_is_allowed() {
    let bench = Bench::start().await;
    let reply = bench.http("POST", "/metrics", b"").await;
    assert_eq!(reply.status, 405);
    assert!(reply.head.contains("allow: GET, HEAD"), "{}", reply.head);
    let reply = bench.http("HEAD", "/metrics", b"").await;
    assert_eq!((reply.status, reply.body.as_str()), (200, ""));
}
