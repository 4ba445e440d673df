// The console's MQTT codec against bytes of the specification, and in pieces of every size.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

const Mqtt = new Function(`${readFileSync(process.argv[2], "utf8")}; return Mqtt;`)();
const bytes = (text) => new TextEncoder().encode(text);
const hex = (bytes) => Buffer.from(bytes).toString("hex");

const encoded = [
  [Mqtt.connect({ version: 4, client: "a" }), "100d00044d5154540402003c000161"],
  [
    Mqtt.connect({ version: 5, client: "", user: "u", password: "p" }),
    "101300044d51545405c2003c000000000175000170",
  ],
  [Mqtt.publish({ version: 4, topic: "a/b", payload: "hi" }), "30070003612f626869"],
  [
    Mqtt.publish({ version: 5, topic: "a", payload: "é", qos: 2, retain: true, id: 258 }),
    "3508000161010200c3a9",
  ],
  [Mqtt.subscribe({ version: 5, id: 1, filter: "#", qos: 1 }), "820700010000012301"],
  [Mqtt.unsubscribe({ version: 4, id: 7, filter: "x" }), "a2050007000178"],
  [Mqtt.ack("pubrel", 3), "62020003"],
  [Mqtt.ping(), "c000"],
];
for (const [bytes, expected] of encoded) assert.equal(hex(bytes), expected);
assert.equal(Mqtt.publish({ version: 4, topic: "t", payload: "x".repeat(200) })[2], 1);

const wire = ["20020000", "30070003612f626869", "9003000180", "5002000a", "d000"];
const incoming = Buffer.from(`${wire.join("")}3209000161000568656c6c`, "hex");
const kinds = ["connack", "publish", "suback", "pubrec", "pingresp", "publish"];
for (let size = 1; size <= incoming.length; size++) {
  const reader = new Mqtt.Reader(4), packets = [];
  for (let at = 0; at < incoming.length; at += size) {
    packets.push(...reader.push(incoming.subarray(at, at + size)));
  }
  assert.deepEqual(packets.map((packet) => packet.kind), kinds);
  const plain = { kind: "publish", qos: 0, retain: false, id: 0 };
  assert.deepEqual(packets[1], { ...plain, topic: "a/b", payload: "hi", bytes: bytes("hi") });
  assert.deepEqual(packets[2].codes, [128]);
  assert.equal(packets[5].id, 5);
}
const [five] = new Mqtt.Reader(5).push(Buffer.from("3109000161020101796573", "hex"));
const retained = { kind: "publish", qos: 0, retain: true, id: 0 };
assert.deepEqual(five, { ...retained, topic: "a", payload: "yes", bytes: bytes("yes") });
for (const bytes of ["30060003612f62ff", "30060003612f6200"]) {
  const [binary] = new Mqtt.Reader(4).push(Buffer.from(bytes, "hex"));
  assert.equal(binary.payload, null, "no text is not shown as text");
  assert.equal(binary.bytes.length, 1);
}
assert.throws(() => new Mqtt.Reader(5).push(Buffer.from("30ffffffff", "hex")));
