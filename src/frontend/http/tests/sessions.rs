//! Creating, altering, listing, describing and deleting MQ sessions over HTTP (spec/sessions.md).

use std::time::Duration;

use serde_json::{Value, json};

use super::Bench;

const CREATE: &str = "createMqApiSession";
const ALTER: &str = "alterMqSession";
const LIST: &str = "listMqSessions";
const DESCRIBE: &str = "describeMqSessions";
const DELETE: &str = "deleteMqSession";

async fn bench() -> (Bench, String) {
    let bench = Bench::start().await;
    let token = bench.log_in("ADMIN", "ADMIN").await;
    (bench, token)
}

impl Bench {
    async fn describe(&self, token: &str, name: &str) -> Value {
        let result = self.act(token, DESCRIBE, json!({"clientNames": [name]})).await;
        result["data"][0].clone()
    }

    async fn names(&self, token: &str, filters: Value) -> Vec<String> {
        let result = self.act(token, LIST, filters).await;
        let data = result["data"].as_array().unwrap();
        let name = |session: &Value| session["clientName"].as_str().unwrap().to_owned();
        data.iter().map(name).collect()
    }
}

#[tokio::test]
async fn a_session_of_nothing_has_a_name_and_every_default() {
    let (bench, token) = bench().await;
    let session = bench.act(&token, CREATE, json!({})).await;
    let name = session["clientName"].as_str().unwrap();
    let digits = name.strip_prefix("mqapi-").unwrap();
    assert!(
        digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "{name}"
    );
    let mut expected = json!({
        "clientName": name, "cleanSession": false, "temporarySession": false, "sessionStatus": "normal",
        "username": "ADMIN", "ipaddress": "127.0.0.1", "port": session["port"], "mqttProtocol": "5.0",
        "keepAliveSeconds": 0, "connectionStatus": "connected", "connectionDateTime": "2026-03-02T09:56:01",
        "defaultBinaryFormat": "hex", "defaultVariantFormat": "json",
        "defaultResponseOptions": {"binaryFormat": "hex", "variantFormat": "json", "dataFormat": "objects",
                                   "numberFormat": "number"},
        "sessionType": "mqApi", "internalSession": false, "sessionExpiryInterval": 4_294_967_296_u64,
        "mqttPayloadType": "binary", "receiveMaximum": 1024, "maximumPacketSize": 1024, "topicAliasMaximum": 0,
        "requestProblemInformation": true, "requestResponseInformation": false, "userProperties": [],
        "willTopic": "", "willQoS": 2, "willPayload": null, "willRetain": false, "metadata": {},
        "minHealthySendRatePerMinute": 0, "maxHealthySendRatePerMinute": 0, "maxHealthyBacklogRatePerMinute": 0,
        "minHealthySubscribedTopicFiltersCount": 0, "maxHealthySubscribedTopicFiltersCount": 0,
        "maximumQoS": 2, "retainAvailable": true, "wildcardSubscriptionAvailable": true,
        "subscriptionIdentifiersAvailable": true, "sharedSubscriptionAvailable": true, "brokerKeepAlive": 0,
        "sessionPresent": false});
    assert_eq!(session, expected);
    assert!(session["port"].as_u64().unwrap() > 0);
    expected.as_object_mut().unwrap().remove("sessionPresent");
    let described = bench.describe(&token, name).await;
    assert_eq!(described, expected);
    for empty in [json!({"clientName": ""}), json!({"clientName": null}), Value::Null] {
        let other = bench.act(&token, CREATE, empty).await;
        assert_ne!(other["clientName"], name);
    }
}

