//! Steps of a lagging session: stretches of the log, its topics merged into log order.
//!
//! **Invariants**
//! - Everything of a step before the head that is handed out next was handed out or passed over: the floor stands there.

use super::{Candidate, From, Need, Offer, Puller, STEP_BYTES};
use crate::broker::Shared;
use crate::broker::position::Explicit;
use crate::broker::session::{SessionKind, SessionState};
use crate::broker::topic::Topic;
use crate::store::{At, Error, Limit, LogId, Mark, Offset, Progress, ReadBuf};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

/// Topics that one step of a lagging session reads at most.
const STEP_TOPICS_MAX: usize = 256;

/// One topic of a step.
struct Source {
    topic: Arc<Topic>,
    next: Offset,
    more: bool,
    buf: ReadBuf,
    at: usize,
}

/// A stretch of the log that a lagging session reads, merged into log order.
pub struct Step {
    upto: Mark,
    sources: Vec<Source>,
    heads: BinaryHeap<Reverse<(Mark, usize)>>,
    unfilled: Vec<usize>,
}

impl Step {
    pub(super) fn filled(&mut self, place: usize, log: LogId, progress: Progress, buf: ReadBuf) {
        if let Some(source) = self.sources.get_mut(place).filter(|source| source.topic.log == log) {
            self.unfilled.retain(|unfilled| *unfilled != place);
            source.next = progress.next;
            source.more = progress.more;
            source.buf = buf;
            source.at = 0;
            match source.buf.records.first() {
                Some(record) => self.heads.push(Reverse((record.mark, place))),
                None if source.more => self.unfilled.push(place),
                None => {}
            }
        }
    }
}

/// Drops explicit positions ahead of the floor that the floor has met.
fn drop_passed(shared: &Shared, state: &mut SessionState) {
    if state.position.explicit_count() == 0 {
        return;
    }
    let floor = state.position.floor;
    let passed = |(log, explicit): (LogId, Explicit)| match explicit {
        Explicit::Ahead(next) => {
            let bounds = shared.store.bounds(log);
            bounds
                .is_none_or(|bounds| bounds.newest_mark < floor && bounds.next >= next)
                .then_some(log)
        }
        Explicit::Behind(_) => None,
    };
    let passed: Vec<_> = state.position.explicit().filter_map(passed).collect();
    for log in passed {
        state.position.drop_of(log);
    }
}

impl Puller<'_> {
    /// Records of the step; `Some` ends the pull.
    pub(super) fn hand_step(&mut self, state: &mut SessionState) -> Option<Need> {
        let mut step = state.step.take()?;
        if let Some(source) = step.unfilled.last().copied()
            && let Some(wanted) = step.sources.get(source)
        {
            let bytes = (STEP_BYTES / step.sources.len()).max(16 << 10);
            let limit = Limit {
                records: 1_024,
                bytes,
                before: step.upto,
            };
            let need = Need::Fill {
                source,
                log: wanted.topic.log,
                next: wanted.next,
                limit,
            };
            state.step = Some(step);
            return Some(need);
        }
        while let Some(Reverse((mark, place))) = step.heads.peek().copied() {
            state.position.floor = mark;
            if self.sink.is_full() {
                state.step = Some(step);
                return Some(Need::Nothing { more: true });
            }
            let Some(source) = step.sources.get_mut(place) else {
                break;
            };
            if let Some(record) = source.buf.records.get(source.at) {
                let candidate = Candidate {
                    topic: &source.topic,
                    position: record.position,
                    time: record.time,
                    mark: record.mark,
                    body: source.buf.body(record),
                    from: From::Step,
                };
                if matches!(self.offer(state, &candidate), Offer::Full) {
                    state.step = Some(step);
                    return Some(Need::Nothing { more: false });
                }
            }
            step.heads.pop();
            source.at += 1;
            state.position.floor = mark.just_behind();
            match source.buf.records.get(source.at) {
                Some(record) => step.heads.push(Reverse((record.mark, place))),
                None if source.more => {
                    step.unfilled.push(place);
                    state.step = Some(step);
                    return self.hand_step(state);
                }
                None => {}
            }
        }
        state.position.floor = step.upto;
        drop_passed(self.shared, state);
        None
    }

    /// Finds the next stretch of the log that holds something for a lagging session.
    ///
    /// A subscription that is not seen here takes effect behind what is dispatched now, hence behind the step.
    pub(super) async fn begin_step(&mut self) -> Result<(), Error> {
        let mut upto = self.shared.dispatched();
        let (floor, few) = {
            let state = self.session.state.lock();
            let subscriptions = &state.subscriptions;
            let few = subscriptions.wildcard.is_empty() && subscriptions.exact.len() <= STEP_TOPICS_MAX;
            let names: Vec<Arc<Topic>> = if few {
                subscriptions
                    .exact
                    .keys()
                    .filter_map(|name| self.shared.topics.get(name))
                    .collect()
            } else {
                Vec::new()
            };
            (state.position.floor, few.then_some(names))
        };
        let mut topics: Vec<(Arc<Topic>, Option<Offset>)> = Vec::new();
        if let Some(named) = few {
            let newer = |topic: &Arc<Topic>| {
                let bounds = self.shared.store.bounds(topic.log);
                bounds.is_some_and(|bounds| bounds.newest_mark >= floor)
            };
            topics.extend(named.into_iter().filter(newer).map(|topic| (topic, None)));
        } else {
            let mut touched = Vec::new();
            let limit = Limit {
                records: STEP_TOPICS_MAX,
                bytes: 64 << 20,
                before: upto,
            };
            upto = self.shared.store.touched(floor, limit, &mut touched).await?;
            for one in touched {
                if let Some(topic) = self.shared.topics.by_log(one.log) {
                    topics.push((topic, Some(one.first)));
                }
            }
        }
        let mut sources = Vec::new();
        for (topic, first) in topics {
            let (start, explicit) = {
                let mut state = self.session.state.lock();
                let matched = state.subscriptions.of_topic(&topic);
                let mut start = matched.oldest_start();
                if start < Mark::END && self.session.kind == SessionKind::Mqtt && !matched.waits() {
                    start = start.max(state.connect_mark);
                }
                (start, state.position.of(topic.log))
            };
            // Also what waits behind the floor: it may catch up while this step is under way, and goes on with it then.
            if start >= upto {
                continue;
            }
            let next = match first {
                Some(first) if start <= floor => first,
                _ => match self.shared.store.locate(topic.log, At::Mark(start.max(floor))).await {
                    Ok(next) => next,
                    Err(Error::NoLog(_)) => continue,
                    Err(error) => return Err(error),
                },
            };
            let next = match explicit {
                Some(Explicit::Ahead(ahead)) => next.max(ahead),
                _ => next,
            };
            sources.push(Source {
                topic,
                next,
                more: true,
                buf: ReadBuf::default(),
                at: 0,
            });
        }
        let unfilled = (0..sources.len()).collect();
        let step = Step {
            upto,
            sources,
            heads: BinaryHeap::new(),
            unfilled,
        };
        let mut state = self.session.state.lock();
        // Whatever moved the floor meanwhile has made the step void.
        if state.epoch == self.epoch && state.position.floor == floor {
            state.step = Some(step);
        }
        Ok(())
    }
}
