//! The buffers that receives fill: one region per shard, lent to the kernel as a provided
//! buffer ring, so that an idle connection owns no buffer.
//!
//! A buffer is either the kernel's (it may write to it at any time) or ours (between the
//! completion that names it and [`ReceiveBuffers::give_back`], and as long as it is not lent
//! again). Only the latter is ever read.
//!
//! The kernel goes through what it was lent in turn. So it is lent no more buffers than hold
//! [`LENT_BYTES`] at the fill they lately came back with, those last used first: what one turn
//! receives then stays in the core's cache until the turn has dealt with it.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

/// The only buffer group of a shard's ring.
pub(crate) const GROUP: u16 = 0;

const PAGE_BYTES: usize = 4096;

/// Bytes that the kernel may receive in one turn, about: half a core's second-level cache.
const LENT_BYTES: u32 = 512 << 10;
/// The fewest buffers the kernel is lent. A receive that finds none costs a request more.
const LENT_MIN: u32 = 16;
/// The fill is a mean that forgets: a buffer that comes back counts for one in so many.
const FILL_WEIGHT: u32 = 16;

/// Scope: shard.
pub(crate) struct ReceiveBuffers {
    entries: NonNull<BufRingEntry>,
    data: NonNull<u8>,
    /// A power of two.
    count: u16,
    /// Bytes of one buffer.
    size: u32,
    /// Entries published so far, wrapping.
    tail: u16,
    /// Ours and of no use to anyone, last used last.
    free: Vec<u16>,
    /// The kernel's.
    lent_count: u16,
    /// Bytes that buffers came back with lately.
    fill: u32,
}

impl ReceiveBuffers {
    /// `count` buffers of `size` bytes, lent to the kernel by [`Self::register`].
    ///
    /// # Panics
    /// If `count` is not a power of two up to 2^15 or `size` is 0: our own mistake.
    pub(crate) fn new(count: u16, size: u32) -> Self {
        assert!(count.is_power_of_two() && count <= 1 << 15 && size > 0);
        Self {
            entries: allocate(Self::entries_layout(count)).cast(),
            data: allocate(Self::data_layout(count, size)),
            count,
            size,
            tail: 0,
            free: (0..count).rev().collect(),
            lent_count: 0,
            fill: 0,
        }
    }

    /// Makes the ring known to the kernel and lends it buffers. Once, before any receive.
    pub(crate) fn register(&mut self, submitter: &Submitter<'_>) -> io::Result<()> {
        let address = self.entries.as_ptr() as u64;
        // SAFETY: the entries are page aligned, `count` long and zeroed. `Ring` unregisters by
        // closing itself before it drops these buffers, or leaks them.
        unsafe { submitter.register_buf_ring_with_flags(address, self.count, GROUP, 0)? };
        self.lend();
        Ok(())
    }

    /// The first `len` bytes of a buffer that a completion handed to us.
    ///
    /// The caller ([`super::Ring`]) keeps the promise that `id` is ours at the moment.
    pub(crate) fn bytes(&self, id: u16, len: usize) -> &[u8] {
        assert!(id < self.count && len <= self.size as usize);
        // SAFETY: in bounds by the assertion; the memory is initialised (zeroed at first, then
        // written by the kernel). The kernel does not write to it before it is given back,
        // and giving it back needs `&mut self`.
        unsafe { std::slice::from_raw_parts(self.at(id).as_ptr(), len) }
    }

    /// Takes note that a completion has handed a buffer to us with `len` bytes in it.
    pub(crate) fn came(&mut self, len: usize) {
        self.lent_count -= 1;
        self.fill = self.fill - self.fill / FILL_WEIGHT + len as u32 / FILL_WEIGHT;
    }

    /// A buffer that [`Self::lend`] may lend again.
    pub(crate) fn give_back(&mut self, id: u16) {
        self.free.push(id);
    }

    /// Lends the kernel what it may have.
    pub(crate) fn lend(&mut self) {
        let lent_max = (LENT_BYTES / self.fill.max(1)).max(LENT_MIN);
        while u32::from(self.lent_count) < lent_max
            && let Some(id) = self.free.pop()
        {
            self.put(id);
            self.lent_count += 1;
        }
        self.publish();
    }