#[tokio::test]
async fn every_property_that_is_given_comes_back() {
    let (bench, token) = bench().await;
    let given = json!({
        "clientName": "press-07", "cleanSession": true, "temporarySession": false, "sessionStatus": "hidden",
        "mqttProtocol": "3.1.1", "keepAliveSeconds": 60, "mqttPayloadType": "json",
        "userProperties": [{"key": "b", "value": "1"}, {"key": "a", "value": ""}, {"key": "b", "value": "1"}],
        "sessionExpiryInterval": 7, "receiveMaximum": 65_535, "maximumPacketSize": 268_435_460_u64,
        "topicAliasMaximum": 5, "requestProblemInformation": false, "requestResponseInformation": true,
        "willTopic": "status/press-07", "willQoS": 1, "willPayload": {"gone": 12.50}, "willRetain": true,
        "willContentType": "application/json", "willCorrelationData": {"n": 1.10},
        "willPayloadFormatIndicator": "utf8", "willExpirySeconds": 9_999_999_999_u64, "willDelaySeconds": 0,
        "willResponseTopic": "status/answers", "willUserProperties": [{"key": "k", "value": "v"}],
        "label": {"group": "plant/", "name": "north"},
        "minHealthySendRatePerMinute": 10, "maxHealthySendRatePerMinute": 1000, "maxHealthyBacklogRatePerMinute": 11,
        "minHealthySubscribedTopicFiltersCount": 12, "maxHealthySubscribedTopicFiltersCount": 13,
        "metadata": {"z": 1, "a": {"n": 1.50}}});
    let session = bench.act(&token, CREATE, given.clone()).await;
    for (name, value) in given.as_object().unwrap() {
        let shown = &session[name];
        match name.as_str() {
            // A permanent session has neither.
            "keepAliveSeconds" => assert_eq!(*shown, 0),
            "sessionExpiryInterval" => assert_eq!(*shown, 4_294_967_296_u64),
            "label" => assert_eq!(
                *shown,
                json!({"id": 1, "group": "plant/", "name": "north", "value": null, "enum": null, "sequence": null,
                       "deprecated": false, "description": "", "metadata": {}})
            ),
            _ => assert_eq!(shown, value, "{name}"),
        }
    }
    let described = bench.describe(&token, "press-07").await;
    for (name, value) in described.as_object().unwrap() {
        assert_eq!(&session[name], value, "{name}");
    }
}

#[tokio::test]
async fn a_temporary_session_keeps_its_times_and_ends_with_its_login() {
    let (bench, token) = bench().await;
    let session = bench
        .act(
            &token,
            CREATE,
            json!({"clientName": "t", "temporarySession": true, "keepAliveSeconds": 10, "sessionExpiryInterval": 5}),
        )
        .await;
    assert_eq!(
        (&session["cleanSession"], &session["connectionStatus"]),
        (&json!(true), &json!("connectedTemporarily"))
    );
    assert_eq!(
        (&session["keepAliveSeconds"], &session["sessionExpiryInterval"]),
        (&json!(10), &json!(5))
    );
    let bound = json!({"clientName": "bound", "temporarySession": true});
    assert_eq!(bench.act(&token, CREATE, bound).await["sessionExpiryInterval"], 0);
    let never = json!({"clientName": "never", "temporarySession": true, "sessionExpiryInterval": 4_294_967_295_u64});
    assert_eq!(
        bench.act(&token, CREATE, never).await["sessionExpiryInterval"],
        4_294_967_296_u64
    );
    let other = bench.log_in("ADMIN", "ADMIN").await;
    assert_eq!(
        bench.code(json!({"action": "deleteSession", "authToken": token})).await,
        0
    );
    assert_eq!(bench.names(&other, json!({})).await, ["never", "t"]);
    assert_eq!(bench.describe(&other, "t").await["connectionStatus"], "disconnected");
}

