// The dashboard in headless Chromium, driven by the DevTools protocol:
//   browser.mjs node_modules page token websocket mqtt-port
// Uses the console with keys alone, talks with mosquitto's tools through it, and has axe look at
// every view in light and dark. Exits 0 if nothing is to be mended.

import { execFile, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";

const [modules, page, token, websocket, port] = process.argv.slice(2);
const require = createRequire(modules + "/");
const WebSocket = require("ws");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const pictures = process.env.OCTOPUS_SCREENSHOTS;

const profile = mkdtempSync(join(tmpdir(), "octopus-browser-"));
const chromium = spawn("chromium", ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync",
  "--remote-debugging-port=0", `--user-data-dir=${profile}`, "about:blank"],
{ stdio: ["ignore", "ignore", "pipe"] });
const end = (code, why) => {
  if (why) console.log(why);
  // Its helpers end a moment after it, and write until then: what is left is looked for anew.
  const clear = (times) => {
    try {
      rmSync(profile, { recursive: true, force: true });
      process.exit(code);
    } catch (error) {
      if (times === 0) throw error;
      setTimeout(clear, 100, times - 1);
    }
  };
  chromium.once("exit", () => clear(50));
  chromium.kill("SIGTERM");
};
setTimeout(() => end(1, "too late"), 50_000).unref();

