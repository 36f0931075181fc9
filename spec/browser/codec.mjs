// The module's MessagePack and frames beside those of the C core:  node codec.mjs VECTORS.json
// VECTORS.json is made by spec/integration/browser_module_spec.lua: { values: [{ hex, js }], random: [hex], frames: [{ hex, js }] }.
// Prints `packed HEX` for each value, for the core to read, and checks as checks.mjs does.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import * as echo from "../../examples/browser/echostream.js";
import { hex, run, unhex } from "./checks.mjs";

const vectors = JSON.parse(readFileSync(process.argv[2], "utf8"));
const { Float, Timestamp, FrameReader, TooLarge, decodeDatagram, encodeFrame, pack, unpack } = echo;
const evaluate = (js) => new Function("Float", "Timestamp", "bytes", `return ${js}`)(Float, Timestamp, unhex);

// A stream of bytes in these pieces.
const pieces = (...parts) => new ReadableStream({
  start(controller) {
    parts.forEach((part) => controller.enqueue(part));
    controller.close();
  },
});

async function framesOf(...parts) {
  const reader = new FrameReader(pieces(...parts), 1 << 20);
  const frames = [];
  for (let frame; (frame = await reader.next());) frames.push(frame);
  return frames;
}

// What reading gives: a Float comes back as the number that it was.
const read = (value) => value instanceof Float ? value.value
  : Array.isArray(value) ? value.map(read)
  : value?.constructor === Object ? Object.fromEntries(Object.entries(value).map(([k, v]) => [k, read(v)])) : value;

const refused = (text) => (error) => error.code === "serialization" && error.message.includes(text);

