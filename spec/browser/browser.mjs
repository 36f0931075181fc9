// A headless browser, and a page server on the loopback interface. Only packages of Debian and puppeteer-core are needed.

import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { extname, join, normalize } from "node:path";
import { pathToFileURL } from "node:url";

const PROGRAMS = {
  chromium: ["/usr/bin/chromium", "/usr/bin/google-chrome"],
  firefox: ["/usr/bin/firefox-esr", "/usr/bin/firefox"],
};

const TYPES = { ".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".json": "application/json" };

/** The browser's process for a page died: nothing of ours can make that happen, so it is the browser's. */
export class Crash extends Error {}

/** Serves the files of a folder, and what `answers` has for a path. @returns {Promise<{ origin: string, close: () => void }>} */
export async function servePages(folder, answers = {}) {
  const server = createServer((request, response) => {
    const path = new URL(request.url, "http://localhost").pathname;
    const file = join(folder, normalize(path));
    const made = answers[path]?.();
    if (made === undefined && !existsSync(file)) return void response.writeHead(404).end();
    response.writeHead(200, { "content-type": TYPES[extname(path)] ?? "application/octet-stream" }).end(made ?? readFileSync(file));
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    origin: `http://127.0.0.1:${server.address().port}`,
    close: () => {
      server.closeAllConnections();
      server.close();
    },
  };
}

/** Starts a browser. `flags` are Chromium's. @param {"chromium" | "firefox"} name @param {string} modules  where npm installed */
export async function launch(name, modules, flags = []) {
  const require = createRequire(join(modules, "x.js"));
  const puppeteer = (await import(pathToFileURL(require.resolve("puppeteer-core")).href)).default;
  const profile = mkdtempSync(join(tmpdir(), "echostream-browser-"));
  const common = {
    executablePath: PROGRAMS[name].find(existsSync), headless: true, userDataDir: profile, timeout: 60000, protocolTimeout: 60000,
    defaultViewport: { width: 1100, height: 760 }, env: { ...process.env, HOME: profile, LD_PRELOAD: "", MOZ_REMOTE_SETTINGS_DEVTOOLS: "1" },
  };
  const browser = await puppeteer.launch(name === "firefox" ? {
    ...common, browser: "firefox", extraPrefsFirefox: {
      "app.update.enabled": false, "browser.safebrowsing.update.enabled": false, "network.captive-portal-service.enabled": false,
      "network.connectivity-service.enabled": false, "services.settings.server": "data:,", "toolkit.telemetry.server": "",
    },
  } : {
    ...common, args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update",
      "--disable-sync", "--no-first-run", ...flags],
  });
  return {
    browser,
    version: await browser.version(),
    /** A page that is loaded; what it reports as an error is kept in `page.problems`. */
    async open(url) {
      const page = await browser.newPage();
      page.problems = [];
      page.crashed = new Promise((_, reject) => page.once("error", () => reject(new Crash("the page crashed"))));
      page.crashed.catch(() => {});
      page.on("pageerror", (error) => page.problems.push(String(error?.stack ?? error)));
      page.on("console", (message) => ["error", "warn"].includes(message.type()) && page.problems.push(message.text()));
      await page.goto(url);
      return page;
    },
    async close() {
      await browser.close().catch(() => {});
      rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
    },
  };
}
