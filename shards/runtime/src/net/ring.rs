//! One shard's io_uring: requests in, completions out.
//!
//! Invariants: the ring is used by the thread that made it only (SINGLE_ISSUER); the memory of
//! a request in flight belongs to the ring until its last completion, and is leaked if the ring
//! is dropped before that. Completions are posted while this thread waits here
//! (DEFER_TASKRUN), so the shard must sleep in [`Ring::wait`] and nowhere else.

use std::fmt;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use octopus_engine::OutBuffer;

use super::buffers::{GROUP, ReceiveBuffers};
use super::writes::{Span, WriteIndex, Writes};
use crate::Tuning;

/// What a completion answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Operation {
    Accept,
    Receive,
    Send,
    Wake,
    /// The answer to a cancel of a receive.
    CancelReceive,
    /// The answer to any other cancel.
    Cancel,
}

/// Comes back with every completion of a request: `slot` is a connection's or a listener's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) operation: Operation,
    pub(crate) slot: u32,
}

impl Token {
    pub(crate) fn new(operation: Operation, slot: u32) -> Self {
        Self { operation, slot }
    }

    fn to_bits(self) -> u64 {
        (self.operation as u64) << 32 | u64::from(self.slot)
    }

    fn from_bits(bits: u64) -> Self {
        let operation = match bits >> 32 {
            0 => Operation::Accept,
            1 => Operation::Receive,
            2 => Operation::Send,
            3 => Operation::Wake,
            4 => Operation::CancelReceive,
            _ => Operation::Cancel,
        };
        Self { operation, slot: bits as u32 }
    }
}

/// One completion, copied out of the ring.
#[derive(Clone, Copy)]
pub(crate) struct Completion {
    pub(crate) token: Token,
    result: i32,
    flags: u32,
}

/// What a receive brought.
#[derive(Debug)]
pub(crate) enum Received {
    /// `len` bytes in `buffer`, ours until given back.
    Bytes {
        buffer: u16,
        len: usize,
    },
    /// The peer closed its end.
    End,
    /// Every buffer was in use; receive again when some are free.
    NoBuffers,
    Cancelled,
    Failed(io::Error),
}

/// What became of a send.
#[derive(Debug)]
pub(crate) enum Sent {
    All,
    /// Some bytes are left; a [`Ring::send`] is due.
    Part,
    Failed(io::Error),
}

impl Completion {
    /// More completions of the same request follow.
    pub(crate) fn more(self) -> bool {
        cqueue::more(self.flags)
    }

    /// A cancel did not find its request. It may have ended, or be at work just now: a receive
    /// that has found much data queues itself to go on, and cannot be found meanwhile.
    pub(crate) fn missed(self) -> bool {
        self.result == -libc::ENOENT || self.result == -libc::EALREADY
    }

    pub(crate) fn received(self) -> Received {
        match (self.result, cqueue::buffer_select(self.flags)) {
            (len @ 1.., Some(buffer)) => Received::Bytes { buffer, len: len as usize },
            (0.., _) => Received::End,
            (error, _) if error == -libc::ENOBUFS => Received::NoBuffers,
            (error, _) if error == -libc::ECANCELED => Received::Cancelled,
            (error, _) => Received::Failed(io::Error::from_raw_os_error(-error)),
        }
    }

    /// The descriptor of an accepted connection. Take it once.
    pub(crate) fn accepted(self) -> io::Result<OwnedFd> {
        if self.result < 0 {
            return Err(io::Error::from_raw_os_error(-self.result));
        }
        debug_assert_eq!(self.token.operation, Operation::Accept);
        // SAFETY: a successful accept made this descriptor for us; the driver handles each
        // completion once, so nobody else owns it.
        Ok(unsafe { OwnedFd::from_raw_fd(self.result) })
    }
}

/// Scope: shard.
pub(crate) struct Ring {
    ring: ManuallyDrop<IoUring>,
    buffers: ManuallyDrop<ReceiveBuffers>,
    writes: ManuallyDrop<Writes>,
    /// Requests whose last completion has not come.
    in_flight_count: usize,
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").field("in_flight_count", &self.in_flight_count).finish()
    }
}

/// A ring with the flags that shards use, for [`Ring`] and for the start's preflight.
pub(crate) fn build(entries: u32) -> io::Result<IoUring> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_coop_taskrun()
        .setup_submit_all()
        .setup_clamp()
        .setup_cqsize(entries.saturating_mul(4))
        .build(entries)
}

impl Ring {
    /// A ring for the calling thread.
    pub(crate) fn new(tuning: &Tuning) -> io::Result<Self> {
        let ring = build(tuning.ring_entries)?;
        let mut buffers =
            ReceiveBuffers::new(tuning.receive_buffer_count, tuning.receive_buffer_bytes);
        buffers.register(&ring.submitter())?;
        Ok(Self {
            ring: ManuallyDrop::new(ring),
            buffers: ManuallyDrop::new(buffers),
            writes: ManuallyDrop::new(Writes::default()),
            in_flight_count: 0,
        })
    }

    pub(crate) fn in_flight_count(&self) -> usize {
        self.in_flight_count
    }

    /// Accepts until cancelled or failed, one completion each.
    pub(crate) fn accept(&mut self, listener: BorrowedFd<'_>, slot: u32) {
        let entry =
            opcode::AcceptMulti::new(Fd(listener.as_raw_fd())).flags(libc::SOCK_CLOEXEC).build();
        self.push(entry, Token::new(Operation::Accept, slot));
    }