const checks = {
  "reads what the core writes"() {
    for (const { hex: text, js } of vectors.values) assert.deepEqual(unpack(unhex(text)), read(evaluate(js)), js);
  },
  "writes the core's bytes again: random values"() {
    for (const text of vectors.random) assert.equal(hex(pack(unpack(unhex(text)))), text);
  },
  "has every form of integer"() {
    for (const n of [0, 127, 128, 255, 256, 65535, 65536, 2 ** 32 - 1, 2 ** 32, Number.MAX_SAFE_INTEGER, -1, -32, -33, -128, -129, -32768, -32769,
      -(2 ** 31), -(2 ** 31) - 1, Number.MIN_SAFE_INTEGER]) assert.equal(unpack(pack(n)), n);
    for (const n of [2n ** 53n, 2n ** 63n - 1n, -(2n ** 63n)]) assert.equal(unpack(pack(n)), n);
    assert.throws(() => pack(2n ** 63n), refused("64 bits"));
    assert.throws(() => unpack(unhex("cf8000000000000000")), refused("above"));
  },
  "keeps floats and negative zero"() {
    assert.equal(hex(pack(new Float(1))), "cb3ff0000000000000");
    assert.ok(Object.is(unpack(pack(-0)), -0));
    assert.ok(Number.isNaN(unpack(pack(NaN))));
    assert.equal(unpack(unhex("ca3f800000")), 1);
  },
  "gives bytes for strings that are no text"() {
    assert.deepEqual(unpack(unhex("a2ff00")), unhex("ff00"));
    assert.equal(unpack(unhex("c403e282ac")), "€");
    assert.equal(hex(pack(unhex("e282ac"))), "c403e282ac");
    assert.equal(unpack(pack("\uFEFFmark")), "\uFEFFmark");
  },
  "gives a Map for keys that are not all strings, and bears __proto__"() {
    assert.deepEqual(unpack(pack(new Map([[1, "a"], ["b", 2]]))), new Map([[1, "a"], ["b", 2]]));
    const value = unpack(unhex("81a95f5f70726f746f5f5f81a161 01"));
    assert.deepEqual(Object.keys(value), ["__proto__"]);
    assert.equal({}.a, undefined);
  },
  "refuses what the protocol refuses"() {
    assert.throws(() => unpack(unhex("0101")), refused("behind"));
    assert.throws(() => unpack(unhex("92 01")), refused("too early"));
    assert.throws(() => unpack(unhex("ddffffffff")), refused("too early"));
    assert.throws(() => unpack(unhex("dfffffffff")), refused("too early"));
    assert.throws(() => unpack(unhex("db7fffffff")), refused("too early"));
    assert.throws(() => unpack(unhex("82 01 02 01 03")), refused("twice"));
    assert.throws(() => unpack(unhex("81 c0 01")), refused("key"));
    assert.throws(() => unpack(unhex("81 cb7ff8000000000000 01")), refused("key"));
    assert.throws(() => unpack(unhex("c1")), refused("does not have"));
    assert.throws(() => unpack(unhex("d40500")), refused("extension"));
    assert.throws(() => unpack(unhex("d6ff")), refused("too early"));
    assert.throws(() => unpack(new Uint8Array()), refused("too early"));
    assert.throws(() => pack(() => 1), refused("function"));
    const cycle = [];
    cycle.push(cycle);
    assert.throws(() => pack(cycle), refused("nested"));
  },
  "bears 64 levels and no more"() {
    const nested = (n) => "91".repeat(n) + "01";
    assert.ok(unpack(unhex(nested(64))));
    assert.throws(() => unpack(unhex(nested(65))), refused("nested"));
  },
  "sends dates and extension types"() {
    const date = new Date("2024-02-29T12:34:56.789Z");
    assert.equal(unpack(pack(date)).toDate().getTime(), date.getTime());
    assert.equal(unpack(pack(new Date(-1500))).toDate().getTime(), -1500);
    class Point { constructor(x, y) { Object.assign(this, { x, y }); } }
    echo.extend(7, { class: Point, pack: (p) => [p.x, p.y], unpack: ([x, y]) => new Point(x, y) });
    assert.deepEqual(unpack(pack([new Point(1, 2)])), [new Point(1, 2)]);
  },
  "writes the core's frames"() {
    for (const { hex: text, js, datagram } of vectors.frames) assert.equal(hex(encodeFrame(evaluate(js), datagram)), text, js);
  },
  async "reads the core's frames, cut anywhere"() {
    for (const { hex: text, js, datagram } of vectors.frames) {
      const bytes = unhex(text), wanted = evaluate(js);
      const same = (frame) => {
        for (const key of Object.keys(wanted)) assert.deepEqual(frame[key], wanted[key], `${key} of ${js}`);
      };
      if (datagram) {
        same(decodeDatagram(bytes));
        continue;
      }
      for (let at = 0; at <= bytes.length; at++) {
        const frames = await framesOf(bytes.slice(0, at), bytes.slice(at), bytes);
        assert.equal(frames.length, 2);
        frames.forEach(same);
      }
      for (let at = 1; at < bytes.length; at++) await assert.rejects(framesOf(bytes.slice(0, at)), /ends (in the middle|before)/);
    }
  },
  async "skips unknown odd frames, refuses even ones"() {
    const ping = encodeFrame({ type: "ping", t1: 5 });
    assert.deepEqual(await framesOf(unhex("4041 4100" + "00".repeat(256)), ping), [{ type: "ping", t1: 5 }]);
    await assert.rejects(framesOf(unhex("4040 00")), /unknown frame type/);
    await assert.rejects(framesOf(unhex("0a03011000")), /bytes behind/);
    await assert.rejects(framesOf(unhex("02 15 10 01 01 086d6174682e616464 80007530 03 00 920a14")), /flags/);
    await assert.rejects(new FrameReader(pieces(unhex("08 9fffffff")), 1000).next(), (error) => error instanceof TooLarge);
    assert.equal(decodeDatagram(unhex("0a0110")), undefined);
    assert.equal(decodeDatagram(unhex("0c00")), undefined);
  },
};

for (const { js } of vectors.values) console.log(`packed ${hex(pack(evaluate(js)))}`);
process.exit(await run(checks) === 0 ? 0 : 1);
