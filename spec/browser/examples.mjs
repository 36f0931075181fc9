// The example pages in a browser: what they show is what the server said, and their canvases are not blank. A screenshot of each is kept.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { run, within } from "./checks.mjs";

/** Starts examples/browser/serve.lua. @returns {Promise<{ url: string, stop: () => Promise<any> }>} */
async function serve(root) {
  const child = spawn("timeout", ["-k", "5", "200", "lua5.4", join(root, "examples/browser/serve.lua"), "127.0.0.1:0", "127.0.0.1:0"], {
    cwd: root, stdio: ["ignore", "pipe", "inherit"], env: { ...process.env, LD_PRELOAD: process.env.ES_PRELOAD ?? "" },
  });
  const ended = new Promise((resolve) => child.once("exit", resolve));
  process.once("exit", () => child.kill());
  let text = "";
  const url = await within(new Promise((resolve, reject) => {
    child.stdout.on("data", (data) => {
      text += data;
      const found = /^pages on (\S+)$/m.exec(text);
      if (found) resolve(found[1]);
    });
    child.once("exit", () => reject(new Error(`the example server ended: ${text}`)));
  }), "the example server");
  return { url, stop: () => (child.kill(), ended) };
}

/** How many colours a canvas has: a blank one has one. */
const colours = (page, id) => page.evaluate((canvas) => {
  const { width, height } = document.getElementById(canvas);
  const { data } = document.getElementById(canvas).getContext("2d").getImageData(0, 0, width, height);
  const seen = new Set();
  for (let i = 0; i < data.length; i += 4) seen.add(data[i] << 24 | data[i + 1] << 16 | data[i + 2] << 8 | data[i + 3]);
  return seen.size;
}, id);

const text = (page, id) => page.evaluate((what) => document.getElementById(what).textContent, id);
const number = async (page, id) => Number.parseFloat((await text(page, id)).replace(/,/g, ""));
const seen = (page, what) => page.waitForFunction(what, { timeout: 45000, polling: 100 });

