//! A broker on port 0 with a scratch directory, in this process.

#![allow(dead_code, reason = "each test binary uses its part of it")]
#![allow(unreachable_pub, reason = "shared by several test binaries")]

pub mod mqtt;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use evermq::broker::{Broker, BrokerSettings};
use evermq::clock::Clock;
use evermq::frontend::mqtt::{
    Authentication, Authenticator, Credentials, Frontend, Identity, NotAuthenticated, Settings,
};
use evermq::store::Store;
use evermq::store::local::{LocalStore, Options};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use self::mqtt::{Level, RawClient};

/// Anonymous clients are let in; `ADMIN` with `ADMIN`, and anybody else whose password is the user name.
pub struct Door;

impl Authenticator for Door {
    fn authenticate(&self, credentials: Credentials) -> Authentication<'_> {
        let answer = match (credentials.username, credentials.password) {
            (None, None) => Ok(Identity::default()),
            (Some(account), Some(password)) if password == account.as_bytes() => {
                let administrator = account == "ADMIN";
                Ok(Identity { account, administrator })
            }
            _ => Err(NotAuthenticated::BadUserNameOrPassword),
        };
        Box::pin(async move { answer })
    }
}

/// A running broker.
pub struct Site {
    dir: TempDir,
    settings: Settings,
    pub clock: Clock,
    pub broker: Broker,
    store: Arc<LocalStore>,
    pub address: SocketAddr,
    pub frontend: Arc<Frontend>,
    stop: oneshot::Sender<()>,
    listening: JoinHandle<()>,
}

impl Site {
    /// A new one, by the machine's clock.
    pub async fn start() -> Self {
        Self::start_with(Settings::default(), Clock::system()).await
    }

    /// A new one by a clock that stands until the test moves it.
    pub async fn by_hand() -> Self {
        Self::start_with(Settings::default(), Clock::manual(1_800_000_000_000)).await
    }

    pub async fn start_with(settings: Settings, clock: Clock) -> Self {
        Self::open(TempDir::new().expect("a scratch directory"), settings, clock).await
    }

    async fn open(dir: TempDir, settings: Settings, clock: Clock) -> Self {
        let options = Options {
            segment_bytes: 1 << 20,
            clock: clock.clone(),
            ..Options::new(dir.path())
        };
        let (store, report) = LocalStore::open(options).expect("open the store");
        let store = Arc::new(store);
        let broker_settings = BrokerSettings {
            incarnation: report.incarnation,
            previous_clean_stop: report.previous_clean_stop,
            ..BrokerSettings::default()
        };
        let broker = Broker::open(Arc::clone(&store) as Arc<dyn Store>, clock.clone(), broker_settings)
            .await
            .expect("a broker");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (stop, stopped) = oneshot::channel();
        let frontend = Frontend::new(broker.clone(), settings.clone(), Arc::new(Door));
        let listening = tokio::spawn(Arc::clone(&frontend).listen(listener, async move { drop(stopped.await) }));
        Self {
            dir,
            settings,
            clock,
            broker,
            store,
            address,
            frontend,
            stop,
            listening,
        }
    }

    /// Stops in order and starts again with what is on the disk.
    pub async fn restart(self) -> Self {
        let Self {
            dir,
            settings,
            clock,
            broker,
            store,
            stop,
            listening,
            ..
        } = self;
        drop(stop);
        listening.await.expect("the listener ends");
        broker.stop().await.expect("the broker stops");
        store.close().expect("the store closes");
        drop((broker, store));
        Self::open(dir, settings, clock).await
    }

    /// What a kill at this moment leaves is started again. The old process lives on, on another disk.
    pub async fn crash(self) -> Self {
        self.crash_after(|| ()).await
    }

    /// The same; `meanwhile` happens before the new start.
    pub async fn crash_after(self, meanwhile: impl FnOnce()) -> Self {
        let copy = TempDir::new().expect("a scratch directory");
        copy_all(self.dir.path(), copy.path());
        let (settings, clock) = (self.settings.clone(), self.clock.clone());
        self.listening.abort();
        meanwhile();
        Self::open(copy, settings, clock).await
    }

    /// A client with a session that outlives its connection; whether there was one is not looked at.
    pub async fn client(&self, level: Level, client_id: &str) -> RawClient {
        RawClient::hello(self.address, level, client_id, false).await.0
    }

    /// A client whose session begins and ends with its connection.
    pub async fn passerby(&self, level: Level, client_id: &str) -> RawClient {
        RawClient::hello(self.address, level, client_id, true).await.0
    }

    /// A client whose session was there.
    pub async fn returning(&self, level: Level, client_id: &str) -> RawClient {
        let (client, present) = RawClient::hello(self.address, level, client_id, false).await;
        assert!(present, "there is a session of {client_id}");
        client
    }

    /// Moves a clock by hand in steps, so that what waits for one deadline can set the next.
    pub async fn pass(&self, span: Duration) {
        let step = Duration::from_millis(250);
        let mut rest = span;
        while !rest.is_zero() {
            let next = rest.min(step);
            self.clock.advance(next);
            rest -= next;
            tokio::task::yield_now().await;
        }
    }
}

fn copy_all(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            std::fs::create_dir_all(&target).expect("make a directory");
            copy_all(&entry.path(), &target);
        } else {
            match std::fs::copy(entry.path(), &target) {
                Ok(_) => {}
                // Renamed or removed meanwhile: a crash just then would not have left it under this name either.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => panic!("copy a file: {error}"),
            }
        }
    }
}
