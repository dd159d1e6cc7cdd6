//! Statistics and health of a session (spec/broker.md 5): totals, windows of what it published and received, its
//! backlog, which is counted from the logs.
//!
//! **Invariants**
//! - Totals survive a restart, windows begin empty after one.
//! - An idle session has no windows in memory.

use std::sync::Arc;

use super::error::{SessionRefused, StoreFailed};
use super::mq_session::Caller;
use super::position::Explicit;
use super::rows::session::TotalsRow;
use super::session::{ConnectionStatus, Session, SessionState};
use super::{Broker, Shared};
use crate::store::{At, LogId, Mark, Offset};

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// Counts in `N` equal parts of a window.
#[derive(Clone, Debug)]
struct Ring<const N: usize> {
    parts: [u64; N],
    /// Number of the newest part since 1970.
    newest: i64,
}

impl<const N: usize> Ring<N> {
    const fn new() -> Self {
        Self {
            parts: [0; N],
            newest: 0,
        }
    }

    /// Empties the parts between the newest one and `part`. A clock that was set back counts into the newest.
    fn advance(&mut self, part: i64) {
        let passed = usize::try_from(part.saturating_sub(self.newest)).unwrap_or(0);
        for step in 1..=passed.min(N) {
            let place = (self.newest + step as i64).rem_euclid(N as i64) as usize;
            if let Some(count) = self.parts.get_mut(place) {
                *count = 0;
            }
        }
        if passed > N {
            self.parts = [0; N];
        }
        self.newest = self.newest.max(part);
    }

    fn add(&mut self, part: i64, count: u64) {
        self.advance(part);
        let place = self.newest.rem_euclid(N as i64) as usize;
        if let Some(held) = self.parts.get_mut(place) {
            *held += count;
        }
    }

    fn sum(&self, part: i64) -> u64 {
        let mut at = self.clone();
        at.advance(part);
        at.parts.iter().sum()
    }
}

/// The last minute, ten minutes and hour of one kind of event, and what happened since the connect.
#[derive(Clone, Debug)]
struct Windows {
    minute: Ring<5>,
    ten: Ring<10>,
    hour: Ring<12>,
    /// The connect that `since` counts from, ms since 1970.
    connected: i64,
    since: u64,
}

/// The events of one kind; nothing until the first.
#[derive(Clone, Debug, Default)]
pub(super) struct Rate(Option<Box<Windows>>);

impl Rate {
    /// Counts events of a session that connected at `connected`.
    pub(super) fn add(&mut self, now_ms: i64, connected: i64, count: u64) {
        let windows = self.0.get_or_insert_with(|| {
            Box::new(Windows {
                minute: Ring::new(),
                ten: Ring::new(),
                hour: Ring::new(),
                connected,
                since: 0,
            })
        });
        if windows.connected != connected {
            windows.connected = connected;
            windows.since = 0;
        }
        let now = now_ms / 1_000;
        windows.minute.add(now / 12, count);
        windows.ten.add(now / MINUTE, count);
        windows.hour.add(now / (5 * MINUTE), count);
        windows.since += count;
    }

    fn counts(&self, now_ms: i64, connected: i64) -> Counts {
        let Some(windows) = &self.0 else {
            return Counts::default();
        };
        let now = now_ms / 1_000;
        Counts {
            minute: windows.minute.sum(now / 12),
            ten: windows.ten.sum(now / MINUTE),
            since: if windows.connected == connected {
                windows.since
            } else {
                0
            },
            hour: windows.hour.sum(now / (5 * MINUTE)),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Counts {
    minute: u64,
    ten: u64,
    since: u64,
    hour: u64,
}

impl Counts {
    fn rates(self, minutes: f64) -> Rates {
        Rates {
            minute: self.minute,
            ten_minutes: divide(self.ten, minutes.clamp(1.0, 10.0)),
            connection: divide(self.since, minutes.max(1.0)),
            hour: self.hour,
        }
    }
}

fn divide(count: u64, minutes: f64) -> u64 {
    (count as f64 / minutes).round() as u64
}

/// How many events of a kind there were lately.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rates {
    /// In the last minute.
    pub minute: u64,
    /// Per minute, over the last ten.
    pub ten_minutes: u64,
    /// Per minute, since the connect.
    pub connection: u64,
    /// In the last hour.
    pub hour: u64,
}

/// `sessionHealth`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Health {
    /// Connected, all criteria that are on hold.
    Healthy,
    /// Connected, one does not.
    Unhealthy,
    /// Not connected.
    Offline,
}

/// What is known of a session besides its settings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Statistics {
    /// Totals, first and last times.
    pub totals: TotalsRow,
    /// What it published.
    pub published: Rates,
    /// What it was given.
    pub received: Rates,
    /// Messages that wait for it now; those of share groups wait for the group and are not counted.
    pub backlog: u64,
    /// Growth of the backlog.
    pub backlog_growth: Rates,
    /// Growth of the backlog in the last day.
    pub backlog_growth_day: u64,
    /// By the session's limits.
    pub health: Health,
}

