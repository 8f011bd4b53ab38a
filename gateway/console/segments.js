// The list of segments, and one: its size over time, its rule, its backfill.
import { h, replace, show, field, figure, number, signed, percent, empty, icon, toast, confirmed, every, panel, fail } from "./dom.js";
import { get, ask, id, session } from "./api.js";
import { lineChart, bars, sparkline } from "./charts.js";
import { editor } from "./editor.js";

const PAGE = 50, AT_ONCE = 3;

export function segments(page) {
  const name = page.rest[0];
  if (name === "+new") return edit(page, null);
  return name ? one(page, name) : list(page);
}

// The list.

function list(page) {
  page.lead("Rules over what identities and users did, and how many are in each.");
  page.tools.append(h("a", { class: "button primary", href: "#/segments/+new" }, icon("plus"), "New segment"));
  show(page.body, "segments", page.signal, async () => {
    const all = (await get("/v1/segments", { signal: page.signal })).segments;
    if (!all.length) return empty("No segments yet", "A segment is a name and a rule, such as count(event.section == \"auto\", \"30d\") >= 3.", h("a", { class: "button primary", href: "#/segments/+new" }, "New segment"));
    return listed(page, all);
  });
}

function listed(page, all) {
  const body = h("tbody", {}), more = h("button", { type: "button" }, "Show more"), search = h("input", { type: "search", placeholder: "Find a segment", "aria-label": "Find a segment" });
  const sizes = sizeQueue(page);
  let shown = [], to = PAGE;
  const draw = () => {
    const q = search.value.trim().toLowerCase();
    shown = all.filter((x) => !q || x.id.toLowerCase().includes(q) || x.when.toLowerCase().includes(q));
    replace(body, shown.length ? shown.slice(0, to).map((x) => row(x, sizes)) : h("tr", {}, h("td", { colspan: 5 }, "No segment matches.")));
    more.hidden = shown.length <= to;
  };
  search.addEventListener("input", () => { to = PAGE; draw(); });
  more.addEventListener("click", () => { to += PAGE; draw(); });
  draw();
  return [h("div", { class: "bar" }, search, h("span", { class: "quiet" }, `${number(all.length)} segments`)),
    h("div", { class: "panel flush" }, h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Segments" }, h("table", { class: "list" }, h("caption", { class: "sr" }, "Segments"), h("thead", {}, h("tr", {}, [["Segment"], ["Size", "num"], ["30 days"], ["Last day", "num"], ["State"]].map(([t, c]) => h("th", { scope: "col", class: c }, t)))), body))), more];
}

function row(x, sizes) {
  const spark = h("td", { class: "spark-cell" }), change = h("td", { class: "num" }, "–");
  sizes(spark, x.id, (days) => {
    const known = days.map((d) => d.identities).filter((n) => n !== null);
    replace(spark, known.length > 1 ? sparkline(known) : h("span", { class: "quiet" }, "–"));
    const [a, b] = known.length > 1 ? days.slice(-2).map((d) => d.identities) : [];
    change.textContent = typeof a === "number" && typeof b === "number" ? signed(b - a) : "–";
  });
  return h("tr", {}, h("th", { scope: "row" }, h("a", { href: "#/segments/" + id(x.id) }, x.id), h("code", { class: "rule-line" }, x.when)), h("td", { class: "num" }, figure(x.size, session.floor)), spark, change, h("td", {}, state(x)));
}

function state(x) {
  if (x.next) return h("span", { class: "chip busy" }, `new rule fills, ${percent(x.next.progress)}`);
  if (x.filled === false) return h("span", { class: "chip busy" }, "fills" + (x.progress !== undefined ? ", " + percent(x.progress) : ""));
  return h("span", { class: "chip good" }, "answers");
}

/** sizeQueue loads the sizes of rows that come into sight, a few at once. */
function sizeQueue(page) {
  const waiting = [], asked = new WeakMap();
  let running = 0;
  const work = async () => {
    if (running >= AT_ONCE || !waiting.length || page.signal.aborted) return;
    const [name, use] = waiting.shift();
    running++;
    try { use((await get(`/v1/segments/${id(name)}/sizes`, { signal: page.signal })).sizes); } catch { /* the row stays without */ }
    running--;
    work();
  };
  const seen = new IntersectionObserver((entries) => {
    for (const e of entries) {
      if (!e.isIntersecting) continue;
      seen.unobserve(e.target);
      waiting.push(asked.get(e.target));
      work();
    }
  });
  page.signal.addEventListener("abort", () => seen.disconnect(), { once: true });
  return (el, name, use) => { asked.set(el, [name, use]); seen.observe(el); };
}

// One segment.

function one(page, name) {
  page.heading.textContent = name;
  show(page.body, "the segment", page.signal, async () => {
    const x = await get("/v1/segments/" + id(name), { signal: page.signal });
    const gone = h("div", {}), filling = h("div", {}), chart = h("div", {}), size = h("span", { class: "size-now" });
    page.lead(`Scope ${x.scope || "identity"}, rule version ${x.version}.`);
    replace(page.tools, h("a", { class: "button", href: "#/segments" }, icon("back"), "All"), h("a", { class: "button", href: "#/explain?segment=" + id(name) }, icon("explain"), "Explain"), h("button", { type: "button", class: "quiet-danger", id: "delete", onclick: () => remove(name) }, "Delete"));
    const paint = (now) => {
      replace(size, figure(now.size, session.floor), h("small", {}, " now"));
      replace(filling, progress(now));
    };
    paint(x);
    every(1500, page.signal, async () => {
      try {
        paint(await get("/v1/segments/" + id(name), { signal: page.signal }));
        replace(gone);
      } catch (err) {
        if (err.name === "AbortError") throw err;
        fail(gone, err); // what is below is of before
      }
    });
    history(page, chart, name);
    return [gone, filling, h("section", { class: "panel", "aria-label": "Size over time" }, h("div", { class: "panel-head" }, h("h2", {}, "Size over time"), size), chart), panel("Rule", form(page, x))];
  });
}

function progress(x) {
  const at = x.next ? x.next.progress : x.filled === false ? x.progress || 0 : null;
  if (at === null) return null;
  if (!x.next && !x.backfill && at === 0) return h("div", { class: "panel filling", role: "status" }, h("div", {}, h("strong", {}, "Not filled from history"), h("span", { class: "quiet" }, " It has those seen since it was defined. Counts are not exact until it is defined with “Fill from history”.")));
  return h("div", { class: "panel filling", role: "status" }, h("div", {}, h("strong", {}, x.next ? "The new rule is being filled from history" : "Being filled from history"), h("span", { class: "quiet" }, x.next ? " Until it is, the old rule answers." : " Counts are not exact until it is.")), h("progress", { max: 1, value: at, "aria-label": "Backfill" }), h("span", { class: "num" }, percent(at)));
}

function history(page, el, name) {
  const spans = h("div", { class: "segmented", role: "group", "aria-label": "Period" }), out = h("div", {});
  const load = (days) => {
    for (const b of spans.children) b.setAttribute("aria-pressed", String(b.dataset.days === String(days)));
    const from = new Date(Date.now() - (days - 1) * 86400e3).toISOString().slice(0, 10);
    show(out, "sizes", page.signal, async () => {
      const { sizes } = await get(`/v1/segments/${id(name)}/sizes?from=${from}`, { signal: page.signal });
      const below = sizes.find((d) => d.below)?.below;
      const points = sizes.map((d) => ({ day: d.day, value: d.identities, soFar: d.so_far }));
      if (points.every((p) => p.value === null)) return h("p", { class: "quiet" }, below ? `Fewer than ${below} on each day: hidden by the floor.` : "No day is known yet. The size of each day is kept when it ends (UTC).");
      const net = points.slice(1).map((p, i) => ({ day: p.day, value: p.value === null || points[i].value === null ? null : p.value - points[i].value }));
      return [lineChart("Size by day", points), below && h("p", { class: "quiet" }, `Days with fewer than ${below} are gaps: hidden by the floor.`),
        net.some((p) => p.value !== null) && [h("h3", {}, "Entered less left, by day"), bars("Net change by day", net, { height: 120, sign: true })]];
    });
  };
  spans.append(...[30, 90, 365].map((d) => h("button", { type: "button", "data-days": d, onclick: () => load(d) }, d === 365 ? "1 year" : d + " days")));
  replace(el, spans, out);
  load(30);
}

async function remove(name) {
  if (!await confirmed({ title: `Delete ${name}?`, text: "Its memberships go. Rules and saved audiences that name it keep it from being deleted.", action: "Delete" })) return;
  try {
    await ask("DELETE", "/v1/segments/" + id(name));
    toast(name + " is deleted.");
    location.hash = "#/segments";
  } catch (err) { toast(err.message, "bad"); }
}

// The rule.

function edit(page) {
  page.heading.textContent = "New segment";
  page.lead("Rules are CEL over the events of an identity or a user.");
  replace(page.tools, h("a", { class: "button", href: "#/segments" }, icon("back"), "All"));
  replace(page.body, panel("Definition", form(page, null)));
}

function form(page, x) {
  // A rule that is being filled is what a change starts from: all of it, or saving would end the filling.
  const from = x && (x.next ? { ...x.next, backfill: true } : x);
  const name = h("input", { id: "segment-id", required: true, spellcheck: "false", autocomplete: "off", class: "mono", placeholder: "big-buyers" });
  const scope = h("select", { id: "scope" }, h("option", { value: "user", selected: from ? from.scope === "user" : true }, "User: what all devices of a person did"), h("option", { value: "identity", selected: from && from.scope !== "user" }, "Identity: what this one did"));
  const backfill = h("input", { type: "checkbox", id: "backfill", checked: from ? from.backfill : true });
  const rule = editor(from ? from.when : "", from ? "" : 'count(event.section == "auto", "30d") >= 3');
  const out = h("div", { "aria-live": "polite" }), error = h("p", { class: "field-error", role: "alert" });
  const save = h("button", { type: "submit", class: "primary", id: "save" }, "Save"), dry = h("button", { type: "button", id: "preview" }, "Preview");
  const send = async (query, button) => {
    rule.clear();
    error.textContent = "";
    const target = x ? x.id : name.value.trim();
    if (!target) {
      error.textContent = "Give the segment an id: letters, digits, - and _.";
      name.focus();
      return null;
    }
    button.disabled = true;
    try {
      if (!x && await defined(target, page.signal)) {
        error.textContent = `There is a segment ${target} already. Open it under Segments to change its rule, or choose another id.`;
        replace(out);
        name.focus();
        return null;
      }
      return await ask("PUT", "/v1/segments/" + id(target) + query, { body: { scope: scope.value, when: rule.text(), backfill: backfill.checked }, signal: page.signal });
    } catch (err) {
      if (err.name === "AbortError") return null;
      if (err.line) rule.mark(err);
      else error.textContent = err.message;
      replace(out);
      return null;
    } finally { button.disabled = false; }
  };
  dry.addEventListener("click", async () => {
    replace(out, h("p", { class: "quiet" }, "Reading history…"));
    const p = await send("?dry_run=true", dry);
    replace(out, p && preview(p));
  });
  const f = h("form", { class: "stack" }, !x && field("Id", name), rule.el, h("div", { class: "bar" }, field("Scope", scope), h("label", { class: "tick" }, backfill, "Fill from history")), error, h("div", { class: "actions" }, dry, save), out);
  f.addEventListener("submit", async (e) => {
    e.preventDefault();
    const saved = await send("", save);
    if (!saved) return;
    toast(saved.id + " is saved.");
    const here = "#/segments/" + id(saved.id);
    if (location.hash === here) dispatchEvent(new HashChangeEvent("hashchange"));
    else location.hash = here;
  });
  return f;
}

/** defined reports whether a segment is there. Why a name is none the node says when it is to be saved. */
async function defined(name, signal) {
  try {
    await get("/v1/segments/" + id(name), { signal });
    return true;
  } catch (err) {
    if (err.status !== 404 && err.status !== 400) throw err;
    return false;
  }
}

function preview(p) {
  const item = (t, v, c) => h("div", { class: c }, h("dt", {}, t), h("dd", {}, v));
  return h("div", { class: "preview" }, h("dl", {}, item("Now", figure(p.before, p.below)), item("Entering", [h("span", { class: "sign" }, "+"), figure(p.entering, p.below)], "enter"), item("Leaving", [h("span", { class: "sign" }, "−"), figure(p.leaving, p.below)], "leave"), item("After", figure(p.after, p.below))),
    h("p", { class: "quiet" }, `${number(p.judged)} identities were judged by what is kept of them.`, p.exact ? "" : " The numbers are scaled from a sample.", " Nothing was changed."));
}
