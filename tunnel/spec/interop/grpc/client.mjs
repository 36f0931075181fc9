// The cases of gRPC's interop tests with @grpc/grpc-js: node client.mjs HOST:PORT [case...]
// Prints "ok CASE" or "not ok CASE: why" for each; the exit code is the number that failed.
import assert from "node:assert/strict";
import { grpc, service, encode } from "./service.mjs";

const [address, ...wanted] = process.argv.slice(2);
const Client = grpc.makeGenericClientConstructor(service, "Test");
const options = { "grpc.max_receive_message_length": -1 };
const credentials = process.env.CA
  ? grpc.credentials.createSsl(Buffer.from((await import("node:fs")).readFileSync(process.env.CA)))
  : grpc.credentials.createInsecure();
const client = new Client(address, credentials, options);
const sizes = { up: [27182, 8, 1828, 45904], down: [31415, 9, 2653, 58979] };

// A unary call or one with a stream of requests, to its end.
const unary = (name, message, { metadata = new grpc.Metadata(), deadline = 60000, with: c = client } = {}) =>
  new Promise((resolve) => {
    const out = {};
    const call = c[name](message, metadata, { deadline: Date.now() + deadline }, (err, value) => ((out.err = err), (out.value = value)));
    call.on("metadata", (m) => (out.initial = m)).on("status", (s) => ((out.status = s), setImmediate(resolve, out)));
  });
// What a stream of answers ends with.
const ended = (call) =>
  new Promise((resolve) => {
    const out = { messages: [] };
    call.on("data", (m) => out.messages.push(m.length)).on("error", (e) => (out.err = e)).on("metadata", (m) => (out.initial = m));
    call.on("status", (s) => ((out.status = s), setImmediate(resolve, out)));
  });
