//! Limits that change while the shard runs: in force at once, but for what a live client was
//! told in its CONNACK. That holds for it until it connects again.

use octopus_mqtt::QoS;

use crate::limits::{Limits, Rate};
use crate::rate::ListenerMeters;
use crate::shard::Shard;

/// What may change. Scope: shard.
#[derive(Clone, Debug)]
pub struct NewLimits {
    pub limits: Limits,
    /// As [`crate::ShardConfig::listener_rates`].
    pub listener_rates: Vec<Rate>,
}

/// The limits that CONNACK tells: a client that keeps to them is never refused for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Announced {
    pub(crate) packet_size_max: u32,
    pub(crate) receive_max: u16,
    pub(crate) topic_alias_max: u16,
    pub(crate) qos_max: QoS,
    pub(crate) retain_available: bool,
}

/// What was announced since the node started, each set once; connections name theirs by its
/// place. Scope: shard.
#[derive(Debug)]
pub(crate) struct Editions {
    all: Vec<Announced>,
    current: u16,
}

impl Announced {
    fn of(limits: &Limits) -> Self {
        Self {
            packet_size_max: limits.packet_size_max,
            receive_max: limits.receive_max,
            topic_alias_max: limits.topic_alias_max,
            qos_max: limits.qos_max,
            retain_available: limits.retain_available,
        }
    }

    fn put_into(self, limits: &mut Limits) {
        limits.packet_size_max = self.packet_size_max;
        limits.receive_max = self.receive_max;
        limits.topic_alias_max = self.topic_alias_max;
        limits.qos_max = self.qos_max;
        limits.retain_available = self.retain_available;
    }
}

impl Editions {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self { all: vec![Announced::of(limits)], current: 0 }
    }

    /// What clients are told that connect now.
    pub(crate) fn current(&self) -> u16 {
        self.current
    }

    pub(crate) fn get(&self, edition: u16) -> Announced {
        self.all[usize::from(edition)]
    }

    /// `false` if there are as many sets as can be told apart.
    fn announce(&mut self, limits: &Limits) -> bool {
        let announced = Announced::of(limits);
        let place = self.all.iter().position(|known| *known == announced);
        let Ok(current) = u16::try_from(place.unwrap_or(self.all.len())) else { return false };
        if place.is_none() {
            self.all.push(announced);
        }
        self.current = current;
        true
    }
}

impl Shard {
    /// Puts new limits in force. What is above one of them stays; only what comes is held to it.
    pub(crate) fn reconfigure(&mut self, new: NewLimits) {
        let NewLimits { mut limits, listener_rates } = new;
        if !self.editions.announce(&limits) {
            self.editions.get(self.editions.current()).put_into(&mut limits);
        }
        let had_budget = self.config.limits.memory_bytes_max > 0;
        self.config.limits = limits;
        if self.config.listener_rates != listener_rates {
            self.listener_meters = ListenerMeters::new(&listener_rates);
            self.config.listener_rates = listener_rates;
        }
        match (had_budget, self.config.limits.memory_bytes_max > 0) {
            (false, true) => self.count_memory(),
            (true, false) => self.forget_memory(),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_that_was_announced_before_has_its_place_again() {
        let one = Limits::default();
        let other = Limits { receive_max: 1, ..Limits::default() };
        let mut editions = Editions::new(&one);
        for (limits, place) in [(&other, 1), (&one, 0), (&other, 1), (&other, 1)] {
            assert!(editions.announce(limits));
            assert_eq!(editions.current(), place);
            assert_eq!(editions.get(place), Announced::of(limits));
        }
    }
}
