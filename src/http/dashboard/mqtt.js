// The MQTT codec of the console: 3.1.1 and 5.0, what a client sends and gets. Pure; no socket.
const Mqtt = (() => {
  const encoder = new TextEncoder(), decoder = new TextDecoder(), strict = new TextDecoder("utf-8", { fatal: true });
  // Text, or null if the bytes are none.
  const asText = (bytes) => { try { const text = strict.decode(bytes); return /[\0-\x08\x0e-\x1f]/.test(text) ? null : text; } catch { return null; } };
  const u16 = (n) => [n >> 8 & 255, n & 255];
  const text = (s) => { const b = encoder.encode(s); return [...u16(b.length), ...b]; };
  const varint = (n) => { const out = []; do { const low = n % 128; n = Math.floor(n / 128); out.push(n > 0 ? low | 128 : low); } while (n > 0); return out; };
  const packet = (first, body) => Uint8Array.from([first, ...varint(body.length), ...body]);
  const none = (version) => version === 5 ? [0] : [];

  const connect = ({ version, client, user, password, keepAlive = 60 }) => {
    const flags = 2 | (user ? 128 : 0) | (password ? 64 : 0);
    return packet(0x10, [...text("MQTT"), version, flags, ...u16(keepAlive), ...none(version), ...text(client),
      ...(user ? text(user) : []), ...(password ? text(password) : [])]);
  };
  const publish = ({ version, topic, payload, qos = 0, retain = false, id = 0 }) => packet(0x30 | qos << 1 | (retain ? 1 : 0),
    [...text(topic), ...(qos ? u16(id) : []), ...none(version), ...encoder.encode(payload)]);
  const subscribe = ({ version, id, filter, qos = 0 }) => packet(0x82, [...u16(id), ...none(version), ...text(filter), qos]);
  const unsubscribe = ({ version, id, filter }) => packet(0xa2, [...u16(id), ...none(version), ...text(filter)]);
  const ack = (kind, id) => packet({ puback: 0x40, pubrec: 0x50, pubrel: 0x62, pubcomp: 0x70 }[kind], u16(id));
  const ping = () => packet(0xc0, []);
  const disconnect = () => packet(0xe0, []);

  // Cuts a stream of bytes into packets, whatever the pieces it comes in.
  class Reader {
    constructor(version) { this.version = version; this.bytes = new Uint8Array(0); }
    push(piece) {
      const all = new Uint8Array(this.bytes.length + piece.length);
      all.set(this.bytes); all.set(piece, this.bytes.length);
      const packets = [];
      let at = 0;
      for (;;) {
        const head = length(all, at + 1);
        if (!head || all.length < head.end + head.value) break;
        packets.push(decode(all[at], all.subarray(head.end, head.end + head.value), this.version));
        at = head.end + head.value;
      }
      this.bytes = all.slice(at);
      return packets;
    }
  }
  const length = (bytes, at) => {
    let value = 0, unit = 1;
    for (let i = 0; i < 4; i++) {
      if (at + i >= bytes.length) return null;
      value += (bytes[at + i] & 127) * unit; unit *= 128;
      if (bytes[at + i] < 128) return { value, end: at + i + 1 };
    }
    throw new Error("a length of more than four bytes");
  };
  const read16 = (b, at) => b[at] << 8 | b[at + 1];
  const skipProperties = (b, at, version) => {
    if (version !== 5 || at >= b.length) return at;
    const properties = length(b, at);
    if (!properties) throw new Error("properties are cut short");
    return properties.end + properties.value;
  };
  const decode = (first, b, version) => {
    const kind = first >> 4;
    if (kind === 2) return { kind: "connack", present: (b[0] & 1) === 1, code: b[1] };
    if (kind === 3) {
      const end = 2 + read16(b, 0), qos = first >> 1 & 3;
      let at = end;
      const id = qos ? read16(b, at) : 0;
      if (qos) at += 2;
      at = skipProperties(b, at, version);
      return { kind: "publish", topic: decoder.decode(b.subarray(2, end)), qos, retain: (first & 1) === 1, id, payload: asText(b.subarray(at)), bytes: b.subarray(at) };
    }
    if (kind >= 4 && kind <= 7) return { kind: ["puback", "pubrec", "pubrel", "pubcomp"][kind - 4], id: read16(b, 0), code: b.length > 2 ? b[2] : 0 };
    if (kind === 9 || kind === 11) {
      const at = skipProperties(b, 2, version);
      return { kind: kind === 9 ? "suback" : "unsuback", id: read16(b, 0), codes: [...b.subarray(at)] };
    }
    if (kind === 13) return { kind: "pingresp" };
    if (kind === 14) return { kind: "disconnect", code: b.length ? b[0] : 0 };
    return { kind: "other", type: kind };
  };
  return { connect, publish, subscribe, unsubscribe, ack, ping, disconnect, Reader };
})();
