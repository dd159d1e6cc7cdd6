//! Settings: the command line, a TOML file with the same names, the environment. The command line wins, then the file.
//!
//! An unknown key of the file is an error, and so is a value out of its range; each message says what is allowed.

mod listener;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Deserialize;

use crate::bench::args::BenchArgs;
pub use listener::Listener;

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
    /// MQTT listener; port 0 picks a free one, `off` switches it off [default: 127.0.0.1:1883]
    #[arg(long, value_name = "ADDR:PORT")]
    pub mqtt: Option<String>,
    /// Listener for MQTT over WebSocket, path /mqtt [default: 127.0.0.1:9001]
    #[arg(long, value_name = "ADDR:PORT")]
    pub mqtt_ws: Option<String>,
    /// Listener for MQTT over TLS; needs --tls-cert and --tls-key [default: off]
    #[arg(long, value_name = "ADDR:PORT")]
    pub mqtt_tls: Option<String>,
    /// Listener for MQTT over WebSocket and TLS, path /mqtt; needs --tls-cert and --tls-key [default: off]
    #[arg(long, value_name = "ADDR:PORT")]
    pub mqtt_wss: Option<String>,
    /// HTTP listener [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR:PORT")]
    pub http: Option<String>,
    /// HTTPS listener; needs --tls-cert and --tls-key [default: off]
    #[arg(long, value_name = "ADDR:PORT")]
    pub https: Option<String>,
    /// PEM file with the certificate of the server and behind it those that vouch for it; read again on SIGHUP
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// PEM file with the private key of the certificate; read again on SIGHUP
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// PEM file with authorities; clients of the TLS listeners must show a certificate of one of them
    #[arg(long, value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,
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
    #[serde(alias = "mqtt-ws")]
    mqtt_ws: Option<String>,
    #[serde(alias = "mqtt-tls")]
    mqtt_tls: Option<String>,
    #[serde(alias = "mqtt-wss")]
    mqtt_wss: Option<String>,
    http: Option<String>,
    https: Option<String>,
    #[serde(default)]
    tls: TlsTable,
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

#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields)]
struct TlsTable {
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    #[serde(alias = "client-ca")]
    client_ca: Option<PathBuf>,
    #[serde(alias = "client-certificates")]
    client_certificates: Option<ClientCertificates>,
}

/// Whether clients of TLS listeners have to show a certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificates {
    /// Who has none is not let in.
    #[default]
    Required,
    /// Who has none is let in; a wrong one is refused.
    Optional,
}

/// The files TLS works with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsFiles {
    /// The server's certificate, and behind it those that vouch for it.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Authorities whose certificates clients may show; without them clients are not asked for any.
    pub client_ca: Option<PathBuf>,
    /// Whether clients have to, if there are authorities.
    pub client_certificates: ClientCertificates,
}

/// Effective settings of `serve`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// Data directory.
    pub data_dir: PathBuf,
    /// The listeners that are on, at least one, in the order of [`Listener::ALL`].
    pub listeners: Vec<(Listener, SocketAddr)>,
    /// Files for TLS; there if a listener needs them.
    pub tls: Option<TlsFiles>,
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
        let listeners = listener::resolve(|listener| {
            let (given, stored) = match listener {
                Listener::Mqtt => (&args.mqtt, &mqtt_listen),
                Listener::MqttWs => (&args.mqtt_ws, &file.mqtt_ws),
                Listener::MqttTls => (&args.mqtt_tls, &file.mqtt_tls),
                Listener::MqttWss => (&args.mqtt_wss, &file.mqtt_wss),
                Listener::Http => (&args.http, &file.http),
                Listener::Https => (&args.https, &file.https),
            };
            given.as_deref().or(stored.as_deref())
        })?;
        Ok(Self {
            data_dir: args
                .data_dir
                .clone()
                .or(file.data_dir)
                .unwrap_or_else(|| PathBuf::from("data")),
            tls: tls_files(args, file.tls, &listeners)?,
            listeners,
            durability: args.durability.or(file.durability).unwrap_or(DurabilityName::Sync),
            sync_interval_ms,
            allow_anonymous: from_environment.or(allow_anonymous).unwrap_or(false),
            admin_password: environment("EVERMQ_ADMIN_PASSWORD").filter(|password| !password.is_empty()),
        })
    }

    /// The first listener that others than this machine can reach.
    pub fn exposed(&self) -> Option<(Listener, SocketAddr)> {
        let mut listeners = self.listeners.iter().copied();
        listeners.find(|(_, address)| !listener::is_loopback(address.ip()))
    }
}

