//! The opening handshake of MQTT over WebSocket: an HTTP/1.1 request becomes a stream of frames.
//!
//! Whoever asks wrongly is told in plain text what is wrong, because the answer is all that a person with a browser or
//! a misconfigured client gets to see.
//!
//! Spec: section 6 of both versions, RFC 6455 4.2.

use std::fmt::Write;
use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tungstenite::handshake::machine::TryParse;
use tungstenite::handshake::server::{Request, create_response, write_response};

use super::connection::write_all;
use super::output::Output;
use super::websocket::WebSocket;

/// The largest request.
const REQUEST_BYTES_MAX: usize = 8 << 10;
/// Where MQTT is served.
const PATHS: [&str; 2] = ["/mqtt", "/"];
/// Spec: v5 [MQTT-6.0.0-3], [MQTT-6.0.0-4].
const SUBPROTOCOL: &str = "mqtt";
const PROTOCOL_HEADER: &str = "sec-websocket-protocol";

/// Why a request does not become a WebSocket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Refusal {
    Malformed,
    TooLong,
    WrongPath,
    NoUpgrade,
    NoSubprotocol,
}

impl Refusal {
    /// Status line and headers of its own, and the text.
    const fn parts(self) -> (&'static str, &'static str) {
        match self {
            Self::Malformed => ("400 Bad Request", "This is not the request of a WebSocket client.\n"),
            Self::TooLong => (
                "431 Request Header Fields Too Large",
                "The request is too long for the opening of a WebSocket.\n",
            ),
            Self::WrongPath => (
                "404 Not Found",
                "There is nothing at this path. MQTT over WebSocket is at /mqtt.\n",
            ),
            // RFC 9110 15.5.22 and RFC 6455 4.4 want the headers.
            Self::NoUpgrade => (
                "426 Upgrade Required\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13",
                "Here MQTT is spoken over WebSocket version 13, and nothing else.\n",
            ),
            Self::NoSubprotocol => (
                "400 Bad Request",
                "The WebSocket client has to offer the subprotocol `mqtt` (Sec-WebSocket-Protocol: mqtt).\n",
            ),
        }
    }

    fn answer(self) -> String {
        let (status, text) = self.parts();
        let mut answer = format!("HTTP/1.1 {status}\r\nConnection: close\r\n");
        write!(
            answer,
            "Content-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\r\n{text}",
            text.len()
        )
        .ok();
        answer
    }
}

/// Turns a stream that begins with an upgrade request into a WebSocket. How long that may take is the caller's business.
///
/// # Errors
/// If the stream fails, or the request was refused and answered.
pub async fn upgrade<S>(mut stream: S) -> io::Result<WebSocket<S>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let mut head = Vec::with_capacity(512);
    let answer = loop {
        if stream.read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match respond(&head) {
            Ok(None) if head.len() >= REQUEST_BYTES_MAX => break Err(Refusal::TooLong),
            Ok(None) => {}
            Ok(Some(answer)) => break Ok(answer),
            Err(refusal) => break Err(refusal),
        }
    };
    match answer {
        Ok(answer) => {
            stream.write_all(&answer).await?;
            stream.flush().await?;
            Ok(WebSocket::new(stream))
        }
        Err(refusal) => {
            let mut output = Output::default();
            output.buffer().extend_from_slice(refusal.answer().as_bytes());
            write_all(&mut stream, &mut output).await;
            Err(io::Error::new(io::ErrorKind::InvalidData, refusal.parts().1.trim_end()))
        }
    }
}

