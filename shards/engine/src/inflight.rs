//! What is sent to a client and not finished, in the order sent [MQTT-4.6.0-1].
//!
//! Invariant: `bytes` is the sum of the sizes of the messages that are still kept.
//! Scope: session.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::num::NonZeroU16;

use octopus_mqtt::{AckKind, PLAIN_ACK_BYTES, PacketId, QoS, plain_ack};

use crate::message::Message;
use crate::run::MessageRun;
use crate::session::Queued;

#[derive(Clone, Debug)]
pub(crate) struct Inflight {
    pub(crate) packet_id: PacketId,
    pub(crate) serial: u32,
    pub(crate) state: Sent,
}

#[derive(Clone, Debug)]
pub(crate) enum Sent {
    /// PUBLISH is out; PUBACK or PUBREC is awaited.
    Published(Queued),
    /// PUBREL is out; PUBCOMP is awaited. The message itself is the client's now.
    Released,
}

/// All that is in flight to one client, in the order it was sent.
#[derive(Debug, Default)]
pub(crate) struct Inflights {
    list: VecDeque<Inflight>,
    /// Sent behind all that is in the list.
    runs: VecDeque<SentRun>,
    /// Messages in `runs`, and behind them.
    run_count: usize,
    /// Topic plus payload bytes of the messages kept to be sent again.
    bytes: usize,
}

/// A run of QoS 1 whose messages were acknowledged in order so far, if at all: packets of one
/// length, Packet Identifiers and serials one after the other. Whoever wants to see its messages
/// one by one moves them to the list.
#[derive(Debug)]
pub(crate) struct SentRun {
    pub(crate) run: MessageRun,
    /// Of the first message that is not acknowledged.
    pub(crate) packet_id: PacketId,
    pub(crate) serial: u32,
    /// Messages not acknowledged.
    pub(crate) left: usize,
    /// Topic plus payload bytes of each.
    pub(crate) size: usize,
    /// Messages that were sent one by one after it and before the next run.
    pub(crate) behind: Vec<Inflight>,
}

/// Messages that were in flight and are not any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Acknowledged {
    pub(crate) count: usize,
    /// What was kept of them: topics plus payloads.
    pub(crate) bytes: usize,
}

impl SentRun {
    /// What is left of it, message by message.
    fn messages(&self) -> impl Iterator<Item = Inflight> {
        let &Self { packet_id, serial, left, .. } = self;
        let packets = self.run.packets().skip(self.run.count() - left);
        let numbers = std::iter::successors(Some((packet_id, serial)), |&(packet_id, serial)| {
            Some((next_packet_id(packet_id.get()), next_serial(serial)))
        });
        packets.zip(numbers).map(|(packet, (packet_id, serial))| {
            let message = Message::of_run(&self.run, packet.payload_at, packet.payload.len());
            let (qos, retain, extra) = (QoS::AtLeastOnce, false, None);
            let state = Sent::Published(Queued { message, qos, retain, serial, extra });
            Inflight { packet_id, serial, state }
        })
    }
}

/// Identifiers are handed out in order, once around without 0.
pub(crate) fn next_packet_id(last: u16) -> PacketId {
    PacketId(NonZeroU16::new(last.wrapping_add(1)).unwrap_or(NonZeroU16::MIN))
}

/// Serials as well.
pub(crate) fn next_serial(serial: u32) -> u32 {
    serial_after(serial, 1)
}

/// The one that comes so many later.
pub(crate) fn serial_after(serial: u32, count: u32) -> u32 {
    serial.checked_add(count).unwrap_or_else(|| serial.wrapping_add(count) + 1)
}

