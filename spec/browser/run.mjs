// Drives a real browser against spec/browser/server.lua:  node run.mjs BROWSER MODULES SCREENSHOTS
// Prints `ok NAME` or `failed NAME: why` for each check. Meant for a network namespace of its own (browser_spec.lua).

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { Crash, launch, servePages } from "./browser.mjs";
import { run, within } from "./checks.mjs";
import { examples } from "./examples.mjs";

const [name, modules, screenshots, word = ""] = process.argv.slice(2);
const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
const state = mkdtempSync(join(tmpdir(), "echostream-state-"));

let current; // what pages are told

const BLANK = `<!doctype html><title>echostream</title><script type="module">
  import * as echo from "/echostream.js";
  const { url } = await (await fetch("/config.json")).json();
  const hashes = async () => (await (await fetch("/config.json")).json()).serverCertificateHashes;
  window.echo = echo;
  window.connect = (options = {}) => echo.connect(url, { serverCertificateHashes: hashes, heartbeat: 2000, ...options });
  window.until = async (fn) => { while (!await fn()) await new Promise((resolve) => setTimeout(resolve, 10)); };
  window.code = (promise) => promise.then(() => "no error", (error) => [error.code, error.message, error.processed]);
  window.loaded = true;
</script>`;

const pages = await servePages(join(root, "examples/browser"), { "/config.json": () => JSON.stringify(current), "/blank.html": () => BLANK });

async function start(address) {
  const child = spawn("timeout", ["-k", "5", "200", "lua5.4", join(root, "spec/browser/server.lua"), address, state, pages.origin], {
    cwd: root, stdio: ["ignore", "pipe", "inherit"], env: { ...process.env, LD_PRELOAD: process.env.ES_PRELOAD ?? "" },
  });
  const ended = new Promise((resolve) => child.once("exit", resolve));
  process.once("exit", () => child.kill());
  let text = "";
  const ready = new Promise((resolve, reject) => {
    child.stdout.on("data", (data) => {
      text += data;
      const [, ...words] = /^ready (\S+) (\S+) (\S+)$/m.exec(text) ?? [];
      if (words.length) resolve(words);
    });
    child.once("exit", () => reject(new Error(`the server ended: ${text}`)));
  });
  const [at, pin, hash] = await within(ready, "the server's start", 60000);
  current = { url: `https://${at}/echostream`, serverCertificateHashes: [hash] };
  return { address: at, pin, hash, stop: (signal = "SIGTERM") => (child.kill(signal), ended) };
}

