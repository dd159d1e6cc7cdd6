//! What the callers do: publish, fetch, create sessions.

use std::net::SocketAddr;

use serde::Serialize;
use serde_json::{Value, json};

use super::caller::Caller;
use super::request::{self, Request, payload, stamp, stamps};
use super::round::{self, Counted, Length, Opinion};
use crate::bench::args::{HttpArgs, Target};
use crate::bench::gauge::{Gauge, Usage, Work};
use crate::bench::histogram::Percentiles;
use crate::bench::plan::{address, random, seconds};
use crate::bench::report::{Text, percentiles, usage};
use crate::bench::stamp::{Ledger, Stamp};

/// The port of the API.
const HTTP_PORT: u16 = 8080;
/// Messages that are published for `fetch` if no count is given, over all callers.
const FETCHED: u64 = 100_000;
/// Messages of a request when they are published for `fetch`.
const FILL_BATCH: u64 = 500;

/// What a preset has shown.
#[derive(Debug, Serialize)]
pub(super) struct HttpReport {
    preset: &'static str,
    callers: u32,
    batch: u32,
    size: u32,
    /// Seconds that were measured.
    seconds: f64,
    requests_per_second: f64,
    messages_per_second: f64,
    /// Microseconds of a request, from when its caller was free.
    latency_us: Option<Percentiles>,
    /// Requests in all.
    requests: u64,
    /// Of them, refused.
    refused: u64,
    /// The first refusal.
    refusal: Option<String>,
    /// Messages in all; sessions, where those are created.
    messages: u64,
    /// Messages that should have been fetched and were not.
    lost: u64,
    /// Fetched again.
    duplicates: u64,
    /// Fetched behind a later one.
    disordered: u64,
    /// CPU time for each request, and the log.
    #[serde(flatten)]
    usage: Usage,
}

impl Text for HttpReport {
    fn text(&self) -> Vec<String> {
        let mut lines = vec![
            format!(
                "{}: {} callers, {} a request, {} B, {:.1} s",
                self.preset, self.callers, self.batch, self.size, self.seconds
            ),
            format!(
                "answered     {:.0} requests/s, {:.0} messages/s",
                self.requests_per_second, self.messages_per_second
            ),
        ];
        lines.extend(percentiles("latency", self.latency_us));
        let mut sum = format!(
            "all in all   {} requests, {} refused, {} messages, {} lost, {} again, {} out of order",
            self.requests, self.refused, self.messages, self.lost, self.duplicates, self.disordered
        );
        if let Some(refusal) = &self.refusal {
            sum = format!("{sum}; first refusal: {refusal}");
        }
        lines.push(sum);
        lines.extend(usage(&self.usage, "request"));
        lines
    }
}

/// A preset with its login.
struct Preset<'a> {
    args: &'a HttpArgs,
    name: &'static str,
    address: SocketAddr,
    gauge: Gauge,
    caller: Caller,
    run: u32,
}

impl<'a> Preset<'a> {
    fn new(name: &'static str, args: &'a HttpArgs) -> Result<Self, String> {
        let gauge = Gauge::new(&args.target.watch)?;
        let address = address(&args.target, HTTP_PORT)?;
        let Target { username, password, .. } = &args.target;
        let username = username.as_deref().unwrap_or("ADMIN");
        let password = password.as_deref().unwrap_or("ADMIN");
        Ok(Self {
            args,
            name,
            address,
            gauge,
            caller: Caller::log_in(address, username, password)?,
            run: random()?,
        })
    }

    fn callers(&self) -> impl Iterator<Item = u32> + use<> {
        0..self.args.callers
    }

