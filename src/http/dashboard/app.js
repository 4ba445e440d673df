const $ = (id) => document.getElementById(id);
const make = (name, attributes = {}, ...content) => {
  const node = document.createElement(name);
  for (const key in attributes) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), attributes[key]);
    else if (attributes[key] !== undefined) node.setAttribute(key, attributes[key]);
  }
  node.append(...content.map((part) => part ?? ""));
  return node;
};

// --- figures as people read them ---

const count = (n) => {
  for (const [unit, size] of [["G", 1e9], ["M", 1e6], ["k", 1e4]]) if (n >= size) return (n / (unit === "k" ? 1e3 : size)).toPrecision(3).replace(/\.?0+$/, "") + unit;
  return n >= 100 || Number.isInteger(n) ? Math.round(n).toLocaleString("en") : n.toFixed(1);
};
const counted = (n, noun) => `${count(n)} ${noun}${n === 1 ? "" : "s"}`;
const size = (n) => {
  for (const unit of ["B", "KiB", "MiB"]) { if (n < 1024) return `${n < 10 && unit !== "B" ? n.toFixed(1) : Math.round(n)} ${unit}`; n /= 1024; }
  return `${n.toFixed(1)} GiB`;
};
const span = (s) => {
  const parts = [[Math.floor(s / 86400), "d"], [Math.floor(s / 3600) % 24, "h"], [Math.floor(s / 60) % 60, "min"], [Math.floor(s) % 60, "s"]];
  const from = parts.findIndex(([n]) => n > 0);
  return from < 0 ? "0 s" : parts.slice(from, from + 2).map(([n, unit]) => `${n} ${unit}`).join(" ");
};
const time = (us) => us >= 1e6 ? `${(us / 1e6).toPrecision(3)} s` : us >= 1000 ? `${+(us / 1000).toPrecision(3)} ms` : `${Math.round(us)} µs`;
const words = (text) => text.replaceAll("_", " ");
// What the operator can do about it; reasons that need no word have none.
const MEANING = {
  no_subscriber: "nobody had subscribed to the topic",
  queue_full: "the client's queue was full: limits.queue_count_max, limits.queue_bytes_max",
  slow_reader: "QoS 0, and the client reads more slowly than it is sent to",
  offline: "QoS 0, and the client was away",
  expired: "its Message Expiry Interval was over before it could be sent",
  too_large: "larger than the client's Maximum Packet Size",
  session_ended: "it waited in a session that ended",
  no_member: "the shared subscription had no member left",
  retained_full: "delivered, but not kept: the store of retained messages is full",
  not_authorized: "the rules do not let this client publish there",
  mesh_full: "QoS 0, and another shard was too far behind",
  memory: "limits.memory_bytes_max is nearly used up",
};

// --- the API ---

const token = { get: () => sessionStorage.getItem("token") || "", set: (text) => sessionStorage.setItem("token", text) };
let login = null;
const askForToken = () => login ??= new Promise((done) => {
  const dialog = $("login"), field = dialog.querySelector("input");
  dialog.addEventListener("close", () => { token.set(field.value); field.value = ""; login = null; done(); }, { once: true });
  dialog.showModal();
});
const api = async (resource, options = {}) => {
  for (;;) {
    const headers = token.get() ? { Authorization: `Bearer ${token.get()}` } : {};
    const answer = await fetch(`/api/v1/${resource}`, { ...options, headers });
    if (answer.status === 401) { await askForToken(); continue; }
    const body = await answer.json();
    if (!answer.ok) throw new Error(body.error);
    return body;
  }
};
const confirmed = (title, text, yes) => new Promise((done) => {
  const dialog = $("ask");
  $("ask-title").textContent = title; $("ask-text").textContent = text; $("ask-yes").textContent = yes;
  dialog.returnValue = "no";
  dialog.addEventListener("close", () => done(dialog.returnValue === "yes"), { once: true });
  dialog.showModal();
});

