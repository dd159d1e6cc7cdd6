//! Everybody who talks to the program, and what they know together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::Phase;
use crate::api::{self, ApiPublisher, Fetcher};
use crate::history::History;
use crate::http::JsonClient;
use crate::mqtt::{Level, RawClient};
use crate::program::Program;
use crate::publisher::{self, Publisher};
use crate::random::Random;
use crate::subscriber::{self, Subscriber};
use crate::wills::{self, WillClient};

/// How long everything acknowledged may take to reach everybody; only a failing test waits so long.
const SETTLE_MAX: Duration = Duration::from_mins(1);

pub(crate) struct World {
    random: Random,
    publishers: Vec<Arc<Mutex<Publisher>>>,
    subscribers: Vec<Arc<Mutex<Subscriber>>>,
    api_publisher: Arc<Mutex<ApiPublisher>>,
    fetchers: Vec<Arc<Mutex<Fetcher>>>,
    wills: Vec<Arc<Mutex<WillClient>>>,
    history: History,
    token: String,
}

impl World {
    pub(crate) fn new(random: Random) -> Self {
        let mut bulk = Publisher::new("bulk", Level::V5, 1, &["bulk/x"]);
        bulk.padding = 30_000;
        let publishers = [
            Publisher::new("p1", Level::V311, 1, &["load/1/a", "load/1/b", "load/m/a"]),
            Publisher::new("p2", Level::V5, 2, &["load/2/a", "load/2/b", "load/m/a"]),
            Publisher::new("p3", Level::V311, 2, &["load/2/a", "load/2/c"]),
            Publisher::new("p4", Level::V5, 1, &["load/1/a"]),
            bulk,
        ];
        let mut slow = Subscriber::new("slow", Level::V5, &[("load/#", 1)]);
        slow.slow = true;
        let mut slow_exact = Subscriber::new("slow-exact", Level::V311, &[("load/2/a", 2), ("load/m/a", 2)]);
        slow_exact.slow = true;
        let mut seldom = Subscriber::new("seldom", Level::V5, &[("load/+/a", 2)]);
        seldom.attends = 4;
        let subscribers = [
            Subscriber::new("everything", Level::V5, &[("#", 2)]),
            Subscriber::new("plus", Level::V311, &[("load/+/a", 1)]),
            Subscriber::new("exact", Level::V311, &[("load/2/a", 2)]),
            Subscriber::new("overlap", Level::V5, &[("load/1/+", 1), ("load/#", 2)]),
            slow,
            slow_exact,
            seldom,
        ];
        let shared = |it| Arc::new(Mutex::new(it));
        Self {
            random,
            publishers: publishers.into_iter().map(shared).collect(),
            subscribers: subscribers
                .into_iter()
                .map(|subscriber| Arc::new(Mutex::new(subscriber)))
                .collect(),
            api_publisher: Arc::default(),
            fetchers: [("automatic", false), ("manual", true)]
                .map(|(name, manual)| Arc::new(Mutex::new(Fetcher::new(name, manual))))
                .into(),
            wills: [("stays", false, 0), ("clean", true, 0), ("returns", false, 600)]
                .map(|(name, clean, delay)| Arc::new(Mutex::new(WillClient::new(name, clean, delay))))
                .into(),
            history: History::default(),
            token: String::new(),
        }
    }

    /// Looks at what is there after a start, before anybody else comes.
    pub(crate) async fn look(&mut self, program: &Program, entire: bool) {
        if self.token.is_empty() {
            self.subscribe_everybody(program).await;
            let mut client = JsonClient::new(program.http, "");
            client.log_in(true).await;
            api::create(&mut client, &self.fetchers).await;
            self.token = client.token;
        }
        self.read_history(program, entire).await;
        self.wait_for_wills(program).await;
        self.check();
        self.check_retained(program).await;
    }

