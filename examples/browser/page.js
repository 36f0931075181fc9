// @ts-check
/** What the example pages share: the connection with its state in the corner, and canvases. */

import { connect } from "./echostream.js";

/** @param {string} id @returns {any} */
export const by = (id) => document.getElementById(id);

/** The colour of a CSS variable. @param {string} name */
export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

async function config() {
  return (await fetch("config.json", { cache: "no-store" })).json();
}

/**
 * Connects to the server that config.json names: its address, and its certificate's hash, which is asked for again at every attempt,
 * so that the server may be restarted with another one. A token may stand in the page's address: #token=…
 * @param {(client: import("./echostream.js").Client) => void} [prepare]
 */
export async function start(prepare) {
  const status = by("status");
  const show = (/** @type {string} */ state, /** @type {string} */ text = state) => {
    status.textContent = text;
    status.className = `status ${state}`;
  };
  show("waiting", "connecting");
  try {
    const { url } = await config();
    const client = await connect(url, {
      serverCertificateHashes: async () => (await config()).serverCertificateHashes, reconnect: true, prepare, heartbeat: 2000,
      token: new URLSearchParams(location.hash.slice(1)).get("token") ?? undefined,
    });
    show("connected");
    client.onState((state, detail) => {
      if (state === "waiting") return;
      show(state, state === "closed" ? String(detail) : state);
    });
    /** @type {any} */ (window).client = client;
    // Not every browser says goodbye by itself when a page goes; one that comes back begins anew.
    addEventListener("pagehide", () => client.close());
    addEventListener("pageshow", (event) => event.persisted && location.reload());
    return client;
  } catch (error) {
    show("closed", String(error));
    throw error;
  }
}

/** Fits a canvas to its place and the screen's pixels. @param {HTMLCanvasElement} canvas @returns {{ g: CanvasRenderingContext2D, width: number, height: number }} */
export function fit(canvas) {
  const width = canvas.clientWidth, height = canvas.clientHeight, scale = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
  }
  const g = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  g.setTransform(scale, 0, 0, scale, 0, 0);
  g.clearRect(0, 0, width, height);
  return { g, width, height };
}

/** Round steps for an axis. @param {number} low @param {number} high @param {number} about */
function steps(low, high, about) {
  const raw = (high - low || 1) / about, power = 10 ** Math.floor(Math.log10(raw));
  const step = power * ([1, 2, 5].find((n) => n * power >= raw) ?? 10);
  const list = [];
  for (let y = Math.ceil(low / step) * step; y <= high + step / 1e6; y += step) list.push(y);
  return list;
}

/**
 * Lines over time.
 * @param {HTMLCanvasElement} canvas
 * @param {{ points: [number, number][], colour: string, fill?: boolean }[]} lines  [time, value]
 * @param {{ from: number, to: number, low?: number, format?: (value: number) => string }} axis
 */
export function plot(canvas, lines, { from, to, low, format = String }) {
  const { g, width, height } = fit(canvas);
  const values = lines.flatMap(({ points }) => points.map(([, value]) => value));
  let bottom = low ?? Math.min(...values), top = Math.max(...values);
  if (!values.length || !Number.isFinite(top)) [bottom, top] = [0, 1];
  if (top - bottom < 1e-9) top = bottom + 1;
  top += (top - bottom) * 0.08;
  if (low === undefined) bottom -= (top - bottom) * 0.08;
  const left = 52, below = 6;
  const x = (/** @type {number} */ t) => left + (t - from) / (to - from) * (width - left - 4);
  const y = (/** @type {number} */ value) => height - below - (value - bottom) / (top - bottom) * (height - below - 6);
  g.font = "11px system-ui, 'DejaVu Sans', sans-serif";
  g.textAlign = "right";
  g.textBaseline = "middle";
  for (const value of steps(bottom, top, Math.max(2, height / 45))) {
    g.strokeStyle = colour("line");
    g.lineWidth = 1;
    g.beginPath();
    g.moveTo(left, Math.round(y(value)) + 0.5);
    g.lineTo(width, Math.round(y(value)) + 0.5);
    g.stroke();
    g.fillStyle = colour("soft");
    g.fillText(format(value), left - 8, y(value));
  }
  g.save();
  g.beginPath();
  g.rect(left, 0, width - left, height);
  g.clip();
  for (const line of lines) {
    if (!line.points.length) continue;
    g.beginPath();
    line.points.forEach(([t, value], i) => g[i ? "lineTo" : "moveTo"](x(t), y(value)));
    g.strokeStyle = colour(line.colour);
    g.lineWidth = 1.8;
    g.lineJoin = "round";
    g.stroke();
    if (line.fill) {
      g.lineTo(x(line.points[line.points.length - 1][0]), height - below);
      g.lineTo(x(line.points[0][0]), height - below);
      g.globalAlpha = 0.12;
      g.fillStyle = colour(line.colour);
      g.fill();
      g.globalAlpha = 1;
    }
  }
  g.restore();
}

/** Calls a function before each frame that is shown. @param {(now: number) => void} draw */
export function animate(draw) {
  const frame = (/** @type {number} */ now) => {
    draw(now);
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
}