    /// Writes the next entry; the kernel sees it after [`Self::publish`].
    fn put(&mut self, id: u16) {
        let index = self.tail & (self.count - 1);
        let (address, size) = (self.at(id).as_ptr() as u64, self.size);
        // SAFETY: `index` is below `count`; the kernel reads this entry only after the tail
        // has passed it. Only address, length and id are written: the tail shares the first
        // entry's spare field.
        let entry = unsafe { &mut *self.entries.as_ptr().add(index.into()) };
        entry.set_addr(address);
        entry.set_len(size);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Shows the kernel all that was put.
    fn publish(&self) {
        // SAFETY: the tail lies in the first entry, valid and aligned for as long as `self`;
        // the kernel only reads it.
        let tail =
            unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.entries.as_ptr()).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    fn at(&self, id: u16) -> NonNull<u8> {
        assert!(id < self.count);
        // SAFETY: in bounds by the assertion.
        unsafe { self.data.add(usize::from(id) * self.size as usize) }
    }

    fn entries_layout(count: u16) -> Layout {
        Layout::array::<BufRingEntry>(count.into())
            .and_then(|layout| layout.align_to(PAGE_BYTES))
            .expect("32768 entries of 16 bytes fit")
    }

    fn data_layout(count: u16, size: u32) -> Layout {
        Layout::from_size_align(usize::from(count) * size as usize, PAGE_BYTES)
            .expect("at most 2^47 bytes")
    }
}

impl Drop for ReceiveBuffers {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layouts; `Ring` drops them only after no
        // request is in flight and the ring is closed.
        unsafe {
            dealloc(self.entries.as_ptr().cast(), Self::entries_layout(self.count));
            dealloc(self.data.as_ptr(), Self::data_layout(self.count, self.size));
        }
    }
}

fn allocate(layout: Layout) -> NonNull<u8> {
    // SAFETY: both layouts have a size above zero (`new` asserts it).
    let memory = unsafe { alloc_zeroed(layout) };
    NonNull::new(memory).unwrap_or_else(|| handle_alloc_error(layout))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, VecDeque};

    use super::*;

    /// Buffers that the kernel takes and fills in turn, as it does.
    struct Kernel(VecDeque<u16>);

    impl Kernel {
        /// Fills a buffer with so many bytes; which one.
        fn fill(&mut self, buffers: &mut ReceiveBuffers, len: usize) -> Option<u16> {
            let id = self.0.pop_front()?;
            buffers.came(len);
            Some(id)
        }

        fn take_lent(&mut self, buffers: &mut ReceiveBuffers) {
            let from = buffers.tail;
            buffers.lend();
            for tail in 0..buffers.tail.wrapping_sub(from) {
                let index = from.wrapping_add(tail) & (buffers.count - 1);
                // SAFETY: `index` is below `count`, and the entry was written by `lend`.
                self.0.push_back(unsafe { (*buffers.entries.as_ptr().add(index.into())).bid() });
            }
        }
    }

    #[test]
    fn the_fuller_buffers_come_back_the_fewer_are_lent() {
        let (size, mut kernel) = (32 << 10, Kernel(VecDeque::new()));
        let mut buffers = ReceiveBuffers::new(256, size as u32);
        for (len, lent) in [(100, 256), (size, 16), (8 << 10, 64), (0, 256), (size, 16)] {
            for _ in 0..2000 {
                kernel.take_lent(&mut buffers);
                let id = kernel.fill(&mut buffers, len).expect("some are lent");
                buffers.give_back(id);
            }
            assert!(kernel.0.len().abs_diff(lent) <= lent / 16 + 1, "{len}: {}", kernel.0.len());
        }
        // No buffer is lent twice, and none is lost.
        let mut all: Vec<u16> = kernel.0.into_iter().chain(buffers.free.iter().copied()).collect();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..256));
    }

    #[test]
    fn what_was_used_last_is_lent_first() {
        let (size, mut kernel) = (32 << 10, Kernel(VecDeque::new()));
        let mut buffers = ReceiveBuffers::new(64, size as u32);
        let mut used = BTreeSet::new();
        for turn in 0..200 {
            kernel.take_lent(&mut buffers);
            let ids = std::iter::from_fn(|| kernel.fill(&mut buffers, size)).collect::<Vec<_>>();
            if turn >= 100 {
                used.extend(ids.iter().copied());
            }
            ids.into_iter().for_each(|id| buffers.give_back(id));
        }
        assert_eq!(used.len(), LENT_MIN as usize);
    }
}