/// The accepting answer to a request, or `None` as long as it is not complete.
fn respond(head: &[u8]) -> Result<Option<Vec<u8>>, Refusal> {
    let Some((length, request)) = Request::try_parse(head).map_err(|_| Refusal::Malformed)? else {
        return Ok(None);
    };
    if !PATHS.contains(&request.uri().path()) {
        return Err(Refusal::WrongPath);
    }
    let mut response = create_response(&request).map_err(|_| Refusal::NoUpgrade)?;
    let offered = request.headers().get_all(PROTOCOL_HEADER);
    let mut offered = offered
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    if !offered.any(|name| name.trim() == SUBPROTOCOL) {
        return Err(Refusal::NoSubprotocol);
    }
    if length < head.len() {
        // Frames may not come before the answer.
        return Err(Refusal::Malformed);
    }
    let chosen = SUBPROTOCOL.parse().map_err(|_| Refusal::Malformed)?;
    response.headers_mut().insert(PROTOCOL_HEADER, chosen);
    let mut answer = Vec::with_capacity(256);
    write_response(&mut answer, &response).map_err(|_| Refusal::Malformed)?;
    Ok(Some(answer))
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    fn request(path: &str, without: &str) -> String {
        let lines = [
            format!("GET {path} HTTP/1.1"),
            "Host: broker".into(),
            "Connection: keep-alive, Upgrade".into(),
            "Upgrade: websocket".into(),
            "Sec-WebSocket-Version: 13".into(),
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==".into(),
            "Sec-WebSocket-Protocol: mqttv3.1, mqtt".into(),
        ];
        let kept: Vec<String> = lines
            .into_iter()
            .filter(|line| without.is_empty() || !line.contains(without))
            .collect();
        kept.join("\r\n") + "\r\n\r\n"
    }

    async fn ask(request: &str) -> (String, bool) {
        let (here, mut there) = duplex(1 << 16);
        there.write_all(request.as_bytes()).await.unwrap();
        let (mut reading, mut writing) = tokio::io::split(there);
        let accepted = tokio::spawn(async move { upgrade(here).await.is_ok() });
        writing.shutdown().await.unwrap();
        let mut answer = String::new();
        reading.read_to_string(&mut answer).await.unwrap();
        (answer, accepted.await.unwrap())
    }

    #[tokio::test]
    async fn a_request_with_the_subprotocol_is_accepted_at_both_paths() {
        for path in ["/mqtt", "/", "/mqtt?client=browser"] {
            let (answer, accepted) = ask(&request(path, "")).await;
            let answer = answer.to_lowercase();
            assert!(accepted && answer.starts_with("http/1.1 101 "), "{answer}");
            assert!(answer.contains("\r\nsec-websocket-protocol: mqtt\r\n"), "{answer}");
            let key = "\r\nsec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n";
            assert!(answer.contains(key), "{answer}");
        }
    }

    #[tokio::test]
    async fn other_requests_are_refused_with_a_text_that_says_why() {
        let pipelined = request("/mqtt", "") + "frames";
        let long = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(REQUEST_BYTES_MAX));
        let cases = [
            (request("/api", ""), "404", "/mqtt"),
            (request("/mqtt", "Protocol"), "400", "subprotocol"),
            (request("/mqtt", "Upgrade: "), "426", "WebSocket"),
            (request("/mqtt", "Key"), "426", "WebSocket"),
            (request("/mqtt", "Version"), "426", "WebSocket"),
            (request("/mqtt", "").replace("GET", "POST"), "400", "WebSocket"),
            (
                request("/mqtt", "").replace("mqttv3.1, mqtt", "mqttv3.1"),
                "400",
                "mqtt",
            ),
            (pipelined, "400", "WebSocket"),
            ("\u{10}\u{0}\u{4}MQTT".into(), "400", "WebSocket"),
            (long, "431", "too long"),
        ];
        for (request, status, text) in cases {
            let (answer, accepted) = ask(&request).await;
            assert!(!accepted, "{request}");
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")),
                "{request}\n{answer}"
            );
            let body = answer.split("\r\n\r\n").nth(1).unwrap();
            assert!(body.contains(text), "{answer}");
            assert!(answer.contains(&format!("Content-Length: {}\r\n", body.len())));
        }
    }
}
