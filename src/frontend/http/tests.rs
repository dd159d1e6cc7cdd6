//! Real requests over a real listener.

mod messages;
mod metrics;
mod retrieval;
mod sessions;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Api, Health, HttpLimits, HttpServer, ServerInfo};
use crate::broker::account::Accounts;
use crate::broker::login::{LoginLimits, LoginSettings};
use crate::broker::{Broker, BrokerSettings};
use crate::clock::Clock;
use crate::store::memory::MemoryStore;
use crate::store::{Store, StoreState};

struct StoreHealth(Arc<MemoryStore>);

impl Health for StoreHealth {
    fn live(&self) -> Result<(), String> {
        Ok(())
    }

    fn ready(&self) -> Result<(), String> {
        match self.0.state() {
            StoreState::Latched(cause) => Err(cause),
            _ => Ok(()),
        }
    }
}

struct Bench {
    server: HttpServer,
    store: Arc<MemoryStore>,
    clock: Clock,
    accounts: Arc<Accounts>,
}

struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

impl Bench {
    async fn start() -> Self {
        Self::with(HttpLimits::default(), false).await
    }

    async fn with(limits: HttpLimits, strict_params: bool) -> Self {
        let clock = Clock::manual(1_772_445_361_204);
        let store = MemoryStore::new(clock.clone());
        let settings = BrokerSettings {
            login_limits: LoginLimits {
                per_account: 3,
                ..LoginLimits::default()
            },
            ..BrokerSettings::default()
        };
        let broker = Broker::open(store.clone(), clock.clone(), settings).await.unwrap();
        let accounts = Arc::clone(broker.accounts());
        accounts.begin(None).await.unwrap();
        accounts.create("press4", "s3cret", |_| ()).await.unwrap();
        let api = Arc::new(Api {
            broker,
            info: ServerInfo {
                version: "EverMQ test".into(),
                durability: "sync".into(),
                started_ms: 1_772_445_361_204,
                ..ServerInfo::default()
            },
            defaults: Arc::new(LoginSettings::default()),
            strict_params,
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let health = Arc::new(StoreHealth(store.clone()));
        let server = HttpServer::start(listener, None, api, health, limits).unwrap();
        Self {
            server,
            store,
            clock,
            accounts,
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.server.local_addr()).await.unwrap()
    }

    async fn http(&self, method: &str, path: &str, body: &[u8]) -> Reply {
        let mut stream = self.connect().await;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        Reply {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head: head.to_owned(),
            body: body.to_owned(),
        }
    }

    async fn raw(&self, body: &str) -> String {
        let reply = self.http("POST", "/api", body.as_bytes()).await;
        assert_eq!(reply.status, 200);
        reply.body
    }

    async fn call(&self, request: Value) -> Value {
        serde_json::from_str(&self.raw(&request.to_string()).await).unwrap()
    }

    async fn code(&self, request: Value) -> i64 {
        let answer = self.call(request).await;
        assert_eq!(answer["result"], json!({}));
        let code = answer["errorCode"].as_i64().unwrap();
        assert_eq!(code == 0, answer["errorMessage"] == "", "{answer}");
        code
    }

    /// An action of an administrator's login; its result.
    async fn act(&self, token: &str, action: &str, params: Value) -> Value {
        let answer = self
            .call(json!({"action": action, "params": params, "authToken": token}))
            .await;
        assert_eq!(answer["errorCode"], 0, "{action}: {answer}");
        answer["result"].clone()
    }

    /// The number with which an action fails.
    async fn refusal(&self, token: &str, action: &str, params: Value) -> i64 {
        self.code(json!({"action": action, "params": params, "authToken": token}))
            .await
    }

    async fn log_in(&self, username: &str, password: &str) -> String {
        let answer = self
            .call(json!({"action": "createSession", "params": {"username": username, "password": password}}))
            .await;
        assert_eq!(answer["errorCode"], 0, "{answer}");
        assert_eq!(answer["authToken"], answer["result"]["authToken"]);
        answer["authToken"].as_str().unwrap().to_owned()
    }
}

#[tokio::test]
async fn a_ping_without_a_token_is_the_smallest_answer() {
    let bench = Bench::start().await;
    let answer = bench.raw(r#"{"api":"admin","action":"pingSession"}"#).await;
    assert_eq!(answer, r#"{"result":{},"errorCode":0,"errorMessage":""}"#);
    let mut with_mark = b"\xEF\xBB\xBF".to_vec();
    with_mark.extend_from_slice(br#"{"ACTION":1,"action":"PINGSESSION","api":"Admin"}"#);
    let reply = bench.http("POST", "/api/", &with_mark).await;
    assert_eq!(reply.json()["errorCode"], 0);
    assert!(reply.head.contains("content-type: application/json; charset=utf-8"));
}

#[tokio::test]
async fn every_reachable_row_of_the_error_table_has_its_number() {
    let bench = Bench::start().await;
    let token = bench.log_in("ADMIN", "ADMIN").await;
    for body in ["", "{", "[]", "7", "\"x\"", "{\"action\":\"pingSession\",}"] {
        let answer: Value = serde_json::from_str(&bench.raw(body).await).unwrap();
        assert_eq!(answer["errorCode"], 14704, "{body}");
        assert_eq!(answer["result"], json!({}));
    }
    let rows = [
        (json!({}), 14700),
        (json!({"action": ""}), 14700),
        (json!({"action": null}), 14700),
        (json!({"action": 5}), 14702),
        (json!({"action": "pingSession", "params": []}), 14702),
        (json!({"action": "pingSession", "api": 1}), 14702),
        (json!({"action": "pingSession", "authToken": 1}), 14702),
        (json!({"action": "pingSession", "responseOptions": "x"}), 14702),
        (
            json!({"action": "pingSession", "responseOptions": {"omit": "x"}}),
            14702,
        ),
        (
            json!({"action": "pingSession", "responseOptions": {"binaryFormat": 1}}),
            14702,
        ),
        (
            json!({"action": "pingSession", "responseOptions": {"binaryFormat": "x"}}),
            14700,
        ),
        (json!({"action": "pingSession", "debug": "x"}), 14700),
        (json!({"action": "pingSession", "debug": 1}), 14702),
        (json!({"action": "pingSession", "apiVersion": "x"}), 14702),
        (json!({"action": "pingSession", "apiVersion": "2.0"}), 12006),
        (json!({"action": "pingSession", "apiVersion": "1.0.0"}), 0),
        (json!({"action": "lisTopics"}), 14701),
        (json!({"action": "pingSession", "api": "mq"}), 14701),
        (json!({"action": "pingSession", "api": "foo"}), 14701),
        (json!({"action": "closeSession"}), 14701),
        (json!({"action": "listCodePackages"}), 12006),
        (json!({"action": "anything", "api": "DB"}), 12006),
        (json!({"action": "listSessions"}), 12025),
        (json!({"action": "listSessions", "authToken": ""}), 12025),
        (json!({"action": "listSessions", "authToken": "nobody"}), 12031),
        (json!({"action": "pingSession", "authToken": "nobody"}), 12031),
        (json!({"action": "deleteSession"}), 12025),
        (json!({"action": "manageService", "authToken": token}), 14703),
        (json!({"action": "createSession"}), 12025),
        (json!({"action": "createSession", "params": {"username": ""}}), 12012),
        (
            json!({"action": "createSession", "params": {"username": "x".repeat(65)}}),
            12034,
        ),
        (json!({"action": "createSession", "params": {"username": 1}}), 14702),
        (
            json!({"action": "createSession", "params": {"username": "ADMIN", "password": "admin"}}),
            12033,
        ),
        (
            json!({"action": "createSession", "params": {"username": "nobody", "password": "x"}}),
            12033,
        ),
        (
            json!({"action": "createSession", "params": {"username": "A", "defaultApi": "x"}}),
            12012,
        ),
        (
            json!({"action": "createSession", "params": {"username": "A", "defaultResponseOptions": {"numberFormat": "x"}}}),
            12012,
        ),
        (
            json!({"action": "createSession", "params": {"username": "A", "idleConnectionTimeoutSeconds": -1}}),
            12015,
        ),
        (
            json!({"action": "createSession", "params": {"username": "A", "permanentSession": "maybe"}}),
            14702,
        ),
        (
            json!({"action": "alterSession", "authToken": token, "params": {"username": "A"}}),
            12012,
        ),
        (
            json!({"action": "alterSession", "authToken": token, "params": {"permanentSession": true}}),
            12012,
        ),
        (
            json!({"action": "listSessions", "authToken": token, "params": {"usernameFilter": "A"}}),
            14702,
        ),
    ];
    for (request, code) in rows {
        assert_eq!(bench.code(request.clone()).await, code, "{request}");
    }
}

#[tokio::test]
async fn the_message_is_cut_at_a_character_and_the_request_id_is_echoed_verbatim() {
    let bench = Bench::start().await;
    let id = r#"{"b":12.50,"a":[1724442618569203714,null,"ü"]}"#;
    let long = "ü".repeat(300);
    let answer = bench.raw(&format!(r#"{{"requestId":{id},"action":"{long}"}}"#)).await;
    assert!(answer.contains(&format!("\"requestId\":{id}")), "{answer}");
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let message = answer["errorMessage"].as_str().unwrap();
    assert!((254..=256).contains(&message.len()));
    let answer = bench.raw(r#"{"requestId":null,"action":"pingSession"}"#).await;
    assert!(!answer.contains("requestId"));
}

#[tokio::test]
async fn debug_shows_the_request_without_the_password_and_the_warnings() {
    let bench = Bench::start().await;
    let request = json!({"action": "createSession", "debug": "max", "requestId": "a-1",
        "params": {"username": "ADMIN", "password": "wrong", "fooBar": 1}});
    let raw = bench.raw(&request.to_string()).await;
    assert!(raw.contains('\n') && !raw.contains("wrong"), "{raw}");
    let answer: Value = serde_json::from_str(&raw).unwrap();
    assert_eq!(answer["debugInfo"]["request"]["params"]["password"], "********");
    assert_eq!(answer["debugInfo"]["errorData"], json!({}));
    assert_eq!(answer["debugInfo"]["warnings"][0]["code"], 14700);
    let names: Vec<&String> = answer.as_object().unwrap().keys().collect();
    assert_eq!(names, ["result", "requestId", "debugInfo", "errorCode", "errorMessage"]);

    let gone = json!({"action": "deleteSession", "debug": "MIN", "authToken": "expired"});
    let answer = bench.call(gone).await;
    assert_eq!(
        (&answer["errorCode"], &answer["authToken"]),
        (&json!(0), &json!("expired"))
    );
    assert_eq!(answer["debugInfo"]["warnings"][0]["code"], 12031);

    let on_error = |action: &str| json!({"action": action, "debug": "maxOnError"});
    assert!(bench.call(on_error("pingSession")).await.get("debugInfo").is_none());
    assert!(bench.call(on_error("pong")).await.get("debugInfo").is_some());
}

#[tokio::test]
async fn response_options_come_from_the_request_then_the_login_then_the_server() {
    let bench = Bench::start().await;
    let created = bench
        .call(
            json!({"action": "createSession", "params": {"username": "admin", "password": "ADMIN",
            "description": "dashboard", "permanentSession": "TRUE", "idleConnectionTimeoutSeconds": "900",
            "defaultResponseOptions": {"numberFormat": "STRING", "omit": ["errorMessage"]}},
            "responseOptions": {"omit": ["hostname", "errorCode"]}}),
        )
        .await;
    let result = &created["result"];
    assert_eq!(result["username"], "ADMIN");
    assert_eq!(
        result["idleConnectionTimeoutSeconds"], 900,
        "its own request has no login yet"
    );
    assert_eq!(result["permanentSession"], true);
    assert_eq!(result["sessionStartTimestamp"], "2026-03-02T09:56:01");
    assert_eq!(result["defaultResponseOptions"]["numberFormat"], "string");
    assert!(result.get("hostname").is_none() && created.get("errorCode").is_none());
    let token = created["authToken"].as_str().unwrap();

    let described = bench
        .call(json!({"action": "describeSessions", "authToken": token}))
        .await;
    assert_eq!(described["errorCode"], 0, "the envelope keeps its numbers");
    assert!(described.get("errorMessage").is_none());
    assert_eq!(
        described["result"]["sessions"][0]["idleConnectionTimeoutSeconds"],
        "900"
    );
    let described = bench
        .call(json!({"action": "describeSessions", "authToken": token, "responseOptions": {"numberFormat": "number"}}))
        .await;
    assert_eq!(described["result"]["sessions"][0]["idleConnectionTimeoutSeconds"], 900);
    let hidden =
        json!({"action": "nonsense", "authToken": token, "responseOptions": {"omit": ["errorCode", "result"]}});
    let hidden = bench.call(hidden).await;
    assert_eq!(hidden["errorCode"], 14701, "an error is never hidden");
    assert!(hidden.get("result").is_none());

    let altered = bench
        .call(
            json!({"action": "alterSession", "authToken": token, "params": {"defaultDebug": "max",
            "defaultResponseOptions": {"omit": []}}}),
        )
        .await;
    assert_eq!(altered["result"]["defaultDebug"], "max");
    assert_eq!(altered["result"]["description"], "dashboard");
    assert_eq!(altered["result"]["defaultResponseOptions"]["numberFormat"], "string");
    assert!(
        bench
            .call(json!({"action": "pingSession", "authToken": token}))
            .await
            .get("debugInfo")
            .is_some()
    );
}

#[tokio::test]
async fn only_administrators_see_the_logins_of_others() {
    let bench = Bench::start().await;
    let admin = bench.log_in("ADMIN", "ADMIN").await;
    let press = bench.log_in("Press4", "s3cret").await;
    let list = |token: &str| json!({"action": "listSessions", "authToken": token});
    let all = bench.call(list(&admin)).await;
    assert_eq!(all["result"]["sessions"].as_array().unwrap().len(), 2);
    let own = bench.call(list(&press)).await;
    assert_eq!(
        own["result"],
        json!({"sessions": [{"authToken": press, "username": "PRESS4", "description": ""}]})
    );
    let page = json!({"action": "listSessions", "authToken": admin, "params": {"usernameFilter": ["press4"], "skipRecords": 1}});
    assert_eq!(bench.call(page).await["result"]["sessions"], json!([]));
    let describe = json!({"action": "describeSessions", "authToken": press, "debug": "max",
        "params": {"authTokens": [admin, press]}});
    let described = bench.call(describe).await;
    assert_eq!(described["result"]["sessions"].as_array().unwrap().len(), 1);
    assert_eq!(described["debugInfo"]["warnings"][0]["code"], 12031);
    assert_eq!(
        bench.code(json!({"action": "deleteSession", "authToken": press})).await,
        0
    );
    assert_eq!(bench.code(list(&press)).await, 12031);
    bench.accounts.remove(&["press4"]).await.unwrap();
}

#[tokio::test]
async fn a_login_ends_by_idleness_and_one_too_many_is_refused() {
    let bench = Bench::start().await;
    let token = bench.log_in("ADMIN", "ADMIN").await;
    for _ in 0..2 {
        bench.log_in("ADMIN", "ADMIN").await;
    }
    let one_more = json!({"action": "createSession", "params": {"username": "ADMIN", "password": "ADMIN"}});
    assert_eq!(bench.code(one_more).await, 12015);
    bench.clock.advance(Duration::from_secs(3599));
    assert_eq!(
        bench.code(json!({"action": "nonsense", "authToken": token})).await,
        14701
    );
    bench.clock.advance(Duration::from_secs(3599));
    let listed = bench.call(json!({"action": "listSessions", "authToken": token})).await;
    assert_eq!(
        listed["result"]["sessions"].as_array().unwrap().len(),
        1,
        "a failed request counts as use"
    );
    bench.clock.advance(Duration::from_hours(1));
    assert_eq!(
        bench.code(json!({"action": "pingSession", "authToken": token})).await,
        12031
    );
}

#[tokio::test]
async fn strict_mode_turns_an_unknown_argument_into_an_error() {
    let bench = Bench::with(HttpLimits::default(), true).await;
    let request = |params: Value| json!({"action": "createSession", "params": params});
    let unknown = request(json!({"username": "ADMIN", "password": "ADMIN", "foo": 1}));
    assert_eq!(bench.code(unknown).await, 14700);
    assert_eq!(
        bench.code(json!({"action": "pingSession", "params": {"foo": 1}})).await,
        14700
    );
}

#[tokio::test]
async fn a_latched_store_fails_permanent_logins_and_the_ready_check() {
    let bench = Bench::start().await;
    assert_eq!(bench.http("GET", "/health", b"").await.body, r#"{"status":"ok"}"#);
    assert_eq!(bench.http("HEAD", "/health/live", b"").await.status, 200);
    assert_eq!(bench.http("GET", "/health/ready", b"").await.status, 200);
    bench.store.latch("no more disk");
    let ready = bench.http("GET", "/health/ready", b"").await;
    assert_eq!(ready.status, 503);
    assert!(ready.json()["cause"].as_str().unwrap().contains("no more disk"));
    let permanent = json!({"action": "createSession",
        "params": {"username": "ADMIN", "password": "ADMIN", "permanentSession": true}});
    assert_eq!(bench.code(permanent).await, 12009);
}

#[tokio::test]
async fn what_never_reaches_the_action_layer_has_its_status_and_an_envelope() {
    let limits = HttpLimits {
        body_bytes_max: 1000,
        ..HttpLimits::default()
    };
    let bench = Bench::with(limits, false).await;
    let get = bench.http("GET", "/api", b"").await;
    assert_eq!(get.status, 405);
    assert!(get.head.contains("allow: POST"), "{}", get.head);
    assert_eq!(get.json()["errorCode"], 14704);
    let post = bench.http("POST", "/health/ready", b"").await;
    assert_eq!(post.status, 405);
    assert!(post.head.contains("allow: GET, HEAD"));
    for path in ["/", "/apis", "/api/x", "/health/x"] {
        let missing = bench.http("POST", path, b"{}").await;
        assert_eq!(
            (missing.status, &missing.json()["errorCode"]),
            (404, &json!(14704)),
            "{path}"
        );
    }
    let blank = |bytes: usize| format!("{{\"action\":\"pingSession\"{}}}", " ".repeat(bytes - 24));
    assert_eq!(blank(1000).len(), 1000);
    assert_eq!(bench.http("POST", "/api", blank(1000).as_bytes()).await.status, 200);
    assert_eq!(bench.http("POST", "/api", blank(1001).as_bytes()).await.status, 413);

    let mut stream = bench.connect().await;
    let chunk = format!("3E9\r\n{}\r\n0\r\n\r\n", blank(1001));
    stream
        .write_all(b"POST /api HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    stream.write_all(chunk.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[tokio::test]
async fn a_connection_serves_many_requests_and_ends_when_it_is_idle_or_slow() {
    let limits = HttpLimits {
        idle_timeout: Duration::from_millis(300),
        request_timeout: Duration::from_millis(100),
        ..HttpLimits::default()
    };
    let bench = Bench::with(limits, false).await;
    let mut stream = bench.connect().await;
    let body = r#"{"action":"pingSession"}"#;
    let request = format!(
        "POST /api HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut buffer = vec![0; 4096];
    for _ in 0..3 {
        stream.write_all(request.as_bytes()).await.unwrap();
        let read = stream.read(&mut buffer).await.unwrap();
        assert!(buffer[..read].starts_with(b"HTTP/1.1 200"));
    }
    let ended = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut buffer)).await;
    assert!(matches!(ended, Ok(Ok(0) | Err(_))), "an idle connection stayed open");

    let mut silent = bench.connect().await;
    let ended = tokio::time::timeout(Duration::from_secs(5), silent.read(&mut buffer)).await;
    assert!(
        matches!(ended, Ok(Ok(0) | Err(_))),
        "a connection that says nothing stayed open"
    );

    let mut slow = bench.connect().await;
    slow.write_all(b"POST /api HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{")
        .await
        .unwrap();
    let read = slow.read(&mut buffer).await.unwrap();
    assert!(buffer[..read].starts_with(b"HTTP/1.1 408"));
}

#[tokio::test]
async fn an_address_has_so_many_connections_and_a_stop_ends_them_all() {
    let limits = HttpLimits {
        connections_per_address_max: 2,
        ..HttpLimits::default()
    };
    let bench = Bench::with(limits, false).await;
    let mut first = bench.connect().await;
    let mut second = bench.connect().await;
    let body = r#"{"action":"pingSession"}"#;
    let request = format!(
        "POST /api HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut buffer = vec![0; 4096];
    for stream in [&mut first, &mut second] {
        stream.write_all(request.as_bytes()).await.unwrap();
        assert!(stream.read(&mut buffer).await.unwrap() > 0);
    }
    let mut third = bench.connect().await;
    assert!(matches!(third.read(&mut buffer).await, Ok(0) | Err(_)));
    let address = bench.server.local_addr();
    bench.server.stop().await;
    for stream in [&mut first, &mut second] {
        assert!(matches!(stream.read(&mut buffer).await, Ok(0) | Err(_)));
    }
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_session_of_another_account_is_refused_and_an_unknown_one_not_found() {
    let bench = Bench::start().await;
    let token = bench.log_in("ADMIN", "ADMIN").await;
    let subscribe = |name: &str, filter: &str| {
        json!({"action": "subscribeToMqtt", "authToken": token, "params": {
        "clientName": name, "subscriptionActions": [{"subscriptionAction": "add", "topicFilter": filter}]}})
    };
    assert_eq!(bench.code(subscribe("nobody", "a/#")).await, 14237);
    assert_eq!(bench.code(subscribe("nobody", "a/#/b")).await, 14243);
    assert_eq!(bench.code(subscribe("nobody", "$share//b")).await, 14241);
    let delete = json!({"action": "deleteMqSession", "authToken": token, "params": {"clientName": "nobody"}});
    assert_eq!(bench.code(delete).await, 14237);
}
