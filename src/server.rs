//! Brings store, broker and frontends up in order, and down in reverse.
//!
//! **Invariants**
//! - Listeners open only when routing is complete.
//! - After a failed sync nothing is acknowledged; health says why for a moment, then the process ends with an error.

mod listeners;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::broker::account::{Accounts, Denied};
use crate::broker::{Broker, BrokerSettings, rows};
use crate::clock::Clock;
use crate::config::{Config, DurabilityName, Listener, PasswdArgs};
use crate::frontend::http::{Api, Health, HttpLimits, ServerInfo};
use crate::frontend::mqtt::{self, Authentication, Authenticator, Credentials, Identity, NotAuthenticated};
use crate::frontend::tls::Tls;
use crate::store::local::{Durability, LocalStore, OpenReport, Options};
use crate::store::{Store, StoreState};
use listeners::{Frontends, Listeners};

/// How long health tells of a failed store before the process ends.
const FAILED_FOR: Duration = Duration::from_secs(5);
/// Connections from one address: the vendor's 25 is too low where one gateway speaks for many devices.
const HTTP_CONNECTIONS_PER_ADDRESS_MAX: usize = 4_096;

/// Why the server did not start or stay up; for the exit message.
#[derive(Debug)]
pub struct ServerError(String);

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ServerError {}

fn failed(what: impl fmt::Display) -> ServerError {
    ServerError(what.to_string())
}

/// A server that is up.
pub struct Server {
    broker: Broker,
    store: Arc<LocalStore>,
    listeners: Listeners,
    tls: Option<Arc<Tls>>,
    report: OpenReport,
}

impl Server {
    /// Reads the certificates, opens the data directory, rebuilds the broker, then opens the listeners.
    ///
    /// # Errors
    /// The text says what is wrong and what to do.
    pub async fn start(config: &Config) -> Result<Self, ServerError> {
        let clock = Clock::system();
        let tls = match config.tls.clone() {
            None => None,
            Some(files) => {
                let tls = blocking(move || Tls::load(files)).await.map_err(failed)?;
                Some(Arc::new(tls))
            }
        };
        let (store, report) = open_store(config, &clock).await?;
        match Self::start_on(config, clock, tls, Arc::clone(&store), report).await {
            Ok(server) => Ok(server),
            Err(error) => {
                // Whatever kept the server from starting, its data directory is left in order.
                if let Err(close) = blocking(move || store.close()).await {
                    tracing::error!(error = %close, "the store could not be closed");
                }
                Err(error)
            }
        }
    }

    async fn start_on(
        config: &Config,
        clock: Clock,
        tls: Option<Arc<Tls>>,
        store: Arc<LocalStore>,
        report: OpenReport,
    ) -> Result<Self, ServerError> {
        let started_ms = clock.wall_ms();
        let settings = BrokerSettings {
            incarnation: report.incarnation,
            previous_clean_stop: report.previous_clean_stop,
            ..BrokerSettings::default()
        };
        let broker = Broker::open(Arc::clone(&store) as Arc<dyn Store>, clock, settings)
            .await
            .map_err(failed)?;
        let accounts = Arc::clone(broker.accounts());
        accounts.begin(config.admin_password.as_deref()).await.map_err(failed)?;
        check_exposure(config, &accounts).await?;

        let bound = listeners::bind(&config.listeners).await?;
        let anonymous = config.exposed().is_none() || config.allow_anonymous;
        let gate = Arc::new(Gate { accounts, anonymous });
        let mqtt = mqtt::Frontend::new(broker.clone(), mqtt::Settings::default(), gate);
        let api = Arc::new(Api {
            broker: broker.clone(),
            info: server_info(config, &report, started_ms),
            defaults: Arc::default(),
            strict_params: false,
        });
        let limits = HttpLimits {
            connections_per_address_max: HTTP_CONNECTIONS_PER_ADDRESS_MAX,
            ..HttpLimits::default()
        };
        let health = Arc::new(StoreHealth(broker.clone()));
        let frontends = Frontends {
            mqtt,
            api,
            health,
            limits,
            tls: tls.clone(),
        };
        let listeners = Listeners::start(bound, frontends)?;
        Ok(Self {
            broker,
            store,
            listeners,
            tls,
            report,
        })
    }

