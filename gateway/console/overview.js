// What the node does right now (admin keys), and the client's last days.
import { h, replace, show, every, number, compact, rate, span, panel, table, redraw, fail } from "./dom.js";
import { get, metrics, isAdmin, mayRead, session } from "./api.js";
import { bars, sparkline } from "./charts.js";

const KEPT = 90; // samples of each rate
const DAYS = 14;

const rates = [
  { name: "Events", unit: "/s", metric: "kith_gateway_events_accepted_total", note: "accepted" },
  { name: "Look-ups", unit: "/s", metric: "kith_gateway_lookup_identities_total", note: "identities asked for" },
  { name: "Opt-outs", unit: "/min", metric: "kith_optouts_applied_total", note: "cut", per: 60, total: true },
  { name: "Links", unit: "/min", metric: "kith_user_joins_total", note: "joined", per: 60, total: true },
];

export function overview(page) {
  page.lead(isAdmin() ? "This node, now, and the days of the client." : "The days of " + session.client + ".");
  const days = h("div", {});
  if (isAdmin()) {
    const cards = h("div", { class: "cards" }), health = h("div", {});
    replace(page.body, cards, h("div", { class: "columns" }, panel("Node health", health), h("section", { class: "panel", "aria-label": "Days" }, h("h2", {}, "Events a day" + (session.client ? " of " + session.client : "")), days)));
    watchNode(page, cards, health);
  } else {
    const cards = h("div", { class: "cards" });
    replace(page.body, cards, panel("Events a day", days));
    ownCards(page, cards);
  }
  if (session.client) showDays(page, days);
  else replace(days, h("p", { class: "quiet" }, "There is no client yet."));
}

function card(name, value, note, extra) {
  return h("article", { class: "card metric" }, h("h2", {}, name), h("p", { class: "big" }, value), h("p", { class: "quiet" }, note), extra);
}

/** watchNode samples /metrics every two seconds and shows rates. */
function watchNode(page, cards, health) {
  const kept = rates.map(() => []);
  let last = null;
  const slots = rates.map((r) => {
    const value = h("span", {}, "–"), note = h("span", {}, r.note), line = h("div", { class: "spark-slot" });
    cards.append(card(r.name, [value, h("small", {}, " " + r.unit)], note, line));
    return { value, note, line };
  });
  const lag = h("span", {}, "–"), lagNote = h("span", {}, "behind the log"), people = h("span", {}, "–"), peopleNote = h("span", {}, "known");
  cards.append(card("Lag", lag, lagNote), card("Identities", people, peopleNote));
  every(2000, page.signal, async () => {
    try {
      const now = { at: performance.now(), m: await metrics(page.signal) };
      const { lanes } = await get("/v1/partitions", { whole: true, signal: page.signal });
      let why = "";
      try { await get("/readyz", { whole: true, signal: page.signal }); } catch (e) {
        if (e.name === "AbortError") throw e;
        why = e.message;
      }
      rates.forEach((r, i) => {
        const total = now.m.get(r.metric) || 0;
        if (r.total) slots[i].note.textContent = `${r.note}, ${number(total)} in all`;
        if (!last) return;
        const v = Math.max(0, ((total - (last.m.get(r.metric) || 0)) / (now.at - last.at)) * 1000 * (r.per || 1));
        kept[i].push(v);
        if (kept[i].length > KEPT) kept[i].shift();
        slots[i].value.textContent = rate(v);
        replace(slots[i].line, sparkline(kept[i], 200, 34));
      });
      last = now;
      lag.textContent = span(Math.max(0, ...lanes.map((l) => l.lag_seconds)));
      lagNote.textContent = `${number(lanes.reduce((a, l) => a + Math.max(0, l.logged - l.applied), 0))} entries wait`;
      people.textContent = compact(lanes.reduce((a, l) => a + l.identities, 0));
      peopleNote.textContent = `${number(lanes.reduce((a, l) => a + l.active, 0))} active in memory`;
      redraw(health, healthOf(now.m, lanes, why));
    } catch (err) {
      if (err.name === "AbortError") throw err;
      fail(health, err);
    }
  });
}

