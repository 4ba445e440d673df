//! Writes in flight: the bytes the kernel reads while it sends, at addresses that do not move.

use std::num::NonZeroU32;

use octopus_engine::OutBuffer;

/// More pieces than this go out in several sends.
const PIECES_MAX: usize = 64;

/// Names one write in flight. Scope: shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WriteIndex(NonZeroU32);

impl WriteIndex {
    fn new(position: usize) -> Self {
        let position = u32::try_from(position + 1).expect("fewer writes than connections");
        Self(NonZeroU32::new(position).expect("one is added"))
    }

    fn position(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// One buffer on its way out. Boxed, so that `iovecs` and `header` stay where the kernel was
/// told they are.
pub(crate) struct Write {
    buffer: OutBuffer,
    /// Bytes the kernel has taken so far.
    sent_bytes: usize,
    length: usize,
    iovecs: Vec<libc::iovec>,
    header: libc::msghdr,
}

/// What the next send of a write points to.
pub(crate) enum Span {
    Plain { start: *const u8, len: u32 },
    Vectored(*const libc::msghdr),
}

impl Write {
    fn new() -> Self {
        // SAFETY: a msghdr is integers and pointers; all zero is its empty value.
        let header = unsafe { std::mem::zeroed() };
        Self { buffer: OutBuffer::default(), sent_bytes: 0, length: 0, iovecs: Vec::new(), header }
    }

    /// Points at the bytes not sent yet. Valid until this write is changed or dropped.
    pub(crate) fn span(&mut self) -> Span {
        if self.buffer.shared.is_empty() {
            let rest = &self.buffer.bytes[self.sent_bytes..];
            let len = u32::try_from(rest.len()).unwrap_or(u32::MAX);
            return Span::Plain { start: rest.as_ptr(), len };
        }
        self.iovecs.clear();
        let mut skip = self.sent_bytes;
        for piece in self.buffer.pieces() {
            let rest = &piece[skip.min(piece.len())..];
            skip -= piece.len() - rest.len();
            if !rest.is_empty() && self.iovecs.len() < PIECES_MAX {
                let base = rest.as_ptr().cast_mut().cast();
                self.iovecs.push(libc::iovec { iov_base: base, iov_len: rest.len() });
            }
        }
        self.header.msg_iov = self.iovecs.as_mut_ptr();
        self.header.msg_iovlen = self.iovecs.len() as _;
        Span::Vectored(&raw const self.header)
    }

    /// Takes note of `bytes` more that the kernel took; true when none are left.
    pub(crate) fn advance(&mut self, bytes: usize) -> bool {
        self.sent_bytes += bytes;
        self.sent_bytes >= self.length
    }
}

/// The writes in flight of one shard; finished ones are kept for reuse.
#[derive(Default)]
pub(crate) struct Writes {
    #[expect(clippy::vec_box, reason = "the kernel holds their addresses while the vector grows")]
    writes: Vec<Box<Write>>,
    free: Vec<WriteIndex>,
}

impl Writes {
    pub(crate) fn begin(&mut self, buffer: OutBuffer) -> WriteIndex {
        let index = self.free.pop().unwrap_or_else(|| {
            self.writes.push(Box::new(Write::new()));
            WriteIndex::new(self.writes.len() - 1)
        });
        let write = &mut self.writes[index.position()];
        write.length = buffer.len();
        write.buffer = buffer;
        write.sent_bytes = 0;
        index
    }

    pub(crate) fn get_mut(&mut self, index: WriteIndex) -> &mut Write {
        &mut self.writes[index.position()]
    }

    /// Ends a write and gives its buffer back, emptied, with its memory.
    pub(crate) fn finish(&mut self, index: WriteIndex) -> OutBuffer {
        self.free.push(index);
        let mut buffer = std::mem::take(&mut self.writes[index.position()].buffer);
        buffer.clear();
        buffer
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn collect(write: &mut Write) -> Vec<u8> {
        match write.span() {
            Span::Plain { start, len } => {
                // SAFETY: the span points into `write`, which is borrowed until the copy ends.
                unsafe { std::slice::from_raw_parts(start, len as usize) }.to_vec()
            }
            Span::Vectored(_) => write
                .iovecs
                .iter()
                .flat_map(|part| {
                    // SAFETY: each part points into `write`, unchanged since `span`.
                    unsafe { std::slice::from_raw_parts(part.iov_base.cast::<u8>(), part.iov_len) }
                        .to_vec()
                })
                .collect(),
        }
    }

    #[test]
    fn the_rest_of_a_vectored_write_starts_where_the_kernel_stopped() {
        let buffer = || OutBuffer {
            bytes: b"headtail".to_vec(),
            shared: vec![(4, Bytes::from_static(b"-one-")), (4, Bytes::from_static(b"-two-"))],
        };
        let whole = b"head-one--two-tail";
        for cut in 0..whole.len() {
            let mut writes = Writes::default();
            let index = writes.begin(buffer());
            let write = writes.get_mut(index);
            assert!(!write.advance(cut));
            assert_eq!(collect(write), &whole[cut..], "after {cut} bytes");
            assert!(write.advance(whole.len() - cut));
            assert!(writes.finish(index).is_empty());
        }
    }

    #[test]
    fn a_finished_write_is_reused() {
        let mut writes = Writes::default();
        let first = writes.begin(OutBuffer { bytes: vec![1, 2, 3], shared: Vec::new() });
        assert_eq!(collect(writes.get_mut(first)), [1, 2, 3]);
        assert!(writes.finish(first).bytes.capacity() >= 3);
        assert_eq!(writes.begin(OutBuffer::default()), first);
    }
}