#[tokio::test]
async fn each_limit_of_a_session_is_exact_and_a_refused_one_leaves_nothing() {
    let (bench, token) = bench().await;
    let label = |name: &str| json!({"group": "g", "name": name});
    let rows = [
        (json!({"clientName": "a\u{0}"}), 14228),
        (json!({"clientName": "x".repeat(65_551)}), 14245),
        (json!({"clientName": 5}), 14702),
        (json!({"sessionStatus": "sleeping"}), 14228),
        (json!({"mqttProtocol": "4.0"}), 14228),
        (json!({"keepAliveSeconds": -1}), 14228),
        (json!({"keepAliveSeconds": 1.5}), 14702),
        (json!({"sessionExpiryInterval": 4_294_967_297_u64}), 14228),
        (json!({"receiveMaximum": 0}), 14228),
        (json!({"receiveMaximum": 65_536}), 14228),
        (json!({"maximumPacketSize": 0}), 14228),
        (json!({"maximumPacketSize": 268_435_461}), 14228),
        (json!({"topicAliasMaximum": 65_536}), 14228),
        (json!({"temporarySession": "maybe"}), 14702),
        (json!({"requestProblemInformation": 1}), 14702),
        (json!({"userProperties": [{"key": ""}]}), 14228),
        (json!({"userProperties": [{"key": "k"}]}), 12025),
        (json!({"userProperties": [{"value": "v"}]}), 12025),
        (
            json!({"userProperties": [{"key": "k".repeat(129), "value": ""}]}),
            14245,
        ),
        (json!({"userProperties": {"key": "k"}}), 14702),
        (json!({"willTopic": "a"}), 12025),
        (json!({"willTopic": "a/#", "willPayload": ""}), 14243),
        (json!({"willTopic": "a\u{0}", "willPayload": ""}), 14243),
        (json!({"willTopic": "$SYS/a", "willPayload": ""}), 14243),
        (json!({"willTopic": "faircomAdmin/a", "willPayload": ""}), 14243),
        (json!({"willTopic": "a".repeat(65_501), "willPayload": ""}), 14245),
        (
            json!({"willTopic": "a", "willPayload": "xyz", "binaryFormat": "hex"}),
            14222,
        ),
        (json!({"willTopic": "a", "willPayload": "", "willQoS": 3}), 14228),
        (json!({"willTopic": "a", "willPayload": "", "willRetain": 1}), 14702),
        (
            json!({"willTopic": "a", "willPayload": "", "willResponseTopic": "+"}),
            14243,
        ),
        (
            json!({"willTopic": "a", "willPayload": "", "willCorrelationData": "x".repeat(65_501)}),
            14245,
        ),
        (
            json!({"willTopic": "a", "willPayload": "", "willPayloadFormatIndicator": "hex"}),
            14228,
        ),
        (
            json!({"willTopic": "a", "willPayload": "", "willExpirySeconds": -1}),
            14228,
        ),
        (
            json!({"willTopic": "a", "willPayload": "", "willDelaySeconds": -1}),
            14228,
        ),
        (json!({"label": {}}), 12025),
        (json!({"label": "north"}), 14702),
        (json!({"label": {"group": "g", "name": ""}}), 14228),
        (json!({"label": label(&"x".repeat(65))}), 14245),
        (json!({"labelId": 99}), 100),
        (json!({"metadata": []}), 14702),
        (json!({"metadata": {"m": "x".repeat(65_500)}}), 14245),
        (json!({"minHealthySendRatePerMinute": -1}), 14228),
        (json!({"maxHealthySubscribedTopicFiltersCount": "many"}), 14702),
    ];
    for (params, code) in rows {
        assert_eq!(bench.refusal(&token, CREATE, params.clone()).await, code, "{params}");
    }
    assert_eq!(bench.names(&token, json!({})).await, [""; 0]);
    bench.act(&token, CREATE, json!({"clientName": "taken"})).await;
    for name in ["taken", ""] {
        bench
            .act(
                &token,
                DELETE,
                json!({"clientName": "taken", "permanentlyDeleteSession": null}),
            )
            .await;
        let params = json!({"clientName": "taken", "label": label("new"), "metadata": {"n": name}});
        assert_eq!(bench.refusal(&token, CREATE, params).await, 14221);
    }
    bench
        .act(&token, CREATE, json!({"clientName": "other", "label": label("first")}))
        .await;
    assert_eq!(
        bench.describe(&token, "other").await["label"]["id"],
        1,
        "a refused session made no label"
    );
    let both = |id: u32, name: &str| json!({"labelId": id, "label": label(name)});
    assert_eq!(bench.refusal(&token, CREATE, both(1, "second")).await, 14228);
    assert_eq!(bench.act(&token, CREATE, both(1, "first")).await["label"]["id"], 1);
    for name in ["x".repeat(65_550), "ünï/#".to_owned()] {
        assert_eq!(
            bench.act(&token, CREATE, json!({"clientName": name})).await["clientName"],
            name
        );
        bench
            .act(
                &token,
                DELETE,
                json!({"clientName": name, "permanentlyDeleteSession": true}),
            )
            .await;
        assert_eq!(bench.refusal(&token, DELETE, json!({"clientName": name})).await, 14237);
    }
}