/// The files for TLS, all that are needed or none.
fn tls_files(
    args: &ServeArgs,
    table: TlsTable,
    listeners: &[(Listener, SocketAddr)],
) -> Result<Option<TlsFiles>, ConfigError> {
    let certificate = args.tls_cert.clone().or(table.cert);
    let key = args.tls_key.clone().or(table.key);
    let client_ca = args.tls_client_ca.clone().or(table.client_ca);
    if table.client_certificates.is_some() && client_ca.is_none() {
        let text = "`client_certificates` in [tls] needs `client_ca` beside it, a file with the authorities whose \
                    certificates are let in";
        return Err(ConfigError(text.into()));
    }
    let secure = listeners.iter().find(|(listener, _)| listener.is_secure());
    let who = match secure {
        Some((listener, _)) => format!("the listener `{listener}`"),
        None if certificate.is_some() || key.is_some() || client_ca.is_some() => "TLS".to_owned(),
        None => return Ok(None),
    };
    match (certificate, key) {
        (Some(certificate), Some(key)) => Ok(Some(TlsFiles {
            certificate,
            key,
            client_ca,
            client_certificates: table.client_certificates.unwrap_or_default(),
        })),
        (certificate, key) => {
            let missing = match (certificate, key) {
                (None, None) => "--tls-cert FILE and --tls-key FILE (`cert` and `key` in [tls])",
                (None, _) => "--tls-cert FILE (`cert` in [tls])",
                (_, _) => "--tls-key FILE (`key` in [tls])",
            };
            Err(ConfigError(format!(
                "{who} needs a certificate and its key: {missing} missing"
            )))
        }
    }
}

