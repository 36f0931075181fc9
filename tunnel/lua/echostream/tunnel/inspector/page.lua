--- The inspector's page. Texts of visitors get into it as texts only (textContent), never as markup.

local M = {}

M.html = [==[
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Tunnel inspector</title>
<link rel="stylesheet" href="/inspector.css">
</head>
<body>
<header>
  <h1>Tunnel inspector</h1>
  <input id="filter" type="search" placeholder="filter: host, path, method, 5xx, rule, agent, cause …" aria-label="filter" autofocus>
  <button id="pause" type="button">Pause</button>
  <button id="clear" type="button">Clear</button>
  <span id="state" role="status">connecting</span>
</header>
<main>
  <div id="list">
    <table>
      <thead><tr><th>time</th><th>method</th><th>status</th><th>host and path</th><th>rule</th><th>agent</th><th class="n">headers</th>
        <th class="n">end</th><th class="n">in</th><th class="n">out</th></tr></thead>
      <tbody id="rows"></tbody>
    </table>
    <p id="empty">Nothing came yet.</p>
  </div>
  <section id="detail" hidden></section>
</main>
<script src="/inspector.js"></script>
</body>
</html>
]==]

M.css = [==[
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --bad: #c22; --warn: #b60; --good: #183; }
@media (prefers-color-scheme: dark) { :root { --bad: #f77; --warn: #fb5; --good: #6c8; } }
* { box-sizing: border-box; }
body { margin: 0; font: 14px/1.4 system-ui, sans-serif; display: flex; flex-direction: column; height: 100vh; }
header { display: flex; gap: .6em; align-items: center; padding: .5em .8em; border-bottom: 1px solid var(--line); }
h1 { font-size: 1.05em; margin: 0 .6em 0 0; white-space: nowrap; }
h2 { font-size: 1em; margin: 1.2em 0 .3em; }
input { flex: 1; max-width: 40em; padding: .3em .5em; font: inherit; }
button { font: inherit; padding: .25em .8em; }
#state { opacity: .7; }
main { flex: 1; display: flex; min-height: 0; }
#list { flex: 3; overflow: auto; }
#detail { flex: 2; overflow: auto; border-left: 1px solid var(--line); padding: .4em 1em 2em; min-width: 24em; }
table { border-collapse: collapse; width: 100%; }
th { text-align: left; position: sticky; top: 0; background: Canvas; font-weight: 600; }
th, td { padding: .2em .6em; border-bottom: 1px solid var(--soft); white-space: nowrap; }
td.where { max-width: 24em; overflow: hidden; text-overflow: ellipsis; }
.n { text-align: right; font-variant-numeric: tabular-nums; }
#rows tr { cursor: pointer; }
#rows tr:hover, #rows tr.chosen { background: var(--soft); }
.s5, .cause { color: var(--bad); } .s4 { color: var(--warn); } .s2 { color: var(--good); }
#detail table td { white-space: normal; overflow-wrap: anywhere; vertical-align: top; }
#detail table td:first-child { white-space: nowrap; opacity: .75; width: 1%; }
pre { background: var(--soft); padding: .6em; overflow: auto; max-height: 24em; white-space: pre-wrap; overflow-wrap: anywhere; }
#empty { padding: 1em; opacity: .7; }
]==]

M.js = [==[
"use strict";
const rows = document.getElementById("rows"), filter = document.getElementById("filter"), state = document.getElementById("state");
const detail = document.getElementById("detail"), empty = document.getElementById("empty"), pause = document.getElementById("pause");
const MOST = 500;
let all = [], chosen = null, paused = false, waiting = [], instance = null;

function element(name, text, kind) {
  const e = document.createElement(name);
  if (text !== undefined && text !== null) e.textContent = String(text);
  if (kind) e.className = kind;
  return e;
}
function ms(seconds) { return seconds === undefined ? "" : seconds >= 10 ? seconds.toFixed(1) + " s" : (seconds * 1000).toFixed(1) + " ms"; }
function size(n) {
  return n === undefined ? "" : n < 1024 ? n + " B" : n < 1048576 ? (n / 1024).toFixed(1) + " KiB" : (n / 1048576).toFixed(1) + " MiB";
}
function status(x) { return x.status === undefined ? (x.cause || "-") : x.status; }
function class_of(x) { return x.status === undefined ? "cause" : "s" + Math.floor(x.status / 100); }
function target(x) { return (x.host || x.sni || "") + (x.path || "") + (x.query ? "?" + x.query : ""); }
function words(x) {
  return [x.method, x.status, x.status ? Math.floor(x.status / 100) + "xx" : "", target(x), x.rule, x.group, x.agent, x.cause, x.kind, x.protocol,
    x.client_ip, x.peer_ip, x.id, x.trace_id, x.user, x.limit].filter(w => w !== undefined).join(" ").toLowerCase();
}
function fits(x) { const text = words(x); return filter.value.toLowerCase().split(/\s+/).every(w => text.includes(w)); }

function row(x) {
  const tr = element("tr");
  tr.dataset.number = x.number;
  if (x.number === chosen) tr.className = "chosen";
  tr.append(element("td", new Date(x.at * 1000).toLocaleTimeString()), element("td", x.method || x.kind), element("td", status(x), class_of(x)),
    element("td", target(x), "where"), element("td", x.rule), element("td", x.agent), element("td", ms(x.to_headers), "n"),
    element("td", ms(x.duration), "n"), element("td", size(x.bytes_in), "n"), element("td", size(x.bytes_out), "n"));
  tr.addEventListener("click", () => show(x.number));
  return tr;
}
function draw() {
  rows.replaceChildren(...all.filter(fits).map(row));
  empty.hidden = all.length > 0;
}
function take(x) {
  if (paused) { waiting.push(x); pause.textContent = "Go on (" + waiting.length + ")"; return; }
  if (all.some(known => known.number === x.number)) return;
  all.unshift(x);
  if (all.length > MOST) all.pop();
  empty.hidden = true;
  if (fits(x)) rows.prepend(row(x));
  while (rows.childElementCount > MOST) rows.lastElementChild.remove();
}

function pairs(title, list) {
  const out = [element("h2", title)], table = element("table");
  for (const [name, value] of list) if (value !== undefined && value !== null && value !== "") {
    const tr = element("tr");
    tr.append(element("td", name), element("td", value));
    table.append(tr);
  }
  out.push(table);
  return out;
}
function body(title, b) {
  if (!b) return [];
  const text = b.hex !== undefined ? b.hex.replace(/(..)/g, "$1 ") : b.text;
  return [element("h2", title + (b.hex !== undefined ? " (bytes)" : "")), element("pre", text)];
}
async function show(number) {
  chosen = number;
  for (const tr of rows.children) tr.className = Number(tr.dataset.number) === number ? "chosen" : "";
  const answer = await fetch("/api/exchanges/" + number);
  const x = await answer.json();
  if (chosen !== number) return;
  detail.hidden = false;
  if (x.error) { detail.replaceChildren(element("p", x.error)); return; }
  const again = element("button", "Send again");
  again.id = "replay";
  again.disabled = x.obstacle !== undefined;
  const result = element("div");
  result.id = "result";
  again.addEventListener("click", () => replay(x, result, false));
  const b = x.backend || {};
  detail.replaceChildren(
    element("h2", (x.method || x.kind) + " " + target(x)), again, ...(x.obstacle ? [element("p", x.obstacle)] : []), result,
    ...pairs("What came of it", [["status", x.status], ["cause", x.cause], ["reason", x.reason], ["limit", x.limit],
      ["to headers", ms(x.to_headers)],
      ["to the end", ms(x.duration)], ["received", size(x.bytes_in)], ["sent", size(x.bytes_out)], ["attempts", x.attempts]]),
    ...pairs("Way", [["visitor", x.client_ip || x.peer_ip], ["protocol", x.protocol], ["listener", x.listener], ["user", x.user], ["rule", x.rule],
      ["group", x.group], ["service", x.service], ["agent", x.agent], ["backend", b.backend], ["connected in", ms(b.connect_time)],
      ["kept connection", b.reused === undefined ? undefined : b.reused ? "yes" : "no"], ["request id", x.id], ["trace id", x.trace_id]]),
    ...pairs("Request fields", x.request_fields), ...body("Request body", x.request_body),
    ...pairs("Response fields", x.response_fields), ...body("Response body", x.response_body));
}
async function replay(x, result, confirmed) {
  result.replaceChildren(element("p", "under way"));
  const answer = await fetch("/api/exchanges/" + x.number + "/replay", { method: "POST",
    headers: { "content-type": "application/json", "x-echostream-inspector": "1" }, body: JSON.stringify({ confirm: confirmed }) });
  const said = await answer.json();
  if (said.confirm && !confirmed && window.confirm(said.error)) return replay(x, result, true);
  if (said.error) { result.replaceChildren(element("p", said.error, "cause")); return; }
  result.replaceChildren(...pairs("Sent again", [["status", said.status], ["took", ms(said.seconds)], ["sent", size(said.bytes_out)]]),
    ...pairs("Its response fields", said.response_fields), ...body("Its response body", said.response_body));
}

filter.addEventListener("input", draw);
document.getElementById("clear").addEventListener("click", () => { all = []; draw(); });
pause.addEventListener("click", () => {
  paused = !paused;
  pause.textContent = paused ? "Go on" : "Pause";
  if (!paused) { for (const x of waiting) take(x); waiting = []; }
});
async function load() {
  const answer = await fetch("/api/exchanges");
  const said = await answer.json(), known = said.exchanges, newest = known.length ? known[0].number : 0;
  all = all.filter(x => said.instance === instance && x.number > newest).concat(known);
  instance = said.instance;
  draw();
}
const events = new EventSource("/api/events");
events.onopen = () => { state.textContent = "live"; load(); };
events.onerror = () => { state.textContent = "no connection"; };
events.onmessage = e => take(JSON.parse(e.data));
]==]

return M