#[tokio::test]
async fn an_alteration_changes_what_it_names_and_nothing_else() {
    let (bench, token) = bench().await;
    bench
        .act(
            &token,
            CREATE,
            json!({"clientName": "a", "willTopic": "w", "willPayload": "bye", "willDelaySeconds": 5,
                   "willCorrelationData": {"n": 1.0}, "willContentType": "t", "label": {"name": "one"},
                   "metadata": {"m": 1}, "maxHealthySendRatePerMinute": 4}),
        )
        .await;
    let before = bench.describe(&token, "a").await;
    let all_null = json!({"clientName": "a", "label": null, "metadata": null, "willTopic": null,
        "sessionStatus": null, "userProperties": null});
    let same = |mut session: Value| {
        // The peer is whoever used it last.
        session["port"] = before["port"].clone();
        session
    };
    assert_eq!(same(bench.act(&token, ALTER, all_null).await), before);

    let altered = bench
        .act(
            &token,
            "alterMqttSession",
            json!({"clientName": "a", "clientStatus": "hidden", "receiveMaximum": 9, "willQoS": 0,
                   "metadata": {"other": 2.50}, "label": {"group": "g", "name": "two"}, "mqttProtocol": 5.0,
                   "userProperties": [{"key": "k", "value": "v"}], "minHealthySendRatePerMinute": 3}),
        )
        .await;
    let mut expected = before.clone();
    for (name, value) in [
        ("sessionStatus", json!("hidden")),
        ("receiveMaximum", json!(9)),
        ("willQoS", json!(0)),
        ("metadata", json!({"other": 2.50})),
        ("label", altered["label"].clone()),
        ("userProperties", json!([{"key": "k", "value": "v"}])),
        ("minHealthySendRatePerMinute", json!(3)),
    ] {
        expected[name] = value;
    }
    assert_eq!(same(altered.clone()), expected);
    assert_eq!(altered["label"]["name"], "two");
    assert_eq!(same(bench.describe(&token, "a").await), expected);

    let removed = bench
        .act(
            &token,
            ALTER,
            json!({"clientName": "a", "label": {"group": "", "name": ""}, "willTopic": ""}),
        )
        .await;
    assert!(removed.get("label").is_none());
    assert_eq!(
        (&removed["willTopic"], &removed["willPayload"]),
        (&json!(""), &Value::Null)
    );
    let only = json!({"clientName": "a", "willTopic": "w"});
    assert_eq!(bench.refusal(&token, ALTER, only).await, 12025);

    for (params, code) in [
        (json!({}), 12025),
        (json!({"clientName": ""}), 14228),
        (json!({"clientName": "nobody", "label": {"name": "unborn"}}), 14237),
        (json!({"clientName": "a", "sessionStatus": "gone"}), 14228),
        (json!({"clientName": "a", "labelId": 77}), 100),
        (json!({"clientName": "a", "willTopic": "+", "willPayload": ""}), 14243),
    ] {
        assert_eq!(bench.refusal(&token, ALTER, params.clone()).await, code, "{params}");
    }
    let unborn = json!({"label": {"name": "unborn"}});
    assert_eq!(bench.names(&token, unborn).await, [""; 0]);
}

