//! Reading: one `read` into a buffer that the thread lends, everything whole taken out of it in place.
//!
//! **Invariants**
//! - A connection that waits for nothing owns no buffer; one that waits for the rest of a packet owns what came of it.
//! - Unfinished packets larger than [`SCRATCH_BYTES`] share one [`Budget`]. Beyond it their connections are not read
//!   until others have finished; their announced size is taken at once, so that no two can wait for each other.
//! - Bytes are handed out in order, each once, and again only if they were left.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::BufMut;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::frame::PACKET_BYTES_MAX;

/// The buffer a thread lends; what one read takes at most.
pub const SCRATCH_BYTES: usize = 64 << 10;
/// Unit of the budget.
const UNIT: usize = 64 << 10;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH_BYTES]);
}

/// Room for large unfinished packets, shared by all connections.
#[derive(Clone)]
pub struct Budget(Arc<Semaphore>);

impl Budget {
    /// Room for `bytes`, and at least for the largest packet there can be.
    pub fn new(bytes: usize) -> Self {
        let units = bytes.max(PACKET_BYTES_MAX as usize).div_ceil(UNIT);
        Self(Arc::new(Semaphore::new(units)))
    }

    fn units(bytes: usize) -> u32 {
        bytes.min(PACKET_BYTES_MAX as usize).div_ceil(UNIT) as u32
    }
}

/// What became of the bytes that were handed out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Taken {
    /// So many are done with.
    pub used: usize,
    /// With what is left at hand, so many in all are needed to go on. 0: they are handed out again at the next call,
    /// without a read.
    pub needed: usize,
}

type Waiting = Pin<Box<dyn Future<Output = Option<OwnedSemaphorePermit>> + Send>>;

/// The reading side of a connection.
#[derive(Default)]
pub struct Input {
    // A pointer while there is nothing: most connections are idle most of the time.
    unfinished: Option<Box<Unfinished>>,
}

struct Unfinished {
    bytes: Vec<u8>,
    needed: usize,
    room: Room,
}

enum Room {
    Small,
    Wanted,
    Waiting(Waiting),
    Taken(#[expect(dead_code, reason = "gives the room back when it is dropped")] OwnedSemaphorePermit),
}

impl Input {
    /// Reads once and hands everything at hand to `take`, whose second answer is returned; `None` at the end of the
    /// stream. Bytes that `take` left come first the next time. Nothing is lost if the future is dropped.
    pub async fn read<S, R>(
        &mut self,
        stream: &mut S,
        budget: &Budget,
        mut take: impl FnMut(&[u8]) -> (Taken, R),
    ) -> io::Result<Option<R>>
    where
        S: AsyncRead + Unpin,
    {
        poll_fn(|context| self.poll_read(context, stream, budget, &mut take)).await
    }

