// @ts-check
/**
 * The dashboard: what a server counts, shown live. It follows the streaming method `dashboard.watch`, whose messages are those of `rpc.stats`
 * with more beside them; from a server without it `rpc.stats` is asked once a second, and the rest stays empty.
 *
 * @typedef {{ name: string, kind: string, running?: number, count: number, errors?: number, times?: number[] }} Method  `times`: nanoseconds
 *   and how often, in turns, counted since the server began
 * @typedef {object} Snapshot
 * @property {number} time  seconds
 * @property {number} uptime
 * @property {number} sessions @property {number} sessions_total @property {number} running @property {number} refused @property {number} events
 * @property {number} bytes_in @property {number} bytes_out @property {number} packets_lost @property {number} memory
 * @property {Method[]} methods
 * @property {number} [streams]  open now
 * @property {{ name: string, length: number, limit?: number, dropped?: number }[]} [queues]
 * @property {{ name: string, state: string, detail?: string }[]} [breakers]  "closed", "open", "half_open"
 * @property {{ name: string, message?: string, since?: number }[]} [alerts]  those that fire
 * @property {{ id: any, peer: string, door?: string, rtt?: number, age?: number, calls?: number }[]} [session_list]  seconds
 */

import { EchoError, iterate } from "./echostream.js";
import { animate, by, plot, start } from "./page.js";

const SHOWN = 60; // seconds

/** @type {Snapshot | undefined} */
let previous;
/** @type {{ rate: [number, number][], p50: [number, number][], p90: [number, number][], p99: [number, number][] }} */
const history = { rate: [], p50: [], p90: [], p99: [] };
/** Of the server's clock and ours, for charts that move on between two snapshots. */
let latest = { server: 0, here: 0 };

/** What came in between: nanoseconds and how often. @param {number[]} now @param {number[]} before @returns {Map<number, number>} */
function between(now = [], before = []) {
  const difference = new Map();
  for (let i = 0; i < now.length; i += 2) difference.set(now[i], now[i + 1]);
  for (let i = 0; i < before.length; i += 2) difference.set(before[i], (difference.get(before[i]) ?? 0) - before[i + 1]);
  return difference;
}

/** @param {Map<number, number>} times @param {number} share @returns {number | undefined} seconds */
function percentile(times, share) {
  const sorted = [...times].filter(([, n]) => n > 0).sort(([a], [b]) => a - b);
  let left = sorted.reduce((sum, [, n]) => sum + n, 0) * share;
  for (const [time, n] of sorted) if ((left -= n) <= 1e-9) return time / 1e9;
  return undefined;
}

/** @param {number | undefined} seconds */
function duration(seconds) {
  if (seconds === undefined) return "–";
  if (seconds < 1e-3) return `${(seconds * 1e6).toFixed(0)} µs`;
  if (seconds < 1) return `${(seconds * 1e3).toFixed(seconds < 0.01 ? 1 : 0)} ms`;
  return `${seconds.toFixed(1)} s`;
}

/** @param {number} seconds */
function age(seconds) {
  const units = /** @type {[string, number][]} */ ([["d", 86400], ["h", 3600], ["min", 60], ["s", 1]]);
  const [unit, size] = units.find(([, n]) => seconds >= n) ?? units[3];
  return `${Math.floor(seconds / size)} ${unit}`;
}

/** @param {number} n */
function amount(n) {
  if (n >= 1e6) return `${(n / 1e6).toFixed(1)} M`;
  if (n >= 1e4) return `${(n / 1e3).toFixed(1)} k`;
  return n >= 100 || Number.isInteger(n) ? n.toFixed(0) : n.toFixed(1);
}

/** @param {number} n */
const bytes = (n) => n >= 1 << 20 ? `${(n / (1 << 20)).toFixed(1)} MiB` : n >= 1024 ? `${(n / 1024).toFixed(1)} KiB` : `${n.toFixed(0)} B`;

/** @param {string} name  one that begins with "bytes" is of bytes @param {number} length @param {number} [limit] */
function of(name, length, limit) {
  const say = name.startsWith("bytes") ? bytes : amount;
  return limit === undefined ? say(length) : `${say(length)} of ${say(limit)}`;
}

/** Text only: what peers call themselves is no HTML. @param {string} tag @param {any} text @param {string} [kind] */
function element(tag, text, kind = "") {
  const made = document.createElement(tag);
  made.textContent = String(text);
  made.className = kind;
  return made;
}

/** @param {string} id @param {any[][]} rows @param {string} none */
function table(id, rows, none) {
  by(id).replaceChildren(...rows.length ? rows.map((cells) => {
    const row = document.createElement("tr");
    row.append(...cells.map((cell, i) => element("td", cell, i === 0 && id === "methods" ? "name" : "")));
    return row;
  }) : [element("tr", "")]);
  if (!rows.length) by(id).firstChild.append(element("td", none, "none"));
}

/** @param {[number, number][]} points @param {number} at @param {number | undefined} value */
function remember(points, at, value) {
  if (value !== undefined) points.push([at, value]);
  while (points.length && points[0][0] < at - SHOWN - 5) points.shift();
}