#[tokio::test]
async fn a_clean_command_drops_subscriptions_and_what_waits_but_no_setting() {
    let (bench, token) = bench().await;
    bench
        .act(&token, CREATE, json!({"clientName": "a", "metadata": {"m": 1}}))
        .await;
    let subscribe = json!({"clientName": "a", "subscriptionActions": [
        {"subscriptionAction": "add", "topicFilter": "t/#", "subscriptionIdentifier": 3}]});
    let publish = json!({"clientName": "a", "topic": "t/1", "messages": [{"payload": "AB"}]});
    for envelope in [false, true] {
        bench.act(&token, "subscribeToMq", subscribe.clone()).await;
        bench.act(&token, "publishMessagesToMq", publish.clone()).await;
        let mut request = json!({"action": ALTER, "authToken": token, "params": {"clientName": "a"}});
        if envelope {
            request["cleanSession"] = true.into();
        } else {
            request["params"]["cleanSession"] = true.into();
        }
        let altered = bench.call(request).await;
        assert_eq!(altered["result"]["cleanSession"], false);
        assert_eq!(altered["result"]["metadata"], json!({"m": 1}));
        let described = bench
            .act(
                &token,
                DESCRIBE,
                json!({"clientName": "a", "includeSubscribedTopics": true}),
            )
            .await;
        assert_eq!(described["data"][0]["subscribedTopics"], json!([]));
        bench.act(&token, "subscribeToMq", subscribe.clone()).await;
        let fetched = bench
            .act(&token, "getMessagesFromMqApiSession", json!({"clientName": "a"}))
            .await;
        assert_eq!(fetched["data"], json!([]));
    }
}

#[tokio::test]
async fn a_session_becomes_temporary_and_permanent_again() {
    let (bench, token) = bench().await;
    bench.act(&token, CREATE, json!({"clientName": "a"})).await;
    let temporary = bench
        .act(
            &token,
            ALTER,
            json!({"clientName": "a", "temporarySession": true, "keepAliveSeconds": 9}),
        )
        .await;
    assert_eq!(
        (&temporary["cleanSession"], &temporary["keepAliveSeconds"]),
        (&json!(true), &json!(9))
    );
    assert_eq!(
        (&temporary["sessionExpiryInterval"], &temporary["connectionStatus"]),
        (&json!(0), &json!("connectedTemporarily"))
    );
    let permanent = bench
        .act(&token, ALTER, json!({"clientName": "a", "temporarySession": false}))
        .await;
    assert_eq!(
        (&permanent["cleanSession"], &permanent["keepAliveSeconds"]),
        (&json!(false), &json!(0))
    );
    assert_eq!(
        (&permanent["sessionExpiryInterval"], &permanent["connectionStatus"]),
        (&json!(4_294_967_296_u64), &json!("connected"))
    );
}

