// MQTT.js over a WebSocket: websocket.mjs url authority node_modules. Messages from one byte to
// a megabyte come back whole. Exits 0 if all came as it should.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const [url, authority, modules] = process.argv.slice(2);
const mqtt = createRequire(modules + "/")("mqtt");

// Ends the test if anything hangs.
setTimeout(() => { console.log("too late"); process.exit(1); }, 60_000).unref();

for (const protocolVersion of [4, 5]) {
  for (let round = 0; round < 8; round += 1) {
    const client = await mqtt.connectAsync(url, {
      clientId: `client-${round}`,
      protocolVersion,
      reconnectPeriod: 0,
      ca: readFileSync(authority),
    }, false);
    const came = [];
    let all;
    const done = new Promise((resolve) => { all = resolve; });
    const sizes = [1, 125, 126, 65_535, 65_536, 1_000_000];
    client.on("message", (_, payload) => {
      came.push(payload.length);
      if (came.length === sizes.length) all();
    });
    const topic = `echo/${protocolVersion}/${round}`;
    await client.subscribeAsync(topic, { qos: 1 });
    for (const size of sizes) {
      await client.publishAsync(topic, Buffer.alloc(size, 7), { qos: 1 });
    }
    await done;
    if (String(came) !== String(sizes)) throw new Error(`${came} came`);
    await client.endAsync();
  }
}
process.exit(0);