    /// Receives until cancelled or ended, one completion for each filled buffer.
    pub(crate) fn receive(&mut self, socket: BorrowedFd<'_>, slot: u32) {
        let entry = opcode::RecvMulti::new(Fd(socket.as_raw_fd()), GROUP).build();
        self.push(entry, Token::new(Operation::Receive, slot));
    }

    /// One completion for each time `eventfd` is written to, until cancelled.
    pub(crate) fn watch(&mut self, eventfd: BorrowedFd<'_>) {
        let entry =
            opcode::PollAdd::new(Fd(eventfd.as_raw_fd()), libc::POLLIN as u32).multi(true).build();
        self.push(entry, Token::new(Operation::Wake, 0));
    }

    /// Asks the kernel to end the request with this token; the request's last completion says
    /// how far it came. The answer carries the token's slot: see [`Completion::missed`].
    pub(crate) fn cancel(&mut self, token: Token) {
        let entry = opcode::AsyncCancel::new(token.to_bits()).build();
        let answer = match token.operation {
            Operation::Receive => Operation::CancelReceive,
            _ => Operation::Cancel,
        };
        self.push(entry, Token::new(answer, token.slot));
    }

    /// Takes `buffer` in; nothing is sent before [`Self::send`].
    pub(crate) fn begin_write(&mut self, buffer: OutBuffer) -> WriteIndex {
        self.writes.begin(buffer)
    }

    /// Sends what is left of a write. One completion.
    pub(crate) fn send(&mut self, socket: BorrowedFd<'_>, slot: u32, write: WriteIndex) {
        let socket = Fd(socket.as_raw_fd());
        // MSG_WAITALL: the kernel itself continues after a partial send.
        let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        let entry = match self.writes.get_mut(write).span() {
            Span::Plain { start, len } => {
                opcode::Send::new(socket, start, len).flags(flags).build()
            }
            Span::Vectored(header) => {
                opcode::SendMsg::new(socket, header).flags(flags as u32).build()
            }
        };
        self.push(entry, Token::new(Operation::Send, slot));
    }

    /// Reads a send's completion.
    pub(crate) fn sent(&mut self, completion: Completion, write: WriteIndex) -> Sent {
        match completion.result {
            bytes @ 0.. if self.writes.get_mut(write).advance(bytes as usize) => Sent::All,
            // A send of no bytes at all would repeat for ever.
            0 => Sent::Failed(io::ErrorKind::WriteZero.into()),
            1.. => Sent::Part,
            error => Sent::Failed(io::Error::from_raw_os_error(-error)),
        }
    }

    /// Ends a write that has no send in flight; its buffer comes back empty.
    pub(crate) fn finish_write(&mut self, write: WriteIndex) -> OutBuffer {
        self.writes.finish(write)
    }

    /// Bytes of a receive buffer that a completion brought and that was not given back yet.
    pub(crate) fn bytes(&self, buffer: u16, len: usize) -> &[u8] {
        self.buffers.bytes(buffer, len)
    }

    /// Ends our use of a receive buffer; from the next [`Self::wait`] on the kernel may have it.
    pub(crate) fn give_back(&mut self, buffer: u16) {
        self.buffers.give_back(buffer);
    }

    /// Submits what was asked for and sleeps until there is a completion, at most `timeout`.
    pub(crate) fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        self.buffers.lend();
        let timeout = Timespec::from(timeout);
        let submitted =
            self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&timeout));
        tolerate(submitted)
    }

    /// Copies all completions into `out`.
    pub(crate) fn completions(&mut self, out: &mut Vec<Completion>) {
        for entry in self.ring.completion() {
            let completion = Completion {
                token: Token::from_bits(entry.user_data()),
                result: entry.result(),
                flags: entry.flags(),
            };
            if !completion.more() {
                self.in_flight_count -= 1;
            }
            if let Received::Bytes { len, .. } = completion.received() {
                self.buffers.came(len);
            }
            out.push(completion);
        }
    }

    fn push(&mut self, entry: squeue::Entry, token: Token) {
        let entry = entry.user_data(token.to_bits());
        self.in_flight_count += 1;
        // SAFETY: all memory the entry points to is in `writes` or `buffers`, which this ring
        // keeps in place until the request's last completion, or leaks.
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            tolerate(self.ring.submitter().submit()).expect("a valid ring takes submissions");
        }
    }
}

/// Time-outs and interruptions are how waits end; a full completion queue (EBUSY) is emptied
/// by the caller next.
fn tolerate(result: io::Result<usize>) -> io::Result<()> {
    match result {
        Err(error)
            if !matches!(
                error.raw_os_error(),
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN)
            ) =>
        {
            Err(error)
        }
        _ => Ok(()),
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.in_flight_count > 0 {
            tracing::debug!(requests = self.in_flight_count, "ring left with requests in flight");
        }
        // SAFETY: each is dropped once, here. The ring goes first, so the kernel forgets the
        // buffer ring; the memory goes only if no request can still touch it.
        unsafe {
            ManuallyDrop::drop(&mut self.ring);
            if self.in_flight_count == 0 {
                ManuallyDrop::drop(&mut self.buffers);
                ManuallyDrop::drop(&mut self.writes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_the_ring() {
        for operation in [
            Operation::Accept,
            Operation::Receive,
            Operation::Send,
            Operation::Wake,
            Operation::CancelReceive,
            Operation::Cancel,
        ] {
            let token = Token::new(operation, u32::MAX);
            assert_eq!(Token::from_bits(token.to_bits()), token);
        }
    }
}
