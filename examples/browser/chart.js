/** A chart fed by a streaming method: what is not drawn is not sent. */

import { iterate } from "./echostream.js";
import { animate, by, plot, start } from "./page.js";

const SHOWN = 15000; // ms
const names = ["alpha", "beta", "gamma"], colours = ["a", "b", "c"];
const lines = names.map((name, i) => ({ points: [], colour: colours[i] }));
let count = 0, missing = 0, last = undefined, delay = 0, recent = [], offset = 0, stop;

by("keys").innerHTML = names.map((name, i) => `<span class="key"><i style="background: var(--${colours[i]})"></i>${name}</span>`).join("");

function take({ data, seq, wallTime }) {
  const now = Date.now() + offset; // as the server's clock has it
  data.forEach((value, i) => lines[i].points.push([wallTime, value]));
  for (const { points } of lines) while (points.length && points[0][0] < now - SHOWN - 1000) points.shift();
  if (last !== undefined && seq > last + 1) missing += seq - last - 1;
  last = seq;
  count++;
  delay += (now - wallTime - delay) * 0.1;
  recent.push(performance.now());
}

async function follow(client) {
  stop?.abort();
  const own = stop = new AbortController();
  while (!own.signal.aborted) {
    try {
      offset = (await client.ping()).offset;
      last = undefined;
      const channel = await client.with({ signal: own.signal, frames: true }).stream("chart.walk", names.length, Number(by("every").value));
      for await (const frame of iterate(channel.readable)) take(frame);
      return;
    } catch (error) {
      if (client.state === "closed" || own.signal.aborted) return;
      await new Promise((resolve) => setTimeout(resolve, 200)); // the connection comes back by itself
    }
  }
}

const client = await start();
const label = () => (by("every-text").textContent = by("every").value);
by("every").addEventListener("input", label);
by("every").addEventListener("change", () => follow(client));
label();
follow(client);
let told = 0;
animate((now) => {
  const to = Date.now() + offset;
  plot(by("chart"), lines, { from: to - SHOWN, to, format: (value) => value.toFixed(1) });
  recent = recent.filter((at) => at > now - 2000);
  if (now - told < 250) return;
  told = now;
  by("rate").textContent = (recent.length / 2).toFixed(0);
  by("count").textContent = count.toLocaleString("en");
  by("missing").textContent = String(missing);
  by("delay").textContent = count ? `${Math.max(0, delay).toFixed(1)} ms` : "–";
});
