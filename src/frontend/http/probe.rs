//! What the fuzz target of the JSON actions checks: whatever is posted, the answer is JSON with an error code, and no
//! action fails without saying why. See [`crate::fuzzing`].

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::error_code::ErrorCode;
use super::{Api, ServerInfo, envelope};
use crate::broker::login::LoginSettings;
use crate::broker::{Broker, BrokerSettings};
use crate::clock::Clock;
use crate::store::memory::MemoryStore;

/// Stands for the token of a login of `ADMIN`.
const TOKEN: &str = "TOKEN";
/// Between the requests of an input; no JSON has this byte.
const NEXT_REQUEST: u8 = 0xFF;
/// Requests of an input at the most.
const REQUEST_COUNT_MAX: usize = 6;
/// Inputs that one broker sees: to make one takes a password's time.
const INPUT_COUNT_MAX: u32 = 5_000;

struct Bench {
    runtime: Runtime,
    clock: Clock,
    api: Arc<Api>,
    token: String,
    inputs_left: u32,
}

impl Bench {
    fn start() -> Option<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .ok()?;
        let clock = Clock::manual(1_800_000_000_000);
        let broker = runtime.block_on(async {
            let store = MemoryStore::new(clock.clone());
            let broker = Broker::open(store, clock.clone(), BrokerSettings::default())
                .await
                .ok()?;
            broker.accounts().begin(None).await.ok()?;
            Some(broker)
        })?;
        let mut bench = Self {
            runtime,
            clock,
            api: Arc::new(Api {
                broker,
                info: ServerInfo::default(),
                defaults: Arc::new(LoginSettings::default()),
                strict_params: false,
            }),
            token: String::new(),
            inputs_left: INPUT_COUNT_MAX,
        };
        let login = json!({ "action": "createSession", "params": { "username": "ADMIN", "password": "ADMIN" } });
        let answer: Value = serde_json::from_slice(&bench.post(login.to_string().as_bytes())).ok()?;
        answer
            .get("result")?
            .get("authToken")?
            .as_str()?
            .clone_into(&mut bench.token);
        Some(bench)
    }

    fn post(&self, body: &[u8]) -> Vec<u8> {
        let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        self.runtime.block_on(async {
            let answering = envelope::answer(&self.api, peer, body);
            tokio::select! {
                answer = answering => answer,
                () = self.pass_time() => panic!("a request is not answered"),
            }
        })
    }

    /// Lets the clock run for those who wait for a time; a password takes its time in earnest.
    async fn pass_time(&self) {
        for round in 0..5_000 {
            for _ in 0..64 {
                tokio::task::yield_now().await;
            }
            if round > 3 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            self.clock.advance(Duration::from_secs(1));
        }
    }
}

thread_local! {
    static BENCH: RefCell<Option<Bench>> = const { RefCell::new(None) };
}

/// Posts the bodies in the input, with [`NEXT_REQUEST`] between them and a token where `TOKEN` stands.
pub fn api(bytes: &[u8]) {
    BENCH.with_borrow_mut(|held| {
        let used_up = held.as_ref().is_none_or(|bench| bench.inputs_left == 0);
        if used_up {
            *held = Bench::start();
        }
        let Some(bench) = held else {
            panic!("there is no broker to ask");
        };
        bench.inputs_left -= 1;
        for body in bytes.split(|byte| *byte == NEXT_REQUEST).take(REQUEST_COUNT_MAX) {
            let body = String::from_utf8_lossy(body).replace(TOKEN, &bench.token);
            let answer = bench.post(body.as_bytes());
            let Ok(Value::Object(answer)) = serde_json::from_slice(&answer) else {
                panic!("the answer is not a JSON object");
            };
            let code = answer.get("errorCode");
            assert_ne!(code, Some(&json!(ErrorCode::INTERNAL.0)), "an action has failed");
            // A login may have been ended by the request.
            if code == Some(&json!(ErrorCode::INVALID_TOKEN.0)) {
                bench.inputs_left = 0;
                break;
            }
        }
    });
}
