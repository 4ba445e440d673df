// Plays one scenario with MQTT.js against a broker:
// with_mqttjs.mjs host port version scenario node_modules.
//
// Exits 0 if all came as it should; else says what did not and exits 1.

import { createRequire } from "node:module";
import { isDeepStrictEqual } from "node:util";

const [host, port, version, scenario, modules] = process.argv.slice(2);
const mqtt = createRequire(modules + "/")("mqtt");
const PATIENCE_MS = 10_000;

class Peer {
  // A client whose messages wait in a queue.
  static async connect(name, { clean = true, will, more = {}, ...options } = {}) {
    const peer = new Peer();
    peer.messages = [];
    peer.waiting = [];
    const properties = { sessionExpiryInterval: clean ? 0 : 1000, ...more };
    peer.client = mqtt.connect(`mqtt://${host}:${port}`, {
      clientId: name,
      clean,
      will,
      protocolVersion: version === "5" ? 5 : 4,
      reconnectPeriod: 0,
      ...(version === "5" ? { properties } : {}),
      ...options,
    });
    peer.client.on("message", (topic, payload, packet) => {
      const { qos, retain, properties } = packet;
      const message = { topic, payload: payload.toString("latin1"), qos, retain, properties };
      const next = peer.waiting.shift();
      next ? next(message) : peer.messages.push(message);
    });
    const connack = await event(peer.client, "connect");
    peer.sessionPresent = connack.sessionPresent;
    return peer;
  }

  async subscribe(filters) {
    const map = Object.fromEntries(filters.map(([name, qos]) => [name, { qos }]));
    const granted = await this.client.subscribeAsync(map);
    check(isDeepStrictEqual(granted.map((one) => one.qos), filters.map(([, qos]) => qos)),
      `granted ${JSON.stringify(granted)}`);
  }

  publish(topic, payload, options = {}) {
    return patiently(this.client.publishAsync(topic, payload, options), `publish to ${topic}`);
  }

  next() {
    const ready = this.messages.shift();
    if (ready) return Promise.resolve(ready);
    return patiently(new Promise((resolve) => this.waiting.push(resolve)), "a message");
  }

  async expect(topic, payload, qos = 0, retain = false) {
    const { properties, ...came } = await this.next();
    const wanted = { topic, payload, qos, retain };
    check(isDeepStrictEqual(came, wanted),
      `${JSON.stringify(wanted)} wanted, ${JSON.stringify(came)} came`);
    return properties;
  }
}

