//! Values by a small number that is used again: the connections and sessions of a shard.
//!
//! They lie side by side in chunks, without a pointer and an allocation each, and never move as
//! more come. Memory for the most there were at one time is kept. Scope: shard.

/// Slots of one chunk.
const CHUNK: usize = 64;

#[derive(Debug)]
pub(crate) struct Slots<T> {
    chunks: Vec<Box<[Option<T>; CHUNK]>>,
    /// The highest slot ever used, and one.
    len: u32,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), len: 0 }
    }
}

impl<T> Slots<T> {
    /// Slots in use or free again; every value's slot is below.
    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    #[inline]
    pub(crate) fn get(&self, slot: u32) -> Option<&T> {
        let slot = slot as usize;
        self.chunks.get(slot / CHUNK)?[slot % CHUNK].as_ref()
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        let slot = slot as usize;
        self.chunks.get_mut(slot / CHUNK)?[slot % CHUNK].as_mut()
    }

    /// Puts `value` into a slot, and gives it back as it lies there; what was there is gone.
    pub(crate) fn insert(&mut self, slot: u32, value: T) -> &mut T {
        self.len = self.len.max(slot + 1);
        let slot = slot as usize;
        while self.chunks.len() <= slot / CHUNK {
            self.chunks.push(Box::new([const { None }; CHUNK]));
        }
        self.chunks[slot / CHUNK][slot % CHUNK].insert(value)
    }

    pub(crate) fn take(&mut self, slot: u32) -> Option<T> {
        let slot = slot as usize;
        self.chunks.get_mut(slot / CHUNK)?[slot % CHUNK].take()
    }

    /// All values, by slot.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flat_map(|chunk| chunk.iter()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_in_its_slot_until_it_is_taken() {
        let mut slots = Slots::default();
        for slot in [200, 0, 63, 64] {
            *slots.insert(slot, 0) += slot;
        }
        assert_eq!((slots.len(), slots.get(200)), (201, Some(&200)));
        assert_eq!(slots.get_mut(64), Some(&mut 64));
        assert!(slots.iter().eq(&[0, 63, 64, 200]));
        assert_eq!((slots.take(63), slots.take(63)), (Some(63), None));
        assert_eq!((slots.get(63), slots.get(1), slots.get(1 << 20)), (None, None, None));
    }
}