    /// Before the first message is published everybody is subscribed, so that all of it is everybody's.
    async fn subscribe_everybody(&self, program: &Program) {
        let (phase, watched) = watch::channel(Phase::Drain);
        let mut everybody = JoinSet::new();
        for subscriber in &self.subscribers {
            let random = self.random.clone();
            everybody.spawn(subscriber::run(
                Arc::clone(subscriber),
                program.mqtt,
                watched.clone(),
                random,
            ));
        }
        wait_for("everybody's SUBACK", || {
            subscriber::unsubscribed(&self.subscribers)
                .into_iter()
                .collect::<String>()
        })
        .await;
        phase.send_replace(Phase::Quit);
        join(everybody).await;
    }

    async fn read_history(&mut self, program: &Program, entire: bool) {
        let mut client = JsonClient::new(program.http, &self.token);
        let topics: Vec<String> = {
            let publishers = self.publishers.iter().map(|publisher| publisher.lock());
            let own = publishers.flat_map(|publisher| publisher.topics.clone());
            let wills = self.wills.iter().map(|client| client.lock().topic.clone());
            own.chain(wills).chain([api::TOPIC.to_owned()]).collect()
        };
        for topic in &topics {
            // Of the long messages the end has to do: all of them again would take longer than the rest of the test.
            let entire = entire && !topic.starts_with("bulk/");
            self.history.refresh(&mut client, topic, entire).await;
        }
    }

    /// Before their clients come back, the wills of the last round must be there.
    async fn wait_for_wills(&mut self, program: &Program) {
        let mut client = JsonClient::new(program.http, &self.token);
        let begin = Instant::now();
        for will in &self.wills {
            loop {
                let (topic, missing) = {
                    let will = will.lock();
                    (will.topic.clone(), will.missing(&self.history))
                };
                if missing.is_empty() {
                    break;
                }
                assert!(begin.elapsed() < SETTLE_MAX, "wills are missing:{missing}");
                tokio::time::sleep(Duration::from_millis(20)).await;
                self.history.refresh(&mut client, &topic, false).await;
            }
        }
    }

    fn check(&self) {
        for publisher in &self.publishers {
            self.history.check(&publisher.lock());
        }
        for subscriber in &self.subscribers {
            subscriber.lock().check(&self.history);
        }
        self.api_publisher.lock().check(&self.history);
        for fetcher in &self.fetchers {
            fetcher.lock().check(&self.history);
        }
    }

    /// A newcomer gets the last retained message of each topic, and nothing else.
    async fn check_retained(&self, program: &Program) {
        let (mut client, _) = RawClient::hello(program.mqtt, Level::V5, "", true).await;
        client.subscribe("#", 0).await;
        let mut left = self.history.retained();
        while !left.is_empty() {
            let message = client.next().await.message();
            assert!(message.retain);
            let payload = crate::payload::identity(&message.payload);
            let wanted = left.remove(&message.topic);
            assert_eq!(
                wanted.as_deref(),
                Some(payload.as_str()),
                "retained on {}",
                message.topic
            );
        }
        client.ping().await;
        client.goodbye().await;
    }

