// Sessions of the module over streams in memory: two of it talk to each other, and one to a peer that breaks rules.

import assert from "node:assert/strict";
import { webcrypto } from "node:crypto";
import { Client, EchoError, FrameReader, Results, Session, connect, encodeFrame, iterate, pack, unpack } from "../../examples/browser/echostream.js";
import { hex, run, unhex, within } from "./checks.mjs";
import { pair } from "./pair.mjs";

globalThis.crypto ??= webcrypto; // node 18
console.warn = console.error = () => {};
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// A client, and the other end of its connections as a second client, whose handlers `serve` registers.
async function both(serve = () => {}, options = {}, theirs = {}) {
  const server = new Client("https://server", theirs);
  serve(server);
  const made = [];
  const client = await connect("https://test", {
    ...options,
    open() {
      const [here, there] = pair(made.length * 2 + 1);
      made.push({ here, there });
      const session = new Session(there, server);
      server.session = session;
      server.state = "connected";
      session.start(5000).catch(() => {});
      return here;
    },
  });
  await within(until(() => server.session.hello), "HELLO");
  return { client, server, made, last: () => made[made.length - 1] };
}

async function until(fn) {
  while (!fn()) await sleep(1);
}

// A client and the other end of its connection, raw: what the client's streams carry is read by `next`.
async function raw(options = {}) {
  const [here, there] = pair();
  const incoming = there.incomingUnidirectionalStreams.getReader();
  const connecting = connect("https://test", { ...options, open: () => here });
  connecting.catch(() => {});
  const control = (await there.createUnidirectionalStream()).getWriter();
  const reader = new FrameReader((await incoming.read()).value, 1 << 20);
  assert.equal(await reader.varint(), 0);
  const hello = await reader.next();
  const exchanges = there.incomingBidirectionalStreams.getReader();
  return {
    hello, control, reader, there, here, connecting, incoming,
    greet: async (parts = {}) => {
      await control.write(Uint8Array.of(0));
      await control.write(encodeFrame({ type: "hello", caps: 12, instance: new Uint8Array(16), ...parts }));
      return connecting;
    },
    next: async () => {
      const { readable, writable } = (await exchanges.read()).value;
      return { reader: new FrameReader(readable, 1 << 20), writer: writable.getWriter() };
    },
  };
}

const fails = (code, processed) => (error) => error instanceof EchoError && error.code === code && (processed === undefined || error.processed === processed);

