//! Publishing, retrieving and reading back over HTTP (spec/messages.md).

use std::time::Duration;

use serde_json::{Value, json};

use super::Bench;

const PUBLISH: &str = "publishMessagesToMq";
const FETCH: &str = "getMessagesFromMqApiSession";
const HISTORY: &str = "getMessagesFromMqTopic";

/// A bench with a login and sessions of these names, each subscribed to a filter.
async fn with_subscribers(names: &[(&str, &str)]) -> (Bench, String) {
    let bench = Bench::start().await;
    let token = bench.log_in("ADMIN", "ADMIN").await;
    for (name, filter) in names {
        bench
            .act(&token, "createMqApiSession", json!({"clientName": name}))
            .await;
        subscribe(&bench, &token, name, json!({"topicFilter": filter})).await;
    }
    (bench, token)
}

async fn subscribe(bench: &Bench, token: &str, name: &str, mut action: Value) {
    action["subscriptionAction"] = "add".into();
    bench
        .act(
            token,
            "subscribeToMq",
            json!({"clientName": name, "subscriptionActions": [action]}),
        )
        .await;
}

fn payloads(result: &Value) -> Vec<Value> {
    let messages = result["data"].as_array().unwrap();
    messages.iter().map(|message| message["payload"].clone()).collect()
}

#[tokio::test]
async fn what_is_published_is_retrieved_once_and_stays_in_the_history() {
    let (bench, token) = with_subscribers(&[("worker", "invoice/#")]).await;
    let published = bench
        .act(
            &token,
            PUBLISH,
            json!({"clientName": "worker", "topic": "invoice/new", "messages": [
                {"payload": "hello", "mqttPayloadType": "utf8"},
                {"payload": {"invoice": 4711}, "binaryFormat": "json",
                 "contentType": "application/json", "correlationData": {"req": 9},
                 "responseTopic": "invoice/ack", "expirySeconds": 3600, "retain": false,
                 "userProperties": [{"key": "tenant", "value": "acme"}, {"key": "tenant", "value": "b"}]}]}),
        )
        .await;
    // The store of the tests does not begin at 1, so that nobody relies on it.
    let id = published["data"][0]["id"].as_u64().unwrap();
    assert_eq!(
        published,
        json!({"data": [{"topic": "invoice/new", "id": id}, {"topic": "invoice/new", "id": id + 1}]})
    );
    let wanted = json!([
        {"id": id, "topic": "invoice/new", "payload": "hello", "binaryFormat": "utf8", "mqttPayloadType": "utf8",
         "createTimestamp": "2026-03-02T09:56:01.204", "retain": false, "qos": 2, "publisherClientName": "worker"},
        {"id": id + 1, "topic": "invoice/new", "payload": {"invoice": 4711}, "binaryFormat": "json",
         "mqttPayloadType": "json", "createTimestamp": "2026-03-02T09:56:01.204", "retain": false, "qos": 2,
         "contentType": "application/json", "correlationData": {"req": 9}, "responseTopic": "invoice/ack",
         "expirySeconds": 3600,
         "userProperties": [{"key": "tenant", "value": "acme"}, {"key": "tenant", "value": "b"}],
         "publisherClientName": "worker"}]);
    let fetched = bench.act(&token, FETCH, json!({"clientName": "worker"})).await;
    assert_eq!(fetched, json!({"data": wanted, "moreMessages": false}));
    let again = bench.act(&token, FETCH, json!({"clientName": "worker"})).await;
    assert_eq!(again, json!({"data": [], "moreMessages": false}));
    let history = bench
        .act(&token, HISTORY, json!({"topic": "invoice/new", "startFrom": "head"}))
        .await;
    assert_eq!(
        history,
        json!({"data": wanted, "nextStartFrom": id + 2, "moreMessages": false})
    );
}

#[tokio::test]
async fn the_digits_of_numbers_survive_exactly() {
    let (bench, token) = with_subscribers(&[("worker", "t")]).await;
    let payload = r#"{"id":1724442618569203714,"f":12.50,"e":[-0,0.1000]}"#;
    let request = format!(
        r#"{{"action":"{PUBLISH}","authToken":"{token}","params":{{"clientName":"worker","topic":"t","messages":[{{"binaryFormat":"json","payload":{payload},"correlationData":{payload}}}]}}}}"#
    );
    let answer: Value = serde_json::from_str(&bench.raw(&request).await).unwrap();
    assert_eq!(answer["errorCode"], 0, "{answer}");
    for (action, arguments) in [
        (FETCH, r#""clientName":"worker""#),
        (HISTORY, r#""topic":"t""#),
        (HISTORY, r#""topic":"t","binaryFormat":"json""#),
    ] {
        let options = r#""responseOptions":{"numberFormat":"string"}"#;
        let request = format!(r#"{{"action":"{action}","authToken":"{token}","params":{{{arguments}}},{options}}}"#);
        let answer = bench.raw(&request).await;
        assert!(answer.contains(&format!(r#""payload":{payload}"#)), "{answer}");
        assert!(answer.contains(&format!(r#""correlationData":{payload}"#)), "{answer}");
    }
    let text = bench
        .act(&token, HISTORY, json!({"topic": "t", "binaryFormat": "utf8"}))
        .await;
    assert_eq!(payloads(&text), [payload]);
}

#[tokio::test]
async fn a_waiting_call_returns_with_the_first_message_or_when_its_time_is_over() {
    let (bench, token) = with_subscribers(&[("worker", "t")]).await;
    let wait = json!({"clientName": "worker", "waitSeconds": 60});
    let publish = json!({"clientName": "worker", "topic": "t", "messages": [{"payload": "AB"}]});
    let (fetched, _) = tokio::join!(bench.act(&token, FETCH, wait.clone()), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        bench.act(&token, PUBLISH, publish).await
    });
    assert_eq!(payloads(&fetched), ["AB"]);
    let (fetched, ()) = tokio::join!(bench.act(&token, FETCH, wait), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        bench.clock.advance(Duration::from_secs(61));
    });
    assert_eq!(fetched["data"], json!([]));
}
