//! The ceiling: the bare log without a broker. One thread appends in runs, keeps so many records on their way, and
//! reads the feed as the dispatcher does.

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::args::LogArgs;
use super::histogram::{Histogram, Percentiles};
use super::process::Process;
use crate::store::local::{LocalStore, Options};
use crate::store::{Class, EntryKind, Feed, FeedItem, LogId, MessageLog, RetentionClass, Store};

/// After so long the writer, if it was idle, has taken what was handed over.
const TAKEN: Duration = Duration::from_micros(50);

/// What the log has shown.
#[derive(Debug, Serialize)]
pub(super) struct LogReport {
    /// Bytes of a record's body.
    pub(super) size: u32,
    /// Records on their way at most.
    pub(super) outstanding: u32,
    /// Records handed over at once.
    pub(super) run: u32,
    /// Records of each batch, if that was given.
    pub(super) round: Option<u32>,
    /// Records that became durable a second.
    pub(super) records_per_second: f64,
    /// Batches, each with one sync, a second.
    pub(super) rounds_per_second: f64,
    /// Records in a batch.
    pub(super) records_per_round: f64,
    /// Microseconds from handed over to handed out.
    pub(super) durable_us: Option<Percentiles>,
    /// Microseconds of CPU a record, appending included.
    pub(super) cpu_us: f64,
}

/// Appends for a while.
///
/// # Errors
/// The store's.
pub(super) fn run(args: &LogArgs, runtime: &tokio::runtime::Runtime) -> Result<LogReport, String> {
    let dir = args.dir.join(format!(".evermq-bench-log-{}", std::process::id()));
    let report = append(&dir, args, runtime);
    let removed = std::fs::remove_dir_all(&dir).map_err(|error| format!("`{}`: {error}", dir.display()));
    let report = report?;
    removed?;
    Ok(report)
}

struct Load<'a> {
    args: &'a LogArgs,
    store: &'a LocalStore,
    logs: Vec<LogId>,
    turn: usize,
    body: Vec<u8>,
    on_their_way: u64,
    begun: VecDeque<(u64, Instant)>,
}

impl Load<'_> {
    /// Hands runs over until as many records are on their way as may be.
    fn fill(&mut self) -> Result<(), String> {
        let Some(round) = self.args.round else {
            let (run, outstanding) = (u64::from(self.args.run), u64::from(self.args.outstanding));
            while self.on_their_way == 0 || self.on_their_way + run <= outstanding {
                self.hand_over(run)?;
            }
            return Ok(());
        };
        // Rounds of one size: while one is synced the next waits, and is taken alone.
        let round = u64::from(round);
        if self.on_their_way == 0 {
            self.hand_over(round)?;
            let handed_over = Instant::now();
            while handed_over.elapsed() < TAKEN {
                std::hint::spin_loop();
            }
        }
        if self.on_their_way <= round {
            self.hand_over(round)?;
        }
        Ok(())
    }

    fn hand_over(&mut self, run: u64) -> Result<(), String> {
        let mut commit = self.store.begin(Class::A);
        let log = self.logs.get(self.turn).copied().unwrap_or(LogId(1));
        for _ in 0..run {
            commit.append(log, &[&self.body], false);
        }
        self.turn = (self.turn + 1) % self.logs.len().max(1);
        self.begun.push_back((run, Instant::now()));
        self.on_their_way += run;
        self.store.commit(commit).map_err(|refused| refused.to_string())?;
        Ok(())
    }

    /// Notes what is durable.
    fn durable(&mut self, mut records: u64, histogram: &mut Histogram) {
        self.on_their_way = self.on_their_way.saturating_sub(records);
        while records > 0
            && let Some((left, begun)) = self.begun.front_mut()
        {
            let done = records.min(*left);
            *left -= done;
            records -= done;
            if *left == 0 {
                histogram.record(begun.elapsed().as_nanos() as u64);
                self.begun.pop_front();
            }
        }
    }
}

/// Data records of the next batch.
async fn next_batch(feed: &mut Feed) -> Result<u64, String> {
    loop {
        match feed.next().await {
            FeedItem::Batch(batch) => {
                let entries = batch.entries.iter();
                let data = entries.filter(|entry| entry.kind == EntryKind::Data).count() as u64;
                if data > 0 {
                    return Ok(data);
                }
            }
            FeedItem::Latched(cause) => return Err(cause),
            FeedItem::Closed => return Err("the store was closed".into()),
            FeedItem::Early(_) | FeedItem::CaughtUp => {}
        }
    }
}

fn append(dir: &Path, args: &LogArgs, runtime: &tokio::runtime::Runtime) -> Result<LogReport, String> {
    let (store, _) = LocalStore::open(Options::new(dir)).map_err(|error| error.to_string())?;
    let mut feed = store.feed();
    let mut commit = store.begin(Class::C);
    let logs = (0..args.logs)
        .map(|log| {
            let name = format!("log/{log}");
            store.create(&mut commit, name.as_bytes(), None, RetentionClass::default())
        })
        .collect();
    store.commit(commit).map_err(|refused| refused.to_string())?;
    let mut load = Load {
        args,
        store: &store,
        logs,
        turn: 0,
        body: vec![b'x'; args.size as usize],
        on_their_way: 0,
        begun: VecDeque::new(),
    };
    let measured = Duration::try_from_secs_f64(args.seconds).map_err(|error| error.to_string())?;
    let mut histogram = Histogram::default();
    let (mut records, mut rounds) = (0, 0_u64);
    let cpu = Process::Own.cpu().unwrap_or_default();
    let start = Instant::now();
    runtime.block_on(async {
        while start.elapsed() < measured {
            load.fill()?;
            let batch = next_batch(&mut feed).await?;
            load.durable(batch, &mut histogram);
            records += batch;
            rounds += 1;
        }
        Ok::<_, String>(())
    })?;
    let seconds = start.elapsed().as_secs_f64();
    let cpu = Process::Own.cpu().unwrap_or_default().saturating_sub(cpu);
    store.close().map_err(|error| error.to_string())?;
    Ok(LogReport {
        size: args.size,
        outstanding: args.outstanding,
        run: args.run,
        round: args.round,
        records_per_second: records as f64 / seconds,
        rounds_per_second: rounds as f64 / seconds,
        records_per_round: records as f64 / rounds.max(1) as f64,
        durable_us: histogram.percentiles(),
        cpu_us: cpu.as_secs_f64() * 1e6 / records.max(1) as f64,
    })
}
