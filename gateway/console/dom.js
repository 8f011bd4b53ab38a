// Elements, formats and the states that every view has: waiting, empty, failed.

const SVG = "http://www.w3.org/2000/svg";

function fill(el, props, children) {
  for (const [name, v] of Object.entries(props || {})) {
    if (v === null || v === undefined || v === false) continue;
    if (name.startsWith("on")) el.addEventListener(name.slice(2), v);
    else if (name === "value") el.value = v;
    else if (name === "class") el.setAttribute("class", v);
    else el.setAttribute(name, v === true ? "" : v);
  }
  put(el, children);
  return el;
}

function put(el, children) {
  for (const c of children.flat(Infinity)) {
    if (c === null || c === undefined || c === false) continue;
    el.append(c instanceof Node ? c : String(c));
  }
}

/** h makes an element; on… are listeners, other props attributes. */
export const h = (tag, props, ...children) => fill(document.createElement(tag), props, children);

/** s is h for SVG. */
export const s = (tag, props, ...children) => fill(document.createElementNS(SVG, tag), props, children);

export function replace(el, ...children) {
  el.replaceChildren();
  put(el, children);
  return el;
}

const icons = {
  overview: "M3 12h4l3-8 4 16 3-8h4", live: "M4 12a8 8 0 0 1 16 0M8 12a4 4 0 0 1 8 0M12 12v8", segments: "M12 3 3 8l9 5 9-5-9-5ZM3 13l9 5 9-5",
  overlap: "M9 6a6 6 0 1 0 0 12A6 6 0 0 0 9 6Zm6 0a6 6 0 1 0 0 12 6 6 0 0 0 0-12Z", count: "M5 20V10M12 20V4M19 20v-7",
  user: "M6 8a2.500 2.500 0 1 0 0-5 2.500 2.500 0 0 0 0 5Zm12 5a2.500 2.500 0 1 0 0-5 2.500 2.500 0 0 0 0 5ZM8 21a2.500 2.500 0 1 0 0-5 2.500 2.500 0 0 0 0 5ZM8.500 6.500l7 3M6.300 8l1.500 8M9.800 17l6.400-5",
  explain: "M9.500 9a2.500 2.500 0 1 1 3.500 2.300c-.8.4-1 .9-1 1.700v.5M12 17h.01M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18Z", receipts: "M6 3h12v18l-3-2-3 2-3-2-3 2V3Zm3 5h6M9 12h6",
  leakage: "M12 3s6 7 6 11a6 6 0 0 1-12 0c0-4 6-11 6-11Z", letters: "M3 6h18v12H3V6Zm0 0 9 7 9-7", cluster: "M4 4h7v7H4V4Zm9 9h7v7h-7v-7ZM16.500 4v9M4 16.500h9", partitions: "M4 4h4v4H4V4Zm6 0h4v4h-4V4Zm6 0h4v4h-4V4ZM4 10h4v4H4v-4Zm6 0h4v4h-4v-4Zm6 0h4v4h-4v-4ZM4 16h4v4H4v-4Zm6 0h4v4h-4v-4Zm6 0h4v4h-4v-4Z",
  menu: "M4 7h16M4 12h16M4 17h16", sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8ZM12 2v3m0 14v3M2 12h3m14 0h3M5 5l2 2m10 10 2 2M5 19l2-2M17 7l2-2", moon: "M20 14.500A8.500 8.500 0 1 1 9.500 4a7 7 0 0 0 10.500 10.500Z", system: "M3 5h18v11H3V5Zm6 15h6m-3-4v4",
  out: "M14 4h5v16h-5M3 12h11m-4-4 4 4-4 4", plus: "M12 5v14M5 12h14", check: "m5 12 5 5 9-10", cross: "m6 6 12 12M18 6 6 18", pause: "M8 5v14M16 5v14", play: "M7 5v14l12-7L7 5Z", back: "m14 6-6 6 6 6", cut: "M6 9a3 3 0 1 0 0-6 3 3 0 0 0 0 6Zm0 12a3 3 0 1 0 0-6 3 3 0 0 0 0 6ZM20 4 8.500 15.500M14.500 14.500 20 20M8.500 8.500 12 12",
};

export const icon = (name) => s("svg", { class: "icon", viewBox: "0 0 24 24", "aria-hidden": "true", focusable: "false" }, s("path", { d: icons[name] }));

export const mark = () => s("svg", { class: "mark", viewBox: "0 0 32 32", "aria-hidden": "true" },
  s("rect", { width: 32, height: 32, rx: 8 }), s("path", { d: "M10 10 21 13M10 10 13 22M21 13 13 22" }),
  s("circle", { cx: 10, cy: 10, r: 3.6 }), s("circle", { cx: 21.5, cy: 13, r: 3 }), s("circle", { cx: 13, cy: 22.5, r: 3 }));

// Formats.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