const next = (call) => new Promise((resolve, reject) => call.once("data", resolve).once("error", reject));
const stats = async () => JSON.parse((await unary("Stats", Buffer.alloc(0))).value);
const cancellations = async () => (await stats()).cancelled;
const until = async (condition) => {
  const end = Date.now() + 30000;
  while (!(await condition())) {
    assert(Date.now() < end, "the server did not see it");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
};

const cases = {
  async empty_unary() {
    const r = await unary("EmptyCall", Buffer.alloc(0));
    assert.equal(r.value.length, 0);
    assert.equal(r.status.code, 0);
  },
  async large_unary() {
    const r = await unary("UnaryCall", encode({ size: 314159 }, 271828));
    assert.equal(r.value.length, 314159);
  },
  async client_streaming() {
    const r = await new Promise((resolve) => {
      const call = client.StreamingInput((err, value) => resolve({ err, value }));
      for (const n of sizes.up) call.write(encode({}, n));
      call.end();
    });
    assert.equal(String(r.value), "74922");
  },
  async server_streaming() {
    const r = await ended(client.StreamingOutput(encode({ sizes: sizes.down })));
    assert.deepEqual(r.messages, sizes.down);
    assert.equal(r.status.code, 0);
  },
  async ping_pong() {
    const call = client.FullDuplex();
    const over = ended(call);
    for (let i = 0; i < 4; i++) {
      const pong = next(call);
      call.write(encode({ sizes: [sizes.down[i]] }, sizes.up[i]));
      assert.equal((await pong).length, sizes.down[i]);
    }
    call.end();
    assert.equal((await over).status.code, 0);
  },
  async empty_stream() {
    const call = client.FullDuplex();
    call.end();
    const r = await ended(call);
    assert.deepEqual(r.messages, []);
    assert.equal(r.status.code, 0);
  },
  async compressed() {
    const gzip = new Client(address, credentials, { ...options, "grpc.default_compression_algorithm": 2 });
    const r = await unary("UnaryCall", encode({ size: 314159 }, 271828), { with: gzip });
    assert.equal(r.value.length, 314159);
    const s = await ended(gzip.StreamingOutput(encode({ sizes: sizes.down })));
    assert.deepEqual(s.messages, sizes.down);
    gzip.close();
  },
  async custom_metadata() {
    const metadata = new grpc.Metadata();
    metadata.set("x-grpc-test-echo-initial", "test_initial_metadata_value");
    metadata.set("x-grpc-test-echo-trailing-bin", Buffer.from([0xab, 0xab, 0xab, 0, 10, 13]));
    const check = (r) => {
      assert.equal(r.initial.get("x-grpc-test-echo-initial")[0], "test_initial_metadata_value");
      assert.deepEqual([...r.status.metadata.get("x-grpc-test-echo-trailing-bin")[0]], [0xab, 0xab, 0xab, 0, 10, 13]);
    };
    check(await unary("UnaryCall", encode({ size: 314159 }, 271828), { metadata }));
    const call = client.FullDuplex(metadata);
    const over = ended(call);
    call.write(encode({ sizes: [10] }));
    call.end();
    check(await over);
  },
  async status_code_and_message() {
    const status = { code: 2, message: "test status message" };
    const r = await unary("UnaryCall", encode({ status }));
    assert.equal(r.status.code, 2);
    assert.equal(r.status.details, status.message);
    const call = client.FullDuplex();
    const over = ended(call);
    call.write(encode({ status }));
    call.end();
    const s = await over;
    assert.equal(s.status.code, 2);
    assert.equal(s.status.details, status.message);
  },
  async special_status_message() {
    const status = { code: 2, message: "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n" };
    const r = await unary("UnaryCall", encode({ status }));
    assert.equal(r.status.code, 2);
    assert.equal(r.status.details, status.message);
  },
  async unimplemented_method() {
    const bytes = (b) => b;
    const r = await new Promise((resolve) => client.makeUnaryRequest("/echo.Test/Nope", bytes, bytes, Buffer.alloc(0), (err) => resolve(err)));
    assert.equal(r.code, grpc.status.UNIMPLEMENTED);
  },
  async unimplemented_service() {
    const bytes = (b) => b;
    const r = await new Promise((resolve) => client.makeUnaryRequest("/no.Such/Nope", bytes, bytes, Buffer.alloc(0), (err) => resolve(err)));
    assert.equal(r.code, grpc.status.UNIMPLEMENTED);
  },
  async cancel_after_begin() {
    const before = await stats();
    let over;
    const result = new Promise((resolve) => (over = resolve));
    const call = client.StreamingInput((err) => over(err));
    call.write(encode({ hold: true }, 10));
    await until(async () => (await stats()).begun > before.begun);
    call.cancel();
    assert.equal((await result).code, grpc.status.CANCELLED);
    await until(async () => (await cancellations()) > before.cancelled);
  },
  async cancel_after_first_response() {
    const before = await cancellations();
    const call = client.FullDuplex();
    const over = ended(call);
    const first = next(call);
    call.write(encode({ sizes: [31415], hold: true }, 27182));
    assert.equal((await first).length, 31415);
    call.cancel();
    assert.equal((await over).status.code, grpc.status.CANCELLED);
    await until(async () => (await cancellations()) > before);
  },
  async timeout_on_sleeping_server() {
    const call = client.FullDuplex({ deadline: Date.now() + 50 });
    const over = ended(call);
    call.write(encode({}, 27182)); // is not answered
    assert.equal((await over).status.code, grpc.status.DEADLINE_EXCEEDED);
  },
  async many_at_once() {
    const all = [];
    for (let i = 0; i < 200; i++) all.push(unary("UnaryCall", encode({ size: i * 100 }, i)));
    (await Promise.all(all)).forEach((r, i) => assert.equal(r.value.length, i * 100));
  },
};

let failed = 0;
for (const [name, run] of Object.entries(cases)) {
  if (wanted.length && !wanted.includes(name)) continue;
  try {
    await run();
    console.log("ok " + name);
  } catch (e) {
    failed++;
    console.log(`not ok ${name}: ${String(e.message ?? e).replace(/\s+/g, " ").slice(0, 300)}`);
  }
}
client.close();
process.exit(failed);