#[inline]
fn plain_puback(packet_id: PacketId) -> [u8; PLAIN_ACK_BYTES] {
    plain_ack(AckKind::PubAck, packet_id.get().to_be_bytes())
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
    pub(crate) fn len(&self) -> usize {
        self.list.len() + self.run_count
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The identifier that was sent first.
    #[inline]
    pub(crate) fn oldest(&self) -> Option<PacketId> {
        let first_run = || self.runs.front().map(|run| run.packet_id);
        self.list.front().map(|sent| sent.packet_id).or_else(first_run)
    }

    /// All of them, to be read.
    pub(crate) fn each(&self) -> impl Iterator<Item = Cow<'_, Inflight>> {
        let of_runs = self.runs.iter().flat_map(|run| {
            run.messages().map(Cow::Owned).chain(run.behind.iter().map(Cow::Borrowed))
        });
        self.list.iter().map(Cow::Borrowed).chain(of_runs)
    }

    /// Messages that the client has not acknowledged, but for those of runs.
    pub(crate) fn published(&self) -> impl Iterator<Item = &Queued> {
        let behind_runs = self.runs.iter().flat_map(|run| &run.behind);
        self.list.iter().chain(behind_runs).filter_map(|sent| match &sent.state {
            Sent::Published(item) => Some(item),
            Sent::Released => None,
        })
    }

    /// All of them one by one, to be found by their place.
    #[inline]
    pub(crate) fn list(&mut self) -> &VecDeque<Inflight> {
        self.take_apart();
        &self.list
    }

    #[inline]
    fn take_apart(&mut self) {
        if self.run_count > 0 {
            self.list_runs();
        }
    }

    #[cold]
    fn list_runs(&mut self) {
        for run in self.runs.drain(..) {
            self.list.extend(run.messages());
            self.list.extend(run.behind);
        }
        self.run_count = 0;
    }

    #[inline]
    pub(crate) fn push(&mut self, sent: Inflight) {
        self.bytes += sent.state.bytes();
        match self.runs.back_mut() {
            None => self.list.push_back(sent),
            Some(run) => {
                run.behind.push(sent);
                self.run_count += 1;
            }
        }
    }

    /// As `push` of all of its messages.
    pub(crate) fn push_run(&mut self, run: SentRun) {
        self.bytes += run.left * run.size;
        self.run_count += run.left;
        self.runs.push_back(run);
    }

    /// Takes out the oldest messages that the PUBACKs at the front are for, in order, and that
    /// take no more than that: nobody picked the client for them. One, or so many of one run;
    /// `None` if the first PUBACK is not for the oldest.
    #[inline]
    pub(crate) fn acknowledge(
        &mut self,
        answers: &[[u8; PLAIN_ACK_BYTES]],
    ) -> Option<Acknowledged> {
        let done = match self.list.front() {
            None => self.acknowledge_of_run(answers)?,
            Some(oldest) => {
                let Sent::Published(item) = &oldest.state else { return None };
                let is_meant = *answers.first()? == plain_puback(oldest.packet_id)
                    && item.qos == QoS::AtLeastOnce
                    && item.extra.is_none();
                if !is_meant {
                    return None;
                }
                let bytes = item.message.size();
                self.list.pop_front();
                Acknowledged { count: 1, bytes }
            }
        };
        self.bytes -= done.bytes;
        Some(done)
    }

    #[inline]
    fn acknowledge_of_run(&mut self, answers: &[[u8; PLAIN_ACK_BYTES]]) -> Option<Acknowledged> {
        let run = self.runs.front_mut()?;
        let mut count = 0;
        for answer in answers.iter().take(run.left) {
            if *answer != plain_puback(run.packet_id) {
                break;
            }
            run.packet_id = next_packet_id(run.packet_id.get());
            count += 1;
        }
        if count == 0 {
            return None;
        }
        run.serial = serial_after(run.serial, count as u32);
        run.left -= count;
        self.run_count -= count;
        let bytes = count * run.size;
        if run.left == 0
            && let Some(done) = self.runs.pop_front()
        {
            self.run_count -= done.behind.len();
            self.list.extend(done.behind);
        }
        Some(Acknowledged { count, bytes })
    }

    pub(crate) fn remove(&mut self, index: usize) -> Option<Inflight> {
        self.take_apart();
        let sent = if index == 0 { self.list.pop_front() } else { self.list.remove(index) }?;
        self.bytes -= sent.state.bytes();
        Some(sent)
    }

    /// The message at `index` is the client's now; tells what stood there.
    pub(crate) fn release(&mut self, index: usize) -> Sent {
        self.take_apart();
        let was = std::mem::replace(&mut self.list[index].state, Sent::Released);
        self.bytes -= was.bytes();
        was
    }

    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&Inflight) -> bool) {
        self.take_apart();
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
