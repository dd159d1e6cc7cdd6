//! A publisher: what it may send now, with which packet id and stamp, and what came back.
//!
//! **Invariants**
//! - A packet id is used again only when its exchange is complete.
//! - Numbers of a key have no gaps; a message is due before it is written.

use std::sync::atomic::Ordering;

use super::plan::Plan;
use super::shared::Shared;
use super::stamp::Stamp;
use super::wire;

/// A publisher fills at most so much at once, then others have their turn.
const FILL_BYTES: usize = 64 << 10;

/// A publisher.
pub(super) struct Publisher {
    number: usize,
    heads: Vec<(Vec<u8>, u64)>,
    numbers: Vec<u32>,
    turn: usize,
    first_key: u32,
    /// When the message of a packet id was due; 0: the id is free.
    due_of: Vec<u64>,
    next_id: usize,
    outstanding: u32,
    /// Messages written.
    pub(super) published: u64,
    /// Deliveries that follow from them.
    pub(super) expected: u64,
    next_due: u64,
    interval: Option<u64>,
}

impl Publisher {
    /// Publisher `number` of a plan.
    pub(super) fn new(plan: &Plan, number: usize) -> Self {
        let heads: Vec<_> = plan
            .topics_of(number)
            .map(|topic| {
                let head = wire::publish_head(plan.version, plan.qos, &plan.topic(topic), plan.size);
                (head, plan.fan_out(topic))
            })
            .collect();
        let ids = (plan.window as usize * 2).next_power_of_two().min(65_535);
        Self {
            number,
            numbers: vec![0; heads.len()],
            heads,
            turn: 0,
            first_key: (number * plan.keys_each()) as u32,
            due_of: vec![0; ids],
            next_id: 0,
            outstanding: 0,
            published: 0,
            expected: 0,
            next_due: 0,
            interval: plan.interval.map(|interval| interval.as_nanos() as u64),
        }
    }

    /// Writes what may go out now into the buffer. Answers when more may follow by the clock alone.
    pub(super) fn fill(&mut self, plan: &Plan, shared: &Shared, filling: &[u8], out: &mut Vec<u8>, now: u64) -> Fill {
        let stop = shared.stopping.load(Ordering::Relaxed);
        let delivered = shared
            .delivered_of
            .get(self.number)
            .map_or(0, |delivered| delivered.load(Ordering::Relaxed));
        if self.next_due == 0 {
            // Not all at once: each publisher begins at its own part of the interval.
            let part = self.interval.unwrap_or(0) * self.number as u64 / plan.publishers as u64;
            self.next_due = now + part;
        }
        loop {
            if stop || plan.count.is_some_and(|count| self.published >= count) {
                return Fill::Done;
            }
            if self.interval.is_some() && self.next_due > now {
                return Fill::At(self.next_due);
            }
            if plan.qos > 0 && self.outstanding >= plan.window {
                return Fill::Waits;
            }
            let Some((head, fan_out)) = self.heads.get(self.turn) else {
                return Fill::Done;
            };
            if plan.ahead > 0 && self.expected.saturating_sub(delivered) >= plan.ahead * (*fan_out).max(1) {
                return Fill::Ahead;
            }
            if out.len() >= FILL_BYTES {
                return Fill::More;
            }
            let due = if self.interval.is_some() { self.next_due } else { now };
            let mut packet_id = 0;
            if plan.qos > 0 {
                let Some(slot) = self.due_of.get_mut(self.next_id) else {
                    return Fill::Done;
                };
                if *slot != 0 {
                    return Fill::Waits;
                }
                *slot = due;
                packet_id = self.next_id as u16 + 1;
                self.next_id = if self.next_id + 1 == self.due_of.len() {
                    0
                } else {
                    self.next_id + 1
                };
                self.outstanding += 1;
            }
            let Some(number) = self.numbers.get_mut(self.turn) else {
                return Fill::Done;
            };
            *number += 1;
            out.extend_from_slice(head);
            wire::publish_middle(out, plan.version, plan.qos, packet_id);
            let stamp = Stamp {
                run: plan.run,
                publisher: self.number as u32,
                key: self.first_key + self.turn as u32,
                number: *number,
                due,
            };
            stamp.put(out);
            out.extend_from_slice(filling);
            self.published += 1;
            self.expected += fan_out;
            self.turn = if self.turn + 1 == self.heads.len() {
                0
            } else {
                self.turn + 1
            };
            self.next_due += self.interval.unwrap_or(0);
        }
    }

    /// Frees a packet id; answers when its message was due.
    pub(super) fn complete(&mut self, packet_id: u16) -> Option<u64> {
        let slot = self.due_of.get_mut(usize::from(packet_id).wrapping_sub(1))?;
        let due = std::mem::take(slot);
        (due != 0).then(|| {
            self.outstanding -= 1;
            due
        })
    }
}

/// Why a publisher has stopped filling.
pub(super) enum Fill {
    /// For good.
    Done,
    /// For an acknowledgement.
    Waits,
    /// For its subscribers.
    Ahead,
    /// Until then.
    At(u64),
    /// For others to have their turn.
    More,
}