impl SessionState {
    /// Counts what the session was given.
    pub(super) fn count_received(&mut self, count: u64, now_ms: i64) {
        self.totals.received += count;
        let [_, _, first, last] = &mut self.totals.times;
        if *first == 0 {
            *first = now_ms;
        }
        *last = now_ms;
        self.totals_changed = true;
        self.received_rate.add(now_ms, self.connected, count);
    }
}

/// A topic that concerns a session: from which position on it waits, or has to be searched.
struct Waiting {
    log: LogId,
    next: Option<Offset>,
    from: Mark,
}

impl Broker {
    /// Statistics of a session.
    ///
    /// # Errors
    /// As [`Broker::session`], or the store's.
    pub async fn statistics(&self, name: &str, caller: &Caller) -> Result<Statistics, SessionRefused> {
        let session = self.session(name, caller)?;
        Ok(self.0.statistics(&session).await?)
    }
}

impl Shared {
    async fn statistics(&self, session: &Arc<Session>) -> Result<Statistics, StoreFailed> {
        let now = self.clock.wall_ms();
        let (waiting, totals, published, received, limits, status, connected, filters) = {
            let mut state = session.state.lock();
            let connected = state.connected;
            (
                self.waiting_topics(&mut state),
                state.totals,
                state.published_rate.counts(now, connected),
                state.received_rate.counts(now, connected),
                state.settings.health_limits,
                state.connection_status(session.kind),
                connected,
                state.subscriptions.len() as u64,
            )
        };
        let age = now.saturating_sub(connected).max(0) / 1_000;
        let minutes = age as f64 / 60.0;
        let windows = [MINUTE, 10 * MINUTE, age, HOUR, DAY];
        let mut backlog = 0;
        let mut arrived = [0; 5];
        for topic in waiting {
            let Some(bounds) = self.store.bounds(topic.log) else {
                continue;
            };
            // Positions may have gaps: there are never more records than the log holds.
            let behind = |from: Offset| bounds.next.0.saturating_sub(from.0).min(bounds.records);
            backlog += match topic.next {
                Some(next) => behind(next),
                None if bounds.newest_mark < topic.from => 0,
                None => behind(self.store.locate(topic.log, At::Mark(topic.from)).await?),
            };
            let windows = arrived.iter_mut().zip(windows);
            // What is quiet needs no search.
            for (count, window) in windows.filter(|(_, window)| bounds.newest_time >= now - window * 1_000) {
                let since = self.store.locate(topic.log, At::Time(now - window * 1_000)).await?;
                *count += behind(since);
            }
        }
        // The day's deliveries are not counted apart; what waits now bounds the growth anyway.
        let given = [
            received.minute,
            received.ten,
            received.since,
            received.hour,
            received.hour,
        ];
        let mut grown = arrived;
        for (count, given) in grown.iter_mut().zip(given) {
            *count = count.saturating_sub(given).min(backlog);
        }
        let [minute, ten, since, hour, backlog_growth_day] = grown;
        let backlog_growth = Counts {
            minute,
            ten,
            since,
            hour,
        }
        .rates(minutes);
        let published = published.rates(minutes);
        Ok(Statistics {
            totals,
            published,
            received: received.rates(minutes),
            backlog,
            backlog_growth,
            backlog_growth_day,
            health: health(limits, status, age, published.minute, backlog_growth.minute, filters),
        })
    }

