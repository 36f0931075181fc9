// Usage: node inspector.mjs URL MODULES SCREENSHOT. Prints "ok" when the inspector's page does what it should.
import assert from "node:assert/strict";
import { launch } from "../../../spec/browser/browser.mjs";

const [url, modules, screenshot] = process.argv.slice(2);
const { browser, open, close } = await launch("chromium", modules);
try {
  const page = await open(url);
  const texts = (selector) => page.$$eval(selector, (list) => list.map((e) => e.textContent));
  await page.waitForFunction("document.querySelectorAll('#rows tr').length > 17 && document.getElementById('state').textContent === 'live'");
  assert.ok((await texts("#rows tr td:nth-child(4)")).some((text) => text.includes("/live")), "live updates");

  await page.type("#filter", "5xx");
  await page.waitForFunction("document.querySelectorAll('#rows tr').length === 1");
  assert.deepEqual(await texts("#rows tr td:nth-child(3)"), ["504"]);
  await page.$eval("#filter", (e) => { e.value = ""; e.dispatchEvent(new Event("input")); });

  // What visitors sent is text.
  await page.type("#filter", "onerror");
  await page.waitForFunction("document.querySelectorAll('#rows tr').length >= 1");
  await page.click("#rows tr");
  await page.waitForFunction("document.getElementById('detail').textContent.includes('Response body')");
  assert.match(await page.$eval("#detail", (e) => e.textContent), /<script>document\.title/);
  await page.click("#replay");
  await page.waitForFunction("document.getElementById('result').textContent.includes('299')");
  assert.equal(await page.$$eval("#detail img, #detail script, #rows img, #rows script", (list) => list.length), 0);
  assert.equal(await page.title(), "Tunnel inspector");
  await page.$eval("#filter", (e) => { e.value = ""; e.dispatchEvent(new Event("input")); });

  // What is not idempotent is asked for twice.
  await page.type("#filter", "post");
  await page.waitForFunction("document.querySelectorAll('#rows tr').length === 1");
  await page.click("#rows tr");
  await page.waitForFunction("document.querySelector('#detail h2')?.textContent.startsWith('POST')");
  let asked = "";
  page.on("dialog", (dialog) => { asked = dialog.message(); dialog.accept(); });
  await page.click("#replay");
  await page.waitForFunction("document.getElementById('result').textContent.includes('299')");
  assert.match(asked, /not idempotent/);
  await page.$eval("#filter", (e) => { e.value = ""; e.dispatchEvent(new Event("input")); });
  await page.screenshot({ path: screenshot });

  const problems = page.problems.filter((text) => !text.includes("409")); // the refusal before the question
  assert.deepEqual(problems, []);
  console.log("ok");
} finally {
  await close();
}
void browser;
