// Who is in both: a heat map with numbers.
import { h, replace, show, field, number, compact, percent, empty } from "./dom.js";
import { get, ask, session } from "./api.js";

const SHOWN = 8, MOST = 24, BOXES = 200;

export function overlap(page) {
  page.lead("How many are in both of two segments. The darker, the larger the part of the row's segment.");
  show(page.body, "segments", page.signal, async () => {
    const { segments } = await get("/v1/segments", { signal: page.signal });
    if (!segments.length) return empty("No segments yet", "Overlap compares segments; define two of them first.", h("a", { class: "button primary", href: "#/segments/+new" }, "New segment"));
    return chooser(page, segments.map((x) => x.id));
  });
}

function chooser(page, ids) {
  const chosen = new Set(ids.slice(0, SHOWN)), out = h("div", {});
  const unit = h("select", {}, h("option", { value: "identities" }, "Identities"), h("option", { value: "users" }, "Users"));
  const mode = h("select", {}, h("option", { value: "n" }, "Numbers"), h("option", { value: "p" }, "Part of the row"));
  let matrix = null;
  const draw = () => matrix && replace(out, heat(matrix, mode.value === "p"));
  const load = () => show(out, "the overlap", page.signal, async (newest) => {
    matrix = null; // draw must not bring back what was chosen before
    if (!chosen.size) return empty("Nothing chosen", "Choose the segments to compare.");
    const m = await ask("POST", "/v1/audiences/overlap", { body: { segments: ids.filter((x) => chosen.has(x)), unit: unit.value }, signal: page.signal });
    if (newest()) matrix = m;
    return heat(m, mode.value === "p");
  });
  unit.addEventListener("change", load);
  mode.addEventListener("change", draw);
  const box = (x) => {
    const tick = h("input", { type: "checkbox", checked: chosen.has(x) });
    tick.addEventListener("change", () => {
      tick.checked && chosen.size < MOST ? chosen.add(x) : chosen.delete(x);
      tick.checked = chosen.has(x);
      load();
    });
    return h("label", { class: "tick" }, tick, x);
  };
  const boxes = h("div", {}), search = ids.length > BOXES && h("input", { type: "search", placeholder: "Find a segment", "aria-label": "Find a segment" });
  const offer = () => {
    const q = search ? search.value.trim().toLowerCase() : "", found = ids.filter((x) => x.toLowerCase().includes(q));
    replace(boxes, found.slice(0, BOXES).map(box), found.length > BOXES && h("p", { class: "quiet" }, `And ${number(found.length - BOXES)} more: type a part of the name.`), !found.length && h("p", {}, "No segment matches."));
  };
  if (search) search.addEventListener("input", offer);
  offer();
  load();
  return [h("div", { class: "bar" }, field("Counted by", unit), field("Cells show", mode), h("details", { class: "choose" }, h("summary", {}, "Segments"), h("fieldset", {}, h("legend", { class: "sr" }, "Segments to compare"), h("p", { class: "quiet" }, `Up to ${MOST}.`), search, boxes))), out];
}

function heat(m, parts) {
  const size = (i) => m.counts[i][i];
  const cell = (i, j) => {
    const n = m.counts[i][j];
    if (n === null) return h("td", { class: "heat hidden-cell", title: `${m.segments[i]} and ${m.segments[j]}: fewer than ${m.below} people, hidden by the floor` }, h("span", {}, "< " + m.below));
    const part = size(i) ? n / size(i) : 0;
    const td = h("td", { class: "heat" + (i === j ? " diagonal" : "") + (part > 0.7 ? " strong" : part > 0.55 ? " mid" : ""), title: `${m.segments[i]} and ${m.segments[j]}: ${number(n)}` + (size(i) ? `, ${percent(part)} of ${m.segments[i]}` : "") },
      h("span", {}, parts && size(i) ? percent(part) : compact(n)));
    td.style.setProperty("--heat", (i === j ? 0 : part).toFixed(3));
    return td;
  };
  const hidden = m.counts.flat().some((n) => n === null);
  return h("section", { class: "panel" }, h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Overlap" }, h("table", { class: "heatmap" }, h("caption", { class: "sr" }, "How many are in both"),
    h("thead", {}, h("tr", {}, h("td", {}), m.segments.map((x) => h("th", { scope: "col" }, h("span", {}, x))))),
    h("tbody", {}, m.segments.map((x, i) => h("tr", {}, h("th", { scope: "row" }, h("a", { href: "#/segments/" + encodeURIComponent(x) }, x)), m.segments.map((_, j) => cell(i, j))))))),
  h("div", { class: "legend" }, h("span", {}, "0%"), h("span", { class: "ramp", "aria-hidden": "true" }), h("span", {}, "100% of the row"),
    hidden && h("span", { class: "legend-hidden" }, h("i", { class: "swatch hidden-cell", "aria-hidden": "true" }), `Fewer than ${m.below} people: the number is hidden, so that nobody can be singled out.`),
    !m.exact && h("span", {}, "Not exact: history is still being gone through."), session.role === "admin" && h("span", { class: "quiet" }, "An admin key has no floor.")));
}
