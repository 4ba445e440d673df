//! A client that publishes: how much it may send now, and what it waits for.

use std::collections::VecDeque;

use octopus_mqtt::{PacketId, QoS};

use crate::{context::Context, plan::Plan, stamp::Stamp, wire::Template};

/// Scope: one connection.
pub(crate) struct Publisher {
    number: u32,
    topic: Topic,
    sequence: u32,
    /// Messages still to send, if the run has a limit.
    left: u64,
    /// Packet Identifiers not in use.
    free_ids: Vec<u16>,
    /// When the message with Packet Identifier `index + 1` was sent.
    sent_at: Vec<u64>,
    /// When each message that is due and not sent should have gone; with a rate only.
    due: VecDeque<u64>,
    /// Deliveries given up so that lost messages do not stop a publisher for good.
    forgiven: u64,
    /// `delivered` at the last look, to see whether anything moves.
    delivered_before: u64,
    /// More could be sent if the out buffer had room.
    pub wants_more: bool,
}

enum Topic {
    Fixed(Template),
    /// Another one with each message: holds `%n`, or `%s` and `%f`.
    Varying(String),
}

/// Bytes in the out buffer from which no more messages are put in: one large write.
const OUT_BYTES_MAX: usize = 64 << 10;

/// A message later than this was held up by the broker, not by our own timer: its latency
/// counts from when it was due.
const LATE_NS: u64 = 1_000_000;

impl Publisher {
    /// # Errors
    /// A text if the topic is no Topic Name.
    pub(crate) fn new(plan: &Plan, number: usize) -> Result<Self, String> {
        let topic = plan.topic.replace("%i", &number.to_string());
        let invalid = |error| format!("topic {topic}: {error}");
        let first = topic_of(plan, &topic, number as u32, 0);
        let varies = first != topic;
        let template = Template::new(plan, &first).map_err(invalid)?;
        let ids = if plan.qos == QoS::AtMostOnce { 0 } else { plan.window as u16 };
        let left = plan.limit.map_or(u64::MAX, |limit| {
            let (each, rest) = (limit / plan.publishers as u64, limit % plan.publishers as u64);
            each + u64::from((number as u64) < rest)
        });
        Ok(Self {
            number: number as u32,
            topic: if varies { Topic::Varying(topic) } else { Topic::Fixed(template) },
            sequence: 0,
            left,
            free_ids: (1..=ids).rev().collect(),
            sent_at: vec![0; ids.into()],
            due: VecDeque::new(),
            forgiven: 0,
            delivered_before: 0,
            wants_more: false,
        })
    }

    /// Obeys a Receive Maximum below our own window (§3.2.2.3.3). Before the first message.
    pub(crate) fn limit_inflight(&mut self, receive_max: u16) {
        self.free_ids.retain(|&id| id <= receive_max);
    }

    /// One more message is due, since `due_ns`.
    pub(crate) fn make_due(&mut self, due_ns: u64) {
        self.due.push_back(due_ns);
    }

    /// Appends to `out` the messages that may go now.
    pub(crate) fn fill(&mut self, out: &mut Vec<u8>, context: &mut Context) {
        let mut room = self.room(context);
        while room > 0 && out.len() < OUT_BYTES_MAX {
            self.append(out, context);
            room -= 1;
        }
        self.wants_more = room > 0;
    }

    /// The message with `packet_id` is done; tells when it was sent.
    pub(crate) fn complete(&mut self, packet_id: PacketId) -> Option<u64> {
        let id = packet_id.0.get();
        let sent_at = self.sent_at.get_mut(usize::from(id) - 1)?;
        let sent_ns = std::mem::take(sent_at);
        (sent_ns != 0).then(|| {
            self.free_ids.push(id);
            sent_ns
        })
    }

    /// Messages sent and not acknowledged.
    pub(crate) fn unacknowledged(&self) -> usize {
        self.sent_at.iter().filter(|&&sent_ns| sent_ns != 0).count()
    }

    /// Whether the run's limit is reached.
    pub(crate) fn is_finished(&self) -> bool {
        self.left == 0
    }

