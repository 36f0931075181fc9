// A WebSocket visitor of node's package ws: runs every case against a server that echoes as backend.mjs does, one line each.
//   node websocket_visitor.mjs ws://127.0.0.1:8080/ws
import { createRequire } from "node:module";
import { connect } from "node:net";

const require = createRequire(import.meta.url);
let WebSocket;
try { WebSocket = require("ws"); } catch { WebSocket = require("/usr/share/nodejs/ws"); }

const url = process.argv[2];
const open = (path = "") => new Promise((done, fail) => {
  const ws = new WebSocket(url + path);
  ws.once("open", () => done(ws)).once("error", fail);
});
const next = (ws) => new Promise((done, fail) => ws.once("message", (data, binary) => done([data, binary])).once("close", fail));
const closed = (ws) => new Promise((done) => ws.once("close", (code, reason) => done([code, reason.toString()])));
const same = (a, b) => { if (a !== b) throw new Error(`wants ${b}, got ${a}`); };

const cases = {
  async text() {
    const ws = await open();
    ws.send("hello wörld");
    const [data, binary] = await next(ws);
    same(data.toString(), "hello wörld");
    same(binary, false);
    ws.close();
    await closed(ws);
  },
  async binary() {
    const ws = await open();
    const bytes = Buffer.alloc(1 << 20, 1).map((_, i) => i * 7);
    ws.send(bytes);
    const [data, binary] = await next(ws);
    same(binary, true);
    same(Buffer.compare(data, bytes), 0);
    ws.close();
    await closed(ws);
  },
  async fragments() {
    const ws = await open();
    for (let i = 0; i < 100; i++) ws.send("part " + i + ",", { fin: i === 99 });
    same((await next(ws))[0].toString(), [...Array(100).keys()].map((i) => "part " + i + ",").join(""));
    ws.close();
    await closed(ws);
  },
  async order() {
    const ws = await open();
    for (let i = 0; i < 1000; i++) ws.send(String(i));
    await new Promise((done, fail) => {
      let i = 0;
      ws.on("message", (data) => {
        if (data.toString() !== String(i)) fail(new Error("message " + i + " is " + data));
        if (++i === 1000) done();
      });
    });
    ws.close();
    await closed(ws);
  },
  async ping() {
    const ws = await open();
    const pong = new Promise((done) => ws.once("pong", (data) => done(data.toString())));
    ws.ping("are you there");
    same(await pong, "are you there");
    ws.close();
    await closed(ws);
  },
  async close_by_visitor() {
    const ws = await open();
    ws.close(4001, "that was it");
    same((await closed(ws))[0], 4001);
  },
  async close_by_backend() {
    const ws = await open();
    ws.send("close 4002");
    same((await closed(ws)).join(" "), "4002 as asked");
  },
  async broken_by_backend() {
    const ws = await open();
    ws.send("terminate");
    same((await closed(ws))[0], 1006);
  },
  async refused() {
    const ws = new WebSocket(url.replace("/ws", "/other"));
    same(await new Promise((done) => ws.once("unexpected-response", (_, res) => done(res.statusCode)).on("error", () => {})), 403);
  },
  async half_close() { // FIN after the last frame: the answer still comes
    const { hostname, port, pathname } = new URL(url);
    const socket = connect({ host: hostname, port, allowHalfOpen: true });
    socket.write(`GET ${pathname} HTTP/1.1\r\nHost: ${hostname}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n` +
      "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n");
    let text = Buffer.alloc(0), sent = false;
    await new Promise((done, fail) => {
      socket.on("data", (data) => {
        text = Buffer.concat([text, data]);
        if (!sent && text.includes("\r\n\r\n")) {
          sent = true;
          socket.write(Buffer.from([0x81, 0x82, 0, 0, 0, 0, 0x68, 0x69])); // "hi", masked with zeros
          socket.write(Buffer.from([0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8])); // close 1000
          socket.end();
        }
      }).on("end", done).on("error", fail);
    });
    same(text.subarray(text.indexOf("\r\n\r\n") + 4).toString("hex"), "81026869880203e8");
  },
};

let failed = 0;
for (const [name, run] of Object.entries(cases)) {
  let timer;
  try {
    await Promise.race([run(), new Promise((_, fail) => { timer = setTimeout(() => fail(new Error("nothing happened for 20 s")), 20000); })]);
    console.log("ok " + name);
  } catch (err) {
    failed++;
    console.log(`failed ${name}: ${err?.message ?? err}`);
  }
  clearTimeout(timer);
}
console.log(failed ? "failed" : "done");
process.exit(failed);