#[tokio::test]
async fn a_list_passes_every_filter_and_keeps_its_order() {
    let (bench, token) = bench().await;
    let create = async |params: Value| {
        bench.act(&token, CREATE, params).await;
        bench.clock.advance(Duration::from_secs(1));
    };
    create(json!({"clientName": "b", "label": {"group": "g", "name": "x"}, "metadata": {"team": "Billing North"}}))
        .await;
    create(json!({"clientName": "a", "temporarySession": true, "label": {"name": "x"}})).await;
    create(json!({"clientName": "ab", "sessionStatus": "hidden", "metadata": {"team": "Billing South"}})).await;
    create(json!({"clientName": "B", "minHealthySubscribedTopicFiltersCount": 1})).await;
    create(json!({"clientName": "c"})).await;
    bench
        .act(&token, ALTER, json!({"clientName": "c", "sessionStatus": "banned"}))
        .await;
    for (filters, names) in [
        (json!({}), &["B", "a", "b", "c"][..]),
        (json!({"partialClientName": "a"}), &["a"]),
        (json!({"partialClientName": "z"}), &[]),
        (json!({"connectionStatusFilter": ["disconnected"]}), &["c"]),
        (
            json!({"connectionStatusFilter": ["connectedTemporarily", "disconnected"]}),
            &["a", "c"],
        ),
        (json!({"connectionStatusFilter": ["unknown"]}), &[]),
        (json!({"sessionStatusFilter": ["hidden"]}), &["ab"]),
        (json!({"sessionStatusFilter": ["hidden", "BANNED"]}), &["ab", "c"]),
        (json!({"sessionStatusFilter": []}), &["B", "a", "b", "c"]),
        (json!({"sessionTypeFilter": ["mqApi"]}), &["B", "a", "b", "c"]),
        (json!({"sessionTypeFilter": ["mqtt"]}), &[]),
        (json!({"healthFilter": ["offline"]}), &["c"]),
        (json!({"healthFilter": ["unhealthy"]}), &["B"]),
        (json!({"healthFilter": ["healthy"]}), &["a", "b"]),
        (json!({"unsetHealthMeasures": true}), &["a", "b", "c"]),
        (
            json!({"healthFilter": ["unhealthy"], "unsetHealthMeasures": true}),
            &["B", "a", "b", "c"],
        ),
        (json!({"label": {"name": "x"}}), &["a", "b"]),
        (json!({"label": {"group": "g", "name": "x"}}), &["b"]),
        (json!({"label": {"group": "", "name": "x"}}), &["a"]),
        (json!({"label": {"name": "y"}}), &[]),
        (json!({"labelId": 2}), &["a"]),
        (json!({"labelId": 2, "label": {"group": "g", "name": "x"}}), &[]),
        (json!({"labelId": 9}), &[]),
        (json!({"metadataFilter": "billing"}), &["b"]),
        (
            json!({"metadataFilter": "\"billing south\"", "sessionStatusFilter": ["hidden"]}),
            &["ab"],
        ),
        (json!({"sortAscending": "clientName"}), &["B", "a", "b", "c"]),
        (json!({"sortDescending": "clientName"}), &["c", "b", "a", "B"]),
        (json!({"sortAscending": "lastConnect"}), &["b", "a", "B", "c"]),
        (json!({"sortDescending": "lastConnect"}), &["c", "B", "a", "b"]),
        (json!({"sortAscending": "lastDisconnect"}), &["c", "B", "a", "b"]),
        (json!({"sortDescending": "lastDisconnect"}), &["c", "B", "a", "b"]),
        (
            json!({"sortAscending": "ipAddress", "sortDescending": "clientName"}),
            &["c", "b", "a", "B"],
        ),
        (json!({"skipRecords": 1, "maxRecords": 2}), &["a", "b"]),
        (json!({"skipRecords": 4}), &[]),
    ] {
        assert_eq!(bench.names(&token, filters.clone()).await, names, "{filters}");
    }
    let listed = bench.act(&token, LIST, json!({"partialClientName": "a"})).await;
    assert_eq!(listed, json!({"data": [{"clientName": "a", "sessionType": "mqApi"}]}));
    for (filters, code) in [
        (json!({"connectionStatusFilter": "connected"}), 14702),
        (json!({"connectionStatusFilter": ["online"]}), 14228),
        (json!({"sessionStatusFilter": ["asleep"]}), 14228),
        (json!({"sessionTypeFilter": ["db"]}), 14228),
        (json!({"healthFilter": [1]}), 14702),
        (
            json!({"sortAscending": "lastConnect|lastDisconnect|clientName|ipAddress"}),
            14228,
        ),
        (json!({"skipRecords": -1}), 14228),
        (json!({"maxRecords": 0}), 14228),
        (json!({"partialClientName": 1}), 14702),
    ] {
        assert_eq!(bench.refusal(&token, LIST, filters.clone()).await, code, "{filters}");
    }
}

