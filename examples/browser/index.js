/** The first page: calls whatever method is typed. */

import { by, start } from "./page.js";

const client = await start();
by("call").addEventListener("submit", async (event) => {
  event.preventDefault();
  const [method, ...words] = by("line").value.trim().split(/\s+/);
  const args = words.map((word) => { try { return JSON.parse(word); } catch { return word; } });
  const began = performance.now();
  try {
    const results = await client.requestAll(method, ...args);
    const show = (key, value) => typeof value === "bigint" ? String(value) : value;
    by("answer").textContent = `${results.map((value) => JSON.stringify(value, show)).join(", ") || "(nothing)"}   in ${(performance.now() - began).toFixed(1)} ms`;
  } catch (error) {
    by("answer").textContent = String(error);
  }
});