// --- overview ---

const SECONDS = 301;
const past = [];       // readings, newest last
const history = { in: [], out: [], dropped: [], clients: [], bytes: [], queued: [], cpu: [], memory: [] };
const HOPS = [["same_shard", "same shard", "--in"], ["other_shard", "other shard", "--out"], ["other_node", "other node", "--warm"], ["queued", "after queueing", "--grey"]];
const latencies = Object.fromEntries(HOPS.map(([hop]) => [hop, []]));

const keep = (list, value) => { list.push(value); if (list.length > SECONDS) list.shift(); };
const sum = (reading, of) => reading.shards.reduce((all, shard) => all + of(shard), 0);
const dropped = (shard) => Object.values(shard.messages_dropped).reduce((a, b) => a + b, 0);

// The time that `share` of what came between two readings stayed below, in µs.
const quantile = (now, then, share) => {
  const below = now.below_2_power_us.map((n, i) => n - (then?.below_2_power_us[i] ?? 0));
  const all = now.count - (then?.count ?? 0);
  if (all <= 0) return null;
  const index = below.findIndex((n) => n >= all * share);
  if (index < 1) return 2 ** (index < 0 ? below.length : 0);
  // Evenly spread between the ends of its bucket, as Prometheus takes it to be.
  const before = below[index - 1], within = (all * share - before) / (below[index] - before);
  return 2 ** (index - 1) * (1 + within);
};

const take = (now) => {
  const then = past.at(-1);
  past.push(now);
  if (past.length > 11) past.shift();
  if (!then || now.uptime_s < then.uptime_s) return;
  const elapsed = Math.max(.001, (now.time_ms - then.time_ms) / 1000);
  const rate = (of) => Math.max(0, sum(now, of) - sum(then, of)) / elapsed;
  keep(history.in, rate((s) => s.messages_received));
  keep(history.out, rate((s) => s.messages_sent));
  keep(history.dropped, rate(dropped));
  keep(history.bytes, rate((s) => s.bytes_received + s.bytes_sent));
  keep(history.clients, sum(now, (s) => s.connections));
  keep(history.queued, sum(now, (s) => s.queued + s.inflight));
  keep(history.cpu, Math.max(0, now.cpu_s - then.cpu_s) / elapsed * 100);
  keep(history.memory, now.memory_bytes ?? 0);
  for (const [hop] of HOPS) keep(latencies[hop], quantile(now.latency[hop], past[0].latency[hop], .99));
  showTiles(now); showPlots(); showShards(now, then, elapsed); showDropped(now);
};

