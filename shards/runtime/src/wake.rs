//! Wakes a shard that sleeps in its ring: an eventfd that the ring watches.
//!
//! An eventfd and not IORING_OP_MSG_RING, because the hub has no ring to send from. It is never
//! read: each write is one completion of the watching request, and the count inside would need
//! centuries to overflow.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

#[derive(Debug)]
pub(crate) struct Wake(File);

impl Wake {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: takes two integers, touches no memory of ours.
        let eventfd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if eventfd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just made by eventfd, owned by nobody else.
        Ok(Self(File::from(unsafe { OwnedFd::from_raw_fd(eventfd) })))
    }

    /// Wakes the shard, or keeps it from falling asleep.
    pub(crate) fn signal(&self) {
        if let Err(error) = (&self.0).write_all(&1_u64.to_ne_bytes()) {
            tracing::error!(%error, "a shard could not be woken");
        }
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
