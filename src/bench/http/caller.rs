//! Calls that are waited for one by one: setting up, taking down, and reading counters.

use std::fmt;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use serde_json::{Value, json};

use super::answer::answer;

/// For one call.
const TIMEOUT: Duration = Duration::from_secs(10);

/// An address of the form `http://HOST:PORT/PATH`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::bench) struct Url {
    authority: String,
    path: String,
}

impl Url {
    /// Reads one.
    ///
    /// # Errors
    /// It is none.
    pub(in crate::bench) fn parse(text: &str) -> Result<Self, String> {
        let rest = text
            .strip_prefix("http://")
            .ok_or_else(|| format!("`{text}` does not begin with http://"))?;
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        let authority = if authority.contains(':') {
            authority.to_owned()
        } else {
            format!("{authority}:80")
        };
        Ok(Self {
            authority,
            path: path.to_owned(),
        })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority, self.path)
    }
}

/// What stands at an address.
///
/// # Errors
/// No connection, no answer, or another status than 200.
pub(in crate::bench) fn get(url: &Url) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("`{url}`: {error}");
    let mut found = url.authority.to_socket_addrs().map_err(failed)?;
    let address = found.next().ok_or_else(|| format!("`{url}` has no address"))?;
    let mut caller = Caller::open(address)?;
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        url.path, url.authority
    );
    let body = caller.exchange(request.as_bytes())?;
    String::from_utf8(body).map_err(|_| format!("`{url}` is no text"))
}

/// A request with a JSON body.
pub(super) fn post(body: &str) -> Vec<u8> {
    let head = "POST /api HTTP/1.1\r\nHost: evermq\r\nContent-Type: application/json\r\nContent-Length: ";
    format!("{head}{}\r\n\r\n{body}", body.len()).into_bytes()
}

/// A connection that waits for each answer.
pub(super) struct Caller {
    address: SocketAddr,
    stream: TcpStream,
    /// Sent with every action.
    pub(super) token: String,
}

impl Caller {
    /// Connects.
    ///
    /// # Errors
    /// No connection.
    pub(super) fn open(address: SocketAddr) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("cannot connect to {address}: {error}");
        let stream = TcpStream::connect_timeout(&address, TIMEOUT).map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        stream.set_read_timeout(Some(TIMEOUT)).map_err(failed)?;
        Ok(Self {
            address,
            stream,
            token: String::new(),
        })
    }

    /// Connects and logs in.
    ///
    /// # Errors
    /// No connection, or the login is refused.
    pub(super) fn log_in(address: SocketAddr, username: &str, password: &str) -> Result<Self, String> {
        let mut caller = Self::open(address)?;
        let answer = caller.call("createSession", &json!({"username": username, "password": password}))?;
        let token = answer.get("authToken").and_then(Value::as_str);
        token
            .ok_or("`createSession` brings no token")?
            .clone_into(&mut caller.token);
        Ok(caller)
    }

    /// Does an action that must succeed.
    ///
    /// # Errors
    /// It does not.
    pub(super) fn call(&mut self, action: &str, params: &Value) -> Result<Value, String> {
        let mut request = json!({"action": action, "params": params});
        if !self.token.is_empty()
            && let Some(object) = request.as_object_mut()
        {
            object.insert("authToken".into(), self.token.clone().into());
        }
        let body = self.exchange(&post(&request.to_string()))?;
        let answer: Value = serde_json::from_slice(&body).map_err(|error| format!("`{action}`: {error}"))?;
        if answer.get("errorCode").and_then(Value::as_u64) == Some(0) {
            return Ok(answer);
        }
        let text = answer.get("errorMessage").and_then(Value::as_str).unwrap_or_default();
        Err(format!("`{action}` is refused: {text}"))
    }

    fn exchange(&mut self, request: &[u8]) -> Result<Vec<u8>, String> {
        let failed = |error: std::io::Error| format!("no answer from {}: {error}", self.address);
        self.stream.write_all(request).map_err(failed)?;
        let mut held = Vec::new();
        let mut scratch = vec![0; 64 << 10];
        loop {
            if let Some(answer) = answer(&held)? {
                if answer.status != 200 {
                    return Err(format!("{} answers with status {}", self.address, answer.status));
                }
                return Ok(answer.body.into_owned());
            }
            let read = self.stream.read(&mut scratch).map_err(failed)?;
            if read == 0 {
                return Err(format!("{} has closed the connection", self.address));
            }
            held.extend_from_slice(scratch.get(..read).unwrap_or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_host_port_and_path() {
        let url = |text| Url::parse(text).map(|url| url.to_string());
        assert_eq!(url("http://h:8/metrics").as_deref(), Ok("http://h:8/metrics"));
        assert_eq!(url("http://h").as_deref(), Ok("http://h:80/"));
        assert!(url("https://h/").is_err());
    }
}