const TILES = [
  ["clients", "Clients", "--in", (v) => count(v), "", (n) => counted(sum(n, (s) => s.sessions), "session")],
  ["in", "Received", "--in", (v) => count(v), "msg/s", (n) => `${count(sum(n, (s) => s.messages_received))} in all`],
  ["out", "Sent", "--out", (v) => count(v), "msg/s", (n) => `${count(sum(n, (s) => s.messages_sent))} in all`],
  ["bytes", "Traffic", "--out", (v) => size(v), "/s", (n) => counted(sum(n, (s) => s.subscriptions), "subscription")],
  ["queued", "Waiting", "--warm", (v) => count(v), "msg", (n) => `${size(sum(n, (s) => s.queued_bytes))} in queues`],
  ["dropped", "Dropped", "--bad", (v) => count(v), "msg/s", (n) => `${count(sum(n, dropped))} in all`],
  ["cpu", "Processor", "--grey", (v) => v.toFixed(v < 10 ? 1 : 0), "%", (n) => counted(n.shards.length, "shard")],
  ["memory", "Memory", "--grey", (v) => size(v), "", (n) => `${count(sum(n, (s) => s.retained))} retained`],
];
const showTiles = (now) => {
  const box = $("tiles");
  if (!box.children.length) box.append(...TILES.map(() => make("div", { class: "panel tile" }, make("h3"), make("p", { class: "figure" }), make("p", { class: "note" }), document.createElementNS("http://www.w3.org/2000/svg", "svg"))));
  TILES.forEach(([key, name, color, format, unit, note], i) => {
    const [title, figure, under, line] = box.children[i].children;
    const [number, ...rest] = format(history[key].at(-1)).split(" ");
    title.textContent = name;
    figure.replaceChildren(number, make("small", {}, ` ${rest.join(" ")}${unit}`));
    under.textContent = note(now);
    const last = history[key].slice(-90);
    Plot.spark(line, last, last.some((v) => v > 0) ? color : "--grey");
  });
};
const showPlots = () => {
  // One minute at first, up to five as they come.
  const size = Math.min(SECONDS, Math.max(1, Math.ceil((history.in.length - 1) / 60)) * 60 + 1);
  Plot.draw($("rates"), [
    { name: "received", color: "--in", values: history.in }, { name: "sent", color: "--out", values: history.out },
    { name: "dropped", color: "--bad", values: history.dropped }], { size, format: count, legend: $("rates-legend"), floor: 4 });
  const used = HOPS.filter(([hop]) => latencies[hop].some((v) => v !== null));
  const shown = used.length ? used : HOPS.slice(0, 1);
  Plot.draw($("latency"), shown.map(([hop, name, color]) => ({ name, color, values: latencies[hop] })), { size, format: time, legend: $("latency-legend"), floor: 1000, log: true, empty: "No message was delivered yet." });
};
const pairs = (rows, extra = "") => make("dl", { class: `pairs ${extra}` }, ...rows.filter(([, v]) => v !== null && v !== undefined && v !== "").flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
const rows = (table, list) => $(table).tBodies[0].replaceChildren(...list.map((cells) => make("tr", {}, ...cells.map((cell) => cell instanceof Node && cell.nodeName === "TD" ? cell : make("td", {}, cell)))));
const number = (n, format = count, extra = "") => make("td", { class: `n ${n ? "" : "zero"} ${extra}` }, n === null || n === undefined ? "–" : format(n));
const showShards = (now, then, elapsed) => rows("shards", now.shards.map((shard, i) => {
  const old = then.shards[i] ?? shard;
  const rate = (key) => Math.max(0, shard[key] - old[key]) / elapsed;
  const busy = Math.min(100, rate("busy_us") / 1e4);
  const fill = make("i"); fill.style.width = `${busy}%`;
  return [make("td", { class: "key" }, `${shard.shard}`),
    make("td", { style: "white-space:nowrap" }, make("span", { class: `bar ${busy > 80 ? "high" : ""}`, "aria-hidden": "true" }, fill), `${busy.toFixed(busy < 10 ? 1 : 0)} %`),
    number(shard.connections), number(Math.round(rate("messages_received"))), number(Math.round(rate("messages_sent"))), number(shard.queued + shard.inflight), number(shard.retained), number(shard.stall_max_us, time), number(shard.mesh_backlog)];
}));
const why = (reason) => make("td", {}, make("b", {}, words(reason)), ...(MEANING[reason] ? [make("div", { class: "empty tight" }, MEANING[reason])] : []));
const showDropped = (now) => {
  const totals = {};
  for (const shard of now.shards) for (const reason in shard.messages_dropped) totals[reason] = (totals[reason] ?? 0) + shard.messages_dropped[reason];
  const list = Object.entries(totals).filter(([, n]) => n > 0).sort((a, b) => b[1] - a[1]);
  rows("dropped", list.length ? list.map(([reason, n]) => [why(reason), number(n)]) : [["nothing", number(0)]]);
};

// How the node is; told anew only when it changes, for those who listen to the page.
const say = (how, text) => {
  if ($("state").textContent === text) return;
  $("state").textContent = text;
  $("state").className = `state ${how}`;
};
let missing = [];
const poll = async () => {
  try {
    const now = await api("status");
    $("node").textContent = now.node;
    $("about").textContent = `Octopus ${now.version}${now.group ? ` · group ${now.group}` : ""} · up ${span(now.uptime_s)}`;
    document.title = `${now.node} · Octopus`;
    take(now);
    if (missing.length) say("warn", `not ready: ${missing.join(", ")}`); else say("", "running");
  } catch (error) { say("down", `no answer: ${error.message}`); }
  setTimeout(poll, 1000);
};
// The console's address, unless one was used before: the first WebSocket listener's.
const proposeAddress = (listeners) => {
  const field = $("mqtt-connect").elements.url;
  const found = listeners.find((l) => l.kind === "ws" || l.kind === "wss");
  $("mqtt-nowhere").hidden = Boolean(found);
  if (field.value || localStorage.getItem("ws") || !found) return;
  const host = location.hostname.includes(":") && !location.hostname.startsWith("[") ? `[${location.hostname}]` : location.hostname;
  field.value = `${found.kind}://${host}:${found.address.split(":").at(-1)}/mqtt`;
};
const pollSlowly = async () => {
  try {
    const [{ group, nodes }, { listeners }, ready] = await Promise.all([api("nodes"), api("listeners"), fetch("/readyz").then((answer) => answer.json())]);
    missing = ready.missing ?? [];
    $("nodes-title").textContent = group ? `Nodes of ${group}` : "Node";
    rows("nodes", nodes.map((node) => {
      const f = node.figures ?? {}, own = node.self ? history : null;
      const name = make("td", {}, make("span", { class: "key" }, node.id), node.self ? " this one" : "", node.live ? "" : make("span", { class: "chip bad" }, "gone"));
      return [name, number(f.connections), number(f.received_per_s ?? Math.round(own?.in.at(-1) ?? 0)), number(f.sent_per_s ?? Math.round(own?.out.at(-1) ?? 0)), number(f.memory_bytes, size, "wide"), number(f.uptime_s, span)];
    }));
    rows("listeners", listeners.map((l) => [l.name, l.kind, make("code", {}, l.address), number(l.connections)]));
    proposeAddress(listeners);
  } catch { /* the state line says it */ }
  setTimeout(pollSlowly, 5000);
};

// --- clients ---

// Where the detail stands below the list, it comes into view.
const turnTo = (panel) => {
  panel.focus({ preventScroll: true });
  if (innerWidth <= 900) panel.scrollIntoView({ block: "start" });
};

let clientPage = { query: "", next: null, name: "clients" };
const searchClients = async (more) => {
  const form = new FormData($("client-search"));
  if (!more) {
    const sort = form.get("sort");
    clientPage = { name: form.get("away") ? "sessions" : "clients", next: null, query: new URLSearchParams({ search: form.get("search"), limit: 50, ...(sort ? { sort } : {}) }) };
    $("client-list").tBodies[0].replaceChildren();
  }
  try {
    const cursor = clientPage.next ? `&cursor=${encodeURIComponent(clientPage.next)}` : "";
    const page = await api(`${clientPage.name}?${clientPage.query}${cursor}`);
    const list = $("client-list").tBodies[0];
    list.append(...page[clientPage.name].map((c) => make("tr", { "data-client": c.client },
      make("td", {}, make("button", { class: "link", onclick: () => showClient(c.client) }, c.client)),
      make("td", { class: "wide" }, c.connection ? c.connection.address ?? "local" : make("span", { class: "chip" }, "away")),
      make("td", { class: "wide" }, c.connection?.version ?? ""), number(c.subscription_count), number(c.queue_count), number(c.inflight_count), make("td", { class: "n wide" }, `${c.shard}`))));
    clientPage.next = page.next;
    $("clients-more").hidden = !page.next;
    const all = sum(past.at(-1) ?? { shards: [] }, (s) => clientPage.name === "clients" ? s.connections : s.sessions);
    const searched = clientPage.query.get("search");
    $("clients-said").textContent = list.children.length ? `${count(list.children.length)} shown${all && !searched ? ` of ${count(all)}` : page.next ? ", there may be more" : ""}`
      : searched ? `No client with ${searched} in its name${clientPage.name === "clients" ? " is connected" : ""}.` : clientPage.name === "clients" ? "No client is connected." : "There is no session.";
  } catch (error) { $("clients-said").textContent = error.message; }
};
const incidentRows = (list) => list.map((i) => [make("td", { style: "white-space:nowrap" }, `${span(i.age_s)} ago`),
  make("td", {}, make("b", {}, words(i.reason)), " ", make("span", { class: `chip ${i.kind === "dropped" ? "bad" : ""}` }, words(i.kind)), ...(MEANING[i.reason] ? [make("div", { class: "empty tight" }, MEANING[i.reason])] : [])),
  make("td", { style: "overflow-wrap:anywhere" }, i.client ?? ""), make("td", { style: "overflow-wrap:anywhere" }, make("code", {}, i.topic ?? "")), number(i.count)]);
// A part of a panel: a title and a list of what and a word about it; nothing if the list is empty.
const part = (title, list, none) => list.length || none ? [make("h3", { class: "part" }, title), list.length ? make("ul", { class: "plain" }, ...list.map(([what, word]) => make("li", {}, make("span", {}, what), make("span", {}, word)))) : make("p", { class: "empty tight" }, none)] : [];
const pending = (m) => [m.topic === null ? "with the client" : make("code", {}, m.topic), `${m.bytes === null ? "PUBCOMP awaited" : size(m.bytes)} · QoS ${m.qos}${m.packet_id ? ` · #${m.packet_id}` : ""}`];
const firstOf = (shown, all) => shown < all ? `, the first ${count(shown)} of ${count(all)}` : "";
const showClient = async (client) => {
  const panel = $("client-detail");
  for (const row of $("client-list").tBodies[0].rows) row.classList.toggle("chosen", row.dataset.client === client);
  let c;
  try { c = await api(`clients/${encodeURIComponent(client)}`); } catch (error) { panel.replaceChildren(make("p", { class: "empty" }, error.message)); return; }
  const k = c.connection;
  const facts = pairs([["address", k?.address], ["listener", k?.listener], ["MQTT", k?.version], ["user", k?.user],
    ["keep alive", k && `${k.keep_alive_s} s`], ["silent for", k && span(k.silent_s)], ["unsent", k && size(k.out_bytes)], ["session ends", c.expiry_s === null ? "never" : `${span(c.expiry_s)} after it leaves`],
    ["queued", `${count(c.queue_count)} (${size(c.queue_bytes)})`], ["in flight", count(c.inflight_count)], ["will on", c.will_topic], ["shard", `${c.shard}`]]);
  panel.replaceChildren(make("header", {}, make("h2", { style: "overflow-wrap:anywhere" }, c.client), make("span", { class: "chip" }, k ? "connected" : "away")), facts,
    ...part(`Subscriptions${firstOf(c.subscriptions.length, c.subscription_count)}`, c.subscriptions.map((s) => [make("code", {}, s.filter), `QoS ${s.qos}`]), "none"),
    ...part(`In flight${firstOf(c.inflight.length, c.inflight_count)}`, c.inflight.map(pending)),
    ...part(`Waiting in its queue${firstOf(c.queue.length, c.queue_count)}`, c.queue.map(pending)),
    ...part("What went wrong lately", c.incidents.map((i) => [`${words(i.reason)}${i.topic ? ` on ${i.topic}` : ""}${i.count > 1 ? `, ${count(i.count)} times` : ""}`, `${span(i.age_s)} ago`]), "nothing"),
    make("div", { class: "actions" }, make("button", { onclick: () => showClient(client) }, "Refresh"), k ? make("button", { class: "danger", onclick: () => kick(client) }, "Disconnect…") : null));
  turnTo(panel);
};
const kick = async (client) => {
  if (!await confirmed("Disconnect this client?", `${client} is closed now; its session stays, and it may connect again.`, "Disconnect")) return;
  try { await api(`clients/${encodeURIComponent(client)}`, { method: "DELETE" }); } catch (error) { $("clients-said").textContent = error.message; }
  await searchClients(false);
  await showClient(client);
};

// --- topics ---

const TOPICS_MAX = 5000;
const showTopics = async () => {
  const filter = new FormData($("topic-search")).get("filter") || "#", found = [];
  let next = null;
  try {
    do {
      const cursor = next ? `&cursor=${encodeURIComponent(next)}` : "";
      const page = await api(`retained?limit=1000&filter=${encodeURIComponent(filter)}${cursor}`);
      found.push(...page.retained); next = page.next;
    } while (next && found.length < TOPICS_MAX);
  } catch (error) { $("topics-said").textContent = error.message; $("tree").replaceChildren(); return; }
  $("topics-said").textContent = found.length ? `${count(found.length)} retained${next ? "; the filter matches more" : ""}` : "Nothing is retained here. Topics of the broker itself are under $SYS/#.";
  const root = new Map();
  for (const message of found) {
    let level = root, node = null;
    for (const part of message.topic.split("/")) {
      if (!level.has(part)) level.set(part, { below: new Map(), message: null });
      node = level.get(part); level = node.below;
    }
    node.message = message;
  }
  $("tree").replaceChildren(...branches(root, found.length <= 60));
};
const branches = (level, open) => [...level].sort(([a], [b]) => a.localeCompare(b, "en", { numeric: true })).map(([name, node]) => {
  const label = name === "" ? "(empty level)" : name;
  const title = node.message ? make("button", { class: "link mono", onclick: (event) => { event.preventDefault(); showTopic(node.message); } }, label) : make("span", { class: "mono" }, label);
  const value = node.message ? make("span", { class: "value mono" }, preview(node.message)) : null;
  if (!node.below.size) return make("div", { class: "leaf" }, title, value);
  const details = make("details", open ? { open: "" } : {}, make("summary", {}, title, value ?? make("span", { class: "number" }, `${node.below.size}`)));
  const fill = () => { if (details.children.length === 1) details.append(...branches(node.below, open)); };
  if (open) fill(); else details.addEventListener("toggle", fill, { once: true });
  return details;
});
const preview = (message) => message.payload === null ? `${size(message.bytes)}, not text` : message.payload.slice(0, 120);
const pretty = (text) => { try { const value = JSON.parse(text); return typeof value === "object" ? JSON.stringify(value, null, 2) : text; } catch { return text; } };
const showTopic = async ({ topic }) => {
  const panel = $("topic-detail");
  try {
    const m = await api(`retained/${encodeURIComponent(topic)}`);
    panel.replaceChildren(make("h2", { class: "mono", style: "overflow-wrap:anywhere" }, m.topic), pairs([["QoS", `${m.qos}`], ["payload", size(m.bytes)]]),
      make("pre", {}, m.payload === null ? m.payload_base64 : pretty(m.payload)),
      make("div", { class: "actions" }, make("button", { onclick: () => showTopic(m) }, "Refresh"), make("button", { class: "danger", onclick: () => deleteTopic(m) }, "Delete…")));
  } catch (error) { panel.replaceChildren(make("p", { class: "empty" }, error.message)); }
  turnTo(panel);
};
const deleteTopic = async ({ topic }) => {
  if (!await confirmed("Delete this retained message?", `${topic} has no retained message afterwards, on every node.`, "Delete")) return;
  try { await api(`retained/${encodeURIComponent(topic)}`, { method: "DELETE" }); } catch (error) { $("topics-said").textContent = error.message; }
  await showTopics();
  $("topic-detail").replaceChildren(make("p", { class: "empty" }, "Deleted."));
};

// --- trouble ---

const showTrouble = async () => {
  const about = new FormData($("trouble-search")).get("about");
  try {
    const { incidents } = await api(`incidents?limit=200&about=${encodeURIComponent(about)}`);
    $("trouble-said").textContent = incidents.length ? "" : `Nothing was dropped or refused lately${about ? ` for ${about}` : ""}.`;
    rows("incidents", incidentRows(incidents));
  } catch (error) { $("trouble-said").textContent = error.message; }
};

// --- console ---

const LOG_MAX = 500;
let link = null, arrived = [], skipped = 0;
const line = ([kind, at, cells]) => make("li", { class: kind }, make("span", { class: "when" }, at), ...cells.map((cell) => make("span", {}, ...[cell].flat())));
// Drawn with the next picture, so that a flood of messages leaves the page usable.
const drawLog = () => {
  const list = $("log"), box = list.parentNode, atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
  if (skipped) arrived.unshift(["note", "", [`${count(skipped)} messages came too fast to be shown`]]);
  list.append(...arrived.map(line));
  arrived = []; skipped = 0;
  while (list.children.length > LOG_MAX) list.firstChild.remove();
  if (atEnd) box.scrollTop = box.scrollHeight;
};
const log = (kind, ...cells) => {
  if (!arrived.length) setTimeout(drawLog, 50);
  if (arrived.length >= LOG_MAX / 5) { skipped += 1; return; }
  arrived.push([kind, new Date().toLocaleTimeString("en-GB"), cells]);
};
const hex = (bytes) => `${size(bytes.length)}: ${[...bytes.subarray(0, 32)].map((b) => b.toString(16).padStart(2, "0")).join(" ")}${bytes.length > 32 ? " …" : ""}`;
const linkSays = (up, text) => { $("mqtt-state").textContent = text; $("mqtt-state").classList.toggle("idle", !up); const button = $("mqtt-connect").querySelector("button"); button.textContent = up ? "Disconnect" : "Connect"; button.classList.toggle("main", !up); };
const nextId = () => link.id = link.id % 65535 + 1;
const dial = (form) => {
  const version = Number(form.get("version"));
  let socket;
  try { socket = new WebSocket(form.get("url"), "mqtt"); } catch (error) { log("note bad", error.message); return; }
  socket.binaryType = "arraybuffer";
  const mine = link = { socket, version, id: 0, reader: new Mqtt.Reader(version), filters: new Map(), ping: 0 };
  linkSays(false, "connecting");
  socket.onopen = () => {
    socket.send(Mqtt.connect({ version, client: `console-${Math.random().toString(36).slice(2, 10)}`, user: form.get("user"), password: form.get("password") }));
    mine.ping = setInterval(() => socket.send(Mqtt.ping()), 30000);
  };
  socket.onmessage = ({ data }) => { try { mine.reader.push(new Uint8Array(data)).forEach((packet) => takePacket(mine, packet)); } catch (error) { log("note bad", error.message); socket.close(); } };
  socket.onclose = () => { clearInterval(mine.ping); if (link === mine) { link = null; $("subscriptions").replaceChildren(); linkSays(false, "not connected"); log("note", "the connection is closed"); } };
};
const takePacket = (from, packet) => {
  const send = (bytes) => from.socket.send(bytes);
  if (packet.kind === "connack") { if (packet.code === 0) { linkSays(true, "connected"); log("note", "connected"); } else log("note bad", `refused with code 0x${packet.code.toString(16)}`); }
  else if (packet.kind === "publish") {
    log("", make("code", {}, packet.topic), [make("code", {}, packet.payload ?? hex(packet.bytes)), ...(packet.qos ? [make("span", { class: "chip" }, `QoS ${packet.qos}`)] : []), ...(packet.retain ? [make("span", { class: "chip" }, "retained")] : [])]);
    if (packet.qos === 1) send(Mqtt.ack("puback", packet.id));
    if (packet.qos === 2) send(Mqtt.ack("pubrec", packet.id));
  } else if (packet.kind === "pubrec" && packet.code < 128) send(Mqtt.ack("pubrel", packet.id));
  else if (packet.kind === "pubrel") send(Mqtt.ack("pubcomp", packet.id));
  else if (packet.kind === "suback" && packet.codes.some((code) => code >= 128)) log("note bad", `the subscription is refused with code 0x${packet.codes[0].toString(16)}`);
  else if (packet.kind === "disconnect") log("note bad", `the broker ends the connection, code 0x${packet.code.toString(16)}`);
};
const showFilters = () => $("subscriptions").replaceChildren(...[...link.filters.keys()].map((filter) => make("button", { title: "Unsubscribe", "aria-label": `Unsubscribe ${filter}`, onclick: () => {
  link.socket.send(Mqtt.unsubscribe({ version: link.version, id: nextId(), filter })); link.filters.delete(filter); showFilters();
} }, `${filter} ✕`)));
const onSubmit = (id, run) => $(id).addEventListener("submit", (event) => { event.preventDefault(); run(new FormData(event.target), event.target); });
const connected = () => { if (link?.socket.readyState === WebSocket.OPEN) return true; log("note bad", "connect first"); return false; };
onSubmit("mqtt-connect", (form) => { if (link) { if (link.socket.readyState === WebSocket.OPEN) link.socket.send(Mqtt.disconnect()); link.socket.close(); } else { localStorage.setItem("ws", form.get("url")); dial(form); } });
onSubmit("mqtt-subscribe", (form) => { if (!connected()) return; const filter = form.get("filter"), qos = Number(form.get("qos")); link.socket.send(Mqtt.subscribe({ version: link.version, id: nextId(), filter, qos })); link.filters.set(filter, qos); showFilters(); });
onSubmit("mqtt-publish", (form) => { if (!connected()) return; link.socket.send(Mqtt.publish({ version: link.version, id: nextId(), topic: form.get("topic"), payload: form.get("payload"), qos: Number(form.get("qos")), retain: form.get("retain") !== null })); log("note", `published to ${form.get("topic")}`); });
$("log-clear").addEventListener("click", () => $("log").replaceChildren());

// --- views and theme ---

const OPENED = { clients: () => searchClients(false), topics: showTopics, trouble: showTrouble };
const route = () => {
  const wanted = location.hash.slice(1), sections = [...document.querySelectorAll("main > section")];
  const shown = sections.find((section) => section.dataset.view === wanted) ?? sections[0];
  for (const section of sections) section.hidden = section !== shown;
  for (const anchor of document.querySelectorAll("nav.views a")) {
    if (anchor.hash.slice(1) === shown.dataset.view) anchor.setAttribute("aria-current", "page"); else anchor.removeAttribute("aria-current");
  }
  scrollTo(0, 0);
  OPENED[shown.dataset.view]?.();
};
const dark = matchMedia("(prefers-color-scheme: dark)");
const applyTheme = () => { document.documentElement.dataset.theme = localStorage.getItem("theme") ?? (dark.matches ? "dark" : "light"); };
$("theme").addEventListener("click", () => { localStorage.setItem("theme", document.documentElement.dataset.theme === "dark" ? "light" : "dark"); applyTheme(); });
dark.addEventListener("change", applyTheme);
addEventListener("hashchange", route);
addEventListener("resize", () => { $("rates").redraw?.(); $("latency").redraw?.(); });
onSubmit("client-search", () => searchClients(false));
onSubmit("topic-search", showTopics);
onSubmit("trouble-search", showTrouble);
$("clients-more").addEventListener("click", () => searchClients(true));
$("mqtt-connect").elements.url.value = localStorage.getItem("ws") ?? "";
applyTheme();
route();
poll();
pollSlowly();
