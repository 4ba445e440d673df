//! A hierarchical timer wheel: keep-alives, expiries, retries.
//!
//! Time is cut into steps of about 8 ms. A level has 64 slots; a slot of one level spans all
//! slots of the level below, so a far key waits in a coarse slot and moves down as its time
//! comes near. A key never fires early, and fires at most one step late if polled in time.
//!
//! There is no cancelling: the owner of a key checks, when it fires, whether it still means
//! something. Memory: the key and 8 bytes each. Scope: shard.

use crate::Instant;

/// A step is 2^13 = 8,192 µs.
const STEP_BITS: u32 = 13;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// Enough levels for every `Instant`.
const LEVELS: usize = (u64::BITS - STEP_BITS).div_ceil(SLOT_BITS) as usize;
/// Keys up to which an emptied slot keeps its memory.
const KEPT_CAPACITY_MAX: usize = 1024;

/// Keys and when they are due.
#[derive(Debug)]
pub struct Wheel<K> {
    /// The step up to which everything has fired.
    step: u64,
    levels: Vec<Level<K>>,
    /// Due already when armed.
    overdue: Vec<K>,
    len: usize,
}

#[derive(Debug)]
struct Level<K> {
    /// One bit for each slot that is not empty.
    occupied: u64,
    slots: [Vec<(u64, K)>; SLOTS],
}

impl<K: Copy> Wheel<K> {
    /// - `now`: nothing is expected to be due before.
    pub fn new(now: Instant) -> Self {
        let level = || Level { occupied: 0, slots: [const { Vec::new() }; SLOTS] };
        Self {
            step: now.0 >> STEP_BITS,
            levels: std::iter::repeat_with(level).take(LEVELS).collect(),
            overdue: Vec::new(),
            len: 0,
        }
    }

    /// `key` fires at `at` or up to a step later; at once if `at` is past. The same key can be
    /// armed many times and fires as often. Cost: O(1).
    pub fn arm(&mut self, at: Instant, key: K) {
        self.len += 1;
        let step = at.0.div_ceil(1 << STEP_BITS);
        if step > self.step { self.place(step, key) } else { self.overdue.push(key) }
    }

    /// When to call `expire` at the latest; may be before anything is due. `None`: nothing is
    /// armed.
    pub fn next(&self) -> Option<Instant> {
        let step = if self.overdue.is_empty() { self.next_slot()?.2 } else { self.step };
        Some(Instant(step << STEP_BITS))
    }

    /// Moves every key that is due at `now` to `due`. Cost: the keys due, and those that move
    /// down a level.
    pub fn expire(&mut self, now: Instant, due: &mut Vec<K>) {
        let before = due.len();
        due.append(&mut self.overdue);
        let now = now.0 >> STEP_BITS;
        while let Some((level, slot, start)) = self.next_slot()
            && start <= now
        {
            self.step = start;
            self.empty_slot(level, slot, due);
        }
        self.step = self.step.max(now);
        self.len -= due.len() - before;
    }

    /// Keys armed and not yet fired.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Fires what is due in this slot, and moves the rest down.
    fn empty_slot(&mut self, level: usize, slot: usize, due: &mut Vec<K>) {
        self.levels[level].occupied &= !(1 << slot);
        let mut keys = std::mem::take(&mut self.levels[level].slots[slot]);
        for (step, key) in keys.drain(..) {
            if step > self.step { self.place(step, key) } else { due.push(key) }
        }
        if keys.capacity() <= KEPT_CAPACITY_MAX {
            self.levels[level].slots[slot] = keys;
        }
    }

    /// Puts `key` into the level where `step` and the present step first differ.
    fn place(&mut self, step: u64, key: K) {
        let differing_bit = u64::BITS - 1 - (step ^ self.step).leading_zeros();
        let level = (differing_bit / SLOT_BITS) as usize;
        let slot = slot_of(step, level);
        self.levels[level].slots[slot].push((step, key));
        self.levels[level].occupied |= 1 << slot;
    }

    /// The slot whose time comes first: `(level, slot, its first step)`. All of a level comes
    /// before the next level's slots, and a level's slots are in order, all ahead of now.
    fn next_slot(&self) -> Option<(usize, usize, u64)> {
        let level = self.levels.iter().position(|level| level.occupied != 0)?;
        let slot = self.levels[level].occupied.trailing_zeros() as usize;
        let shift = SLOT_BITS * level as u32;
        let around = self.step & !(((SLOTS as u64) << shift) - 1);
        Some((level, slot, around | (slot as u64) << shift))
    }
}

fn slot_of(step: u64, level: usize) -> usize {
    (step >> (SLOT_BITS * level as u32)) as usize % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    const STEP: u64 = 1 << STEP_BITS;

    fn expire(wheel: &mut Wheel<u32>, now: u64) -> Vec<u32> {
        let mut due = Vec::new();
        wheel.expire(Instant(now), &mut due);
        due
    }

    #[test]
    fn random_keys_fire_never_early_and_at_most_a_step_late() {
        for seed in 0..20 {
            let mut random = Random(seed);
            let mut now = random.next() >> (1 + random.below(60));
            let mut wheel = Wheel::new(Instant(now));
            let mut armed = std::collections::BTreeMap::new();
            for key in 0..3000 {
                let at = now.saturating_sub(5) + (random.next() >> (24 + random.below(40)));
                wheel.arm(Instant(at), key);
                armed.insert(key, at);
                now += random.next() >> (30 + random.below(34));
                for fired in expire(&mut wheel, now) {
                    let at = armed.remove(&fired).expect("fires once");
                    assert!(at <= now, "{at} fired at {now}");
                }
                assert!(armed.values().all(|at| now < at + STEP), "late at {now}");
                assert_eq!(wheel.len(), armed.len());
            }
        }
    }

    #[test]
    fn a_driver_that_waits_until_next_fires_each_key_in_time() {
        let mut random = Random(3);
        let mut wheel = Wheel::new(Instant(0));
        let ats: Vec<_> = (0..1000).map(|_| random.next() >> (20 + random.below(44))).collect();
        for (key, at) in (0..).zip(&ats) {
            wheel.arm(Instant(*at), key);
        }
        let mut turns = 0;
        while let Some(Instant(now)) = wheel.next() {
            turns += 1;
            for key in expire(&mut wheel, now) {
                let at = ats[key as usize];
                assert!(at <= now && now < at + STEP, "{at} fired at {now}");
            }
        }
        assert!(wheel.is_empty());
        assert!(turns < 10_000, "woke {turns} times for 1000 keys");
    }

    #[test]
    fn what_is_past_when_armed_fires_at_once() {
        let mut wheel = Wheel::new(Instant(50 * STEP));
        wheel.arm(Instant(7), 1);
        wheel.arm(Instant(50 * STEP), 2);
        assert_eq!(wheel.next(), Some(Instant(50 * STEP)));
        assert_eq!(expire(&mut wheel, 50 * STEP), [1, 2]);
        assert_eq!(wheel.next(), None);
    }

    #[test]
    fn the_end_of_time_is_a_time() {
        let mut wheel = Wheel::new(Instant(0));
        wheel.arm(Instant(u64::MAX), 1);
        assert!(expire(&mut wheel, u64::MAX - STEP).is_empty());
        assert!(wheel.next().is_some());
    }
}
