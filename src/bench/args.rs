//! Arguments of `evermq bench`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// Arguments of `bench`.
#[derive(Args, Debug)]
pub struct BenchArgs {
    /// What to measure.
    #[command(subcommand)]
    pub what: What,
}

/// What `bench` can measure.
#[derive(Subcommand, Debug)]
pub enum What {
    /// Each publisher to its own subscriber, by a topic of its own
    Live(LoadArgs),
    /// One publisher, every subscriber gets everything
    FanOut(LoadArgs),
    /// Many publishers, one subscriber gets everything
    FanIn(LoadArgs),
    /// Publishers only, nobody subscribes
    Publish(LoadArgs),
    /// Messages for subscribers that are away, then their return
    Offline(OfflineArgs),
    /// Connections one after the other, as many at once as given
    Connect(ConnectArgs),
    /// Connections that are open and do nothing
    Idle(IdleArgs),
    /// The JSON-action API of EverMQ over HTTP
    #[command(subcommand)]
    Http(HttpWhat),
    /// A broker in memory that does next to nothing: shows what the tool itself costs
    Sink(SinkArgs),
    /// Write and fdatasync in a directory, as the log does it
    Disk(DiskArgs),
    /// The bare log in a directory: append and group commit, without a broker
    Log(LogArgs),
}

/// Which broker, and how it is watched.
#[derive(Args, Debug, Clone)]
pub struct Target {
    /// Where the broker listens
    #[arg(long, default_value = "127.0.0.1")]
    pub host: String,
    /// Its port [default: 1883; http: 8080]
    #[arg(long)]
    pub port: Option<u16>,
    /// First level of the topics and beginning of the client names
    #[arg(long, default_value = "bench")]
    pub prefix: String,
    /// User name
    #[arg(long)]
    pub username: Option<String>,
    /// Password
    #[arg(long)]
    pub password: Option<String>,
    #[command(flatten)]
    pub watch: WatchArgs,
}

/// How a broker is watched, and what is printed.
#[derive(Args, Debug, Clone)]
pub struct WatchArgs {
    /// Process id of the broker, to measure its CPU time and memory
    #[arg(long)]
    pub pid: Option<u32>,
    /// Where EverMQ shows its counters, as in <http://127.0.0.1:8080/metrics>, to measure messages a round and syncs
    #[arg(long, value_name = "URL")]
    pub metrics: Option<String>,
    /// One line of JSON instead of text, and no progress
    #[arg(long)]
    pub json: bool,
}

/// What MQTT is spoken.
#[derive(Args, Debug, Clone, Copy)]
pub struct MqttArgs {
    /// MQTT version
    #[arg(long, value_enum, default_value_t = MqttVersion::V5)]
    pub mqtt: MqttVersion,
}

/// MQTT versions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum MqttVersion {
    /// 3.1.1
    #[value(name = "3.1.1")]
    V311,
    /// 5.0
    #[value(name = "5", alias = "5.0")]
    V5,
}

/// Which broker, and how hard.
#[derive(Args, Debug, Clone)]
pub struct LoadArgs {
    #[command(flatten)]
    pub target: Target,
    #[command(flatten)]
    pub mqtt: MqttArgs,
    /// Quality of service of publishes and subscriptions
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub qos: u8,
    /// Publishers [default: 10; fan-out: 1]
    #[arg(long)]
    pub publishers: Option<usize>,
    /// Subscribers [default: as many as publishers; fan-out: 50; fan-in: 1]
    #[arg(long)]
    pub subscribers: Option<usize>,
    /// Topics [default: one a publisher]
    #[arg(long)]
    pub topics: Option<usize>,
    /// Bytes of a payload; 24 of them say who sent it, which one it is, and when it was due
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(24..=16_777_216))]
    pub size: u32,
    /// Messages a publisher has unacknowledged at most (QoS 1 and 2)
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=32_767))]
    pub window: u32,
    /// Messages a publisher is ahead of its slowest subscriber at most; 0 is without bound
    #[arg(long, default_value_t = 500)]
    pub ahead: u64,
    /// Messages a second of all publishers together; as fast as the window allows if not given
    #[arg(long)]
    pub rate: Option<f64>,
    /// Messages of each publisher; without it the run has a duration
    #[arg(long)]
    pub count: Option<u64>,
    /// Seconds that are measured
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
    /// Seconds before that
    #[arg(long, default_value_t = 1.0)]
    pub warmup: f64,
    /// Subscribers have sessions that outlive their connection
    #[arg(long)]
    pub persistent: bool,
    /// Threads of the tool
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub threads: u8,
}

