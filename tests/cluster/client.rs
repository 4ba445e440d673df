//! A client of one node: rumqttc, turned by a thread of its own, with everything it got.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use libtest_mimic::Failed;
use rumqttc::{Client as Mqtt, Event, MqttOptions, Packet, QoS};

use super::group::wait;
use crate::harness::broker::Process;

/// What came: topic, payload, RETAIN flag.
pub(super) type Came = (String, String, bool);

pub(super) struct Client {
    mqtt: Mqtt,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    came: Mutex<VecDeque<Came>>,
    subacks: AtomicUsize,
    pubacks: AtomicUsize,
    is_gone: AtomicBool,
}

impl Client {
    pub(super) fn connect(node: &Process, id: &str) -> Result<Self, Failed> {
        Self::open(node, id, true)
    }

    /// A client whose session waits for it.
    pub(super) fn open(node: &Process, id: &str, clean: bool) -> Result<Self, Failed> {
        let mut options = MqttOptions::new(id, node.address.ip().to_string(), node.address.port());
        options.set_clean_session(clean).set_keep_alive(Duration::from_secs(60));
        options.set_inflight(1000);
        let (mqtt, mut connection) = Mqtt::new(options, 10_000);
        let state = Arc::new(State::default());
        let (own, connected) = (state.clone(), Arc::new(AtomicBool::new(false)));
        let is_connected = connected.clone();
        thread::spawn(move || {
            for event in connection.iter() {
                match event {
                    Ok(Event::Incoming(Packet::ConnAck(_))) => {
                        connected.store(true, Ordering::SeqCst);
                    }
                    Ok(Event::Incoming(packet)) => own.take(packet),
                    Ok(Event::Outgoing(_)) => {}
                    Err(_) => break,
                }
            }
            own.is_gone.store(true, Ordering::SeqCst);
        });
        wait("the client is connected", || Ok(is_connected.load(Ordering::SeqCst)))?;
        Ok(Self { mqtt, state })
    }

    /// Subscribes and waits for SUBACK.
    pub(super) fn subscribe(&self, filter: &str) -> Result<(), Failed> {
        let before = self.state.subacks.load(Ordering::SeqCst);
        self.mqtt.subscribe(filter, QoS::ExactlyOnce)?;
        wait("SUBACK is here", || Ok(self.state.subacks.load(Ordering::SeqCst) > before))
    }

    /// Publishes; does not wait.
    pub(super) fn publish(&self, topic: &str, qos: QoS, text: &str) -> Result<(), Failed> {
        Ok(self.mqtt.publish(topic, qos, false, text)?)
    }

    pub(super) fn retain(&self, topic: &str, text: &str) -> Result<(), Failed> {
        Ok(self.mqtt.publish(topic, QoS::AtLeastOnce, true, text)?)
    }

    /// QoS 1 messages the node has acknowledged.
    pub(super) fn acknowledged(&self) -> usize {
        self.state.pubacks.load(Ordering::SeqCst)
    }

    pub(super) fn wait_acknowledged(&self, count: usize) -> Result<(), Failed> {
        wait(&format!("{count} are acknowledged"), || Ok(self.acknowledged() >= count))
    }

    /// Says goodbye.
    pub(super) fn leave(&self) -> Result<(), Failed> {
        Ok(self.mqtt.disconnect()?)
    }

    /// Whether the connection has ended.
    pub(super) fn is_gone(&self) -> bool {
        self.state.is_gone.load(Ordering::SeqCst)
    }

    /// The next message, as soon as it is here.
    pub(super) fn next(&self) -> Result<Came, Failed> {
        let mut next = None;
        wait("a message is here", || {
            next = self.state.came().pop_front();
            Ok(next.is_some())
        })?;
        next.ok_or_else(|| "no message".into())
    }

    /// Payloads of the next `count` messages.
    pub(super) fn next_texts(&self, count: usize) -> Result<Vec<String>, Failed> {
        (0..count).map(|_| self.next().map(|(_, text, _)| text)).collect()
    }

    /// All that came so far.
    pub(super) fn taken(&self) -> Vec<Came> {
        self.state.came().drain(..).collect()
    }

    /// Waits until what this client is subscribed to is known on `publisher`'s node: what it
    /// subscribes last is known last.
    pub(super) fn settle(&self, publisher: &Self, name: &str) -> Result<(), Failed> {
        let topic = format!("settle/{name}");
        self.subscribe(&topic)?;
        wait("interest is known on the other node", || {
            publisher.publish(&topic, QoS::AtMostOnce, "")?;
            Ok(self.state.came().iter().any(|(came, _, _)| *came == topic))
        })?;
        self.mqtt.unsubscribe(&topic)?;
        // A last message marks the end of those that were sent in vain.
        let end = format!("end/{name}");
        self.subscribe(&end)?;
        wait("what settled is over", || {
            publisher.publish(&end, QoS::AtMostOnce, "")?;
            let mut came = self.state.came();
            let is_over = came.iter().any(|(came, _, _)| *came == end);
            came.retain(|(came, _, _)| *came != topic && *came != end);
            Ok(is_over)
        })?;
        self.mqtt.unsubscribe(&end)?;
        Ok(())
    }

    /// Messages but for the late ones of [`Self::settle`].
    pub(super) fn next_real(&self) -> Result<Came, Failed> {
        loop {
            let came = self.next()?;
            if !came.0.starts_with("end/") && !came.0.starts_with("settle/") {
                return Ok(came);
            }
        }
    }
}

impl State {
    fn came(&self) -> std::sync::MutexGuard<'_, VecDeque<Came>> {
        self.came.lock().expect("no client thread panics")
    }

    fn take(&self, packet: Packet) {
        match packet {
            Packet::Publish(publish) => {
                let text = String::from_utf8_lossy(&publish.payload).into_owned();
                self.came().push_back((publish.topic, text, publish.retain));
            }
            Packet::SubAck(_) => {
                self.subacks.fetch_add(1, Ordering::SeqCst);
            }
            Packet::PubAck(_) => {
                self.pubacks.fetch_add(1, Ordering::SeqCst);
            }
            _ => {}
        }
    }
}
