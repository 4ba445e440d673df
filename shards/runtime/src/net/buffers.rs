//! The buffers that receives fill: one region per shard, lent to the kernel as a provided
//! buffer ring, so that an idle connection owns no buffer.
//!
//! A buffer is either the kernel's (it may write to it at any time) or ours (between the
//! completion that names it and [`ReceiveBuffers::give_back`]). Only the latter is ever read.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

/// The only buffer group of a shard's ring.
pub(crate) const GROUP: u16 = 0;

const PAGE_BYTES: usize = 4096;

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
}

impl ReceiveBuffers {
    /// `count` buffers of `size` bytes, all lent to the kernel by [`Self::register`].
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
        }
    }

    /// Makes the ring known to the kernel and lends it every buffer. Once, before any receive.
    pub(crate) fn register(&mut self, submitter: &Submitter<'_>) -> io::Result<()> {
        let address = self.entries.as_ptr() as u64;
        // SAFETY: the entries are page aligned, `count` long and zeroed. `Ring` unregisters by
        // closing itself before it drops these buffers, or leaks them.
        unsafe { submitter.register_buf_ring_with_flags(address, self.count, GROUP, 0)? };
        for id in 0..self.count {
            self.give_back(id);
        }
        self.publish();
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

    /// Lends one buffer to the kernel again; it sees it after [`Self::publish`].
    pub(crate) fn give_back(&mut self, id: u16) {
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

    /// Shows the kernel all that was given back.
    pub(crate) fn publish(&self) {
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