/// Arguments of `bench offline`.
#[derive(Args, Debug, Clone)]
pub struct OfflineArgs {
    #[command(flatten)]
    pub target: Target,
    #[command(flatten)]
    pub mqtt: MqttArgs,
    /// Quality of service of publishes and subscriptions
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    pub qos: u8,
    /// Publishers
    #[arg(long, default_value_t = 10)]
    pub publishers: usize,
    /// Subscribers that are away meanwhile
    #[arg(long, default_value_t = 10)]
    pub subscribers: usize,
    /// Topics [default: one a publisher]
    #[arg(long)]
    pub topics: Option<usize>,
    /// Every subscriber gets everything, instead of the topics being dealt out
    #[arg(long)]
    pub all: bool,
    /// Messages of all publishers together
    #[arg(long, default_value_t = 1_000_000)]
    pub count: u64,
    /// Bytes of a payload
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(24..=16_777_216))]
    pub size: u32,
    /// Messages a publisher has unacknowledged at most
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=32_767))]
    pub window: u32,
    /// Threads of the tool
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub threads: u8,
}

/// Arguments of `bench connect`.
#[derive(Args, Debug, Clone)]
pub struct ConnectArgs {
    #[command(flatten)]
    pub target: Target,
    #[command(flatten)]
    pub mqtt: MqttArgs,
    /// Connections in all
    #[arg(long, default_value_t = 20_000)]
    pub connections: usize,
    /// Connections that are on their way at once
    #[arg(long, default_value_t = 100)]
    pub concurrency: usize,
    /// Each has a session that outlives it; they are removed afterwards
    #[arg(long)]
    pub persistent: bool,
    /// End with a reset instead of DISCONNECT
    #[arg(long)]
    pub reset: bool,
}

/// Arguments of `bench idle`.
#[derive(Args, Debug, Clone)]
pub struct IdleArgs {
    #[command(flatten)]
    pub target: Target,
    #[command(flatten)]
    pub mqtt: MqttArgs,
    /// Connections that are open at once
    #[arg(long, default_value_t = 10_000)]
    pub connections: usize,
    /// Connections that are on their way at once while opening
    #[arg(long, default_value_t = 100)]
    pub concurrency: usize,
    /// Each has a session that outlives it; they are removed afterwards
    #[arg(long)]
    pub persistent: bool,
    /// Each subscribes to a topic of its own
    #[arg(long)]
    pub subscribe: bool,
    /// Seconds to hold them before the memory is read
    #[arg(long, default_value_t = 1.0)]
    pub seconds: f64,
    /// Messages a second of a live load, 10 to 10 with QoS 1, before and beside the idle connections; 0 is none
    #[arg(long, default_value_t = 0.0)]
    pub live_rate: f64,
}

/// Parts of the JSON-action API.
#[derive(Subcommand, Debug)]
pub enum HttpWhat {
    /// publishMessagesToMq, a batch a request
    Publish(HttpArgs),
    /// getMessagesFromMqApiSession, a batch a request; what is fetched is published before
    Fetch(HttpArgs),
    /// createMqApiSession; they are removed afterwards
    Sessions(HttpArgs),
}

/// Arguments of `bench http`.
#[derive(Args, Debug, Clone)]
pub struct HttpArgs {
    #[command(flatten)]
    pub target: Target,
    /// Callers, each with a connection that is kept
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub callers: u32,
    /// Messages of a request, at most
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_535))]
    pub batch: u32,
    /// Bytes of a payload
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(32..=16_777_216))]
    pub size: u32,
    /// Topics [default: one a caller]
    #[arg(long)]
    pub topics: Option<u32>,
    /// Requests of each caller; without it the run has a duration
    #[arg(long)]
    pub count: Option<u64>,
    /// Seconds that are measured
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
    /// Seconds before that
    #[arg(long, default_value_t = 1.0)]
    pub warmup: f64,
}

/// Arguments of `bench sink`.
#[derive(Args, Debug, Clone)]
pub struct SinkArgs {
    /// Where to listen; port 0 picks a free one
    #[arg(long, default_value = "127.0.0.1:1884")]
    pub listen: std::net::SocketAddr,
}

/// Arguments of `bench disk`.
#[derive(Args, Debug)]
pub struct DiskArgs {
    /// Where to write; a file is made there and removed
    pub dir: PathBuf,
    /// Bytes between two syncs
    #[arg(long, default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    pub bytes: u32,
    /// Seconds to measure
    #[arg(long, default_value_t = 3.0)]
    pub seconds: f64,
    /// One line of JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `bench log`.
#[derive(Args, Debug)]
pub struct LogArgs {
    /// Where to make a store; it is removed afterwards
    pub dir: PathBuf,
    /// Bytes of a record's body
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    pub size: u32,
    /// Records that are appended and not durable at most
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub outstanding: u32,
    /// Records of each batch, one waiting while another is synced, instead of as many as come together
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub round: Option<u32>,
    /// Records handed over at once
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub run: u32,
    /// Logs the records go to
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub logs: u32,
    /// Seconds to measure
    #[arg(long, default_value_t = 3.0)]
    pub seconds: f64,
    /// One line of JSON
    #[arg(long)]
    pub json: bool,
}