export const number = (n) => whole.format(n);
export const compact = (n) => (n < 10_000 ? whole.format(n) : short.format(n));
export const rate = (n) => (n >= 100 ? compact(n) : n >= 10 ? n.toFixed(0) : n.toFixed(1));
export const percent = (x) => (x * 100).toFixed(x < 0.1 ? 1 : 0) + "%";
export const signed = (n) => (n > 0 ? "+" : n < 0 ? "−" : "±") + number(Math.abs(n));
export const stamp = (t) => new Date(t).toLocaleString("en-GB", { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit" });
export const clock = (t) => new Date(t).toLocaleTimeString("en-GB");
export const day = (d) => new Date(d + "T00:00:00Z").toLocaleDateString("en-GB", { day: "numeric", month: "short", timeZone: "UTC" });

export function span(seconds) {
  if (seconds < 1) return Math.round(seconds * 1000) + " ms";
  if (seconds < 120) return seconds.toFixed(seconds < 10 ? 1 : 0) + " s";
  if (seconds < 7200) return Math.round(seconds / 60) + " min";
  return seconds < 172800 ? Math.round(seconds / 3600) + " h" : Math.round(seconds / 86400) + " days";
}

export function ago(t) {
  const d = (Date.now() - new Date(t)) / 1000;
  return d < 0 ? "in " + span(-d) : span(d) + " ago";
}

/** figure is a count, or why it is hidden. */
export const figure = (n, below) => (n === null || n === undefined
  ? h("span", { class: "hidden-figure", title: below ? `fewer than ${below} people: hidden by the floor` : "under the floor, or not known yet" }, below ? "< " + below : "hidden")
  : number(n));

/**
 * redraw shows what is newer in el, and leaves the focus and what is scrolled where
 * they are, by data-key. It does nothing, and says so, while the pointer or a key is
 * down on something in el, whose click would be lost, or a dialog is open, which
 * gives the focus back.
 */
export function redraw(el, ...children) {
  if (el.querySelector(":active") || document.querySelector("dialog[open]")) return false;
  const focus = el.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  const keyed = () => [...el.querySelectorAll("[data-key]")];
  const scrolled = new Map(keyed().map((x) => [x.dataset.key, x.scrollLeft]));
  replace(el, children);
  for (const x of keyed()) {
    if (scrolled.get(x.dataset.key)) x.scrollLeft = scrolled.get(x.dataset.key);
    if (x.dataset.key === focus) x.focus({ preventScroll: true });
  }
  return true;
}

/** fail is redraw of an error, which is told once and not at each try. */
export function fail(el, err, again) {
  const card = failed(err, again);
  if (el.textContent !== card.textContent) redraw(el, card);
}

// States.

export const loading = (what) => h("div", { class: "state", role: "status" }, h("span", { class: "spinner", "aria-hidden": "true" }), "Loading " + what + "…");

export const empty = (title, text, ...actions) => h("div", { class: "state empty" }, h("h3", {}, title), h("p", {}, text), ...actions);

export function failed(err, again) {
  return h("div", { class: "state failed", role: "alert" }, h("h3", {}, err.status === 403 ? "Not with this key" : "That did not work"), h("p", {}, err.message), h("p", { class: "quiet" }, "Code ", h("code", {}, err.code || "internal")),
    again && h("button", { type: "button", "data-key": "again", onclick: again }, "Try again"));
}

const shown = new WeakMap(); // element to its newest turn

/**
 * show fills el with what load makes of an answer, and the states before. An
 * answer that comes after el was asked for anew is not of what it is to show:
 * it is left out, and newest, which load is given, says so.
 */
export async function show(el, what, signal, load) {
  const turn = {}, newest = () => !signal.aborted && shown.get(el) === turn;
  shown.set(el, turn);
  replace(el, loading(what));
  try {
    const made = await load(newest);
    if (newest()) replace(el, made);
  } catch (err) {
    if (newest() && err.name !== "AbortError") replace(el, failed(err, () => show(el, what, signal, load)));
  }
}

let toasts;

/** toast says something for some seconds; screen readers hear it. */
export function toast(text, kind = "ok") {
  toasts ||= document.body.appendChild(h("div", { class: "toasts", role: "status", "aria-live": "polite" }));
  const t = h("div", { class: "toast " + kind }, icon(kind === "ok" ? "check" : "cross"), text);
  toasts.append(t);
  while (toasts.children.length > 3) toasts.firstChild.remove();
  setTimeout(() => t.remove(), 6000);
}

/** confirmed asks first; extra is more of the form. Resolves to false, or its fields. */
export function confirmed({ title, text, action, danger = true, extra = [] }) {
  return new Promise((done) => {
    const form = h("form", { method: "dialog" }, h("h2", { id: "dialog-title" }, title), h("p", {}, text), extra,
      h("div", { class: "actions" }, h("button", { value: "no", type: "submit", formnovalidate: true }, "Cancel"), h("button", { value: "yes", type: "submit", class: danger ? "danger" : "primary" }, action)));
    const d = h("dialog", { "aria-labelledby": "dialog-title" }, form);
    d.addEventListener("close", () => {
      const fields = Object.fromEntries(new FormData(form));
      d.remove();
      done(d.returnValue === "yes" ? fields : false);
    });
    document.body.append(d);
    d.showModal();
  });
}

export const field = (label, control, hint) => h("label", { class: "field" }, h("span", {}, label), control, hint && h("small", {}, hint));

export const panel = (title, ...children) => h("section", { class: "panel", "aria-label": title }, h("h2", {}, title), children);

/** table has columns [title, class] and rows of cells; caption is for screen readers. */
export const table = (caption, columns, rows) => h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption, "data-key": caption }, h("table", {}, h("caption", { class: "sr" }, caption),
  h("thead", {}, h("tr", {}, columns.map(([t, c]) => h("th", { scope: "col", class: c }, t)))),
  h("tbody", {}, rows.map((r) => (r instanceof Node ? r : h("tr", {}, r.map((c, i) => h("td", { class: columns[i][1] }, c))))))));

/**
 * every calls f now and again until signal ends, never twice at once. A page may
 * stay open for days: each wait takes its listener away again.
 */
export async function every(ms, signal, f) {
  while (!signal.aborted) {
    try { await f(); } catch (e) { if (e.name === "AbortError") return; }
    await new Promise((done) => {
      const end = () => {
        clearTimeout(t);
        signal.removeEventListener("abort", end);
        done();
      };
      const t = setTimeout(end, ms);
      signal.addEventListener("abort", end);
    });
  }
}

export const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