    /// Existing topics that the session's ordinary filters match, each with its place there.
    fn waiting_topics(&self, state: &mut SessionState) -> Vec<Waiting> {
        let filters: Vec<_> = state.subscriptions.ordinary().map(|held| held.filter.clone()).collect();
        let mut topics: Vec<_> = filters
            .iter()
            .flat_map(|filter| self.topics.matching(filter, "", usize::MAX))
            .collect();
        topics.sort_by_key(|topic| topic.log);
        topics.dedup_by_key(|topic| topic.log);
        topics
            .iter()
            .map(|topic| {
                let matched = state.subscriptions.of_topic(topic);
                Waiting {
                    log: topic.log,
                    next: state.position.of(topic.log).map(|explicit| match explicit {
                        Explicit::Ahead(next) | Explicit::Behind(next) => next,
                    }),
                    from: state.position.floor.max(matched.oldest_start()),
                }
            })
            .collect()
    }
}

/// The rules of spec/sessions.md 6.1; a limit of 0 is off.
fn health(limits: [u64; 5], status: ConnectionStatus, age: i64, sent: u64, backlog: u64, filters: u64) -> Health {
    if status == ConnectionStatus::Disconnected {
        return Health::Offline;
    }
    let [sent_min, sent_max, backlog_max, filters_min, filters_max] = limits;
    let at_most = |value: u64, limit: u64| limit == 0 || value <= limit;
    // A connection is not sick in its first minute because it has not sent yet.
    let sends = age < MINUTE || sent >= sent_min;
    if sends
        && at_most(sent, sent_max)
        && at_most(backlog, backlog_max)
        && filters >= filters_min
        && at_most(filters, filters_max)
    {
        Health::Healthy
    } else {
        Health::Unhealthy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: i64 = 1_772_445_360_000;

    #[test]
    fn a_short_connection_is_divided_by_a_whole_minute() {
        let mut rate = Rate::default();
        rate.add(START + 6_000, START, 20);
        rate.add(START + 21_000, START, 16);
        let rates = rate.counts(START + 21_000, START).rates(0.35);
        assert_eq!((rates.minute, rates.ten_minutes), (36, 36));
        assert_eq!((rates.connection, rates.hour), (36, 36));
    }

    #[test]
    fn events_leave_their_windows_one_after_the_other() {
        let mut rate = Rate::default();
        rate.add(START, START, 60);
        let at = |seconds: i64| rate.counts(START + seconds * 1_000, START);
        assert_eq!(at(47).minute, 60);
        assert_eq!((at(72).minute, at(72).ten), (0, 60));
        assert_eq!((at(660).ten, at(660).hour), (0, 60));
        assert_eq!((at(4_000).hour, at(4_000).since), (0, 60));
        assert_eq!(at(600).rates(10.0).connection, 6);
        assert_eq!(rate.counts(START, START + 1).since, 0, "another connection began");
        assert_eq!(at(-50).minute, 60, "a clock that was set back loses nothing");
        assert_eq!(at(1 << 40).hour, 0);
    }

    #[test]
    fn health_looks_only_at_limits_that_are_on() {
        let connected = ConnectionStatus::Connected;
        let check = |limits, age, sent, backlog, filters| health(limits, connected, age, sent, backlog, filters);
        assert_eq!(check([0; 5], 1_000, 0, 99, 0), Health::Healthy);
        assert_eq!(check([1, 0, 0, 0, 0], 59, 0, 0, 0), Health::Healthy);
        assert_eq!(check([1, 0, 0, 0, 0], 60, 0, 0, 0), Health::Unhealthy);
        assert_eq!(check([1, 0, 0, 0, 0], 60, 1, 0, 0), Health::Healthy);
        assert_eq!(check([0, 5, 0, 0, 0], 0, 6, 0, 0), Health::Unhealthy);
        assert_eq!(check([0, 0, 5, 0, 0], 0, 0, 6, 0), Health::Unhealthy);
        assert_eq!(check([0, 0, 0, 1, 0], 0, 0, 0, 0), Health::Unhealthy);
        assert_eq!(check([0, 0, 0, 0, 1], 0, 0, 0, 2), Health::Unhealthy);
        assert_eq!(check([0, 5, 5, 1, 1], 0, 5, 5, 1), Health::Healthy);
        let away = health([0; 5], ConnectionStatus::Disconnected, 0, 0, 0, 0);
        assert_eq!(away, Health::Offline);
    }
}