    /// [`Input::read`], for those who wait for several things.
    pub fn poll_read<S, R>(
        &mut self,
        context: &mut Context<'_>,
        stream: &mut S,
        budget: &Budget,
        take: &mut impl FnMut(&[u8]) -> (Taken, R),
    ) -> Poll<io::Result<Option<R>>>
    where
        S: AsyncRead + Unpin,
    {
        match self.unfinished.as_deref_mut() {
            Some(unfinished) if unfinished.bytes.len() >= unfinished.needed => {}
            Some(unfinished) if unfinished.needed > SCRATCH_BYTES => {
                ready!(unfinished.room.poll(context, budget, unfinished.needed));
                // Memory follows what came, not what was announced.
                let missing = unfinished.needed - unfinished.bytes.len();
                if unfinished.bytes.len() == unfinished.bytes.capacity() {
                    let step = missing.min(unfinished.bytes.len().max(SCRATCH_BYTES));
                    unfinished.bytes.reserve_exact(step);
                }
                let room = unfinished.bytes.capacity() - unfinished.bytes.len();
                let mut target = (&mut unfinished.bytes).limit(missing.min(room));
                if ready!(pin!(stream.read_buf(&mut target)).poll(context))? == 0 {
                    return Poll::Ready(Ok(None));
                }
                if unfinished.bytes.len() < unfinished.needed {
                    // Readiness may remain; the stream wakes by itself only after it was found empty.
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
            _ => return SCRATCH.with_borrow_mut(|scratch| self.poll_small(context, stream, scratch, take)),
        }
        let Some(unfinished) = self.unfinished.take() else {
            return Poll::Ready(Ok(None));
        };
        let (taken, answer) = take(&unfinished.bytes);
        self.keep(unfinished.bytes.get(taken.used..).unwrap_or_default(), taken.needed);
        Poll::Ready(Ok(Some(answer)))
    }

    /// Reads into the lent buffer, behind what was left.
    fn poll_small<S, R>(
        &mut self,
        context: &mut Context<'_>,
        stream: &mut S,
        scratch: &mut [u8],
        take: &mut impl FnMut(&[u8]) -> (Taken, R),
    ) -> Poll<io::Result<Option<R>>>
    where
        S: AsyncRead + Unpin,
    {
        let left = self
            .unfinished
            .as_deref()
            .map_or(&[][..], |unfinished| &unfinished.bytes);
        let left_length = left.len();
        let (Some(front), true) = (scratch.get_mut(..left_length), left_length < SCRATCH_BYTES) else {
            return Poll::Ready(Err(io::Error::other("more was left than a packet needs")));
        };
        front.copy_from_slice(left);
        let mut target = ReadBuf::new(scratch);
        target.set_filled(left_length);
        ready!(Pin::new(stream).poll_read(context, &mut target))?;
        let bytes = target.filled();
        if bytes.len() == left_length {
            return Poll::Ready(Ok(None));
        }
        let (taken, answer) = take(bytes);
        self.keep(bytes.get(taken.used..).unwrap_or_default(), taken.needed);
        Poll::Ready(Ok(Some(answer)))
    }

    fn keep(&mut self, rest: &[u8], needed: usize) {
        let room = if needed > SCRATCH_BYTES {
            Room::Wanted
        } else {
            Room::Small
        };
        match self.unfinished.as_deref_mut() {
            _ if rest.is_empty() => self.unfinished = None,
            Some(unfinished) => {
                unfinished.bytes.clear();
                unfinished.bytes.extend_from_slice(rest);
                unfinished.needed = needed;
                unfinished.room = room;
            }
            None => {
                self.unfinished = Some(Box::new(Unfinished {
                    bytes: rest.to_vec(),
                    needed,
                    room,
                }));
            }
        }
    }

    /// How much of a large packet is here, for whoever measures silence: it may take longer than a keep-alive. `None`
    /// if there is none; a small one comes in reads that are seen.
    pub fn large_packet_bytes(&self) -> Option<usize> {
        let unfinished = self.unfinished.as_deref()?;
        (unfinished.needed > SCRATCH_BYTES).then_some(unfinished.bytes.len())
    }

    /// Whether nothing is read because others have the room for large packets.
    pub fn waits_for_room(&self) -> bool {
        self.unfinished
            .as_deref()
            .is_some_and(|unfinished| matches!(unfinished.room, Room::Waiting(_)))
    }

    /// Whether the beginning of a packet is at hand and the rest is not.
    pub fn is_within_packet(&self) -> bool {
        self.unfinished.is_some()
    }
}

impl Room {
    fn poll(&mut self, context: &mut Context<'_>, budget: &Budget, bytes: usize) -> Poll<()> {
        if let Self::Wanted = self {
            let semaphore = budget.0.clone();
            let units = Budget::units(bytes);
            *self = Self::Waiting(Box::pin(async move { semaphore.acquire_many_owned(units).await.ok() }));
        }
        if let Self::Waiting(waiting) = self
            && let Some(permit) = ready!(waiting.as_mut().poll(context))
        {
            *self = Self::Taken(permit);
        }
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::frontend::mqtt::frame::{Cut, cut};

    /// Takes whole frames and returns their lengths.
    fn frames(bytes: &[u8]) -> (Taken, Vec<usize>) {
        let mut used = 0;
        let mut lengths = Vec::new();
        loop {
            match cut(&bytes[used..], PACKET_BYTES_MAX) {
                Cut::Frame(frame) => {
                    assert!(frame.body.iter().all(|&byte| byte == frame.body.len() as u8));
                    lengths.push(frame.whole.len());
                    used += frame.whole.len();
                }
                Cut::Incomplete(needed) => return (Taken { used, needed }, lengths),
                Cut::Malformed(why) => panic!("{why}"),
            }
        }
    }

    fn frame_of(length: usize) -> Vec<u8> {
        let mut out = vec![0x30];
        crate::frontend::mqtt::frame::put_variable(&mut out, length as u32);
        out.resize(out.len() + length, length as u8);
        out
    }

    async fn all(chunk: usize, lengths: &[usize]) -> Vec<usize> {
        let bytes: Vec<u8> = lengths.iter().flat_map(|&length| frame_of(length)).collect();
        let (mut there, mut here) = tokio::io::duplex(1 << 20);
        let writer = tokio::spawn(async move {
            for part in bytes.chunks(chunk) {
                there.write_all(part).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        let budget = Budget::new(0);
        let mut input = Input::default();
        let mut got = Vec::new();
        while let Some(more) = input.read(&mut here, &budget, frames).await.unwrap() {
            got.extend(more);
        }
        assert!(!input.is_within_packet());
        assert_eq!(budget.0.available_permits(), 4097, "room is given back");
        writer.await.unwrap();
        got
    }

    #[tokio::test]
    async fn packets_come_whole_however_they_are_cut() {
        let lengths = [0, 1, 10, 5_000, 65_000, 3, 65_536, 70_000, 300_000, 2, 0, 131_072];
        let wanted: Vec<usize> = lengths.iter().map(|&length| frame_of(length).len()).collect();
        for chunk in [1_000, 1_024, 65_535, 65_536, 100_000, 1 << 20] {
            assert_eq!(all(chunk, &lengths).await, wanted, "chunks of {chunk}");
        }
        let lengths = [0, 1, 10, 200, 3];
        let wanted: Vec<usize> = lengths.iter().map(|&length| frame_of(length).len()).collect();
        assert_eq!(all(1, &lengths).await, wanted);
    }

    #[tokio::test]
    async fn what_was_left_on_purpose_comes_again_without_a_read() {
        let (mut there, mut here) = tokio::io::duplex(100);
        there.write_all(&[1, 2, 3]).await.unwrap();
        let budget = Budget::new(0);
        let mut input = Input::default();
        for wanted in [&[1, 2, 3][..], &[2, 3], &[3]] {
            let got = input
                .read(&mut here, &budget, |bytes| {
                    (Taken { used: 1, needed: 0 }, bytes.to_vec())
                })
                .await
                .unwrap();
            assert_eq!(got.as_deref(), Some(wanted));
        }
        assert!(!input.is_within_packet());
    }

    #[tokio::test]
    async fn a_large_packet_is_not_read_while_another_has_the_room() {
        let budget = Budget::new(0);
        let taken = budget.0.clone().acquire_many_owned(4_097).await.unwrap();
        let (mut there, mut here) = tokio::io::duplex(1 << 20);
        let frame = frame_of(100_000);
        there.write_all(&frame).await.unwrap();
        let mut input = Input::default();
        let first = input.read(&mut here, &budget, frames).await.unwrap();
        assert_eq!(first, Some(Vec::new()));
        {
            let mut read = pin!(input.read(&mut here, &budget, frames));
            assert!(poll_fn(|context| Poll::Ready(read.as_mut().poll(context).is_pending())).await);
            drop(taken);
            assert_eq!(read.await.unwrap(), Some(vec![frame.len()]));
        }
    }

    #[test]
    fn an_idle_input_is_a_pointer() {
        assert_eq!(size_of::<Input>(), size_of::<usize>());
    }
}
