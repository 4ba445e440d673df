"""Plays one scenario with paho-mqtt against a broker: with_paho.py host port version scenario.

Exits 0 if all came as it should; else says what did not and exits 1.
"""

import queue
import sys

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

PATIENCE_S = 10


class Peer:
    """A client whose messages wait in a queue."""

    def __init__(self, name, clean=True, will=None):
        protocol = mqtt.MQTTv5 if VERSION == "5" else mqtt.MQTTv311
        options = {} if VERSION == "5" else {"clean_session": clean}
        self.client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=name, protocol=protocol, **options
        )
        self.messages = queue.Queue()
        self.events = queue.Queue()
        self.client.on_message = lambda *args: self.messages.put(args[2])
        self.client.on_connect = lambda *args: self.events.put(("connect", args[2], args[3]))
        self.client.on_subscribe = lambda *args: self.events.put(("subscribe", args[3]))
        self.client.on_unsubscribe = lambda *args: self.events.put(("unsubscribe", args[3]))
        if will:
            self.client.will_set(*will)
        options = {}
        if VERSION == "5":
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 0 if clean else 1000
            options = {"clean_start": clean, "properties": properties}
        self.client.connect(HOST, PORT, keepalive=60, **options)
        self.client.loop_start()
        _, flags, reason = self.events.get(timeout=PATIENCE_S)
        check(not reason.is_failure, f"{name} connects: {reason}")
        self.session_present = flags.session_present

    def subscribe(self, *filters):
        self.client.subscribe([(name, qos) for name, qos in filters])
        _, reasons = self.events.get(timeout=PATIENCE_S)
        granted = [reason.value for reason in reasons]
        check(granted == [qos for _, qos in filters], f"granted {granted} for {filters}")

    def publish(self, topic, payload, qos=0, retain=False, properties=None):
        info = self.client.publish(topic, payload, qos, retain, properties)
        info.wait_for_publish(PATIENCE_S)
        check(info.is_published(), f"{topic} at QoS {qos} is acknowledged")

    def expect(self, topic, payload, qos=0, retain=False):
        message = self.messages.get(timeout=PATIENCE_S)
        came = (message.topic, message.payload, message.qos, message.retain)
        wanted = (topic, payload, qos, retain)
        check(came == wanted, f"{wanted} wanted, {came} came")
        return message

    def leave(self):
        self.client.disconnect()
        self.client.loop_stop()

    def vanish(self):
        self.client.loop_stop()
        self.client.socket().close()


def check(holds, what):
    if not holds:
        raise AssertionError(what)


def qos():
    subscriber, publisher = Peer("subscriber"), Peer("publisher")
    subscriber.subscribe(("interop/+/two", 2), ("interop/one/#", 1), ("zero", 0))
    for number in range(20):
        payload = str(number).encode()
        publisher.publish("zero", payload, 0)
        subscriber.expect("zero", payload, 0)
        publisher.publish("interop/one/a/b", payload, 1)
        subscriber.expect("interop/one/a/b", payload, 1)
        publisher.publish("interop/x/two", payload, 2)
        subscriber.expect("interop/x/two", payload, 2)
    large = bytes(range(256)) * 1000
    publisher.publish("interop/x/two", large, 2)
    subscriber.expect("interop/x/two", large, 2)


def retained():
    publisher = Peer("publisher")
    publisher.publish("kept/1", b"one", 1, retain=True)
    publisher.publish("kept/2", b"two", 2, retain=True)
    publisher.publish("kept/2", b"", 2, retain=True)
    subscriber = Peer("subscriber")
    subscriber.subscribe(("kept/#", 2))
    subscriber.expect("kept/1", b"one", 1, retain=True)
    publisher.publish("kept/1", b"now", 1, retain=True)
    subscriber.expect("kept/1", b"now", 1, retain=False)


def will():
    watcher = Peer("watcher")
    watcher.subscribe(("will/#", 1))
    Peer("leaver", will=("will/leaver", b"no", 1)).leave()
    Peer("vanisher", will=("will/vanisher", b"gone", 1)).vanish()
    watcher.expect("will/vanisher", b"gone", 1)


def resume():
    first = Peer("sleeper", clean=False)
    check(not first.session_present, "no session at first")
    first.subscribe(("sleep/#", 2))
    first.leave()
    publisher = Peer("publisher")
    for number in range(10):
        publisher.publish("sleep/1", str(number).encode(), 1)
    second = Peer("sleeper", clean=False)
    check(second.session_present, "the session is there")
    for number in range(10):
        second.expect("sleep/1", str(number).encode(), 1)
    second.leave()


def shared():
    members = [Peer(f"member{number}") for number in range(3)]
    for member in members:
        member.subscribe(("$share/group/jobs/#", 1))
    publisher = Peer("publisher")
    sent = {str(number).encode() for number in range(60)}
    for payload in sent:
        publisher.publish("jobs/item", payload, 1)
    done = []
    while len(done) < len(sent):
        before = len(done)
        for member in members:
            try:
                done.append(member.messages.get(timeout=PATIENCE_S / 20).payload)
            except queue.Empty:
                pass
        check(len(done) > before, f"{len(sent)} wanted, {len(done)} came")
    check(set(done) == sent, "each is delivered once")
    check(all(member.messages.empty() for member in members), "none is delivered twice")


def properties():
    subscriber, publisher = Peer("subscriber"), Peer("publisher")
    subscriber.subscribe(("properties", 1))
    sent = Properties(PacketTypes.PUBLISH)
    sent.PayloadFormatIndicator = 1
    sent.ContentType = "text/plain"
    sent.ResponseTopic = "answers/here"
    sent.CorrelationData = b"\x00\xff"
    sent.MessageExpiryInterval = 100
    sent.UserProperty = [("b", "1"), ("a", "2"), ("b", "3")]
    publisher.publish("properties", b"payload", 1, properties=sent)
    came = subscriber.expect("properties", b"payload", 1).properties
    for name in ("PayloadFormatIndicator", "ContentType", "ResponseTopic", "CorrelationData",
                 "UserProperty"):
        check(getattr(came, name) == getattr(sent, name), f"{name}: {getattr(came, name)} came")
    check(came.MessageExpiryInterval in (99, 100), "the expiry is sent on")


if __name__ == "__main__":
    HOST, PORT, VERSION = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    try:
        {"qos": qos, "retained": retained, "will": will, "resume": resume, "shared": shared,
         "properties": properties}[sys.argv[4]]()
    except (AssertionError, queue.Empty) as what:
        print(f"{sys.argv[4]}: {what!r}")
        sys.exit(1)
