//! The real program as a child process: started on a data directory, killed, stopped.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use tempfile::TempDir;

/// A data directory that is kept for a look at it when the test fails.
pub(crate) struct Site {
    dir: Option<TempDir>,
}

impl Site {
    pub(crate) fn new() -> Self {
        let dir = TempDir::with_prefix("evermq-crash-").expect("a scratch directory");
        Self { dir: Some(dir) }
    }

    fn path(&self) -> &Path {
        self.dir.as_ref().expect("until it is dropped").path()
    }

    fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    /// Where the program writes its log.
    fn log(&self) -> PathBuf {
        self.path().join("stderr")
    }

    fn spawn(&self) -> Child {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log())
            .expect("a file for the log");
        Command::new(env!("CARGO_BIN_EXE_evermq"))
            .arg("--data-dir")
            .arg(self.data())
            .args(["--mqtt", "127.0.0.1:0", "--mqtt-ws", "off", "--http", "127.0.0.1:0"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("start the program")
    }

    /// Starts the program and kills it when this time has passed, wherever its start has come to.
    pub(crate) fn start_and_kill(&self, after: Duration) {
        let mut child = self.spawn();
        std::thread::sleep(after);
        child.kill().expect("kill");
        child.wait().expect("wait");
    }

    /// Starts the program and waits for its greeting.
    pub(crate) fn start(&self) -> Program {
        let mut child = self.spawn();
        let stdout = child.stdout.take().expect("a pipe");
        let mut greeting = String::new();
        let (mut mqtt, mut http) = (None, None);
        for line in BufReader::new(stdout).lines() {
            let line = line.expect("read the greeting");
            let mut words = line.split_whitespace();
            match (words.next(), words.next()) {
                (Some("MQTT"), Some(address)) => mqtt = address.parse::<SocketAddr>().ok(),
                (Some("HTTP"), Some(url)) => {
                    let address = url.strip_prefix("http://").and_then(|rest| rest.strip_suffix("/api"));
                    http = address.and_then(|address| address.parse::<SocketAddr>().ok());
                }
                (Some("start"), _) => {
                    greeting = line;
                    break;
                }
                _ => {}
            }
        }
        let (Some(mqtt), Some(http)) = (mqtt, http) else {
            let status = child.wait().expect("wait");
            panic!("the program did not start: {status}\n{}", log_tail(&self.log()));
        };
        Program {
            child: Some(child),
            greeting,
            mqtt,
            http,
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(dir) = self.dir.take()
        {
            eprintln!("the program's last words:\n{}", log_tail(&dir.path().join("stderr")));
            eprintln!("its data is kept in {}", dir.keep().display());
        }
    }
}

fn log_tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

/// A running program; killed when it is dropped.
pub(crate) struct Program {
    child: Option<Child>,
    /// What it says about its start.
    pub(crate) greeting: String,
    pub(crate) mqtt: SocketAddr,
    pub(crate) http: SocketAddr,
}

impl Program {
    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        let mut child = self.child.take().expect("until it is killed");
        let early = child.try_wait().expect("wait");
        assert!(early.is_none(), "the program ended by itself: {early:?}");
        child.kill().expect("kill");
        child.wait().expect("wait");
    }

    /// SIGTERM, and waits for the end.
    pub(crate) fn stop(mut self) -> ExitStatus {
        let mut child = self.child.take().expect("until it is stopped");
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signal");
        child.wait().expect("wait")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }
}