#[tokio::test]
async fn a_description_has_statistics_topics_and_a_warning_for_each_unknown_name() {
    let (bench, token) = bench().await;
    bench
        .act(
            &token,
            CREATE,
            json!({"clientName": "a", "minHealthySubscribedTopicFiltersCount": 1,
                   "minHealthySendRatePerMinute": 5}),
        )
        .await;
    bench
        .act(
            &token,
            "subscribeToMq",
            json!({"clientName": "a", "subscriptionActions": [
                {"subscriptionAction": "add", "topicFilter": "t/#", "subscriptionIdentifier": 3, "qos": 1,
                 "receiveRetainedMessages": "never", "includeExpiredMessages": true,
                 "userProperties": [{"key": "k", "value": "v"}]},
                {"subscriptionAction": "add", "topicFilter": "none"}]}),
        )
        .await;
    for (topic, count) in [("t/2", 4), ("t/1", 3), ("u", 1), ("t/2", 1)] {
        let messages = vec![json!({"payload": "AB"}); count];
        let publish = json!({"clientName": "a", "topic": topic, "messages": messages});
        bench.act(&token, "publishMessagesToMq", publish).await;
    }
    bench
        .act(
            &token,
            "getMessagesFromMqApiSession",
            json!({"clientName": "a", "maxMessages": 5}),
        )
        .await;
    let request = json!({"action": DESCRIBE, "authToken": token, "debug": "max", "params": {
        "clientNames": ["nobody", "a", "a", "none"], "includeStats": true, "includePublishedTopics": true,
        "includeSubscribedTopics": true}});
    let answer = bench.call(request.clone()).await;
    let data = answer["result"]["data"].as_array().unwrap();
    assert_eq!(data.len(), 1);
    let warnings = answer["debugInfo"]["warnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 2);
    assert!(warnings.iter().all(|warning| warning["code"] == 14237));
    assert_eq!(data[0]["publishedTopics"], json!(["t/1", "u", "t/2"]));
    assert_eq!(
        data[0]["subscribedTopics"],
        json!([
            {"topicFilter": "none", "receiveRetainedMessages": "onSubscription", "receiveMyMessages": true,
             "includeExpiredMessages": false, "qos": 2, "topics": []},
            {"topicFilter": "t/#", "subscriptionIdentifier": 3, "receiveRetainedMessages": "never",
             "receiveMyMessages": true, "includeExpiredMessages": true, "qos": 1,
             "userProperties": [{"key": "k", "value": "v"}], "topics": [{"topic": "t/1"}, {"topic": "t/2"}]}])
    );
    let moment = "2026-03-02T09:56:01";
    assert_eq!(
        data[0]["stats"],
        json!({"minHealthySendRatePerMinute": 5, "maxHealthySendRatePerMinute": 0,
            "maxHealthyBacklogRatePerMinute": 0, "minHealthySubscribedTopicFiltersCount": 1,
            "maxHealthySubscribedTopicFiltersCount": 0, "sessionHealth": "healthy",
            "totalMessagesPublished": 9, "publishRatePerMinute": 9, "publishRatePerMinuteLast10Minutes": 9,
            "publishRatePerMinuteInSession": 9, "publishRatePerHour": 9,
            "totalMessagesReceived": 5, "receiveMessagesPerMinute": 5, "receiveMessagesPerMinuteLast10Minutes": 5,
            "receiveMessagesPerMinuteSinceInSession": 5, "receiveMessagesPerHour": 5,
            "currentDeliveryBacklogged": 3, "deliveryBacklogRatePerMinute": 3,
            "deliveryBacklogRatePerMinuteLast10Minutes": 3, "deliveryBacklogRatePerMinuteInSession": 3,
            "deliveryBacklogRatePerHour": 3, "deliveryBacklogRatePerDay": 3,
            "firstMessagePublishedOn": moment, "lastMessagePublishedOn": moment,
            "firstMessageReceivedOn": moment, "lastMessageReceivedOn": moment})
    );
    bench.clock.advance(Duration::from_secs(180));
    let stats = &bench.call(request).await["result"]["data"][0]["stats"];
    assert_eq!(
        (&stats["publishRatePerMinute"], &stats["publishRatePerMinuteInSession"]),
        (&json!(0), &json!(3))
    );
    assert_eq!(
        (&stats["totalMessagesPublished"], &stats["publishRatePerHour"]),
        (&json!(9), &json!(9))
    );
    assert_eq!(stats["sessionHealth"], "unhealthy", "it sends less than it should");
    let none = bench.act(&token, DESCRIBE, json!({"clientNames": ["nobody"]})).await;
    assert_eq!(none, json!({"data": []}));
    assert_eq!(bench.refusal(&token, DESCRIBE, json!({})).await, 12025);
    assert_eq!(bench.refusal(&token, DESCRIBE, json!({"clientNames": []})).await, 14228);
    assert_eq!(
        bench.refusal(&token, DESCRIBE, json!({"clientNames": "a"})).await,
        14702
    );
}

#[tokio::test]
async fn a_deleted_session_keeps_its_name_until_it_is_deleted_for_good() {
    let (bench, token) = bench().await;
    bench.act(&token, CREATE, json!({"clientName": "a"})).await;
    bench.act(&token, DELETE, json!({"clientName": "a"})).await;
    bench.act(&token, DELETE, json!({"clientName": "a"})).await;
    let described = bench.describe(&token, "a").await;
    assert_eq!(
        (&described["sessionStatus"], &described["connectionStatus"]),
        (&json!("inactive"), &json!("disconnected"))
    );
    assert_eq!(described["disconnectionDateTime"], "2026-03-02T09:56:01");
    assert_eq!(bench.refusal(&token, CREATE, json!({"clientName": "a"})).await, 14221);
    let altered = bench
        .act(&token, ALTER, json!({"clientName": "a", "metadata": {}}))
        .await;
    assert_eq!(altered["sessionStatus"], "inactive", "an alteration is no use");
    let publish = json!({"clientName": "a", "topic": "t", "messages": [{"payload": ""}]});
    bench.act(&token, "publishMessagesToMq", publish).await;
    assert_eq!(bench.describe(&token, "a").await["sessionStatus"], "normal");
    bench
        .act(
            &token,
            DELETE,
            json!({"clientName": "a", "permanentlyDeleteSession": true}),
        )
        .await;
    bench.act(&token, CREATE, json!({"clientName": "a"})).await;
    bench.act(&token, "deleteMqttSession", json!({"clientName": "a"})).await;
    assert_eq!(bench.refusal(&token, DELETE, json!({"clientName": "a"})).await, 14237);
    assert_eq!(bench.refusal(&token, DELETE, json!({})).await, 12025);
}

#[tokio::test]
async fn a_session_of_another_account_cannot_be_used_seen_or_described() {
    let (bench, admin) = bench().await;
    let press = bench.log_in("PRESS4", "s3cret").await;
    bench.act(&admin, CREATE, json!({"clientName": "theirs"})).await;
    bench.act(&press, CREATE, json!({"clientName": "own"})).await;
    assert_eq!(bench.names(&press, json!({})).await, ["own"]);
    assert_eq!(bench.names(&admin, json!({})).await, ["own", "theirs"]);
    let message = json!([{"payload": ""}]);
    let subscription = json!([{"subscriptionAction": "add", "topicFilter": "t"}]);
    for (action, params) in [
        (
            ALTER,
            json!({"clientName": "theirs", "sessionStatus": "banned", "label": {"name": "unborn"}}),
        ),
        (DELETE, json!({"clientName": "theirs"})),
        (DESCRIBE, json!({"clientNames": ["own", "nobody", "theirs"]})),
        (
            "publishMessagesToMq",
            json!({"clientName": "theirs", "topic": "t", "messages": message}),
        ),
        (
            "publishMessagesToMq",
            json!({"clientName": "own", "topic": "t", "messages": [{}, {"clientName": "theirs"}]}),
        ),
        ("getMessagesFromMqApiSession", json!({"clientName": "theirs"})),
        (
            "subscribeToMq",
            json!({"clientName": "theirs", "subscriptionActions": subscription}),
        ),
        (
            "subscribeToMq",
            json!({"clientName": "own", "subscriptionActions": [
                {"subscriptionAction": "add", "topicFilter": "faircomAdmin/#"}]}),
        ),
    ] {
        assert_eq!(
            bench.refusal(&press, action, params.clone()).await,
            12030,
            "{action} {params}"
        );
    }
    assert_eq!(
        bench.refusal(&press, CREATE, json!({"clientName": "theirs"})).await,
        14221
    );
    assert_eq!(bench.describe(&admin, "theirs").await["sessionStatus"], "normal");
    assert_eq!(
        bench
            .refusal(&admin, "getMessagesFromMqTopic", json!({"topic": "t"}))
            .await,
        14236
    );
    let described = bench
        .act(&press, DESCRIBE, json!({"clientNames": ["own", "nobody"]}))
        .await;
    assert_eq!(described["data"].as_array().unwrap().len(), 1);
}