function patiently(promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} did not come`)), PATIENCE_MS);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

function event(client, name) {
  return patiently(new Promise((resolve, reject) => {
    client.once(name, resolve);
    client.once("error", reject);
  }), name);
}

function check(holds, what) {
  if (!holds) throw new Error(what);
}

const scenarios = {
  async qos() {
    const subscriber = await Peer.connect("subscriber");
    const publisher = await Peer.connect("publisher");
    await subscriber.subscribe([["zero", 0], ["one/+", 1], ["two/#", 2]]);
    for (let number = 0; number < 20; number += 1) {
      for (const [topic, qos] of [["zero", 0], ["one/a", 1], ["two/a/b", 2]]) {
        await publisher.publish(topic, String(number), { qos });
        await subscriber.expect(topic, String(number), qos);
      }
    }
  },

  async retained() {
    const publisher = await Peer.connect("publisher");
    await publisher.publish("kept/1", "one", { qos: 1, retain: true });
    await publisher.publish("kept/2", "two", { qos: 1, retain: true });
    await publisher.publish("kept/2", "", { qos: 1, retain: true });
    const subscriber = await Peer.connect("subscriber");
    await subscriber.subscribe([["kept/#", 1]]);
    await subscriber.expect("kept/1", "one", 1, true);
    await publisher.publish("kept/1", "now", { qos: 1, retain: true });
    await subscriber.expect("kept/1", "now", 1, false);
  },

  async will() {
    const watcher = await Peer.connect("watcher");
    await watcher.subscribe([["will/#", 1]]);
    const will = (payload) => ({ topic: "will/it", payload: Buffer.from(payload), qos: 1 });
    const leaver = await Peer.connect("leaver", { will: will("no") });
    await leaver.client.endAsync();
    const vanisher = await Peer.connect("vanisher", { will: will("gone") });
    vanisher.client.stream.destroy();
    await watcher.expect("will/it", "gone", 1);
  },

  async resume() {
    const first = await Peer.connect("sleeper", { clean: false });
    check(!first.sessionPresent, "no session at first");
    await first.subscribe([["sleep/#", 2]]);
    await first.client.endAsync();
    const publisher = await Peer.connect("publisher");
    for (let number = 0; number < 10; number += 1) {
      await publisher.publish("sleep/1", String(number), { qos: 1 });
    }
    const second = await Peer.connect("sleeper", { clean: false });
    check(second.sessionPresent, "the session is there");
    for (let number = 0; number < 10; number += 1) {
      await second.expect("sleep/1", String(number), 1);
    }
  },

  async shared() {
    const members = [];
    for (const name of ["a", "b", "c"]) {
      const member = await Peer.connect(name);
      await member.subscribe([["$share/group/jobs/#", 1]]);
      members.push(member);
    }
    const done = [];
    const all = new Promise((resolve) => {
      for (const member of members) {
        member.client.on("message", (_, payload) => {
          done.push(Number(payload.toString()));
          if (done.length === 60) resolve();
        });
      }
    });
    const publisher = await Peer.connect("publisher");
    for (let number = 0; number < 60; number += 1) {
      await publisher.publish("jobs/item", String(number), { qos: 1 });
    }
    await patiently(all, "the last of the work");
    check(new Set(done).size === 60, `each is delivered once: ${done}`);
  },

  async properties() {
    const subscriber = await Peer.connect("subscriber");
    const publisher = await Peer.connect("publisher");
    await subscriber.subscribe([["properties", 1]]);
    const properties = {
      payloadFormatIndicator: true,
      contentType: "text/plain",
      responseTopic: "answers/here",
      correlationData: Buffer.from([0, 255]),
      userProperties: { b: ["1", "3"], a: "2" },
    };
    await publisher.publish("properties", "payload", { qos: 1, properties });
    const came = await subscriber.expect("properties", "payload", 1);
    for (const [name, value] of Object.entries(properties)) {
      check(isDeepStrictEqual(JSON.stringify(came[name]), JSON.stringify(value)),
        `${name}: ${JSON.stringify(came[name])} came`);
    }
  },

  async will_properties() {
    const watcher = await Peer.connect("watcher");
    await watcher.subscribe([["will/#", 1]]);
    const properties = { contentType: "text/plain", userProperties: { why: "lost" } };
    const will = { topic: "will/it", payload: Buffer.from("gone"), qos: 1, properties };
    const vanisher = await Peer.connect("vanisher", { will });
    vanisher.client.stream.destroy();
    const came = await watcher.expect("will/it", "gone", 1);
    check(came.contentType === "text/plain", "the content type of the will");
    check(came.userProperties.why === "lost", "the user property of the will");
  },

  async options() {
    const subscriber = await Peer.connect("subscriber");
    const publisher = await Peer.connect("publisher");
    await publisher.publish("options/kept", "kept", { qos: 1, retain: true });
    const subscribe = (filter, id, options) => subscriber.client.subscribeAsync(filter,
      { qos: 1, nl: true, properties: { subscriptionIdentifier: id }, ...options });
    await subscribe("options/#", 1, { rap: true, rh: 1 });
    await subscriber.expect("options/kept", "kept", 1, true);
    await subscribe("options/#", 2, { rap: true, rh: 1 });
    await subscribe("options/+", 3, { rh: 2 });
    await subscriber.publish("options/own", "own", { qos: 1 });
    await publisher.publish("options/kept", "again", { qos: 1, retain: true });
    const came = await subscriber.expect("options/kept", "again", 1, true);
    const ids = [...came.subscriptionIdentifier].sort();
    check(isDeepStrictEqual(ids, [2, 3]), `both subscriptions are named: ${ids}`);
  },

  async flow() {
    // Topic Aliases both ways, and a Receive Maximum of one.
    const more = { topicAliasMaximum: 5, receiveMaximum: 1 };
    const subscriber = await Peer.connect("subscriber", { more });
    const publisher = await Peer.connect("publisher", { autoAssignTopicAlias: true });
    const topic = "a/topic/long/enough/to/be/worth/an/alias";
    await subscriber.subscribe([[topic, 1]]);
    const sent = [];
    for (let number = 0; number < 10; number += 1) {
      sent.push(publisher.publish(topic, String(number), { qos: number % 2 }));
    }
    await Promise.all(sent);
    const came = new Set();
    for (let number = 0; number < 10; number += 1) {
      const message = await subscriber.next();
      check(message.topic === topic, `${message.topic} came`);
      check(message.properties.topicAlias === 1, "the broker uses an alias");
      came.add(message.payload);
    }
    check(came.size === 10, `each came once: ${[...came]}`);
  },

  async request() {
    const asker = await Peer.connect("asker");
    const answerer = await Peer.connect("answerer");
    await asker.subscribe([["answers/asker", 1]]);
    await answerer.subscribe([["questions", 1]]);
    const properties = { responseTopic: "answers/asker", correlationData: Buffer.from("42") };
    await asker.publish("questions", "what?", { qos: 1, properties });
    const { responseTopic, correlationData } = await answerer.expect("questions", "what?", 1);
    await answerer.publish(responseTopic, "that", { qos: 1, properties: { correlationData } });
    const answer = await asker.expect("answers/asker", "that", 1);
    check(answer.correlationData.toString() === "42", "the answer is to the question");
  },
};

try {
  await scenarios[scenario]();
  process.exit(0);
} catch (what) {
  console.log(`${scenario}: ${what.message}`);
  process.exit(1);
}