/** Shows what came. @param {Snapshot} now */
export function show(now) {
  if (previous && now.time <= previous.time) return;
  if (previous && now.uptime < previous.uptime) previous = undefined; // another server
  const before = previous, seconds = before ? now.time - before.time : now.uptime;
  previous = now;
  latest = { server: now.time, here: performance.now() };
  const old = new Map(before?.methods.map((method) => [`${method.kind} ${method.name}`, method]));
  const all = new Map();
  let calls = 0, errors = 0;
  const rows = now.methods.map((method) => {
    const was = old.get(`${method.kind} ${method.name}`);
    const count = method.count - (was?.count ?? 0), failed = (method.errors ?? 0) - (was?.errors ?? 0);
    const times = between(method.times, was?.times);
    if (method.kind === "call") {
      calls += count;
      errors += failed;
      for (const [time, n] of times) all.set(time, (all.get(time) ?? 0) + n);
    }
    return { method, rate: count / seconds, failed: count ? failed / count : 0, times };
  }).filter(({ method }) => method.count > 0 || method.running || !method.name.startsWith("rpc."));
  rows.sort((a, b) => b.rate - a.rate || (a.method.name < b.method.name ? -1 : 1));

  const at = now.time;
  remember(history.rate, at, calls / seconds);
  remember(history.p50, at, percentile(all, 0.5));
  remember(history.p90, at, percentile(all, 0.9));
  remember(history.p99, at, percentile(all, 0.99));

  by("server").textContent = `up ${age(now.uptime)}, ${bytes(now.memory)} in the core`;
  by("calls").textContent = amount(calls / seconds);
  by("events").textContent = amount((now.events - (before?.events ?? 0)) / seconds);
  by("p99").textContent = duration(percentile(all, 0.99));
  by("errors").textContent = calls ? `${(100 * errors / calls).toFixed(1)} %` : "0 %";
  by("sessions").textContent = amount(now.sessions);
  by("running").textContent = amount(now.running);
  by("streams").textContent = now.streams === undefined ? "–" : amount(now.streams);
  table("methods", rows.slice(0, 40).map(({ method, rate, failed, times }) => [
    method.name, amount(rate), method.errors === undefined ? "" : `${(100 * failed).toFixed(failed && failed < 0.1 ? 1 : 0)} %`,
    duration(percentile(times, 0.5)), duration(percentile(times, 0.9)), duration(percentile(times, 0.99)), method.running ?? "", amount(method.count),
  ]), "no method was called");
  table("network", [
    ["in", `${bytes((now.bytes_in - (before?.bytes_in ?? 0)) / seconds)}/s`], ["out", `${bytes((now.bytes_out - (before?.bytes_out ?? 0)) / seconds)}/s`],
    ["packets lost", amount(now.packets_lost)], ["calls refused", amount(now.refused)], ["sessions in all", amount(now.sessions_total)],
  ], "");
  table("queues", (now.queues ?? []).map(({ name, length, limit, dropped }) => [
    name, of(name, length, limit), dropped ? `${dropped} dropped` : "",
  ]), "nothing waits");
  table("session-list", (now.session_list ?? []).slice(0, 30).map(({ id, peer, door, rtt, age: since }) => [
    id, peer, door ?? "", duration(rtt), since === undefined ? "" : age(since),
  ]), "not told");
  tags("breakers", (now.breakers ?? []).map(({ name, state, detail }) => ({
    text: `${name}: ${state.replace("_", " ")}${detail ? `, ${detail}` : ""}`, kind: state === "closed" ? "good" : state === "open" ? "bad" : "warn",
  })), "none");
  tags("alerts", (now.alerts ?? []).map(({ name, message, since }) => ({
    text: `${name}${message ? `: ${message}` : ""}${since === undefined ? "" : ` (${age(since)})`}`, kind: "bad",
  })), "none");
  document.body.dataset.snapshots = String(Number(document.body.dataset.snapshots ?? 0) + 1);
}

/** @param {string} id @param {{ text: string, kind: string }[]} list @param {string} none */
function tags(id, list, none) {
  by(id).replaceChildren(...list.length ? list.map(({ text, kind }) => element("span", text, `tag ${kind}`)) : [element("p", none, "none")]);
}

const pause = (/** @type {number} */ ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** @param {import("./echostream.js").Client} client */
async function follow(client) {
  let streaming = true;
  while (client.state !== "closed") {
    try {
      if (streaming) {
        const channel = await client.stream("dashboard.watch");
        for await (const snapshot of iterate(channel.readable)) show(snapshot);
      } else {
        show(await client.with({ timeout: 5000 }).request("rpc.stats"));
      }
    } catch (error) {
      if (error instanceof EchoError && error.code === "method_not_found") streaming = false;
    }
    await pause(1000);
  }
}

follow(await start());
let drawn = 0;
animate((now) => {
  if (now - drawn < 100) return;
  drawn = now;
  const to = latest.server + (latest.here ? (now - latest.here) / 1000 : 0), from = to - SHOWN;
  plot(by("rate-chart"), [{ points: history.rate, colour: "a", fill: true }], { from, to, low: 0, format: amount });
  plot(by("time-chart"), [{ points: history.p99, colour: "b" }, { points: history.p90, colour: "a" }, { points: history.p50, colour: "c" }],
    { from, to, low: 0, format: duration });
});