let server = await start("127.0.0.1:0");
const port = server.address.split(":")[1];
const spki = Buffer.from(server.pin.replace("sha256:", ""), "hex").toString("base64");
const browser = await launch(name, resolve(modules), [
  `--origin-to-force-quic-on=localhost:${port}`, `--ignore-certificate-errors-spki-list=${spki}`,
  "--host-resolver-rules=MAP localhost 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]);
console.log(`browser ${browser.version}`);

let page;

async function fresh() {
  await page?.close().catch(() => {}); // it may have crashed
  page = await browser.open(`${pages.origin}/blank.html`);
  await page.waitForFunction("window.loaded");
  return page;
}

/** Runs a function in the page; what it throws comes with its stack, which not every driver says. */
async function evaluate(fn, ...args) {
  const running = page.evaluate(`(async () => {
    try {
      return { value: await (${fn})(...${JSON.stringify(args)}) };
    } catch (error) {
      return { error: String(error) + " " + error?.stack };
    }
  })()`);
  running.catch(() => {});
  const { value, error } = await Promise.race([running, page.crashed]);
  if (error) throw new Error(error);
  return value;
}

/** The same with a new client, which is closed afterwards. */
async function inPage(fn, ...args) {
  await evaluate(async () => void (window.client = await window.connect()));
  try {
    return await evaluate(fn, ...args);
  } finally {
    await evaluate(() => window.client.close());
  }
}

/**
 * Chromium (156) now and then loses the page's process when a session is closed by the server just after a stream of it has ended. Such a
 * check is done again in a new page.
 */
const again = (checks) => Object.fromEntries(Object.entries(checks).map(([what, check]) => [what, async () => {
  for (let times = 1; ; times++) {
    try {
      return await check();
    } catch (error) {
      if (!(error instanceof Crash) || times === 5) throw error;
      console.log(`again ${what}: ${error.message}`);
      await fresh();
    }
  }
}]));

/** `node run.mjs … WORD`: only the checks whose names have it. */
const chosen = (checks) => Object.fromEntries(Object.entries(checks).filter(([what]) => what.includes(word)));

const http = name !== "chromium" ? {} : {
  async "fetch speaks HTTP/3"() {
    const got = await evaluate(async (url) => {
      const answer = await fetch(`${url}/hello?x=1`);
      const text = await answer.text();
      const entry = performance.getEntriesByName(`${url}/hello?x=1`)[0];
      return { status: answer.status, text, protocol: entry?.nextHopProtocol };
    }, `https://localhost:${port}`);
    assert.deepEqual(got, { status: 200, text: "GET /hello?x=1", protocol: "h3" });
  },
  async "fetch posts ten megabytes"() {
    const length = await evaluate(async (url) => (await fetch(url, { method: "POST", body: "x".repeat(10_000_000) })).text(), `https://localhost:${port}/length`);
    assert.equal(length, "10000000");
  },
  async "fetch hears that ten megabytes are too many"() {
    const got = await evaluate(async (url) => {
      const answer = await fetch(url, { method: "POST", body: "x".repeat(10_000_000) });
      return { status: answer.status, code: (await answer.json()).error.code };
    }, `https://localhost:${port}/limited`);
    assert.deepEqual(got, { status: 413, code: "resource_exhausted" });
  },
};

const webtransport = {
  async "a call"() {
    assert.equal(await inPage(() => client.request("math.add", 10, 20)), 30);
  },
  async "the session has a door and credentials"() {
    const got = await evaluate(async () => {
      const client = await connect({ metadata: { name: "ann" } });
      const got = await client.requestAll("session.door");
      client.close();
      return got;
    });
    assert.deepEqual(got, ["webtransport", "ann"]);
  },
  async "values of every kind, and a megabyte"() {
    const got = await inPage(async () => {
      const { Float } = window.echo;
      const kinds = await client.request("kinds", 1, new Float(1), 1.5, "text", true, [1], { a: 1 }, 2n ** 60n);
      const back = await client.requestAll("echo", -1, "grüß €", [1, null, 2], { a: { b: 0.5 } });
      const big = "ä".repeat(500_000);
      return { kinds, back, big: await client.request("echo", big) === big, bytes: Array.from(await client.request("echo", new Uint8Array([255, 0]))) };
    });
    assert.deepEqual(got, {
      kinds: ["integer", "float", "float", "string", "boolean", "table", "table", "integer"],
      back: [-1, "grüß €", [1, null, 2], { a: { b: 0.5 } }], big: true, bytes: [255, 0],
    });
  },
  async "a thousand calls at once"() {
    assert.equal(await inPage(async () => {
      let sum = 0;
      const run = async (from) => {
        for (let i = from; i < 1000; i += 50) {
          const n = await client.request("math.add", i, 0);
          sum += n;
        }
      };
      await Promise.all(Array.from({ length: 50 }, (_, i) => run(i)));
      return sum;
    }), 499500);
  },
  async "metadata and trailers"() {
    assert.equal(await inPage(() => client.with({ metadata: { tenant: "t1" } }).request("metadata")), "t1");
  },
  async "errors have codes"() {
    const got = await inPage(async () => ({
      own: await code(client.request("fail")), none: await code(client.request("nobody")),
      details: await client.request("fail").catch((error) => error.details),
    }));
    assert.deepEqual(got.own, ["no_money", "poor", "yes"]);
    assert.equal(got.none[0], "method_not_found");
    assert.equal(got.none[2], "no");
    assert.deepEqual(got.details, { needed: 5 });
  },
  async "a deadline and an AbortSignal cancel the handler"() {
    const got = await inPage(async () => {
      const cancelled = async () => (await client.request("seen")).filter((word) => word === "cancelled").length;
      // On a machine that stands still a call may be given up before it is sent: then once more, with more time.
      const cancels = async (attempt) => {
        const before = await cancelled();
        for (let time = 200; ; time *= 2) {
          const [what] = await code(attempt(time));
          for (let i = 0; i < 20; i++) if (await cancelled() > before) return what;
        }
      };
      const late = await cancels((time) => client.with({ timeout: time }).request("slow"));
      const given = await cancels((time) => {
        const controller = new AbortController();
        setTimeout(() => controller.abort(), time);
        return client.with({ signal: controller.signal }).request("slow");
      });
      return [late, given];
    });
    assert.deepEqual(got, ["timeout", "cancelled"]);
  },
  async "the server calls the page"() {
    const got = await inPage(async () => {
      client.handle("page.greet", (info, name) => `${name} at ${document.title}`);
      client.handle("page.double", (info, n) => 2 * n);
      client.handle("page.fail", () => { throw new echo.EchoError("not_now", "later"); });
      return [await client.request("ask.page", "page.greet", "ann"), await client.request("ask.pages", 100), await code(client.request("ask.page", "page.fail")),
        (await code(client.request("ask.page", "page.nothing")))[0]];
    });
    assert.deepEqual(got.slice(0, 2), ["ann at echostream", 10100]);
    assert.deepEqual(got[2].slice(0, 2), ["not_now", "later"]);
    assert.equal(got[3], "method_not_found");
  },
  async "events, both ways, in order"() {
    const got = await inPage(async () => {
      const numbers = [];
      client.on("numbered", (info, n) => void numbers.push(n));
      await client.request("send.events", 200);
      await until(() => numbers.length === 200);
      for (let i = 0; i < 20; i++) client.emit("note", `note ${i}`);
      await until(async () => (await client.request("seen")).includes("note 19"));
      return { numbers, notes: (await client.request("seen")).filter((word) => word.startsWith("note ")) };
    });
    assert.deepEqual(got.numbers, Array.from({ length: 200 }, (_, i) => i + 1));
    assert.deepEqual(got.notes, Array.from({ length: 20 }, (_, i) => `note ${i}`));
  },
  async "events in datagrams, both ways"() {
    assert.ok(await inPage(async () => {
      let came = 0;
      client.on("moved", (info) => void (came += info.unreliable ? 1 : 0));
      await until(async () => { // unreliable by nature
        await client.with({ unreliable: true }).emit("move", 1);
        return came > 0;
      });
      return (await client.stats()).datagrams.received > 0;
    }));
  },
  async "a named stream"() {
    assert.equal(await inPage(async () => {
      const channel = await client.createStream("shout");
      await channel.send("one ");
      await channel.send("two");
      await channel.finish();
      let text = "";
      for await (const bytes of echo.iterate(channel.readable)) text += new TextDecoder().decode(bytes);
      await channel.result();
      return text;
    }), "ONE TWO");
  },
  async "streaming calls, both ways"() {
    const got = await inPage(async () => {
      const count = await client.stream("count", 1, 500);
      const numbers = [];
      for await (const n of echo.iterate(count.readable)) numbers.push(n);
      const sum = await client.stream("sum");
      for (let i = 1; i <= 100; i++) await sum.send(i);
      await sum.finish();
      client.handle("page.count", async (info, channel, to) => {
        for (let i = 1; i <= to; i++) await channel.send(i);
        return "counted";
      }, { stream: true });
      return { n: numbers.length, last: numbers[499], end: await count.result(), sum: await sum.result(), asked: await client.requestAll("ask.stream") };
    });
    assert.deepEqual(got, { n: 500, last: 500, end: "done", sum: 5050, asked: [[1, 2, 3], "counted"] });
  },
  async "a slow reader holds the server back"() {
    const [before, after] = await inPage(async () => {
      const channel = await client.stream("flood");
      const steady = async () => {
        let last;
        for (;;) {
          const now = await client.request("flooded");
          if (now !== undefined && now === last) return now;
          last = now;
          await new Promise((resolve) => setTimeout(resolve, 300));
        }
      };
      const before = await steady();
      const reader = channel.readable.getReader();
      for (let i = 0; i < 300; i++) await reader.read();
      const after = await client.request("flooded");
      await reader.cancel();
      return [before, after];
    });
    assert.ok(before < 300, `${before} messages were sent that nobody had read`);
    assert.ok(after > before);
  },
  async "topics"() {
    assert.deepEqual(await inPage(async () => {
      const got = [];
      const stop = client.subscribe("ticks", (n) => void got.push(n));
      await until(async () => {
        await client.request("tick", 1);
        return got.length > 0;
      });
      await client.request("tick", 2);
      await until(() => got.includes(2));
      stop();
      return got.slice(-1);
    }), [2]);
  },
  async "round trip and clock"() {
    const { rtt, offset } = await inPage(() => client.ping());
    assert.ok(rtt >= 0 && Math.abs(offset) < 2000);
  },
  async "the server's close has its reason"() {
    const got = await evaluate(async () => {
      const client = await connect();
      await client.request("close.me", "enough");
      const error = await client.closed;
      return [error.code, error.message];
    });
    assert.equal(got[0], "connection_closed");
    assert.match(got[1], /enough/);
  },
  async "a refusal has its code"() {
    const got = await evaluate(async () => {
      const error = await connect({ token: "wrong", reconnect: true }).then((client) => client.closed, (e) => e);
      return [error.code, error.message];
    });
    assert.deepEqual(got, ["unauthenticated", "that token is not known"]);
  },
  async "the page's close has its own code"() {
    const got = await inPage(async () => {
      const other = await connect();
      await other.request("math.add", 1, 1);
      other.close(7, "bye");
      await until(async () => (await client.request("seen")).some((what) => what.includes("bye")));
      return (await client.request("seen")).filter((what) => what.includes("bye"));
    });
    assert.deepEqual(got, [`closed ${0x107} the peer closed the connection: bye`]);
  },
  async "comes back after the server was restarted, and calls wait for it"() {
    await evaluate(async () => {
      window.client = await connect({ reconnect: true });
      client.on("numbered", () => void (window.numbered = (window.numbered ?? 0) + 1));
      client.handle("page.double", (info, n) => 2 * n);
      await client.request("math.add", 1, 1);
      window.states = [];
      client.onState((state) => window.states.push(state));
    });
    await server.stop();
    await evaluate(() => until(() => client.state === "reconnecting"));
    await evaluate(() => void (window.waiting = client.with({ timeout: 60000 }).request("math.add", 20, 22)));
    server = await start(server.address);
    const got = await evaluate(async () => {
      const sum = await window.waiting;
      await client.request("send.events", 3);
      await until(() => window.numbered === 3);
      const asked = await client.request("ask.page", "page.double", 21);
      client.close();
      return { sum, asked, connected: window.states.includes("connected"), again: client.reconnections };
    });
    assert.deepEqual(got, { sum: 42, asked: 42, connected: true, again: 1 });
  },
};

let failed = 0;
try {
  await fresh();
  failed += await run(chosen(http));
  failed += await run(chosen(again(webtransport)));
  await page.close();
  failed += await examples({ name, browser, root, screenshots: screenshots && join(screenshots, name), chosen });
} finally {
  await browser.close();
  await server.stop();
  pages.close();
  rmSync(state, { recursive: true, force: true });
}
process.exit(failed === 0 ? 0 : 1);
