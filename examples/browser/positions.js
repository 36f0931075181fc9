/** Positions in datagrams: what is lost and what is late, and how little of it is seen. */

import { animate, by, colour, fit, start } from "./page.js";

const movers = new Map(); // by id: where it was said to be, where it is drawn, its trail
const colours = ["a", "b", "c", "d"];
let arrivals = [], late = [], best = { rtt: Infinity, offset: 0 }, offset = 0, rtt = undefined, mine, pointer, n = 0;
const numbers = { highest: 0, got: [] };

function moved(id, x, y, number, at) {
  const now = performance.now();
  let m = movers.get(id);
  if (!m) movers.set(id, m = { x, y, shown: { x, y }, trail: [], number: -1 });
  m.heard = now;
  if (id !== mine && number > m.number) [m.x, m.y, m.number] = [x, y, number]; // a late one is old news
  arrivals.push(now);
  late.push(now + offset - at * 1000);
  if (late.length > 200) late.shift();
}

const client = await start((client) => {
  client.on("positions.moved", (info, id, x, y, number, total, at) => {
    numbers.highest = Math.max(numbers.highest, total);
    numbers.got.push(total);
    if (numbers.got.length > 300) numbers.got.shift();
    moved(id, x, y, number, at);
  });
});

async function join() {
  numbers.highest = 0;
  numbers.got = [];
  movers.clear();
  n = 0;
  mine = await client.request("positions.join");
  await impair();
}
async function impair() {
  by("drop-text").textContent = by("drop").value;
  by("hold-text").textContent = by("hold").value;
  await client.request("positions.impair", Number(by("drop").value) / 100, Number(by("hold").value) / 1000);
}
async function measure() {
  try {
    const sent = performance.now(), theirs = await client.with({ timeout: 2000, priority: 0 }).request("clock"), now = performance.now();
    rtt = now - sent;
    if (rtt <= best.rtt * 1.5) best = { rtt, offset: theirs * 1000 - (sent + now) / 2 };
    best.rtt *= 1.05; // an old measurement counts less and less
    offset = best.offset;
  } catch { /* it comes back */ }
}

for (const id of ["drop", "hold"]) by(id).addEventListener("input", () => impair().catch(() => {}));
await measure();
await join();
client.onState((state) => state === "connected" && measure().then(join).catch(() => {}));
setInterval(measure, 1000);

by("field").addEventListener("pointermove", (event) => {
  const box = by("field").getBoundingClientRect();
  pointer = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
});
setInterval(() => { // where I am, thirty times a second
  if (!pointer || client.state !== "connected") return;
  client.with({ unreliable: true }).emit("positions.move", ...pointer, n++).catch(() => {});
}, 33);

const median = (list) => [...list].sort((a, b) => a - b)[list.length >> 1];
let told = 0;
animate((now) => {
  const { g, width, height } = fit(by("field"));
  g.fillStyle = colour("page");
  g.fillRect(0, 0, width, height);
  g.strokeStyle = colour("line");
  g.beginPath();
  for (let x = 40.5; x < width; x += 40) g.moveTo(x, 0), g.lineTo(x, height);
  for (let y = 40.5; y < height; y += 40) g.moveTo(0, y), g.lineTo(width, y);
  g.stroke();
  let i = 0;
  for (const [id, m] of movers) {
    if (now - m.heard > 3000 && id !== mine) movers.delete(id);
    const paint = colour(colours[i++ % colours.length]);
    if (id === mine && pointer) [m.x, m.y] = pointer;
    m.shown.x += (m.x - m.shown.x) * 0.35; // hides what is missing
    m.shown.y += (m.y - m.shown.y) * 0.35;
    m.trail.push([m.shown.x, m.shown.y]);
    if (m.trail.length > 40) m.trail.shift();
    g.strokeStyle = g.fillStyle = paint;
    g.lineWidth = 2;
    g.globalAlpha = 0.35;
    g.beginPath();
    m.trail.forEach(([x, y], at) => g[at ? "lineTo" : "moveTo"](x * width, y * height));
    g.stroke();
    g.beginPath(); // where it was last said to be
    g.arc(m.x * width, m.y * height, 12, 0, 7);
    g.stroke();
    g.globalAlpha = 1;
    g.beginPath();
    g.arc(m.shown.x * width, m.shown.y * height, 7, 0, 7);
    g.fill();
    g.fillStyle = colour("soft");
    g.font = "11px system-ui, 'DejaVu Sans', sans-serif";
    g.fillText(id === mine ? "you" : id, m.shown.x * width + 12, m.shown.y * height - 8);
  }
  arrivals = arrivals.filter((at) => at > now - 1000);
  if (now - told < 300) return;
  told = now;
  by("players").textContent = movers.size;
  by("rate").textContent = arrivals.length;
  if (numbers.got.length > 20) {
    const first = Math.min(...numbers.got), last = Math.max(...numbers.got);
    by("loss").textContent = `${Math.max(0, 100 * (1 - new Set(numbers.got).size / (last - first + 1))).toFixed(1)} %`;
  }
  if (late.length) by("late").textContent = `${Math.max(0, median(late)).toFixed(1)} ms`;
  if (rtt !== undefined) by("rtt").textContent = `${rtt.toFixed(1)} ms`;
});