    /// Where a listener listens, if it is on.
    pub fn address(&self, listener: Listener) -> Option<SocketAddr> {
        self.listeners.address(listener)
    }

    /// Reads the certificates again, for connections opened from now on. If they are of no use, those in use stay, and
    /// the log says why.
    pub async fn reload(&self) {
        let Some(tls) = self.tls.clone() else {
            tracing::info!("there is nothing to read again: no listener uses certificates");
            return;
        };
        match blocking(move || tls.reload()).await {
            Ok(()) => tracing::info!("the certificates were read again; new connections use them"),
            Err(error) => {
                tracing::error!("the certificates were not changed, and those in use stay: {error}");
            }
        }
    }

    /// What an operator reads first: where it listens, what is in force, what was recovered.
    pub fn greeting(&self, config: &Config) -> String {
        let (sessions, topics, retained) = self.broker.counts();
        let durability = match config.durability {
            DurabilityName::Sync => "sync (acknowledged means synced to disk)".to_owned(),
            DurabilityName::Interval => {
                format!(
                    "interval (acknowledged means written; synced every {} ms)",
                    config.sync_interval_ms
                )
            }
        };
        let report = &self.report;
        let found = if report.created {
            "new data directory".to_owned()
        } else {
            let stop = if report.previous_clean_stop.is_some() {
                "after a clean stop"
            } else {
                "after a crash"
            };
            let cut = report.cut.as_ref().map_or(String::new(), |cut| {
                format!("; an unacknowledged tail was cut at {} byte {}", cut.file, cut.offset)
            });
            format!(
                "recovered {sessions} sessions, {topics} topics, {retained} retained messages {stop} \
                 ({} batches replayed{cut})",
                report.batches_replayed
            )
        };
        format!(
            "EverMQ {version} is ready\n{listeners}\x20 data        {data}\n  durability  {durability}\n  start       {found}",
            version = env!("CARGO_PKG_VERSION"),
            listeners = self.listeners,
            data = config.data_dir.display(),
        )
    }

    /// Returns when the store has failed, with the reason, after health had a moment to tell it.
    pub async fn failed(&self) -> ServerError {
        self.broker.failed().await;
        let cause = match self.broker.store_state() {
            StoreState::Latched(cause) => cause,
            StoreState::Ready | StoreState::Slow | StoreState::Full => "the store has failed".to_owned(),
        };
        tokio::time::sleep(FAILED_FOR).await;
        failed(format!("{cause}; nothing was acknowledged since; restart to recover"))
    }

    /// Stops: listeners, connections, broker, store.
    ///
    /// # Errors
    /// If what was not durable yet cannot be made so.
    pub async fn stop(self) -> Result<(), ServerError> {
        self.listeners.stop().await;
        let stopped = self.broker.stop().await;
        let store = self.store;
        blocking(move || store.close()).await.map_err(failed)?;
        stopped.map_err(failed)
    }
}

/// Sets the password of an account in a data directory that no server uses.
///
/// # Errors
/// The text says what is wrong and what to do.
pub async fn set_password(args: &PasswdArgs, password: &str) -> Result<(), ServerError> {
    let clock = Clock::system();
    let options = Options {
        require_existing: true,
        ..Options::new(&args.data_dir)
    };
    let (store, report) = blocking(move || LocalStore::open(options)).await.map_err(failed)?;
    let store = Arc::new(store);
    let settings = BrokerSettings {
        incarnation: report.incarnation,
        previous_clean_stop: report.previous_clean_stop,
        ..BrokerSettings::default()
    };
    let broker = Broker::open(Arc::clone(&store) as Arc<dyn Store>, clock, settings)
        .await
        .map_err(failed)?;
    broker.accounts().begin(None).await.map_err(failed)?;
    let changed = broker
        .accounts()
        .alter(&[&args.account], Some(password), |_| {})
        .await
        .map_err(failed);
    broker.stop().await.map_err(failed)?;
    blocking(move || store.close()).await.map_err(failed)?;
    changed
}