const verdict = (ok, text) => h("span", { class: "chip " + (ok ? "good" : "bad") }, text);

function healthOf(m, lanes, why) {
  const free = m.get("kith_disk_free_bytes"), letters = m.get("kith_dead_letters") || 0;
  const stuck = lanes.filter((l) => l.quarantined);
  return h("dl", { class: "facts" },
    h("dt", {}, "Queries"), h("dd", {}, why ? [verdict(false, "not ready"), " ", why] : verdict(true, "ready")),
    h("dt", {}, "Log"), h("dd", {}, verdict(m.get("kith_log_healthy") !== 0, m.get("kith_log_healthy") !== 0 ? "takes entries" : "takes none")),
    h("dt", {}, "Lanes"), h("dd", {}, stuck.length ? verdict(false, `${stuck.length} of ${lanes.length} stopped`) : verdict(true, `${lanes.length} of ${lanes.length} run`)),
    h("dt", {}, "Disk"), h("dd", {}, verdict(!m.get("kith_disk_full"), m.get("kith_disk_full") ? "full" : "room"), free ? ` ${(free / 2 ** 30).toFixed(1)} GiB left` : ""),
    h("dt", {}, "Dead letters"), h("dd", {}, letters ? h("a", { href: "#/letters", "data-key": "letters" }, number(letters) + " set aside") : verdict(true, "none")));
}

async function ownCards(page, cards) {
  const ready = h("span", {}, "–"), readyNote = h("span", {}, "the node");
  cards.append(card("Node", ready, readyNote));
  every(10_000, page.signal, async () => {
    try {
      await get("/readyz", { whole: true, signal: page.signal });
      ready.textContent = "Ready";
      readyNote.textContent = "queries are answered";
    } catch (e) {
      if (e.name === "AbortError") throw e;
      ready.textContent = "Not ready";
      readyNote.textContent = e.message;
    }
  });
  if (session.floor) cards.append(card("Floor", number(session.floor), "the least count that is told"));
  if (!mayRead()) return;
  const n = h("span", {}, "–"), filling = h("span", {}, "defined");
  cards.append(card("Segments", n, filling));
  try {
    const { segments } = await get("/v1/segments", { signal: page.signal });
    n.textContent = number(segments.length);
    const open = segments.filter((x) => x.filled === false).length;
    filling.textContent = open ? `${open} still being filled` : "all filled";
  } catch { n.textContent = "?"; }
}

function showDays(page, el) {
  const from = new Date(Date.now() - (DAYS - 1) * 86400e3).toISOString().slice(0, 10);
  show(el, "daily totals", page.signal, async () => {
    const a = await get("/v1/aggregates?from=" + from, { signal: page.signal });
    const known = new Map(a.days.map((d) => [d.day, d.events ?? null]));
    const points = Array.from({ length: DAYS }, (_, i) => new Date(Date.now() - (DAYS - 1 - i) * 86400e3).toISOString().slice(0, 10)).map((day) => ({ day, value: known.has(day) ? known.get(day) : 0 }));
    const total = a.days.reduce((n, d) => n + (d.events || 0), 0);
    const names = new Map();
    for (const d of a.days) for (const x of d.names || []) names.set(x.name, (names.get(x.name) || 0) + (x.count || 0));
    const top = [...names].sort((x, y) => y[1] - x[1]).slice(0, 8);
    return [bars("Events a day", points, isAdmin() && innerWidth > 1080 ? { width: 640 } : {}),
      !total && h("p", { class: "quiet" }, a.below ? `Nothing above the floor of ${a.below} in these 14 days.` : "No events in these 14 days."),
      top.length > 0 && table("Events by name", [["Event"], ["14 days", "num"]], top.map(([k, v]) => [k, number(v)]))];
  });
}
