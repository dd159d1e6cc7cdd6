//! The real program: its greeting, its signals, and what it says about settings that cannot work.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::certificates::{Authority, connect};
use crate::client::{Level, RawClient};
use crate::world::FREE;

/// A running program; killed when it is dropped.
struct Program {
    child: Child,
    log: BufReader<ChildStderr>,
    /// The lines of the greeting: their first word and the second.
    greeting: HashMap<String, String>,
}

fn command(data: &Path, options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_evermq"));
    command.arg("--data-dir").arg(data).args(options);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.env_remove("EVERMQ_LOG");
    command
}

impl Program {
    fn start(data: &Path, options: &[&str]) -> Self {
        let mut child = command(data, options).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut greeting = HashMap::new();
        for line in stdout.lines() {
            let line = line.unwrap();
            let mut words = line.split_whitespace();
            if let (Some(name), Some(value)) = (words.next(), words.next()) {
                greeting.insert(name.to_owned(), value.to_owned());
                if name == "start" {
                    break;
                }
            }
        }
        assert!(greeting.contains_key("start"), "it did not start");
        Self { child, log, greeting }
    }

    /// Where it listens, from a line of the greeting.
    fn address(&self, name: &str) -> SocketAddr {
        let value = &self.greeting[name];
        let address = value.split("://").last().unwrap().split('/').next().unwrap();
        address.parse().unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Reads the log up to a line with this text.
    fn await_log(&mut self, text: &str) -> String {
        let mut read = String::new();
        loop {
            let mut line = String::new();
            let count = self.log.read_line(&mut line).unwrap();
            assert!(count > 0, "the log ended without `{text}`:\n{read}");
            if line.contains(text) {
                return line;
            }
            read.push_str(&line);
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// What the program says when it does not start.
fn refusal(options: &[&str]) -> String {
    let dir = TempDir::new().unwrap();
    let output = command(&dir.path().join("data"), options).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let log = String::from_utf8(output.stderr).unwrap();
    let last = log.lines().last().unwrap();
    assert!(last.starts_with("evermq: "), "{log}");
    last.to_owned()
}

#[tokio::test]
async fn sighup_reads_the_certificates_again_and_keeps_connections() {
    let dir = TempDir::new().unwrap();
    let (certificate, key) = (dir.path().join("certificate.pem"), dir.path().join("key.pem"));
    let (first, second) = (Authority::new(), Authority::new());
    first.sign("localhost").write(&certificate, &key);
    let options = [
        "--mqtt",
        "off",
        "--mqtt-ws",
        "off",
        "--mqtt-tls",
        FREE,
        "--http",
        "off",
        "--tls-cert",
        certificate.to_str().unwrap(),
        "--tls-key",
        key.to_str().unwrap(),
    ];
    let mut program = Program::start(&dir.path().join("data"), &options);
    let address = program.address("MQTT-TLS");
    let (old, new) = (first.client(None, &[]), second.client(None, &[]));
    let stream = connect(&old, address).await.unwrap();
    let (mut client, _) = RawClient::over(stream, Level::V5).greet("c", true).await;

    second.sign("localhost").write(&certificate, &key);
    program.signal(Signal::HUP);
    program.await_log("read again");
    connect(&new, address).await.unwrap();
    assert!(connect(&old, address).await.is_err());
    client.ping().await;

    std::fs::write(&key, "nothing of use").unwrap();
    program.signal(Signal::HUP);
    let line = program.await_log("those in use stay");
    assert!(line.contains("ERROR") && line.contains("key.pem` (tls.key)"), "{line}");
    connect(&new, address).await.unwrap();
    client.ping().await;

    program.signal(Signal::TERM);
    assert_eq!(client.closed().await, Some(0x8B));
    assert_eq!(program.child.wait().unwrap().code(), Some(0));
}

#[test]
fn the_greeting_lists_the_listeners_that_are_on_with_their_real_addresses() {
    let dir = TempDir::new().unwrap();
    let (certificate, key) = (dir.path().join("certificate.pem"), dir.path().join("key.pem"));
    Authority::new().sign("localhost").write(&certificate, &key);
    let config = dir.path().join("evermq.toml");
    let settings = format!(
        "mqtt = \"{FREE}\"\nmqtt_ws = \"{FREE}\"\nmqtt_tls = \"{FREE}\"\nmqtt_wss = \"{FREE}\"\nhttp = \"{FREE}\"\n\
         https = \"{FREE}\"\n[tls]\ncert = \"{}\"\nkey = \"{}\"\n",
        certificate.display(),
        key.display()
    );
    std::fs::write(&config, settings).unwrap();
    let options = ["--config", config.to_str().unwrap(), "--http", "off"];
    let program = Program::start(&dir.path().join("data"), &options);
    assert_eq!(program.greeting.get("HTTP"), None);
    let names = [
        ("MQTT", "127", ""),
        ("MQTT-WS", "ws://127", "/mqtt"),
        ("MQTT-TLS", "127", ""),
        ("MQTT-WSS", "wss://127", "/mqtt"),
        ("HTTPS", "https://127", "/api"),
    ];
    for (name, start, end) in names {
        let value = &program.greeting[name];
        assert!(value.starts_with(start) && value.ends_with(end), "{name} {value}");
        assert_ne!(program.address(name).port(), 0);
        std::net::TcpStream::connect(program.address(name)).unwrap();
    }
}

#[test]
fn settings_that_cannot_work_are_refused_with_what_to_change() {
    let off = ["--mqtt", "off", "--mqtt-ws", "off", "--http", "off"];
    assert!(refusal(&off).contains("every listener is off"));

    let why = refusal(&["--mqtt", "127.0.0.1:18", "--http", "127.0.0.1:18"]);
    assert!(why.contains("`mqtt`") && why.contains("`http`"), "{why}");

    let why = refusal(&["--mqtt", FREE, "--mqtt-ws", "off", "--http", FREE, "--https", FREE]);
    assert!(why.contains("--tls-cert FILE and --tls-key FILE"), "{why}");

    let why = refusal(&[
        "--mqtt-tls",
        FREE,
        "--tls-cert",
        "/nowhere/c.pem",
        "--tls-key",
        "/nowhere/k.pem",
    ]);
    assert!(why.contains("`/nowhere/c.pem` (tls.cert)"), "{why}");

    let taken = TcpListener::bind(FREE).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let why = refusal(&["--mqtt", FREE, "--mqtt-ws", &address, "--http", FREE]);
    assert!(why.contains("--mqtt-ws ADDR:PORT") && why.contains(&address), "{why}");

    let why = refusal(&["--mqtt", "off", "--mqtt-ws", "0.0.0.0:0", "--http", FREE]);
    assert!(why.contains("mqtt-ws listener") && why.contains("passwd"), "{why}");
}
