"""Plays one scenario with paho-mqtt against a broker: with_paho.py host port version scenario.

Exits 0 if all came as it should; else says what did not and exits 1.
"""

import queue
import sys

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

PATIENCE_S = 10


class Peer:
    """A client whose messages wait in a queue."""

    def __init__(self, name, clean=True, will=None, connect=None, manual_ack=False):
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
        self.client.manual_ack_set(manual_ack)
        options = {}
        if VERSION == "5":
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 0 if clean else 1000
            for key, value in (connect or {}).items():
                setattr(properties, key, value)
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


def will_properties():
    watcher = Peer("watcher")
    watcher.subscribe(("will/#", 1))
    sent = Properties(PacketTypes.WILLMESSAGE)
    sent.WillDelayInterval = 1
    sent.ContentType = "text/plain"
    sent.UserProperty = [("why", "lost")]
    late = {"SessionExpiryInterval": 100}
    Peer("vanisher", will=("will/vanisher", b"gone", 1, False, sent), connect=late).vanish()
    came = watcher.expect("will/vanisher", b"gone", 1).properties
    check(came.ContentType == "text/plain", "the content type of the will")
    check(came.UserProperty == [("why", "lost")], "the user property of the will")
    back = Peer("returner", will=("will/returner", b"no", 1, False, sent), connect=late)
    back.vanish()
    Peer("returner", clean=False).leave()
    Peer("other", will=("will/other", b"gone", 1, False, sent), connect=late).vanish()
    watcher.expect("will/other", b"gone", 1)


def options():
    subscriber, publisher = Peer("subscriber"), Peer("publisher")

    def subscribe(name, number, **options):
        properties = Properties(PacketTypes.SUBSCRIBE)
        properties.SubscriptionIdentifier = number
        subscriber.client.subscribe(name, options=SubscribeOptions(**options),
                                    properties=properties)
        _, reasons = subscriber.events.get(timeout=PATIENCE_S)
        check(not reasons[0].is_failure, f"{name}: {reasons}")

    publisher.publish("options/kept", b"kept", 1, retain=True)
    subscribe("options/#", 1, qos=2, noLocal=True, retainAsPublished=True, retainHandling=1)
    subscriber.expect("options/kept", b"kept", 1, retain=True)
    subscribe("options/#", 2, qos=1, noLocal=True, retainAsPublished=True, retainHandling=1)
    subscribe("options/+", 3, qos=1, noLocal=True, retainHandling=2)
    subscriber.publish("options/own", b"own", 1)
    publisher.publish("options/kept", b"again", 2, retain=True)
    message = subscriber.expect("options/kept", b"again", 1, retain=True)
    numbers = sorted(message.properties.SubscriptionIdentifier)
    check(numbers == [2, 3], f"both subscriptions are named: {numbers}")


def flow():
    subscriber = Peer("subscriber", connect={"ReceiveMaximum": 3}, manual_ack=True)
    subscriber.subscribe(("flow", 1), ("end", 0))
    publisher = Peer("publisher")
    for number in range(20):
        publisher.publish("flow", str(number).encode(), 1)
    # QoS 0 passes what waits, and so tells that no more than three came.
    publisher.publish("end", b"end", 0)
    first = [subscriber.messages.get(timeout=PATIENCE_S) for _ in range(4)]
    check([message.payload for message in first] == [b"0", b"1", b"2", b"end"],
          f"three and no more: {[message.payload for message in first]}")
    waiting = first[:3]
    for number in range(3, 20):
        message = waiting.pop(0)
        subscriber.client.ack(message.mid, message.qos)
        waiting.append(subscriber.expect("flow", str(number).encode(), 1))


def request():
    asker, answerer = Peer("asker"), Peer("answerer")
    asker.subscribe(("answers/asker", 1))
    answerer.subscribe(("questions", 1))
    sent = Properties(PacketTypes.PUBLISH)
    sent.ResponseTopic = "answers/asker"
    sent.CorrelationData = b"42"
    asker.publish("questions", b"what?", 1, properties=sent)
    question = answerer.expect("questions", b"what?", 1).properties
    back = Properties(PacketTypes.PUBLISH)
    back.CorrelationData = question.CorrelationData
    answerer.publish(question.ResponseTopic, b"that", 1, properties=back)
    answer = asker.expect("answers/asker", b"that", 1)
    check(answer.properties.CorrelationData == b"42", "the answer is to the question")


if __name__ == "__main__":
    HOST, PORT, VERSION = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    try:
        {"qos": qos, "retained": retained, "will": will, "resume": resume, "shared": shared,
         "properties": properties, "will_properties": will_properties, "options": options,
         "flow": flow, "request": request}[sys.argv[4]]()
    except (AssertionError, queue.Empty) as what:
        print(f"{sys.argv[4]}: {what!r}")
        sys.exit(1)