    /// Gives up deliveries that have not moved since the last call, if they hold us up.
    pub(crate) fn forgive_stall(&mut self, context: &Context) {
        let delivered = context.delivered(self.number);
        let stalled = delivered == self.delivered_before;
        self.delivered_before = delivered;
        if stalled && self.credit(context) == 0 {
            let deliveries = context.plan.deliveries_per_message() as u64;
            self.forgiven = (u64::from(self.sequence) * deliveries).saturating_sub(delivered);
        }
    }

    fn room(&self, context: &Context) -> usize {
        if !context.may_send() {
            return 0;
        }
        let mut room = self.credit(context);
        if context.plan.qos > QoS::AtMostOnce {
            room = room.min(self.free_ids.len());
        }
        if context.plan.rate.is_some() {
            room = room.min(self.due.len());
        } else if context.plan.qos == QoS::AtMostOnce && room < context.plan.window / 2 {
            // Full batches: refill when half is through, not after each message.
            return 0;
        }
        room.min(usize::try_from(self.left).unwrap_or(usize::MAX))
    }

    /// Messages that may be sent before the subscribers of this process have taken more.
    fn credit(&self, context: &Context) -> usize {
        let deliveries = context.plan.deliveries_per_message() as u64;
        let window = context.plan.window;
        if deliveries == 0 || window == 0 || !context.plan.is_checked() {
            return usize::MAX;
        }
        let taken = context.delivered(self.number) + self.forgiven;
        let under_way = (u64::from(self.sequence) * deliveries).saturating_sub(taken);
        window.saturating_sub(under_way.div_ceil(deliveries) as usize)
    }

    fn append(&mut self, out: &mut Vec<u8>, context: &mut Context) {
        let due_ns = self.due.pop_front().unwrap_or(context.now);
        let sent_ns = if context.now > due_ns + LATE_NS { due_ns } else { context.now };
        let sequence = self.sequence;
        let stamp = Stamp { run: context.plan.run, publisher: self.number, sequence, sent_ns };
        let packet_id = self.free_ids.pop().unwrap_or(0);
        if let Some(at) = packet_id.checked_sub(1) {
            self.sent_at[usize::from(at)] = sent_ns;
        }
        match &self.topic {
            Topic::Fixed(template) => template.append(packet_id, &stamp, out),
            Topic::Varying(topic) => {
                let topic = topic_of(&context.plan, topic, self.number, sequence);
                // `new` proved the text around the numbers to be a Topic Name.
                let template = Template::new(&context.plan, &topic).expect("a Topic Name");
                template.append(packet_id, &stamp, out);
            }
        }
        self.sequence += 1;
        self.left -= 1;
        context.stats.sent += 1;
    }
}

/// The topic of message `sequence`: that number, or those of a subscriber and one of its
/// filters, scattered so that neither recurs soon.
fn topic_of(plan: &Plan, topic: &str, publisher: u32, sequence: u32) -> String {
    /// A prime, larger than any number of publishers.
    const STRIDE: u64 = 611_953;
    if topic.contains("%n") {
        return topic.replace("%n", &sequence.to_string());
    }
    let subscribers = plan.subscribers.max(1) as u64;
    let subscriptions = subscribers * plan.filters_each as u64;
    let at = (u64::from(publisher) + u64::from(sequence) * STRIDE) % subscriptions;
    let (filter, subscriber) = (at / subscribers, at % subscribers);
    topic.replace("%s", &subscriber.to_string()).replace("%f", &filter.to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use clap::Parser;

    use super::*;
    use crate::{cli::Cli, subscriber::Subscriber};

    fn plan(line: &str) -> Plan {
        let cli = Cli::try_parse_from(line.split(' ')).expect("a lawful line");
        Plan::of(&cli.command).expect("an address").remove(0)
    }

    #[test]
    fn as_many_messages_as_there_are_filters_fit_each_filter_once() {
        let plan = plan("b subscriptions -c 7 --each 130");
        let mut filters = HashSet::new();
        for number in 0..plan.subscribers {
            let mut subscriber = Subscriber::new(number);
            while subscriber.has_more_filters(&plan) {
                filters.extend(subscriber.next_filters(&plan));
            }
        }
        let topics: HashSet<_> =
            (0..7 * 130).map(|sequence| topic_of(&plan, &plan.topic, 3, sequence)).collect();
        assert_eq!(filters.len(), 7 * 130);
        assert_eq!(topics, filters);
    }
}
