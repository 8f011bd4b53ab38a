"use strict";
// The page of the tour. It shows what the node answers, and decides nothing.
const data = document.currentScript.dataset;
const $ = id => document.getElementById(id);
const buttons = [...document.querySelectorAll("button[data-step]")];
const names = new Map(); // identities, as they are drawn
let browser = "", account = "", receipt = null, busy = false;

async function json(path, body) {
  const r = await fetch(path, body === undefined ? {} : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  const x = await r.json();
  if (!r.ok) throw new Error(x.error || r.statusText);
  return x;
}

const pause = ms => new Promise(done => setTimeout(done, ms));

// until asks for the state until it is as wanted, for ten seconds.
async function until(what, wanted) {
  for (let i = 0; i < 50; i++) {
    const s = await look();
    if (wanted(s)) return;
    await pause(200);
  }
  throw new Error(what + " does not show: does the browser send Sec-GPC or DNT?");
}

// optedOut says how to come back, if this browser is opted out, as after an earlier
// tour; then the tour cannot begin.
async function optedOut() {
  const s = await fetch(data.public + "/v1/optout/status", { credentials: "include" }).then(r => r.json());
  if (s.opted_out !== true) return false;
  const link = document.createElement("a");
  link.href = data.public + "/optout";
  link.textContent = link.href;
  $("problem").replaceChildren("This browser is opted out, as after an earlier tour. Opt it in again at ", link, ", then load this page again.");
  return true;
}

async function whoAmI() {
  const r = await fetch(data.public + "/v1/me?client=" + encodeURIComponent(data.client), { credentials: "include" });
  const x = await r.json();
  if (x.identity) browser = x.identity;
}

async function look() {
  if (!browser) await whoAmI();
  const s = await json("/tour/state?browser=" + encodeURIComponent(browser));
  if (s.browser.identity) names.set(s.browser.identity, "this browser");
  if (s.phone.identity) names.set(s.phone.identity, "your phone");
  show("browser", s.browser);
  show("phone", s.phone);
  draw(s.user);
  return s;
}

function show(name, device) {
  $(name + "-id").textContent = device.identity ? device.identity.slice(0, 20) + "…" : "none yet";
  $(name + "-segments").textContent = device.opted_out ? "none: opted out" : device.segments.join(", ") || "none";
  const car = device.segments.includes("auto");
  $(name + "-slot").textContent = car ? "Ad: the new car. Come for a drive." : "Ad: subscribe to The Daily Demo.";
  $(name + "-slot").classList.toggle("car", car);
}

const places = { "this browser": [60, 60], account: [210, 60], "your phone": [360, 60] };

function element(kind, attributes) {
  const e = document.createElementNS("http://www.w3.org/2000/svg", kind);
  for (const k in attributes) e.setAttribute(k, attributes[k]);
  return e;
}

// draw shows a user's members and edges; what was drawn and is gone fades away.
function draw(user) {
  const svg = $("graph"), wanted = new Map();
  const nameOf = id => names.get(id) || (account && id === "account:" + account ? "account" : "");
  for (const e of user && user.edges || []) {
    const a = places[nameOf(e.a)], b = places[nameOf(e.b)];
    if (a && b) wanted.set(e.a + " " + e.b, () => [element("line", { x1: a[0], y1: a[1], x2: b[0], y2: b[1] })]);
  }
  for (const id of new Set([...names.keys(), ...(user && user.members || [])])) {
    const p = places[nameOf(id)];
    if (!p || receipt && id === browser) continue;
    wanted.set(id, () => {
      const text = element("text", { x: p[0], y: p[1] + 45 });
      text.textContent = nameOf(id);
      return [element("circle", { cx: p[0], cy: p[1], r: 22 }), text];
    });
  }
  for (const e of [...svg.children]) if (!wanted.has(e.dataset.key)) e.classList.add("cut");
  for (const [key, make] of wanted) {
    if ([...svg.children].some(e => e.dataset.key === key && !e.classList.contains("cut"))) continue;
    for (const e of make()) {
      e.dataset.key = key;
      if (e.tagName === "line") svg.prepend(e);
      else svg.append(e);
    }
  }
  const linked = (user && user.members || []).map(nameOf).filter(Boolean);
  $("graph-text").textContent = linked.length > 1 ? "One person: " + linked.join(", ") + "." : "Nobody is linked.";
}

async function digest(text) {
  const d = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text));
  return Array.from(new Uint8Array(d), b => b.toString(16).padStart(2, "0")).join("");
}

const steps = {
  async read() {
    for (let i = 0; i < 3; i++) kith("event", "page", { section: "auto" });
    await until("The segment", s => s.browser.segments.includes("auto"));
  },
  async phone() {
    await json("/tour/phone", {});
    await until("The phone", s => s.phone.identity !== "");
  },
  async login() {
    account = await digest("tour " + browser + " " + Date.now()); // another one each time
    kith("identify", "account", account);
    await json("/tour/phone", { account });
    await until("The person", s => s.phone.segments.includes("auto"));
  },
  async optout() {
    const x = await new Promise(done => kith("optout", done));
    receipt = x && x.receipt;
    for (let i = 0; !receipt && i < 20; i++) {
      await pause(500);
      const s = await fetch(data.public + "/v1/optout/status", { credentials: "include" }).then(r => r.json());
      receipt = s.receipt;
    }
    if (!receipt) throw new Error("There is no receipt: " + JSON.stringify(x));
    $("receipt").hidden = false;
    const fields = $("receipt-fields");
    for (const [label, value] of [["Identity, keyed hash", receipt.identity_hmac], ["Partition, offset", receipt.partition + ", " + receipt.offset], ["Copies taken back", receipt.copies_retracted],
      ["Members told", receipt.members_refreshed], ["Log clear by", receipt.log_clear_by], ["Signature", receipt.signature]]) {
      const dt = document.createElement("dt"), dd = document.createElement("dd");
      dt.textContent = label;
      dd.textContent = value;
      fields.append(dt, dd);
    }
    await until("The cut", s => !s.phone.segments.includes("auto"));
  },
  async verify() {
    const check = await json("/tour/verify", receipt);
    const list = [["The signature is valid", check.signature], ["Nothing of the identity was found", check.clean]];
    for (const p of check.places || []) list.push([p.place + ": " + p.found + " found", p.found === 0]);
    $("checks").replaceChildren(...list.map(([text, ok]) => {
      const li = document.createElement("li");
      li.textContent = (ok ? "✓ " : "✗ ") + text;
      return li;
    }));
  },
};

function enable(next) {
  buttons.forEach((b, i) => {
    b.disabled = busy || i !== next;
    b.parentElement.classList.toggle("done", i < next);
  });
}

buttons.forEach((b, i) => {
  b.addEventListener("click", async () => {
    busy = true;
    enable(i);
    $("problem").textContent = "";
    let next = i;
    try {
      await steps[b.dataset.step]();
      next = i + 1;
    } catch (e) {
      $("problem").textContent = e.message;
    }
    busy = false;
    enable(next);
    (buttons[next] || b).focus();
  });
});
async function begin() {
  if (await optedOut()) return;
  enable(0);
  await look();
}

enable(-1);
begin().catch(e => { $("problem").textContent = e.message; });
