// Why an identity is in a segment, or not, now or at a time.
import { h, replace, show, field, stamp, ago, icon, empty } from "./dom.js";
import { get, id } from "./api.js";

export function explain(page) {
  page.lead("The facts that decide, when it became so, and when time alone will change it.");
  show(page.body, "segments", page.signal, async () => {
    const { segments } = await get("/v1/segments", { signal: page.signal });
    if (!segments.length) return empty("No segments yet", "There is nothing to explain before a segment is defined.", h("a", { class: "button primary", href: "#/segments/+new" }, "New segment"));
    return form(page, segments.map((x) => x.id));
  });
}

function form(page, ids) {
  const identity = h("input", { id: "identity", required: true, spellcheck: "false", autocomplete: "off", class: "mono", placeholder: "browser:3f0c…", value: page.query.get("identity") || "" });
  const wanted = page.query.get("segment");
  const segment = h("select", { id: "segment" }, ids.map((x) => h("option", { value: x, selected: x === wanted }, x)));
  const at = h("input", { type: "datetime-local", id: "at", step: 1 });
  const out = h("div", { "aria-live": "polite" });
  const f = h("form", { class: "bar" }, field("Identity", identity), field("Segment", segment), field("At (empty: now)", at), h("button", { type: "submit", class: "primary" }, "Explain"));
  const ask = () => {
    const time = at.value ? "&at=" + id(new Date(at.value).toISOString().replace(/\.\d+Z/, "Z")) : "";
    show(out, "the explanation", page.signal, async () => answer(await get(`/v1/identities/${id(identity.value.trim())}/explain?segment=${id(segment.value)}${time}`, { signal: page.signal })));
  };
  f.addEventListener("submit", (e) => {
    e.preventDefault();
    ask();
  });
  if (page.query.get("identity") && ids.includes(wanted)) ask(); // a form that is in no document yet is not submitted
  return [f, out];
}

const value = (v) => (v === null || v === undefined ? "nothing" : typeof v === "object" ? JSON.stringify(v) : String(v));

function answer(x) {
  const verdict = x.undecided ? "unsure" : x.in ? "in" : "out";
  return [h("article", { class: "panel verdict " + verdict },
    h("div", { class: "verdict-head" }, h("span", { class: "verdict-mark" }, icon(x.undecided ? "explain" : x.in ? "check" : "cross")), h("div", {}, h("h2", {}, x.undecided ? "Not known" : x.in ? `In ${x.segment}` : `Not in ${x.segment}`), h("p", { class: "quiet" }, h("span", { class: "identity" }, x.identity), " at ", stamp(x.at)))),
    h("dl", { class: "facts" }, x.entered && [h("dt", {}, "Entered"), h("dd", {}, stamp(x.entered), h("small", {}, " " + ago(x.entered)))], x.changes && [h("dt", {}, x.in ? "Will leave" : "Will enter"), h("dd", {}, stamp(x.changes), h("small", {}, " " + ago(x.changes)))], h("dt", {}, "Rule"), h("dd", {}, h("code", { class: "block" }, x.when)))),
  (x.notes || []).map((n) => h("p", { class: "note" }, n)),
  h("section", { class: "panel", "aria-label": "Facts" }, h("h2", {}, "Facts"), x.facts.length ? h("ul", { class: "fact-list" }, x.facts.map(fact)) : h("p", { class: "quiet" }, "None are told: nothing is known of this identity, or nothing came of it since the client's rules were last changed and its oldest events were dropped."))];
}

function fact(f) {
  return h("li", { class: f.holds ? "good" : "bad" }, icon(f.holds ? "check" : "cross"), h("div", {}, h("code", {}, f.expr), h("span", { class: "sr" }, f.holds ? " holds" : " does not hold"), h("p", {}, "is ", h("strong", {}, value(f.value))),
    f.events && f.events.length > 0 && h("p", { class: "times" }, f.events.slice(0, 12).map((t) => h("time", { datetime: t, title: stamp(t) }, ago(t))), f.events.length > 12 && h("span", { class: "quiet" }, `and ${f.events.length - 12} more`))));
}