async fn open_store(config: &Config, clock: &Clock) -> Result<(Arc<LocalStore>, OpenReport), ServerError> {
    let durability = match config.durability {
        DurabilityName::Sync => Durability::Sync,
        DurabilityName::Interval => Durability::Interval(config.sync_interval_ms),
    };
    let options = Options {
        durability,
        clock: clock.clone(),
        cataloged: rows::CATALOGED.to_vec(),
        damage: Some(rows::DAMAGE),
        ..Options::new(&config.data_dir)
    };
    let (store, report) = blocking(move || LocalStore::open(options)).await.map_err(failed)?;
    Ok((Arc::new(store), report))
}

async fn blocking<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(act).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// With a listener that others can reach, the default password must be gone (spec/semantics.md 10).
async fn check_exposure(config: &Config, accounts: &Accounts) -> Result<(), ServerError> {
    let default_password = accounts.has_default_password().await;
    if let Some((name, address)) = config.exposed() {
        if default_password {
            return Err(failed(format!(
                "the {name} listener {address} can be reached from other machines while the password of ADMIN is still \
                 ADMIN; change it with `evermq passwd --data-dir {}`, or set EVERMQ_ADMIN_PASSWORD for the first start \
                 of an empty data directory",
                config.data_dir.display()
            )));
        }
        if config.allow_anonymous {
            tracing::warn!(%address, "anonymous MQTT clients are let in on a listener that other machines can reach");
        }
    } else if default_password {
        tracing::warn!("the password of ADMIN is still ADMIN; change it with `evermq passwd`");
    }
    Ok(())
}

fn server_info(config: &Config, report: &OpenReport, started_ms: i64) -> ServerInfo {
    let hex = format!("{:032x}", u128::from_be_bytes(report.store));
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| hex.get(part).unwrap_or_default());
    let uuid = parts.join("-");
    let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
    ServerInfo {
        version: concat!("EverMQ ", env!("CARGO_PKG_VERSION")).into(),
        hostname,
        uuid,
        addresses: Vec::new(),
        retention_policy: "autoPurge".into(),
        retention_unit: "week".into(),
        retention_period: 4,
        durability: match config.durability {
            DurabilityName::Sync => "sync".into(),
            DurabilityName::Interval => "interval".into(),
        },
        started_ms,
    }
}

/// Checks the credentials of MQTT clients against the accounts.
struct Gate {
    accounts: Arc<Accounts>,
    anonymous: bool,
}

impl Authenticator for Gate {
    fn authenticate(&self, credentials: Credentials) -> Authentication<'_> {
        Box::pin(async move {
            let Some(username) = credentials.username else {
                return if self.anonymous {
                    Ok(Identity {
                        account: String::new(),
                        administrator: false,
                    })
                } else {
                    Err(NotAuthenticated::NotAuthorized)
                };
            };
            let password = credentials.password.unwrap_or_default();
            let Ok(password) = String::from_utf8(password) else {
                return Err(NotAuthenticated::BadUserNameOrPassword);
            };
            match self.accounts.log_in(&username, &password).await {
                Ok(account) => Ok(Identity {
                    administrator: account.is_admin(),
                    account: account.name.clone(),
                }),
                Err(denied) => {
                    tracing::info!(?denied, username, peer = %credentials.peer, "an MQTT login was refused");
                    Err(match denied {
                        Denied::Unchecked => NotAuthenticated::Unavailable,
                        _ => NotAuthenticated::BadUserNameOrPassword,
                    })
                }
            }
        })
    }
}

/// Health as the store has it.
struct StoreHealth(Broker);

impl Health for StoreHealth {
    fn live(&self) -> Result<(), String> {
        Ok(())
    }

    fn ready(&self) -> Result<(), String> {
        match self.0.store_state() {
            StoreState::Ready | StoreState::Slow => Ok(()),
            StoreState::Full => Err("the store is full: new messages are refused".into()),
            StoreState::Latched(cause) => Err(cause),
        }
    }
}
