// Usage: node page.mjs TCP_PORT UDP_PORT SPKI MODULES. Loads a page with 30 assets through the tunnel, over HTTP/2 and over HTTP/3; prints "ok PROTOCOL".
import assert from "node:assert/strict";
import { launch } from "../../../spec/browser/browser.mjs";

const [tcp, udp, spki, modules] = process.argv.slice(2);
const { open, close } = await launch("chromium", modules, [
  `--origin-to-force-quic-on=localhost:${udp}`, `--ignore-certificate-errors-spki-list=${spki}`,
  "--host-resolver-rules=MAP localhost 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]);

const widths = (list, kind) => list.filter((i) => i % 3 === kind);
const numbers = Array.from({ length: 30 }, (_, i) => i + 1);

async function check(port, protocol) {
  const page = await open(`https://localhost:${port}/`);
  await page.waitForFunction("document.readyState === 'complete'");
  const seen = await page.evaluate(() => ({
    protocols: performance.getEntriesByType("resource").filter((e) => e.name.includes("/assets/")).map((e) => e.nextHopProtocol),
    navigation: performance.getEntriesByType("navigation")[0].nextHopProtocol,
    images: [...document.images].map((image) => image.complete && image.naturalWidth),
    styles: [...document.querySelectorAll("p")].map((p) => getComputedStyle(p).width),
    scripts: window.scripts,
  }));
  assert.equal(seen.navigation, protocol);
  assert.deepEqual(seen.protocols, numbers.map(() => protocol));
  assert.deepEqual(seen.images, widths(numbers, 2).map((i) => 10 + i));
  assert.deepEqual(seen.styles, widths(numbers, 0).map((i) => `${100 + i}px`));
  assert.equal(seen.scripts, widths(numbers, 1).reduce((a, b) => a + b));

  const upload = await page.evaluate(async () => {
    const response = await fetch("/upload", { method: "POST", body: "x".repeat(3000000) + "the end." });
    return [response.status, await response.text()];
  });
  assert.deepEqual(upload, [200, "3000008 the end."]);

  // The second event is sent after the first has been seen: nothing holds it back on the way.
  const events = await page.evaluate(() => new Promise((resolve, reject) => {
    const heard = [];
    const source = new EventSource("/events");
    source.onmessage = (event) => {
      heard.push(event.data);
      if (heard.length === 1) fetch("/next").catch(reject);
      if (heard.length === 2) { source.close(); resolve(heard); }
    };
    source.onerror = () => reject(new Error("the events broke off"));
  }));
  assert.deepEqual(events, ["1", "2"]);
  assert.equal(await page.evaluate(async () => (await fetch("/nothing")).status), 404);
  assert.deepEqual(page.problems.filter((text) => !text.includes("404")), []);
  console.log(`ok ${protocol}`);
}

try {
  await check(tcp, "h2");
  await check(udp, "h3");
} finally {
  await close();
}