    fn progress(&self, phase: &'static str) -> Option<&'static str> {
        (!self.args.target.watch.json).then_some(phase)
    }

    /// A caller's session.
    fn session(&self, caller: u32) -> String {
        format!("{}-h-{}", self.args.target.prefix, stamp(self.run, caller))
    }

    fn topic(&self, caller: u32) -> String {
        let topics = self.args.topics.unwrap_or(self.args.callers).max(1);
        format!("{}/http/{:08x}/{}", self.args.target.prefix, self.run, caller % topics)
    }

    fn action(&self, action: &str, params: &Value) -> Request {
        let body = json!({"action": action, "params": params, "authToken": self.caller.token});
        Request::new(&body.to_string())
    }

    fn publishing(&self, caller: u32, batch: u64) -> Request {
        let payload = payload(self.run, caller, self.args.size as usize);
        let messages: Vec<Value> = (0..batch)
            .map(|_| json!({"payload": payload, "binaryFormat": "utf8"}))
            .collect();
        let params = json!({
            "clientName": self.session(caller), "topic": self.topic(caller), "messages": messages,
        });
        self.action("publishMessagesToMq", &params)
    }

    fn create_sessions(&mut self) -> Result<(), String> {
        for caller in self.callers() {
            let params = json!({"clientName": self.session(caller)});
            self.caller.call("createMqApiSession", &params)?;
        }
        Ok(())
    }

    fn delete_sessions(&mut self) -> Result<(), String> {
        for caller in self.callers() {
            let params = json!({"clientName": self.session(caller), "permanentlyDeleteSession": true});
            self.caller.call("deleteMqSession", &params)?;
        }
        Ok(())
    }

    fn length(&self) -> Result<Length, String> {
        Ok(match self.args.count {
            Some(count) => Length::Count(count.max(1)),
            None => Length::Time(seconds(self.args.warmup)?, seconds(self.args.seconds)?),
        })
    }

    /// Logs out and adds up.
    fn report(mut self, counted: &Counted, ledger: &Ledger, expected: u64) -> Result<HttpReport, String> {
        self.caller.call("deleteSession", &json!({}))?;
        let work = Work {
            messages: counted.measured_answers,
            accepted: counted.measured_messages,
            seconds: counted.seconds,
        };
        let (before, after) = &counted.readings;
        Ok(HttpReport {
            preset: self.name,
            callers: self.args.callers,
            batch: self.args.batch,
            size: self.args.size,
            seconds: counted.seconds,
            requests_per_second: counted.measured_answers as f64 / counted.seconds,
            messages_per_second: counted.measured_messages as f64 / counted.seconds,
            latency_us: counted.latency.percentiles(),
            requests: counted.answers,
            refused: counted.refused,
            refusal: counted.refusal.clone(),
            messages: counted.messages,
            lost: expected.saturating_sub(ledger.unique),
            duplicates: ledger.duplicates,
            disordered: ledger.disordered,
            usage: after.since(before, work),
        })
    }
}

/// `bench http publish`.
///
/// # Errors
/// The broker cannot be reached, or refuses the setup.
pub(super) fn publish(args: &HttpArgs) -> Result<HttpReport, String> {
    let mut run = Preset::new("http publish", args)?;
    run.create_sessions()?;
    let batch = u64::from(args.batch);
    let requests = run.callers().map(|caller| run.publishing(caller, batch)).collect();
    let (length, progress) = (run.length()?, run.progress("publishing"));
    let counted = round::run(run.address, requests, length, &run.gauge, progress, |_, _| Opinion {
        messages: batch,
        goes_on: true,
    })?;
    run.delete_sessions()?;
    run.report(&counted, &Ledger::default(), 0)
}

/// `bench http fetch`: each caller has a session, and its messages are there before it begins.
///
/// # Errors
/// The broker cannot be reached, or refuses the setup.
pub(super) fn fetch(args: &HttpArgs) -> Result<HttpReport, String> {
    let mut run = Preset::new("http fetch", args)?;
    run.create_sessions()?;
    for caller in run.callers() {
        let action = json!({"subscriptionAction": "add", "topicFilter": run.topic(caller)});
        let params = json!({"clientName": run.session(caller), "subscriptionActions": [action]});
        run.caller.call("subscribeToMq", &params)?;
    }
    let wanted = match args.count {
        Some(count) => count * u64::from(args.batch),
        None => FETCHED.div_ceil(u64::from(args.callers)),
    };
    // Whole requests: a little more than wanted where it does not divide.
    let batch = wanted.clamp(1, FILL_BATCH);
    let fills = wanted.div_ceil(batch);
    let wanted = fills * batch;
    let requests = run.callers().map(|caller| run.publishing(caller, batch)).collect();
    let progress = run.progress("publishing what will be fetched");
    let filled = round::run(
        run.address,
        requests,
        Length::Count(fills),
        &run.gauge,
        progress,
        |_, _| Opinion {
            messages: batch,
            goes_on: true,
        },
    )?;
    if let Some(refusal) = filled.refusal {
        return Err(format!("nothing to fetch: {refusal}"));
    }
    let requests = run
        .callers()
        .map(|caller| {
            let params = json!({
                "clientName": run.session(caller), "maxMessages": args.batch, "binaryFormat": "utf8",
            });
            run.action("getMessagesFromMqApiSession", &params)
        })
        .collect();
    // With fewer topics than callers every session gets the messages of several.
    let sharing = |caller: u32| {
        run.callers()
            .filter(|other| run.topic(*other) == run.topic(caller))
            .count() as u64
    };
    let mut owed: Vec<u64> = run.callers().map(|caller| sharing(caller) * wanted).collect();
    let expected: u64 = owed.iter().sum();
    let mut ledgers: Vec<Ledger> = run.callers().map(|_| Ledger::new(args.callers as usize)).collect();
    let progress = run.progress("fetching");
    let counted = round::run(
        run.address,
        requests,
        Length::Satisfied,
        &run.gauge,
        progress,
        |caller, body| {
            let (Some(ledger), Some(owed)) = (ledgers.get_mut(caller), owed.get_mut(caller)) else {
                return Opinion {
                    messages: 0,
                    goes_on: false,
                };
            };
            let mut messages = 0;
            for (publisher, number) in stamps(body, run.run) {
                messages += 1;
                let stamp = Stamp {
                    run: run.run,
                    publisher,
                    key: publisher,
                    number: number as u32,
                    due: 0,
                };
                if ledger.note(&stamp) {
                    *owed = owed.saturating_sub(1);
                }
            }
            Opinion {
                messages,
                goes_on: messages > 0 && *owed > 0,
            }
        },
    )?;
    let mut all = Ledger::default();
    for ledger in ledgers {
        all.unique += ledger.unique;
        all.duplicates += ledger.duplicates;
        all.disordered += ledger.disordered;
    }
    run.delete_sessions()?;
    run.report(&counted, &all, expected)
}

/// `bench http sessions`.
///
/// # Errors
/// The broker cannot be reached, or refuses the setup.
pub(super) fn sessions(args: &HttpArgs) -> Result<HttpReport, String> {
    let run = Preset::new("http sessions", args)?;
    let requests = |action: &str, and: fn(&mut serde_json::Map<String, Value>)| -> Vec<Request> {
        let request = |caller| {
            let mut params = serde_json::Map::new();
            params.insert(
                "clientName".into(),
                request::name(&args.target.prefix, run.run, caller).into(),
            );
            and(&mut params);
            run.action(action, &params.into())
        };
        run.callers().map(request).collect()
    };
    let one = |_: usize, _: &[u8]| Opinion {
        messages: 1,
        goes_on: true,
    };
    let (length, progress) = (run.length()?, run.progress("creating sessions"));
    let creating = requests("createMqApiSession", |_| ());
    let counted = round::run(run.address, creating, length, &run.gauge, progress, one)?;
    let deleting = requests("deleteMqSession", |params| {
        params.insert("permanentlyDeleteSession".into(), true.into());
    });
    let most = counted.requests_of.iter().copied().max().unwrap_or(0);
    // Those who created fewer than the others are refused the rest; nobody counts that.
    round::run(
        run.address,
        deleting,
        Length::Count(most.max(1)),
        &run.gauge,
        run.progress("removing sessions"),
        one,
    )?;
    run.report(&counted, &Ledger::default(), 0)
}
