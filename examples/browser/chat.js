/** Chat: a call to come in, events both ways, and a method that the server may call. */

import { by, start } from "./page.js";

const names = ["Ada", "Alan", "Barbara", "Claude", "Donald", "Edsger", "Frances", "Grace", "Hedy", "Ivan", "Joan", "Ken", "Leslie", "Margaret", "Niklaus"];
const me = new URLSearchParams(location.search).get("name") ?? `${names[Math.floor(Math.random() * names.length)]} ${Math.floor(Math.random() * 90 + 10)}`;

function add(text, who, when, kind = who === me ? "mine" : "") {
  const item = document.createElement("li");
  item.className = kind;
  if (who && kind !== "news") {
    const head = document.createElement("small");
    head.textContent = `${who} · ${new Date(when).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })}`;
    item.append(head);
  }
  item.append(text);
  by("said").append(item);
  item.scrollIntoView({ block: "end" });
}

async function join(client) {
  const history = await client.request("chat.join", me);
  by("said").replaceChildren();
  for (const { who, text, at } of history) add(text, who, at);
  add(`you are ${me}`, "", 0, "news");
}

const client = await start((client) => {
  client.on("chat.said", (info, who, text, at) => add(text, who, at));
  client.on("chat.people", (info, people) => by("people").replaceChildren(...people.map((name) => {
    const tag = document.createElement("span");
    tag.className = name === me ? "tag good" : "tag";
    tag.textContent = name;
    return tag;
  })));
  // The server may ask a page something, too.
  client.handle("chat.title", () => document.title);
});
await join(client);
client.onState((state) => state === "connected" && join(client).catch(() => {})); // a restarted server knows nobody
by("say").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = by("text").value.trim();
  if (!text) return;
  by("text").value = "";
  try {
    await client.emit("chat.say", text);
  } catch (error) {
    add(String(error), "", 0, "news");
  }
});
by("text").focus();
