// A backend of HTTP/1.1 with every habit that specs want, and WebSockets (package ws) at /ws.
//   node backend.mjs [PORT or PATH]      prints "ready PORT"; ends when its standard input does
import { createServer } from "node:http";
import { createRequire } from "node:module";

const require = createRequire(import.meta.url);
let ws;
try { ws = require("ws"); } catch { ws = require("/usr/share/nodejs/ws"); } // Debian's node-ws, for a node of other origin
const { WebSocketServer } = ws;
let aborted = 0, open = 0, seen = [];
const routes = {
  "/hello": (req, res) => res.end("hello"),
  "/echo": (req, res) => {
    res.writeHead(200, { "content-type": req.headers["content-type"] ?? "application/octet-stream" });
    req.pipe(res);
  },
  "/head": (req, res) => res.end(JSON.stringify({ method: req.method, url: req.url, headers: req.headers, raw: req.rawHeaders })),
  "/count": (req, res) => { // the bytes of the body, counted
    let n = 0;
    req.on("data", (chunk) => (n += chunk.length)).on("end", () => res.end(String(n)));
  },
  "/big": (req, res) => { // ?bytes=N, as fast as they are taken
    let left = Number(new URL(req.url, "http://x").searchParams.get("bytes"));
    res.setHeader("content-length", left);
    const piece = Buffer.alloc(65536, "x");
    const more = () => {
      while (left > 0) {
        const n = Math.min(left, piece.length);
        left -= n;
        if (!res.write(n === piece.length ? piece : piece.subarray(0, n))) return res.once("drain", more);
      }
      res.end();
    };
    more();
  },
  "/events": (req, res) => { // one event at once, each further one when /next is asked for
    res.writeHead(200, { "content-type": "text/event-stream" });
    res.write("data: 0\n\n");
    events.add(res);
    res.on("close", () => events.delete(res));
  },
  "/next": (req, res) => {
    for (const one of events) one.write(`data: ${process.hrtime.bigint()}\n\n`);
    res.end(String(events.size));
  },
  "/trailers": (req, res) => {
    res.writeHead(200, { trailer: "x-sum" });
    res.write("body");
    res.addTrailers({ "x-sum": "42" });
    res.end();
  },
  "/hints": (req, res) => {
    res.writeEarlyHints({ link: "</a.css>; rel=preload; as=style" });
    res.end("after hints");
  },
  "/early": (req, res) => { // answers without reading the body
    res.writeHead(413, { "content-length": 9, connection: "close" });
    res.end("too large");
  },
  "/hang": () => {}, // never answers
  "/die": (req) => req.socket.destroy(), // before the head
  "/cut": (req, res) => { // in the middle of the body
    res.writeHead(200, { "content-length": 1000 });
    res.write("half", () => req.socket.destroy());
  },
  "/status": (req, res) => res.writeHead(Number(new URL(req.url, "http://x").searchParams.get("code"))).end(),
  "/stats": (req, res) => res.end(JSON.stringify({ aborted, open: open - 1, seen })),
  "/exit": () => process.exit(0),
};
const events = new Set();

const server = createServer({ keepAliveTimeout: 60000, requestTimeout: 0, headersTimeout: 0 }, (req, res) => {
  open++;
  res.on("close", () => {
    open--;
    if (!res.writableFinished) aborted++;
  });
  req.on("error", () => {});
  const path = req.url.split("?")[0];
  if (path !== "/stats") seen.push(`${req.method} ${req.url}`);
  (routes[path] ?? ((_, res) => res.writeHead(404).end("no such path")))(req, res);
});
server.on("checkContinue", (req, res) => {
  if (req.headers["x-refuse"]) return res.writeHead(417).end();
  res.writeContinue();
  server.emit("request", req, res);
});

const sockets = new WebSocketServer({ noServer: true, allowHalfOpen: true });
server.on("upgrade", (req, socket, head) => {
  socket.on("error", () => {});
  if (!req.url.startsWith("/ws")) {
    socket.end("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno");
    return;
  }
  sockets.handleUpgrade(req, socket, head, (ws) => {
    ws.on("message", (data, binary) => {
      if (!binary && data.toString().startsWith("close ")) ws.close(Number(data.toString().slice(6)), "as asked");
      else if (!binary && data.toString() === "terminate") ws.terminate();
      else ws.send(data, { binary });
    });
    ws.on("error", () => {});
  });
});

const at = process.argv[2] ?? "0";
const ready = () => console.log("ready " + (server.address().port ?? at));
if (at.startsWith("/")) server.listen(at, ready);
else server.listen(Number(at), "127.0.0.1", ready);
process.stdin.on("end", () => process.exit(0)).resume();