const main = async () => {
  const endpoint = await new Promise((found, failed) => {
    let said = "";
    chromium.stderr.on("data", (text) => {
      said += text;
      const match = /DevTools listening on (ws:\S+)/.exec(said);
      if (match) found(match[1]);
    });
    chromium.once("error", failed);
  });

  // --- the protocol ---

  const socket = new WebSocket(endpoint);
  await new Promise((opened, failed) => {
    socket.once("open", opened);
    socket.once("error", failed);
  });
  let last = 0, session;
  const waiting = new Map(), complaints = [];
  socket.on("message", (text) => {
    const message = JSON.parse(text);
    if (message.id) {
      const { done, failed } = waiting.get(message.id);
      waiting.delete(message.id);
      message.error ? failed(new Error(JSON.stringify(message.error))) : done(message.result);
    } else if (message.method === "Runtime.exceptionThrown") {
      complaints.push(message.params.exceptionDetails.exception?.description ?? "an exception");
    } else if (message.method === "Log.entryAdded" && message.params.entry.level === "error") {
      complaints.push(message.params.entry.text);
    }
  });
  const send = (method, params = {}) => new Promise((done, failed) => {
    waiting.set(++last, { done, failed });
    socket.send(JSON.stringify({ id: last, method, params, sessionId: session }));
  });
  const run = async (expression) => {
    const asked = { expression, awaitPromise: true, returnByValue: true };
    const { result, exceptionDetails } = await send("Runtime.evaluate", asked);
    if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? expression);
    return result.value;
  };
  const until = async (expression, what = expression) => {
    const deadline = Date.now() + 10_000;
    while (!await run(expression)) {
      if (Date.now() > deadline) throw new Error(`not in time: ${what}`);
      await new Promise((later) => setTimeout(later, 50));
    }
  };
  const KEYS = { Tab: [9], Enter: [13, "\r"], " ": [32, " "] };
  const press = async (key, modifiers = 0) => {
    const [code, text] = KEYS[key];
    const event = { key, windowsVirtualKeyCode: code, modifiers };
    await send("Input.dispatchKeyEvent", { type: "keyDown", text, ...event });
    await send("Input.dispatchKeyEvent", { type: "keyUp", ...event });
  };
  const type = (text) => send("Input.insertText", { text });
  const tell = (condition, what) => { if (!condition) throw new Error(what); };

  // Tabs on until `what` has the focus; what had it on the way.
  const focused = `(() => {
    const e = document.activeElement, form = e.closest("form")?.id;
    const name = e.name || e.id || e.getAttribute("aria-label") || e.textContent.trim();
    return form ? form + " " + name : name;
  })()`;
  const tabTo = async (what) => {
    const way = [];
    for (let step = 0; step < 60; step += 1) {
      await press("Tab");
      way.push(await run(focused));
      if (way.at(-1) === what) return way;
    }
    throw new Error(`no ${what} on the way: ${way.join(", ")}`);
  };

  const { targetId } = await send("Target.createTarget", { url: "about:blank" });
  ({ sessionId: session } = await send("Target.attachToTarget", { targetId, flatten: true }));
  for (const domain of ["Page", "Runtime", "Log"]) await send(`${domain}.enable`);
  const screen = { width: 1280, height: 900, deviceScaleFactor: 1, mobile: false };
  await send("Emulation.setDeviceMetricsOverride", screen);
  const source = `sessionStorage.setItem("token", ${JSON.stringify(token)})`;
  await send("Page.addScriptToEvaluateOnNewDocument", { source });
  await send("Page.navigate", { url: `${page}#console` });

  // --- the console, with keys alone ---

  const url = "document.querySelector('#mqtt-connect [name=url]')";
  await until(`Boolean(${url}?.value)`, "the listener's address");
  tell(await run(`${url}.value`) === websocket, "another address than the listener's");
  tell(await run("$('mqtt-nowhere').hidden"), "there is a listener");
  const way = await tabTo("mqtt-connect url");
  const views = ["Overview", "Clients", "Topics", "Trouble", "Console"];
  const order = ["Skip to content", ...views, "theme", "mqtt-connect url"];
  tell(order.every((stop, i) => way[i] === stop), `the focus goes ${way.join(", ")}`);
  await press("Enter");
  await until("$('mqtt-state').textContent === 'connected'");
  await tabTo("mqtt-subscribe filter");
  await run("document.activeElement.select()");
  await type("console/#");
  await press("Enter");
  await until("$('subscriptions').textContent.includes('console/#')", "the subscription");
  const publish = async (topic, payload, retain) => {
    await run("$('mqtt-publish').reset()");
    await tabTo("mqtt-publish topic");
    await type(topic);
    await press("Tab");
    await type(payload);
    if (retain) { await tabTo("mqtt-publish retain"); await press(" "); }
    await tabTo("mqtt-publish Publish");
    await press("Enter");
  };
  await publish("console/a", "from the page", true);
  await until("$('log').textContent.includes('console/afrom the page')", "one's own message");
  const tool = (name, ...more) => promisify(execFile)(name, ["-p", port, ...more]);
  const outside = await tool("mosquitto_sub", "-t", "console/a", "-C", "1", "-W", "10");
  tell(outside.stdout === "from the page\n", outside.stdout);
  await tool("mosquitto_pub", "-t", "console/b", "-m", "from outside", "-q", "2");
  await until("$('log').textContent.includes('console/bfrom outside')", "a message of others");
  await tabTo("Unsubscribe console/#");
  await press("Enter");
  await until("$('subscriptions').children.length === 0");

  // --- every view, in light and dark, as axe sees it ---

  await run(axe);
  const READY = {
    overview: { ready: "$('tiles').children.length > 0" },
    clients: {
      before: "$('client-search').elements.away.checked = true; searchClients(false)",
      ready: "Boolean(document.querySelector('[data-client=sleeper]'))",
    },
    topics: { ready: "$('tree').children.length > 0" },
  };
  const AXE = `axe.run(document, { resultTypes: ["violations"] }).then((found) =>
    found.violations.flatMap((fault) => fault.nodes.map((node) =>
      [fault.id, fault.help, node.html.slice(0, 200)].join(": "))))`;
  const faults = [];
  const photograph = async (name) => {
    if (!pictures) return;
    const { data } = await send("Page.captureScreenshot", { format: "png" });
    writeFileSync(join(pictures, `${name}.png`), Buffer.from(data, "base64"));
  };
  // What moved by itself while the figures were drawn anew three times.
  const moved = () => run(`new Promise((done) => {
    const shifts = [];
    const observer = new PerformanceObserver((list) => shifts.push(...list.getEntries()));
    observer.observe({ type: "layout-shift" });
    const first = history.in.length;
    const look = () => history.in.length < first + 3 ? setTimeout(look, 100) : done(shifts
      .filter((shift) => shift.value > 0.001)
      .flatMap((shift) => shift.sources.map(({ node }) =>
        "moved by itself: " + (node?.outerHTML ?? "a text").slice(0, 120))));
    look();
  })`);
  for (const theme of ["light", "dark"]) {
    await run(`localStorage.setItem("theme", "${theme}"); applyTheme()`);
    for (const view of ["overview", "clients", "topics", "trouble", "console"]) {
      await run(`location.hash = "${view}"`);
      await until(`!document.querySelector('[data-view="${view}"]').hidden`);
      const { before, ready } = READY[view] ?? {};
      if (before) await run(before);
      if (ready) await until(ready);
      if (view === "clients") await run("showClient('sleeper')");
      if (view === "topics") await run("showTopic({ topic: 'console/a' })");
      for (const fault of await run(AXE)) faults.push(`${theme} ${view}: ${fault}`);
      await photograph(`${view}-${theme}`);
    }
  }
  await run("location.hash = 'overview'");
  faults.push(...await moved());

  // --- every view on a telephone ---

  await send("Emulation.setDeviceMetricsOverride", { ...screen, width: 400, height: 850 });
  for (const view of ["overview", "clients", "topics", "trouble", "console"]) {
    await run(`location.hash = "${view}"`);
    await until(`!document.querySelector('[data-view="${view}"]').hidden`);
    const beside = await run("document.documentElement.scrollWidth - innerWidth");
    if (beside > 0) faults.push(`narrow ${view}: ${beside} pixels are beside the page`);
    await photograph(`${view}-narrow`);
  }
  faults.push(...complaints);
  return faults;
};
main().then(
  (faults) => end(faults.length ? 1 : 0, faults.join("\n")),
  (error) => end(1, error.stack ?? error),
);
