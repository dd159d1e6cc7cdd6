//! A small client of the JSON-action API: one request at a time over one HTTP/1.1 connection, written by hand so that a
//! test sees exactly when the server answered and when it was gone.

#![allow(dead_code, reason = "each test binary uses its part of it")]
#![allow(unreachable_pub, reason = "shared by several test binaries")]

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// What a call may take; only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(20);

/// A caller with a connection, made when needed, and a token.
pub struct JsonClient {
    address: SocketAddr,
    stream: Option<TcpStream>,
    unread: Vec<u8>,
    /// Sent with every request unless it is empty.
    pub token: String,
}

impl JsonClient {
    pub fn new(address: SocketAddr, token: &str) -> Self {
        Self {
            address,
            stream: None,
            unread: Vec::new(),
            token: token.to_owned(),
        }
    }

    /// Logs in as the administrator of a new data directory.
    pub async fn log_in(&mut self, permanent: bool) {
        let params = json!({"username": "ADMIN", "password": "ADMIN", "permanentSession": permanent});
        let response = self.call("createSession", params).await.expect("an answer");
        assert_eq!(response["errorCode"], 0, "{response}");
        response["authToken"]
            .as_str()
            .expect("a token")
            .clone_into(&mut self.token);
    }

    /// The result of an action that must succeed.
    #[track_caller]
    pub fn must(&mut self, action: &str, params: Value) -> impl Future<Output = Value> + '_ {
        let caller = std::panic::Location::caller();
        let action = action.to_owned();
        async move {
            let response = self.call(&action, params).await;
            let mut response = response.unwrap_or_else(|| panic!("{caller}: `{action}` got no answer"));
            assert_eq!(response["errorCode"], 0, "{caller}: `{action}`: {response}");
            response["result"].take()
        }
    }

    /// The response envelope, or `None` if the connection ended without one.
    pub async fn call(&mut self, action: &str, params: Value) -> Option<Value> {
        let mut request = json!({"action": action, "params": params});
        if !self.token.is_empty() {
            request["authToken"] = self.token.clone().into();
        }
        let exchange = self.exchange(request.to_string().into_bytes());
        let body = timeout(PATIENCE, exchange)
            .await
            .unwrap_or_else(|_| panic!("`{action}` was not answered in time"));
        if body.is_none() {
            self.stream = None;
            self.unread.clear();
        }
        let body = body?;
        Some(
            serde_json::from_slice(&body)
                .unwrap_or_else(|error| panic!("`{action}` was not answered in JSON: {error}")),
        )
    }

    async fn exchange(&mut self, body: Vec<u8>) -> Option<Vec<u8>> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => {
                let stream = TcpStream::connect(self.address).await.ok()?;
                stream.set_nodelay(true).ok()?;
                none.insert(stream)
            }
        };
        let mut request = format!(
            "POST /api HTTP/1.1\r\nHost: evermq\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(&body);
        stream.write_all(&request).await.ok()?;
        let head_end = loop {
            if let Some(at) = self.unread.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            read_more(stream, &mut self.unread).await?;
        };
        let head = String::from_utf8_lossy(self.unread.get(..head_end)?).to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 200"), "{head}");
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"))
            .unwrap_or_else(|| panic!("a length in {head}"));
        let end = head_end + length.trim().parse::<usize>().expect("a number");
        while self.unread.len() < end {
            read_more(stream, &mut self.unread).await?;
        }
        let rest = self.unread.split_off(end);
        let mut response = std::mem::replace(&mut self.unread, rest);
        Some(response.split_off(head_end))
    }
}

async fn read_more(stream: &mut TcpStream, unread: &mut Vec<u8>) -> Option<()> {
    match stream.read_buf(unread).await {
        Ok(0) | Err(_) => None,
        Ok(_) => Some(()),
    }
}
