//! Settings: the command line, a TOML file with the same names, the environment. The command line wins, then the file.
//!
//! An unknown key of the file is an error, and so is a value out of its range; each message says what is allowed.

use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Deserialize;

use crate::bench::args::BenchArgs;

/// The command line.
#[derive(Parser, Debug)]
#[command(
    name = "evermq",
    version,
    about = "A persistent MQTT and HTTP message broker",
    args_conflicts_with_subcommands = true
)]
pub struct CommandLine {
    /// What to do; `serve` if nothing is said.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Settings of `serve`.
    #[command(flatten)]
    pub serve: ServeArgs,
}

/// What the program can do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run the broker.
    Serve(ServeArgs),
    /// Set the password of an account; the broker must be stopped. Reads the new password from standard input.
    Passwd(PasswdArgs),
    /// Measure a broker, the disk or the bare log.
    Bench(BenchArgs),
}

/// Settings of `serve`.
#[derive(Args, Debug, Default, Clone)]
pub struct ServeArgs {
    /// Where everything is kept [default: ./data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// MQTT listener; port 0 picks a free one [default: 127.0.0.1:1883]
    #[arg(long, value_name = "ADDR:PORT")]
    pub mqtt: Option<String>,
    /// HTTP listener; port 0 picks a free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR:PORT")]
    pub http: Option<String>,
    /// TOML file with these settings
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// When a message is acknowledged: synced to the disk, or written and synced at intervals [default: sync]
    #[arg(long, value_enum)]
    pub durability: Option<DurabilityName>,
    /// Milliseconds between syncs with `--durability interval`, 1 to 60000 [default: 100]
    #[arg(long, value_name = "MS")]
    pub sync_interval_ms: Option<u64>,
}

/// Arguments of `passwd`.
#[derive(Args, Debug)]
pub struct PasswdArgs {
    /// Where the broker keeps its data
    #[arg(long, value_name = "DIR", default_value = "data")]
    pub data_dir: PathBuf,
    /// The account
    #[arg(default_value = "ADMIN")]
    pub account: String,
}

/// The two durabilities.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DurabilityName {
    /// An acknowledgement means synced.
    Sync,
    /// An acknowledgement means written; synced every `sync_interval_ms`.
    Interval,
}

/// The file's form.
#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(alias = "data-dir")]
    data_dir: Option<PathBuf>,
    mqtt: Option<MqttEntry>,
    http: Option<String>,
    durability: Option<DurabilityName>,
    #[serde(alias = "sync-interval-ms")]
    sync_interval_ms: Option<u64>,
}

/// `mqtt = "ADDR:PORT"`, or a table.
#[derive(Deserialize, Debug)]
#[serde(untagged)]
enum MqttEntry {
    Listen(String),
    Table(MqttTable),
}

#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields)]
struct MqttTable {
    listen: Option<String>,
    allow_anonymous: Option<bool>,
}

/// Effective settings of `serve`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// Data directory.
    pub data_dir: PathBuf,
    /// MQTT listener.
    pub mqtt: SocketAddr,
    /// HTTP listener.
    pub http: SocketAddr,
    /// Durability.
    pub durability: DurabilityName,
    /// Milliseconds, 1 to 60,000.
    pub sync_interval_ms: u64,
    /// Anonymous clients although a listener is not on a loopback address.
    pub allow_anonymous: bool,
    /// Password of `ADMIN` at the first start of an empty data directory.
    pub admin_password: Option<String>,
}