    /// Everybody comes and works for a while, until the program dies.
    pub(crate) async fn load(&mut self, program: Program, load: Duration, round: u64) {
        if round.is_multiple_of(3) {
            // A topic that is created under load.
            self.publishers[1].lock().topics.push(format!("load/n/{round}"));
        }
        let (phase, watched) = watch::channel(Phase::Load);
        let everybody = self.enter(&program, &watched, round);
        tokio::time::sleep(load).await;
        if self.random.one_in(10) {
            phase.send_replace(Phase::Drain);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let killed = Instant::now();
        if self.random.one_in(10) {
            let status = tokio::task::block_in_place(|| program.stop());
            assert!(status.success(), "{status}");
        } else {
            program.kill();
        }
        join(everybody).await;
        for subscriber in &self.subscribers {
            subscriber.lock().killed(killed);
        }
    }

    fn enter(&mut self, program: &Program, watched: &watch::Receiver<Phase>, round: u64) -> JoinSet<()> {
        let mut everybody = JoinSet::new();
        for publisher in &self.publishers {
            let random = self.random.fork();
            everybody.spawn(publisher::run(
                Arc::clone(publisher),
                program.mqtt,
                watched.clone(),
                random,
            ));
        }
        let random = self.random.fork();
        let publisher = Arc::clone(&self.api_publisher);
        everybody.spawn(api::publish(
            publisher,
            program.http,
            self.token.clone(),
            watched.clone(),
            random,
        ));
        for fetcher in &self.fetchers {
            let random = self.random.fork();
            let fetcher = Arc::clone(fetcher);
            everybody.spawn(api::fetch(
                fetcher,
                program.http,
                self.token.clone(),
                watched.clone(),
                random,
            ));
        }
        for will in &self.wills {
            everybody.spawn(wills::run(Arc::clone(will), program.mqtt, watched.clone(), round));
        }
        for subscriber in &self.subscribers {
            if round.is_multiple_of(subscriber.lock().attends) {
                let random = self.random.fork();
                everybody.spawn(subscriber::run(
                    Arc::clone(subscriber),
                    program.mqtt,
                    watched.clone(),
                    random,
                ));
            }
        }
        everybody
    }

    /// Everything unfinished is finished, and everybody has everything.
    pub(crate) async fn settle(&mut self, program: &Program) {
        let (phase, watched) = watch::channel(Phase::Drain);
        let everybody = self.enter(program, &watched, 0);
        wait_for("the publishers' acknowledgements", || {
            let busy = self.publishers.iter().filter(|publisher| !publisher.lock().is_idle());
            busy.map(|publisher| publisher.lock().name.clone()).collect::<String>()
        })
        .await;
        self.read_history(program, true).await;
        wait_for("everybody to have everything", || {
            let missing = self.subscribers.iter().map(|subscriber| {
                let subscriber = subscriber.lock();
                (subscriber.name.clone(), subscriber.missing(&self.history))
            });
            let fetchers = self.fetchers.iter().map(|fetcher| {
                let fetcher = fetcher.lock();
                let left = fetcher.left(&self.history);
                let missing = if left == 0 { String::new() } else { format!(" {left};") };
                (fetcher.name.to_owned(), missing)
            });
            missing
                .chain(fetchers)
                .filter(|(_, missing)| !missing.is_empty())
                .map(|(name, missing)| format!("{name}:{missing}"))
                .collect::<Vec<_>>()
                .join(" ")
        })
        .await;
        phase.send_replace(Phase::Quit);
        join(everybody).await;
        self.check();
    }

    pub(crate) fn report(&self) {
        let topics: BTreeMap<&str, usize> = self
            .history
            .topics()
            .map(|(topic, records)| (topic, records.len()))
            .collect();
        println!("stored: {topics:?}");
        for subscriber in &self.subscribers {
            let subscriber = subscriber.lock();
            println!(
                "{}: {} messages, {} came again, {} of them without DUP",
                subscriber.name,
                subscriber.count(),
                subscriber.repeats,
                subscriber.repeats_without_dup
            );
        }
        for fetcher in &self.fetchers {
            let fetcher = fetcher.lock();
            println!("{}: {} messages", fetcher.name, fetcher.count());
        }
    }
}

/// Waits until `missing` returns nothing.
pub(crate) async fn wait_for(what: &str, missing: impl Fn() -> String) {
    let begin = Instant::now();
    loop {
        let missing = missing();
        if missing.is_empty() {
            return;
        }
        assert!(begin.elapsed() < SETTLE_MAX, "waited for {what}; missing: {missing}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits for everybody; who found something wrong is heard.
pub(crate) async fn join(mut everybody: JoinSet<()>) {
    while let Some(ended) = everybody.join_next().await {
        if let Err(error) = ended {
            match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(error) => panic!("{error}"),
            }
        }
    }
}
