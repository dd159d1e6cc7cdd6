//! Publishing, retrieving and reading back over HTTP (spec/messages.md).

use std::time::Duration;

use serde_json::{Value, json};

use super::Bench;

pub(super) const PUBLISH: &str = "publishMessagesToMq";
pub(super) const FETCH: &str = "getMessagesFromMqApiSession";
pub(super) const HISTORY: &str = "getMessagesFromMqTopic";

/// A bench with a login and sessions of these names, each subscribed to a filter.
pub(super) async fn with_subscribers(names: &[(&str, &str)]) -> (Bench, String) {
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

pub(super) async fn subscribe(bench: &Bench, token: &str, name: &str, mut action: Value) {
    action["subscriptionAction"] = "add".into();
    bench
        .act(
            token,
            "subscribeToMq",
            json!({"clientName": name, "subscriptionActions": [action]}),
        )
        .await;
}

pub(super) fn payloads(result: &Value) -> Vec<Value> {
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

#[tokio::test]
async fn each_format_carries_the_same_bytes_in_and_out() {
    let (bench, token) = with_subscribers(&[("worker", "t")]).await;
    let formats = [
        ("hex", json!("7B2261223A317D")),
        ("base64", json!("eyJhIjoxfQ==")),
        ("byteArray", json!([123, 34, 97, 34, 58, 49, 125])),
        ("utf8", json!("{\"a\":1}")),
        ("json", json!({"a": 1})),
    ];
    let messages: Vec<Value> = formats
        .iter()
        .map(|(format, payload)| json!({"binaryFormat": format, "payload": payload}))
        .collect();
    bench
        .act(
            &token,
            PUBLISH,
            json!({"clientName": "worker", "topic": "t", "messages": messages}),
        )
        .await;
    for (format, payload) in &formats {
        let shown = bench
            .act(&token, HISTORY, json!({"topic": "t", "binaryFormat": format}))
            .await;
        assert_eq!(payloads(&shown), vec![payload.clone(); 5], "{format}");
        for message in shown["data"].as_array().unwrap() {
            assert_eq!(message["binaryFormat"], *format);
        }
    }
    let by_type = bench.act(&token, FETCH, json!({"clientName": "worker"})).await;
    let shown: Vec<_> = by_type["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|message| {
            (
                message["mqttPayloadType"].as_str().unwrap(),
                message["binaryFormat"].as_str().unwrap(),
            )
        })
        .collect();
    let binary = ("binary", "hex");
    assert_eq!(shown, [binary, binary, binary, ("utf8", "utf8"), ("json", "json")]);
}

#[tokio::test]
async fn bytes_that_do_not_fit_the_wanted_format_are_shown_in_another() {
    let (bench, token) = with_subscribers(&[("worker", "t")]).await;
    let messages = json!([{"payload": "FF00"}, {"payload": "C3BC"}, {"payload": "31"}]);
    bench
        .act(
            &token,
            PUBLISH,
            json!({"clientName": "worker", "topic": "t", "messages": messages}),
        )
        .await;
    for (format, wanted) in [
        (
            "json",
            [("hex", json!("FF00")), ("utf8", json!("ü")), ("json", json!(1))],
        ),
        (
            "utf8",
            [("hex", json!("FF00")), ("utf8", json!("ü")), ("utf8", json!("1"))],
        ),
    ] {
        let shown = bench
            .act(&token, HISTORY, json!({"topic": "t", "binaryFormat": format}))
            .await;
        for (message, (format, payload)) in shown["data"].as_array().unwrap().iter().zip(wanted) {
            assert_eq!(
                (&message["binaryFormat"], &message["payload"]),
                (&json!(format), &payload)
            );
        }
    }
}

#[tokio::test]
async fn what_mqtt_cannot_carry_still_comes_back_over_http() {
    let (bench, token) = with_subscribers(&[("worker", "t")]).await;
    let long = "v".repeat(70_000);
    let message = json!({"payload": "00", "mqttPayloadType": "png", "correlationData": "text",
        "userProperties": [{"key": "a", "value": "1"}, {"key": "b", "value": long}, {"key": "c", "value": "3"}]});
    let messages = json!([message, {"correlationData": [1, null, "x"]}, {"correlationData": 12.50},
        {"correlationData": ""}, {"correlationData": "x".repeat(65_500), "contentType": ""}]);
    bench
        .act(
            &token,
            PUBLISH,
            json!({"clientName": "worker", "topic": "t", "messages": messages}),
        )
        .await;
    let shown = bench.act(&token, FETCH, json!({"clientName": "worker"})).await;
    let shown = shown["data"].as_array().unwrap();
    for name in ["mqttPayloadType", "correlationData", "userProperties"] {
        assert_eq!(shown[0][name], message[name], "{name}");
    }
    for (message, sent) in shown.iter().zip(messages.as_array().unwrap()) {
        assert_eq!(message["correlationData"], sent["correlationData"]);
    }
    assert!(shown[4].get("contentType").is_none());
    assert_eq!(shown[1]["payload"], "");
}

#[tokio::test]
async fn the_chain_of_formats_ends_where_something_is_said() {
    let (bench, token) = with_subscribers(&[("worker", "t")]).await;
    bench
        .act(
            &token,
            "createMqApiSession",
            json!({"clientName": "texter", "mqttPayloadType": "utf8"}),
        )
        .await;
    let publish = async |client: &str, params: Value| {
        let mut params = params;
        params["clientName"] = client.into();
        params["topic"] = "t".into();
        bench.act(&token, PUBLISH, params).await;
        let shown = bench
            .act(
                &token,
                HISTORY,
                json!({"topic": "t", "maxMessages": 1, "binaryFormat": "hex"}),
            )
            .await;
        let message = &shown["data"][0];
        let text = |name: &str| message[name].as_str().unwrap().to_owned();
        (text("payload"), text("mqttPayloadType"))
    };
    let kind = |payload: &str, kind: &str| (payload.to_owned(), kind.to_owned());
    for (client, params, wanted) in [
        (
            "worker",
            json!({"messages": [{"payload": "FACADE"}]}),
            kind("FACADE", "binary"),
        ),
        ("texter", json!({"messages": [{"payload": "FA"}]}), kind("4641", "utf8")),
        (
            "texter",
            json!({"binaryFormat": "hex", "messages": [{"payload": "FA"}]}),
            kind("FA", "binary"),
        ),
        (
            "texter",
            json!({"mqttPayloadType": "binary", "messages": [{"payload": "FA"}]}),
            kind("FA", "binary"),
        ),
        (
            "worker",
            json!({"sourcePayloadFormat": "string", "messages": [{"payload": "FA"}]}),
            kind("4641", "utf8"),
        ),
        (
            "worker",
            json!({"binaryFormat": "utf8", "messages": [{"payload": "+g==", "binaryFormat": "base64"}]}),
            kind("FA", "binary"),
        ),
        (
            "worker",
            json!({"messages": [{"payload": {"a": null}}]}),
            kind("7B2261223A6E756C6C7D", "json"),
        ),
        (
            "worker",
            json!({"variantFormat": "string", "messages": [{"payload": "FA"}]}),
            kind("4641", "utf8"),
        ),
    ] {
        assert_eq!(publish(client, params.clone()).await, wanted, "{params}");
    }
    let odd = json!({"action": PUBLISH, "authToken": token, "debug": "max",
        "params": {"clientName": "worker", "topic": "t", "messages": [{"payload": "ABC"}]}});
    assert_eq!(bench.call(odd).await["debugInfo"]["warnings"][0]["code"], 14222);
}

#[tokio::test]
async fn one_bad_message_rejects_the_request_and_leaves_no_topic_behind() {
    let (bench, token) = with_subscribers(&[("worker", "#")]).await;
    let good = json!({"payload": "AB", "topic": "new/topic"});
    for (bad, code) in [
        (json!({"payload": "xyz"}), 14222),
        (json!({"payload": "A sentence."}), 14222),
        (json!({"payload": [1, 256], "binaryFormat": "byteArray"}), 14222),
        (json!({"payload": "=", "binaryFormat": "base64"}), 14222),
        (json!({"payload": 1, "binaryFormat": "utf8"}), 14222),
        (json!({"binaryFormat": "octal"}), 14228),
        (json!({"mqttPayloadType": ""}), 14228),
        (json!({"topic": "$SYS/x"}), 14243),
        (json!({"topic": "faircomAdmin/x"}), 14243),
        (json!({"topic": "a/+"}), 14243),
        (json!({"topic": "a\u{0}"}), 14243),
        (json!({"topic": ""}), 14228),
        (json!({"topic": "x".repeat(65_501)}), 14245),
        (json!({"tableName": "mqtt_msg_nothing"}), 14231),
        (json!({"clientName": "nobody"}), 14237),
        (json!({"clientName": ""}), 14228),
        (json!({"responseTopic": "#"}), 14243),
        (json!({"expirySeconds": -1}), 14228),
        (json!({"expirySeconds": 4_294_967_296_u64}), 14228),
        (json!({"qos": 3}), 14228),
        (json!({"retain": "yes"}), 14702),
        (json!({"contentType": "x".repeat(65_536)}), 14245),
        (json!({"correlationData": "x".repeat(65_501)}), 14245),
        (
            json!({"userProperties": [{"key": "k".repeat(129), "value": ""}]}),
            14245,
        ),
        (json!({"userProperties": [{"value": ""}]}), 12025),
    ] {
        let params = json!({"clientName": "worker", "topic": "t", "messages": [good, bad]});
        assert_eq!(bench.refusal(&token, PUBLISH, params).await, code, "{bad}");
    }
    for (params, code) in [
        (json!({"topic": "t", "messages": [{}]}), 12025),
        (json!({"clientName": "worker", "messages": [{}]}), 12025),
        (json!({"clientName": "worker", "topic": "t"}), 12025),
        (json!({"clientName": "worker", "topic": "t", "messages": []}), 14228),
    ] {
        assert_eq!(bench.refusal(&token, PUBLISH, params.clone()).await, code, "{params}");
    }
    for topic in ["new/topic", "t"] {
        assert_eq!(bench.refusal(&token, HISTORY, json!({"topic": topic})).await, 14236);
    }
    let fetched = bench.act(&token, FETCH, json!({"clientName": "worker"})).await;
    assert_eq!(fetched["data"], json!([]));
}

#[tokio::test]
async fn each_message_may_have_its_own_session_and_destination() {
    let (bench, token) = with_subscribers(&[("worker", "#"), ("other", "u")]).await;
    let publish = json!({"clientName": "worker", "topic": "t", "messages": [
        {"payload": "01"}, {"payload": "02", "topic": "u", "clientName": "other"}, {"payload": "03"}]});
    bench.act(&token, "publishMessagesToMQTT", publish).await;
    let publish = json!({"messages": [
        {"payload": "04", "tableName": "mqtt_msg_u", "clientName": "worker", "ownerName": "admin"}]});
    let published = bench.act(&token, PUBLISH, publish).await;
    assert_eq!(published["data"][0]["topic"], "u");
    let history = bench.act(&token, HISTORY, json!({"topic": "u"})).await;
    let publishers: Vec<_> = history["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|message| message["publisherClientName"].as_str().unwrap())
        .collect();
    assert_eq!(publishers, ["other", "worker"]);
    let fetched = bench
        .act(&token, "getMessagesFromMqttSession", json!({"clientName": "worker"}))
        .await;
    assert_eq!(payloads(&fetched), ["01", "02", "03", "04"]);
}

#[tokio::test]
async fn a_retained_message_comes_with_each_subscription_until_it_is_cleared() {
    let (bench, token) = with_subscribers(&[("worker", "x")]).await;
    let publish = async |payload: &str| {
        let messages = json!([{"payload": payload, "retain": true}]);
        let params = json!({"clientName": "worker", "topic": "t", "messages": messages});
        bench.act(&token, PUBLISH, params).await;
    };
    publish("01").await;
    publish("02").await;
    subscribe(&bench, &token, "worker", json!({"topicFilter": "t"})).await;
    let fetched = bench.act(&token, FETCH, json!({"clientName": "worker"})).await;
    assert_eq!(payloads(&fetched), ["02"]);
    assert_eq!(
        (&fetched["data"][0]["retained"], &fetched["data"][0]["retain"]),
        (&json!(true), &json!(true))
    );
    for (retained, count) in [("onNewSubscription", 0), ("never", 0), ("onSubscription", 1)] {
        subscribe(
            &bench,
            &token,
            "worker",
            json!({"topicFilter": "t", "receiveRetainedMessages": retained}),
        )
        .await;
        let fetched = bench.act(&token, FETCH, json!({"clientName": "worker"})).await;
        assert_eq!(fetched["data"].as_array().unwrap().len(), count, "{retained}");
    }
    publish("").await;
    let fetched = bench.act(&token, FETCH, json!({"clientName": "worker"})).await;
    assert_eq!(payloads(&fetched), [""], "the clearing message is an ordinary one");
    assert!(fetched["data"][0].get("retained").is_none());
    subscribe(&bench, &token, "worker", json!({"topicFilter": "t"})).await;
    let fetched = bench.act(&token, FETCH, json!({"clientName": "worker"})).await;
    assert_eq!(fetched["data"], json!([]));
}

#[tokio::test]
async fn overlapping_filters_bring_one_copy_with_all_identifiers() {
    let (bench, token) = with_subscribers(&[("worker", "plain")]).await;
    for (filter, id, own) in [("t/#", 9, true), ("t/+", 3, true), ("t/a", 5, false)] {
        subscribe(
            &bench,
            &token,
            "worker",
            json!({"topicFilter": filter, "subscriptionIdentifier": id, "receiveMyMessages": own}),
        )
        .await;
    }
    let publish = json!({"clientName": "worker", "topic": "t/a", "messages": [{"payload": "01"}]});
    bench.act(&token, PUBLISH, publish).await;
    let fetched = bench.act(&token, FETCH, json!({"clientName": "worker"})).await;
    assert_eq!(fetched["data"].as_array().unwrap().len(), 1);
    assert_eq!(fetched["data"][0]["subscriptionIdentifiers"], json!([3, 9]));
}
