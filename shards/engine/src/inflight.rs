//! What is sent to a client and not finished, in the order sent [MQTT-4.6.0-1].
//!
//! Invariant: `bytes` is the sum of the sizes of the messages that are still kept.
//! Scope: session.

use std::collections::VecDeque;
use std::ops::Deref;

use octopus_mqtt::{PacketId, QoS};

use crate::session::Queued;

#[derive(Debug)]
pub(crate) struct Inflight {
    pub(crate) packet_id: PacketId,
    pub(crate) serial: u32,
    pub(crate) state: Sent,
}

#[derive(Debug)]
pub(crate) enum Sent {
    /// PUBLISH is out; PUBACK or PUBREC is awaited.
    Published(Queued),
    /// PUBREL is out; PUBCOMP is awaited. The message itself is the client's now.
    Released,
}

/// All that is in flight to one client; to read, it is the list itself.
#[derive(Debug, Default)]
pub(crate) struct Inflights {
    list: VecDeque<Inflight>,
    /// Topic plus payload bytes of the messages kept to be sent again.
    bytes: usize,
}

impl Deref for Inflights {
    type Target = VecDeque<Inflight>;

    fn deref(&self) -> &Self::Target {
        &self.list
    }
}

impl Sent {
    /// Topic plus payload bytes that are kept for it.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Published(item) => item.message.size(),
            Self::Released => 0,
        }
    }
}

impl Inflights {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn push(&mut self, sent: Inflight) {
        self.push_sized(sent.state.bytes(), sent);
    }

    /// As `push`, of something for which so many bytes are kept.
    #[inline]
    pub(crate) fn push_sized(&mut self, bytes: usize, sent: Inflight) {
        self.bytes += bytes;
        self.list.push_back(sent);
    }

    /// Takes the oldest message out if this PUBACK is for it, and if it takes no more than that:
    /// nobody picked the client for it. Tells how many bytes were kept for it.
    #[inline]
    pub(crate) fn acknowledge(&mut self, packet_id: [u8; 2]) -> Option<usize> {
        let oldest = self.list.front()?;
        let Sent::Published(item) = &oldest.state else { return None };
        let is_meant = oldest.packet_id.get().to_be_bytes() == packet_id
            && item.qos == QoS::AtLeastOnce
            && item.extra.is_none();
        if !is_meant {
            return None;
        }
        let bytes = item.message.size();
        self.list.pop_front();
        self.bytes -= bytes;
        Some(bytes)
    }

    pub(crate) fn remove(&mut self, index: usize) -> Option<Inflight> {
        let sent = if index == 0 { self.list.pop_front() } else { self.list.remove(index) }?;
        self.bytes -= sent.state.bytes();
        Some(sent)
    }

    /// The message at `index` is the client's now; tells what stood there.
    pub(crate) fn release(&mut self, index: usize) -> Sent {
        let was = std::mem::replace(&mut self.list[index].state, Sent::Released);
        self.bytes -= was.bytes();
        was
    }

    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&Inflight) -> bool) {
        let bytes = &mut self.bytes;
        self.list.retain(|sent| {
            let is_kept = keep(sent);
            if !is_kept {
                *bytes -= sent.state.bytes();
            }
            is_kept
        });
    }
}

#[cfg(test)]
mod tests {
    use octopus_mqtt::{QoS, TopicName};

    use super::*;
    use crate::event::Instant;
    use crate::message::Parcel;

    fn published(n: u16, payload: &[u8]) -> Inflight {
        let topic = TopicName::parse("ab").expect("a topic");
        let none = octopus_mqtt::MessageProperties::default();
        let qos = QoS::ExactlyOnce;
        let mut parcel = Parcel::new(topic, payload, qos, false, &none, 0, Instant(0));
        let message = parcel.message().clone();
        let item = Queued { message, qos, retain: false, serial: n.into(), extra: None };
        let packet_id = PacketId::new(n).expect("not zero");
        Inflight { packet_id, serial: n.into(), state: Sent::Published(item) }
    }

    #[test]
    fn bytes_are_those_of_the_messages_that_are_kept() {
        let mut inflight = Inflights::default();
        for (n, payload) in [(1, &b"12345678"[..]), (2, b""), (3, b"1"), (4, b"123")] {
            inflight.push(published(n, payload));
        }
        assert_eq!(inflight.bytes(), 10 + 2 + 3 + 5);
        assert!(matches!(inflight.release(0), Sent::Published(_)));
        assert!(matches!(inflight.release(0), Sent::Released));
        assert_eq!(inflight.bytes(), 2 + 3 + 5);
        assert_eq!(inflight.remove(1).map(|sent| sent.serial), Some(2));
        inflight.retain(|sent| sent.serial != 3);
        assert_eq!((inflight.bytes(), inflight.len()), (5, 2));
    }
}
