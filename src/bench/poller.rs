//! Waiting for many connections at once, to the microsecond.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};

/// Events taken at once.
const EVENTS: usize = 256;

/// What a connection is watched for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Interest {
    /// Something to read.
    Read,
    /// Something to read, or room to write.
    ReadWrite,
}

impl From<Interest> for epoll::EventFlags {
    fn from(interest: Interest) -> Self {
        match interest {
            Interest::Read => Self::IN,
            Interest::ReadWrite => Self::IN | Self::OUT,
        }
    }
}

/// An epoll with the connections of its last wait.
pub(super) struct Poller {
    epoll: OwnedFd,
    ready: Vec<usize>,
}

fn failed(error: rustix::io::Errno) -> String {
    format!("cannot watch connections: {error}")
}

impl Poller {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// The system has no more files.
    pub(super) fn new() -> Result<Self, String> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed)?,
            ready: Vec::with_capacity(EVENTS),
        })
    }

    /// Watches a connection from now on.
    ///
    /// # Errors
    /// The system cannot.
    pub(super) fn add(&self, number: usize, connection: impl AsFd, interest: Interest) -> Result<(), String> {
        let data = epoll::EventData::new_u64(number as u64);
        epoll::add(&self.epoll, connection, data, interest.into()).map_err(failed)
    }

    /// Watches it for something else.
    ///
    /// # Errors
    /// The system cannot.
    pub(super) fn change(&self, number: usize, connection: impl AsFd, interest: Interest) -> Result<(), String> {
        let data = epoll::EventData::new_u64(number as u64);
        epoll::modify(&self.epoll, connection, data, interest.into()).map_err(failed)
    }

    /// Watches it no longer.
    ///
    /// # Errors
    /// The system cannot.
    pub(super) fn remove(&self, connection: impl AsFd) -> Result<(), String> {
        epoll::delete(&self.epoll, connection).map_err(failed)
    }

    /// Waits so long at most. `epoll_wait` alone knows milliseconds only.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn wait(&mut self, wait: Duration) -> Result<(), String> {
        if !wait.is_zero() {
            let time = Timespec {
                tv_sec: wait.as_secs() as i64,
                tv_nsec: i64::from(wait.subsec_nanos()),
            };
            match poll(&mut [PollFd::new(&self.epoll, PollFlags::IN)], Some(&time)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        self.ready.clear();
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut room = [MaybeUninit::uninit(); EVENTS];
        match epoll::wait(&self.epoll, &mut room[..], Some(&now)) {
            Ok((events, _)) => {
                self.ready.extend(events.iter().map(|event| {
                    let data = event.data;
                    data.u64() as usize
                }));
                Ok(())
            }
            Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }

    /// How many connections have something.
    pub(super) const fn ready_count(&self) -> usize {
        self.ready.len()
    }

    /// One of them.
    pub(super) fn ready(&self, at: usize) -> Option<usize> {
        self.ready.get(at).copied()
    }
}