fn read_file(path: &Path) -> Result<File, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| ConfigError(format!("cannot read the configuration `{}`: {error}", path.display())))?;
    toml::from_str(&text).map_err(|error| ConfigError(format!("`{}`: {error}", path.display())))
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

    fn why(text: &str) -> String {
        with_file(text).unwrap_err().to_string()
    }

    /// The listeners that are on, as in `mqtt=127.0.0.1:1883`.
    fn listeners(config: &Config) -> Vec<String> {
        let listeners = config.listeners.iter();
        listeners
            .map(|(listener, address)| format!("{listener}={address}"))
            .collect()
    }

    #[test]
    fn without_anything_the_broker_listens_on_loopback_and_syncs() {
        let config = load(&ServeArgs::default()).unwrap();
        let wanted = ["mqtt=127.0.0.1:1883", "mqtt-ws=127.0.0.1:9001", "http=127.0.0.1:8080"];
        assert_eq!(listeners(&config), wanted);
        assert_eq!((config.durability, config.exposed()), (DurabilityName::Sync, None));
        assert_eq!(config.tls, None);
    }

    #[test]
    fn the_command_line_wins_over_the_file() {
        let config = with_file("data_dir = \"/x\"\nhttp = \"127.0.0.1:1\"\ndurability = \"interval\"").unwrap();
        assert_eq!(config.durability, DurabilityName::Interval);
        assert!(listeners(&config).contains(&"http=127.0.0.1:99".into()));
        assert_eq!(config.data_dir, PathBuf::from("/x"));
        let config = with_file("mqtt = \"127.0.0.1:5\"\nmqtt-ws = \"off\"").unwrap();
        assert_eq!(listeners(&config), ["mqtt=127.0.0.1:5", "http=127.0.0.1:99"]);
        assert!(with_file("[mqtt]\nallow_anonymous = true").unwrap().allow_anonymous);
        let config = with_file("[mqtt]\nlisten = \"127.0.0.1:6\"").unwrap();
        assert!(listeners(&config).contains(&"mqtt=127.0.0.1:6".into()));
    }

    #[test]
    fn an_unknown_key_and_a_value_out_of_range_are_errors_that_name_it() {
        assert!(why("datadir = \"/x\"").contains("datadir"));
        assert!(why("[tls]\ncertificate = \"x\"").contains("certificate"));
        assert!(why("sync_interval_ms = 0").contains("1 to 60000"));
        assert!(why("mqtt = \"nonsense\"").contains("ADDR:PORT"));
        assert!(with_file("durability = \"never\"").is_err());
        assert!(with_file("[tls]\nclient_certificates = \"perhaps\"").is_err());
    }

    #[test]
    fn a_listener_on_another_address_is_exposed() {
        let set: [fn(&mut ServeArgs, String); 3] = [
            |args, address| args.mqtt = Some(address),
            |args, address| args.mqtt_ws = Some(address),
            |args, address| args.https = Some(address),
        ];
        for (set, listener) in set.into_iter().zip([Listener::Mqtt, Listener::MqttWs, Listener::Https]) {
            let mut args = ServeArgs {
                tls_cert: Some("c".into()),
                tls_key: Some("k".into()),
                ..ServeArgs::default()
            };
            set(&mut args, "0.0.0.0:77".into());
            assert_eq!(load(&args).unwrap().exposed().unwrap().0, listener);
            set(&mut args, "[::1]:77".into());
            assert_eq!(load(&args).unwrap().exposed(), None);
        }
    }

    #[test]
    fn a_tls_listener_without_certificate_or_key_is_an_error_that_says_what_is_missing() {
        let text = why("mqtt_tls = \"127.0.0.1:0\"");
        assert!(
            text.contains("`mqtt-tls`") && text.contains("--tls-cert FILE and --tls-key FILE"),
            "{text}"
        );
        let text = why("https = \"127.0.0.1:0\"\n[tls]\ncert = \"c.pem\"");
        assert!(text.contains("`https`") && text.contains(": --tls-key FILE"), "{text}");
        let text = why("mqtt_wss = \"127.0.0.1:0\"\n[tls]\nkey = \"k.pem\"");
        assert!(
            text.contains("`mqtt-wss`") && text.contains(": --tls-cert FILE"),
            "{text}"
        );
        assert!(why("[tls]\nclient_ca = \"a.pem\"").contains("--tls-cert FILE and --tls-key FILE"));
        let text = why("[tls]\ncert = \"c\"\nkey = \"k\"\nclient_certificates = \"optional\"");
        assert!(text.contains("`client_ca`"), "{text}");
    }

    #[test]
    fn the_files_for_tls_come_from_the_table_and_the_command_line() {
        let table = "mqtt_tls = \"127.0.0.1:0\"\n[tls]\ncert = \"c.pem\"\nkey = \"k.pem\"\n";
        let tls = with_file(table).unwrap().tls.unwrap();
        assert_eq!((tls.certificate, tls.key), ("c.pem".into(), "k.pem".into()));
        assert_eq!(
            (tls.client_ca, tls.client_certificates),
            (None, ClientCertificates::Required)
        );
        let table = format!("{table}client_ca = \"a.pem\"\nclient_certificates = \"optional\"");
        let tls = with_file(&table).unwrap().tls.unwrap();
        assert_eq!(tls.client_ca, Some("a.pem".into()));
        assert_eq!(tls.client_certificates, ClientCertificates::Optional);
    }
}