/** @param {{ name: string, browser: any, root: string, screenshots: string | undefined, chosen: (checks: any) => any }} setting */
export async function examples({ name, browser, root, screenshots, chosen }) {
  const server = await serve(root);
  if (screenshots) mkdirSync(screenshots, { recursive: true });
  const shoot = async (page, what) => {
    if (!screenshots) return;
    await page.bringToFront(); // a page that nobody sees is not painted
    await page.screenshot({ path: join(screenshots, `${what}.png`), captureBeyondViewport: false });
  };
  const open = async (name) => {
    const page = await browser.open(server.url + name);
    await seen(page, "document.getElementById('status').className === 'status connected'");
    return page;
  };
  const done = async (page) => {
    assert.deepEqual(page.problems, []);
    await page.close();
  };

  const failed = await run(chosen({
    async "the first page calls a method"() {
      const page = await open("");
      await page.click("#call button");
      await seen(page, "document.getElementById('answer').textContent.startsWith('30 ')");
      await shoot(page, "index");
      await done(page);
    },
    async "the chat shows what the other one said, and who is there"() {
      const ann = await open("chat.html?name=Ann"), ben = await open("chat.html?name=Ben");
      await seen(ann, "document.getElementById('people').textContent === 'AnnBen'");
      for (const [page, words] of [[ann, "Hello, is anybody here?"], [ben, "I am. <b>How</b> are you?"], [ann, "Fine, 你好"]]) {
        await page.bringToFront(); // browsers let pages sleep that nobody sees
        await page.type("#text", words);
        await page.click("#say button");
        await seen(page, `document.getElementById('said').lastChild.textContent.endsWith(${JSON.stringify(words)})`);
      }
      await seen(ben, "document.getElementById('said').lastChild.textContent.endsWith('Fine, 你好')");
      assert.deepEqual(await ben.evaluate(() => Array.from(document.querySelectorAll("#said li"), (li) => [li.className, li.lastChild.textContent])), [
        ["news", "you are Ben"], ["", "Hello, is anybody here?"], ["mine", "I am. <b>How</b> are you?"], ["", "Fine, 你好"],
      ]);
      await shoot(ben, "chat");
      await done(ann);
      await seen(ben, "document.getElementById('people').textContent === 'Ben'");
      await done(ben);
    },
    async "the chart is fed by its stream, without a gap"() {
      const page = await open("chart.html");
      await seen(page, "parseFloat(document.getElementById('count').textContent.replace(',', '')) > 60 && Number(document.getElementById('rate').textContent) > 0");
      assert.equal(await text(page, "missing"), "0");
      assert.ok(await number(page, "delay") >= 0);
      assert.ok(await colours(page, "chart") > 10);
      await shoot(page, "chart");
      await done(page);
    },
    async "positions arrive, and what the server loses is seen"() {
      const page = await open("positions.html");
      await page.mouse.move(400, 300);
      await seen(page, "Number(document.getElementById('players').textContent) === 4 && parseFloat(document.getElementById('loss').textContent) >= 0");
      await page.mouse.move(480, 330);
      await seen(page, "Number(document.getElementById('rate').textContent) > 0");
      assert.ok(await number(page, "late") >= 0);
      assert.ok(await number(page, "rtt") >= 0);
      await page.evaluate(() => {
        document.getElementById("drop").value = "50";
        document.getElementById("drop").dispatchEvent(new Event("input"));
      });
      await seen(page, "parseFloat(document.getElementById('loss').textContent) > 15");
      assert.ok(await colours(page, "field") > 10);
      await shoot(page, "positions");
      await done(page);
    },
    async "the dashboard shows the server's figures, live"() {
      const other = await open(""), page = await open("dashboard.html");
      await page.setViewport({ width: 1100, height: 1420 });
      await other.evaluate(() => void (async () => {
        for (;;) await Promise.all(Array.from({ length: 5 }, () => window.client.request("math.add", 1, 2)));
      })());
      await seen(page, "Number(document.body.dataset.snapshots) >= 4");
      await seen(page, "Array.from(document.querySelectorAll('#methods td.name'), (cell) => cell.textContent).includes('math.add')");
      await seen(page, "parseFloat(document.getElementById('calls').textContent) > 0 && /s$/.test(document.getElementById('p99').textContent)");
      await seen(page, "document.getElementById('sessions').textContent === '2' && document.getElementById('streams').textContent === '1'");
      await seen(page, "document.querySelectorAll('#session-list tr').length === 2");
      assert.ok((await text(page, "queues")).includes("handlers running"));
      assert.ok(await colours(page, "rate-chart") > 5);
      assert.ok(await colours(page, "time-chart") > 5);
      await shoot(page, "dashboard");
      await page.evaluate(async () => {
        const last = await window.client.request("rpc.stats");
        (await import("./dashboard.js")).show({
          ...last, time: last.time + 1000, breakers: [{ name: "db", state: "open", detail: "3 refused" }, { name: "cache", state: "closed" }],
          alerts: [{ name: "timeout", message: "9 of 10 calls", since: 65 }],
        });
      });
      assert.deepEqual(await page.evaluate(() => Array.from(document.querySelectorAll(".tag"), (tag) => [tag.className, tag.textContent])), [
        ["tag bad", "timeout: 9 of 10 calls (1 min)"], ["tag bad", "db: open, 3 refused"], ["tag good", "cache: closed"],
      ]);
      await done(page);
      await other.close();
    },
    // Firefox's driver cannot ask for it.
    ...(name === "chromium" && { async "pages look well in the dark, too"() {
      const page = await open("dashboard.html");
      const light = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
      await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: "dark" }]);
      await seen(page, "Number(document.body.dataset.snapshots) >= 2");
      assert.notEqual(await page.evaluate(() => getComputedStyle(document.body).backgroundColor), light);
      await shoot(page, "dashboard-dark");
      await done(page);
    } }),
  }));
  await server.stop();
  return failed;
}