/// Why the settings are not usable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError(String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Puts the command line over the file over the defaults; `environment` looks a variable up.
    ///
    /// # Errors
    /// An unreadable file, an unknown key, a value that is not allowed.
    pub fn load(args: &ServeArgs, environment: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let file = args.config.as_deref().map(read_file).transpose()?.unwrap_or_default();
        let (mqtt_listen, allow_anonymous) = match file.mqtt {
            None => (None, None),
            Some(MqttEntry::Listen(listen)) => (Some(listen), None),
            Some(MqttEntry::Table(table)) => (table.listen, table.allow_anonymous),
        };
        let from_environment = match environment("EVERMQ_MQTT_ALLOW_ANONYMOUS").as_deref() {
            None | Some("") => None,
            Some("true") => Some(true),
            Some("false") => Some(false),
            Some(other) => {
                let text = format!("EVERMQ_MQTT_ALLOW_ANONYMOUS is `{other}`; use `true` or `false`");
                return Err(ConfigError(text));
            }
        };
        let sync_interval_ms = args.sync_interval_ms.or(file.sync_interval_ms).unwrap_or(100);
        if !(1..=60_000).contains(&sync_interval_ms) {
            return Err(ConfigError(format!(
                "sync_interval_ms is {sync_interval_ms}; it must be 1 to 60000"
            )));
        }
        Ok(Self {
            data_dir: args
                .data_dir
                .clone()
                .or(file.data_dir)
                .unwrap_or_else(|| PathBuf::from("data")),
            mqtt: address(
                "mqtt",
                args.mqtt
                    .as_deref()
                    .or(mqtt_listen.as_deref())
                    .unwrap_or("127.0.0.1:1883"),
            )?,
            http: address(
                "http",
                args.http
                    .as_deref()
                    .or(file.http.as_deref())
                    .unwrap_or("127.0.0.1:8080"),
            )?,
            durability: args.durability.or(file.durability).unwrap_or(DurabilityName::Sync),
            sync_interval_ms,
            allow_anonymous: from_environment.or(allow_anonymous).unwrap_or(false),
            admin_password: environment("EVERMQ_ADMIN_PASSWORD").filter(|password| !password.is_empty()),
        })
    }

    /// The first listener that others than this machine can reach, with its name.
    pub fn exposed(&self) -> Option<(&'static str, SocketAddr)> {
        let listeners = [("mqtt", self.mqtt), ("http", self.http)];
        listeners.into_iter().find(|(_, address)| !is_loopback(address.ip()))
    }
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

fn read_file(path: &Path) -> Result<File, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| ConfigError(format!("cannot read the configuration `{}`: {error}", path.display())))?;
    toml::from_str(&text).map_err(|error| ConfigError(format!("`{}`: {error}", path.display())))
}

/// `ADDR:PORT`. A name counts as loopback only if it resolves to nothing else, so the first other address wins.
fn address(name: &str, text: &str) -> Result<SocketAddr, ConfigError> {
    let wrong = |cause: &str| {
        ConfigError(format!(
            "`{name}` is `{text}`: {cause}; use ADDR:PORT, as in 127.0.0.1:1883"
        ))
    };
    let found: Vec<SocketAddr> = text
        .to_socket_addrs()
        .map_err(|error| wrong(&error.to_string()))?
        .collect();
    let exposed = found.iter().find(|address| !is_loopback(address.ip()));
    exposed
        .or(found.first())
        .copied()
        .ok_or_else(|| wrong("the name has no address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(args: &ServeArgs) -> Result<Config, ConfigError> {
        Config::load(args, |_| None)
    }

    fn with_file(text: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("evermq.toml");
        std::fs::write(&path, text).unwrap();
        load(&ServeArgs {
            config: Some(path),
            http: Some("127.0.0.1:99".into()),
            ..ServeArgs::default()
        })
    }

    #[test]
    fn without_anything_the_broker_listens_on_loopback_and_syncs() {
        let config = load(&ServeArgs::default()).unwrap();
        assert_eq!(config.mqtt.to_string(), "127.0.0.1:1883");
        assert_eq!(config.http.to_string(), "127.0.0.1:8080");
        assert_eq!((config.durability, config.exposed()), (DurabilityName::Sync, None));
    }

    #[test]
    fn the_command_line_wins_over_the_file() {
        let config = with_file("data_dir = \"/x\"\nhttp = \"127.0.0.1:1\"\ndurability = \"interval\"").unwrap();
        assert_eq!((config.http.port(), config.durability), (99, DurabilityName::Interval));
        assert_eq!(config.data_dir, PathBuf::from("/x"));
        assert_eq!(with_file("mqtt = \"127.0.0.1:5\"").unwrap().mqtt.port(), 5);
        assert!(with_file("[mqtt]\nallow_anonymous = true").unwrap().allow_anonymous);
    }

    #[test]
    fn an_unknown_key_and_a_value_out_of_range_are_errors_that_name_it() {
        assert!(
            with_file("datadir = \"/x\"")
                .unwrap_err()
                .to_string()
                .contains("datadir")
        );
        assert!(
            with_file("sync_interval_ms = 0")
                .unwrap_err()
                .to_string()
                .contains("1 to 60000")
        );
        assert!(
            with_file("mqtt = \"nonsense\"")
                .unwrap_err()
                .to_string()
                .contains("ADDR:PORT")
        );
        assert!(with_file("durability = \"never\"").is_err());
    }

    #[test]
    fn a_listener_on_another_address_is_exposed() {
        let args = ServeArgs {
            mqtt: Some("0.0.0.0:1883".into()),
            ..ServeArgs::default()
        };
        assert_eq!(load(&args).unwrap().exposed().unwrap().0, "mqtt");
        let args = ServeArgs {
            mqtt: Some("[::1]:1883".into()),
            ..ServeArgs::default()
        };
        assert_eq!(load(&args).unwrap().exposed(), None);
    }
}