const checks = {
  async "says HELLO with its credentials"() {
    const peer = await raw({ token: "s3cret", metadata: { name: "ann" } });
    assert.equal(peer.hello.type, "hello");
    assert.deepEqual(peer.hello.credentials, { name: "ann", token: "s3cret" });
    assert.equal(peer.hello.caps, 12);
    const client = await peer.greet();
    assert.equal(client.state, "connected");
    client.close();
    assert.deepEqual(peer.there.info ?? peer.here.info, { closeCode: 0, reason: "" });
  },

  async "sends the golden request"() {
    const peer = await raw();
    const client = await peer.greet();
    const call = client.with({ idempotent: true, timeout: 30000 }).request("math.add", 10, 20);
    const { reader, writer } = await peer.next();
    const request = await reader.next();
    assert.ok(request.deadlineMs > 29000 && request.deadlineMs <= 30000);
    assert.equal(hex(encodeFrame({ ...request, deadlineMs: 30000 })), "02150401" + "01086d6174682e616464" + "80007530" + "0300920a14");
    assert.equal(await reader.next(), undefined);
    await writer.write(unhex("04 06 00 01 00 00 911e"));
    writer.close();
    assert.equal(await call, 30);
    client.close();
  },

  async "calls, with every result"() {
    const { client } = await both((server) => {
      server.handle("math.add", (_, a, b) => a + b);
      server.handle("many", () => new Results(1, null, "three"));
      server.handle("none", () => {});
      server.handle("echo", (_, ...args) => new Results(...args));
    });
    assert.equal(await client.request("math.add", 10, 20), 30);
    assert.deepEqual(await client.requestAll("many"), [1, null, "three"]);
    assert.equal(await client.request("none"), undefined);
    const big = "x".repeat(300000);
    assert.deepEqual(await client.requestAll("echo", big, { a: [1.5, null] }, new Uint8Array([255])), [big, { a: [1.5, null] }, new Uint8Array([255])]);
    const answers = await Promise.all(Array.from({ length: 100 }, (_, i) => client.request("math.add", i, i)));
    assert.deepEqual(answers, Array.from({ length: 100 }, (_, i) => 2 * i));
    client.close();
  },

  async "the other side calls, while a call of ours waits for it"() {
    const { client, server } = await both();
    client.handle("page.title", () => "title");
    server.handle("what.is.the.title", () => server.session.request("page.title", [], {}).then(([title]) => `it is ${title}`));
    assert.equal(await client.request("what.is.the.title"), "it is title");
    client.close();
  },

  async "errors keep code, message, details and processed"() {
    const { client } = await both((server) => {
      server.handle("own", () => { throw new EchoError("no_money", "poor", { details: { needed: 5 }, retryAfter: 250 }); });
      server.handle("broken", () => { throw new Error("oops"); });
    });
    await assert.rejects(client.request("own"), (error) => fails("no_money", "yes")(error) && error.message === "poor" && error.details.needed === 5
      && error.retryAfter === 250);
    await assert.rejects(client.request("broken"), fails("internal", "yes"));
    await assert.rejects(client.request("nobody"), fails("method_not_found", "no"));
    await assert.rejects(client.request("not a name"), TypeError);
    client.close();
  },

  async "a deadline ends the call here and cancels it there"() {
    let signal;
    const { client } = await both((server) => server.handle("slow", (info) => {
      signal = info.signal;
      return new Promise((resolve) => signal.addEventListener("abort", resolve));
    }));
    // On a machine that stands still for a moment the time may be over before the call is sent.
    for (let time = 20; !signal; time *= 2) await assert.rejects(client.with({ timeout: time }).request("slow"), fails("timeout"));
    await until(() => signal.aborted);
    assert.equal(signal.reason.code, "timeout");
    client.close();
  },

  async "an AbortSignal cancels, before and while it runs"() {
    let signal;
    const { client } = await both((server) => server.handle("slow", (info) => {
      signal = info.signal;
      return new Promise(() => {});
    }));
    const controller = new AbortController();
    const call = client.with({ signal: controller.signal }).request("slow");
    await until(() => signal);
    controller.abort();
    await assert.rejects(call, fails("cancelled"));
    await until(() => signal.aborted);
    assert.equal(signal.reason.code, "cancelled");
    await assert.rejects(client.with({ signal: controller.signal }).request("slow"), fails("cancelled", "no"));
    client.close();
  },

  async "a CANCEL that overtakes its request is heeded"() {
    const peer = await raw();
    const client = await peer.greet();
    let ran = false;
    client.handle("run", () => { ran = true; });
    await peer.control.write(encodeFrame({ type: "cancel", requestId: 9 }));
    await until(() => client.session._cancelledEarly.has(9));
    const stream = await peer.there.createBidirectionalStream();
    const writer = stream.writable.getWriter();
    await writer.write(encodeFrame({ type: "request", requestId: 9, method: "run", payload: pack([]) }));
    const answer = await new FrameReader(stream.readable, 1000).next();
    assert.equal(answer.code, "cancelled");
    assert.equal(ran, false);
    client.close();
  },

  async "events arrive in order, one after another, both ways"() {
    const got = [];
    let running = 0;
    const { client, server } = await both((s) => s.on("log", async (info, n) => {
      assert.equal(++running, 1);
      await sleep(n % 3);
      running--;
      got.push([info.seq, n]);
    }));
    for (let i = 0; i < 30; i++) client.emit("log", i);
    await until(() => got.length === 30);
    assert.deepEqual(got, Array.from({ length: 30 }, (_, i) => [i, i]));
    const heard = new Promise((resolve) => client.on("news", (info, text) => resolve([info.metadata.from, text])));
    await server.session.emit("news", ["hello"], { metadata: { from: "here" } });
    assert.deepEqual(await heard, ["here", "hello"]);
    client.close();
  },

  async "datagram events: lost ones are counted, repeated ones dropped"() {
    const got = [];
    const { client, server, last } = await both((s) => s.on("move", (info, x) => void got.push([info.seq, x, info.unreliable])));
    let number = 0;
    last().here.lose = () => number++ === 1;
    for (let i = 0; i < 4; i++) await client.with({ unreliable: true }).emit("move", i);
    await until(() => got.length === 3);
    assert.deepEqual(got, [[0, 0, true], [2, 2, true], [3, 3, true]]);
    assert.equal(server.session.datagrams.missing, 1);
    server.session._datagram(encodeFrame({ type: "event", name: "move", seq: 3, payload: pack([3]) }, true));
    assert.equal(got.length, 3);
    assert.equal(server.session.datagrams.repeated, 1);
    await assert.rejects(client.with({ unreliable: true }).emit("move", "x".repeat(2000)), fails("resource_exhausted"));
    client.close();
  },

  async "named streams carry messages both ways and end in order"() {
    const { client } = await both((server) => server.handleStream("shout", async (_, channel) => {
      for await (const bytes of iterate(channel.readable)) await channel.send(new TextDecoder().decode(bytes).toUpperCase());
    }));
    const channel = await client.createStream("shout");
    assert.deepEqual(await channel.head, {});
    await channel.send("one");
    await channel.send("two");
    await channel.finish();
    const got = [];
    for await (const bytes of iterate(channel.readable)) got.push(new TextDecoder().decode(bytes));
    assert.deepEqual(got, ["ONE", "TWO"]);
    assert.equal(await channel.result(), undefined);
    client.close();
  },

  async "streaming calls have arguments, messages and results"() {
    const { client } = await both((server) => {
      server.handle("count", async (_, channel, from, to) => {
        for (let i = from; i <= to; i++) await channel.send(i, { seq: i });
        return "done";
      }, { stream: true });
      server.handle("sum", async (_, channel) => {
        let sum = 0;
        for await (const n of iterate(channel.readable)) sum += n;
        return sum;
      }, { stream: true });
    });
    const count = await client.with({ frames: true }).stream("count", 3, 40);
    const got = [];
    for await (const { data, seq } of iterate(count.readable)) got.push([data, seq]);
    assert.equal(got.length, 38);
    assert.deepEqual(got[37], [40, 40]);
    assert.equal(await count.result(), "done");
    const sum = await client.stream("sum");
    for (const n of [1, 2, 3]) await sum.send(n);
    await sum.finish();
    assert.equal(await sum.result(), 6);
    const nobody = await client.stream("nobody");
    await assert.rejects(nobody.result(), fails("method_not_found", "no"));
    client.close();
  },

  async "a slow reader holds the sender back"() {
    let sent = 0;
    const { client } = await both((server) => server.handle("flood", async (info, channel) => {
      const piece = "x".repeat(10000);
      while (!info.signal.aborted && sent < 1000) {
        await channel.send(piece);
        sent++;
      }
    }, { stream: true }));
    const channel = await client.stream("flood");
    await sleep(100);
    const before = sent;
    assert.ok(before < 100, `${before} messages sent, nobody read one`);
    const reader = channel.readable.getReader();
    for (let i = 0; i < 200; i++) await reader.read();
    assert.ok(sent >= 190, `${sent} sent, 200 read`);
    await reader.cancel();
    client.close();
  },

  async "a stream that is reset tells its handler the code"() {
    let reason;
    const { client } = await both((server) => server.handleStream("hold", (info) => new Promise((resolve) => info.signal.addEventListener("abort", () => {
      reason = info.signal.reason;
      resolve();
    }))));
    const channel = await client.createStream("hold");
    await channel.head;
    channel.cancel(7);
    await until(() => reason);
    assert.equal(reason.details.reset, 7);
    await assert.rejects(channel.result(), fails("cancelled"));
    client.close();
  },

  async "close codes arrive, and calls under way fail"() {
    let running = false;
    const { client, server } = await both((s) => s.handle("hang", () => {
      running = true;
      return new Promise(() => {});
    }));
    const call = client.request("hang");
    call.catch(() => {});
    await until(() => running);
    server.session.transport.close({ closeCode: 0x100 + 9, reason: "enough" });
    await assert.rejects(call, fails("connection_closed", "maybe"));
    const error = await client.closed;
    assert.deepEqual(error.details, { closeCode: 265, reason: "enough" });
    await assert.rejects(client.request("hang"), fails("connection_closed", "no"));
  },

  async "a refusal has the server's code, and is final"() {
    const peer = await raw({ reconnect: true });
    const client = await peer.greet();
    peer.there.close({ closeCode: 0x11, reason: "unauthenticated: the token has expired" });
    const error = await client.closed;
    assert.equal(error.code, "unauthenticated");
    assert.equal(error.message, "the token has expired");
  },

  async "comes back, with its handlers, its topics and what waits"() {
    const published = [], states = [];
    const { client, server, made, last } = await both((s) => {
      s.handle("who", () => s.session.request("page.name", [], {}).then(([name]) => name));
      s.handleStream("topic:news", async (info, channel) => {
        await channel.send([`from ${made.length}`]);
        await new Promise((resolve) => info.signal.addEventListener("abort", resolve));
      }, { codec: "msgpack" });
    }, { reconnect: { first: 20 } });
    client.handle("page.name", () => "me");
    client.onState((state) => states.push(state));
    client.subscribe("news", (text) => void published.push(text));
    assert.equal(await client.request("who"), "me");
    await until(() => published.length === 1);
    last().here.cut();
    await until(() => client.state === "reconnecting");
    assert.equal(await client.request("who"), "me");
    await until(() => published.length === 2);
    assert.deepEqual(published, ["from 1", "from 2"]);
    assert.deepEqual(states.filter((s) => s !== "waiting"), ["reconnecting", "connected"]);
    assert.equal(client.reconnections, 1);
    assert.ok(server.session.hello);
    client.close();
    assert.equal(client.state, "closed");
  },

  async "gives up after as many attempts as were asked for"() {
    let dials = 0;
    const peer = await raw({ reconnect: { first: 1, attempts: 3 } });
    const client = await peer.greet();
    client.options.open = () => {
      dials++;
      const [here] = pair();
      here.ready = Promise.reject(new Error("nobody there"));
      return here;
    };
    peer.there.cut();
    assert.equal((await client.closed).code, "unavailable");
    assert.equal(dials, 3);
  },

  async "measures round trip and clock"() {
    const { client } = await both();
    const { rtt, offset } = await client.ping();
    assert.ok(rtt >= 0 && rtt < 5000);
    assert.ok(Math.abs(offset) < 5000);
    client.close();
  },

  async "closes on what the protocol forbids"() {
    const broken = async (code, break_) => {
      const peer = await raw();
      const client = await peer.greet();
      await break_(peer);
      await client.closed;
      assert.equal(peer.here.info.closeCode, code);
    };
    await broken(2, (peer) => peer.control.write(unhex("20 00"))); // an unknown even frame
    await broken(4, (peer) => peer.control.close());
    await broken(2, async (peer) => {
      const writer = (await peer.there.createUnidirectionalStream()).getWriter();
      await writer.write(Uint8Array.of(0));
    });
    await broken(2, async (peer) => {
      const { writable } = await peer.there.createBidirectionalStream();
      await writable.getWriter().write(encodeFrame({ type: "ping", t1: 1 }));
    });
    await broken(3, async (peer) => {
      const writer = (await peer.there.createUnidirectionalStream()).getWriter();
      await writer.write(unhex("01 0c bfffffff"));
    });
    const peer = await raw();
    await peer.control.write(unhex("00 11 01 05"));
    await assert.rejects(peer.connecting, fails("protocol"));
    assert.equal(peer.here.info.closeCode, 6);
  },

  async "requests over a limit, of a wrong kind or under an id in use are refused, and nothing else ends"() {
    const peer = await raw({ maxMessage: 1000, maxCalls: 1 });
    const client = await peer.greet();
    client.handle("plain", () => new Promise(() => {}));
    client.handle("streaming", () => {}, { stream: true });
    const ask = async (frame) => {
      const stream = await peer.there.createBidirectionalStream();
      const writer = stream.writable.getWriter();
      writer.closed.catch(() => {});
      writer.write(encodeFrame({ type: "request", payload: pack([]), ...frame })).catch(() => {});
      return new FrameReader(stream.readable, 1 << 20).next();
    };
    assert.equal((await ask({ requestId: 1, method: "plain", payload: new Uint8Array(50000) })).status, 8);
    assert.equal((await ask({ requestId: 2, method: "streaming" })).code, "invalid_argument");
    assert.equal((await ask({ requestId: 3, method: "plain", more: true, stream: true })).code, "invalid_argument");
    assert.equal((await ask({ requestId: 4, method: "plain", retry: true })).code, "failed_precondition");
    ask({ requestId: 5, method: "plain" });
    await until(() => client.session._serving.has(5));
    assert.equal((await ask({ requestId: 5, method: "plain" })).code, "already_exists");
    assert.equal((await ask({ requestId: 6, method: "plain" })).code, "resource_exhausted");
    assert.equal(client.state, "connected");
    client.close();
  },

  async "a message longer than the other side takes is not sent"() {
    const peer = await raw();
    const client = await peer.greet({ maxMessage: 100 });
    await assert.rejects(client.request("any", "x".repeat(200)), fails("resource_exhausted"));
    await assert.rejects(client.emit("any", "x".repeat(200)), fails("resource_exhausted"));
    client.close();
  },

  async "a server that never greets is given up"() {
    const [here] = pair();
    await assert.rejects(connect("https://test", { open: () => here, timeout: 20 }), fails("timeout"));
  },

  async "a server that says nothing any more is given up"() {
    const peer = await raw({ heartbeat: 10 });
    const client = await peer.greet();
    assert.equal((await client.closed).code, "connection_closed");
    const ping = await peer.reader.next();
    assert.equal(ping.type, "ping");
  },

  "values go through unchanged"() {
    assert.deepEqual(unpack(pack({ list: [1, 2.5, "x", null, true], deep: { er: [] } })), { list: [1, 2.5, "x", null, true], deep: { er: [] } });
  },
};

process.exit(await run(checks) === 0 ? 0 : 1);
