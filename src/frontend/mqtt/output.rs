//! Writing: replies and deliveries of a wake are encoded into one buffer and go out in one write.
//!
//! **Invariants**
//! - A connection with nothing to write owns no buffer: it borrows one from its thread and gives it back.
//! - Bytes leave in the order they were encoded.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

/// Buffers a thread keeps.
const POOL_COUNT: usize = 16;
/// Larger ones are not kept.
const POOL_BYTES_MAX: usize = 256 << 10;

/// Written bytes that stand before unwritten ones at most.
const COMPACT_BYTES: usize = 256 << 10;

thread_local! {
    static POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// The writing side of a connection.
#[derive(Default)]
pub struct Output {
    bytes: Vec<u8>,
    written: usize,
}

impl Output {
    /// Where to encode what goes out next.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        if self.bytes.capacity() == 0 {
            self.bytes = POOL.with_borrow_mut(Vec::pop).unwrap_or_default();
        } else if self.written > COMPACT_BYTES {
            // A slow client may never have taken everything; what it has taken must not pile up.
            self.bytes.drain(..self.written);
            self.written = 0;
        }
        &mut self.bytes
    }

    /// Bytes that were encoded and not written.
    pub fn pending(&self) -> usize {
        self.bytes.len() - self.written
    }

    /// Writes until nothing is left, as a rule with one write.
    pub fn poll_write<S: AsyncWrite + Unpin>(
        &mut self,
        context: &mut Context<'_>,
        stream: &mut S,
    ) -> Poll<io::Result<()>> {
        while let Some(rest) = self.bytes.get(self.written..).filter(|rest| !rest.is_empty()) {
            match ready!(Pin::new(&mut *stream).poll_write(context, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.written += count,
            }
        }
        self.release();
        // TLS and WebSocket keep bytes of their own.
        Pin::new(stream).poll_flush(context)
    }

    fn release(&mut self) {
        self.written = 0;
        let mut bytes = std::mem::take(&mut self.bytes);
        if bytes.capacity() == 0 || bytes.capacity() > POOL_BYTES_MAX {
            return;
        }
        bytes.clear();
        POOL.with_borrow_mut(|pool| {
            if pool.len() < POOL_COUNT {
                pool.push(bytes);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn everything_goes_out_in_order_and_the_buffer_goes_back() {
        let (mut here, mut there) = tokio::io::duplex(10);
        let mut output = Output::default();
        let wanted: Vec<u8> = (0..100).collect();
        output.buffer().extend_from_slice(&wanted[..60]);
        let reader = tokio::spawn(async move {
            let mut got = vec![0; 100];
            there.read_exact(&mut got).await.unwrap();
            got
        });
        poll_fn(|context| {
            // What is encoded while a write is under way goes behind it.
            if output.poll_write(context, &mut here).is_ready() {
                return Poll::Ready(());
            }
            output.buffer().extend_from_slice(&wanted[60..]);
            Poll::Ready(())
        })
        .await;
        poll_fn(|context| output.poll_write(context, &mut here)).await.unwrap();
        assert_eq!(output.pending(), 0);
        assert_eq!(output.bytes.capacity(), 0);
        assert_eq!(reader.await.unwrap(), wanted);
    }
}
