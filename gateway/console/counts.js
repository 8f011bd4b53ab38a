// One expression, one count.
import { h, replace, field, number, show } from "./dom.js";
import { ask, session } from "./api.js";

export function counts(page) {
  const report = session.role === "report";
  page.lead(report ? "How many are in an audience, rounded and frozen for the day." : "How many are in an audience: segments joined with & (and), | (or), ! (not) and parentheses.");
  const expr = h("input", { id: "expr", required: true, spellcheck: "false", autocomplete: "off", class: "mono", placeholder: "auto & !buyers", value: page.query.get("expr") || "" });
  const unit = h("select", { id: "unit" }, h("option", { value: "identities" }, "Identities"), h("option", { value: "users" }, "Users"));
  const out = h("div", { class: "result", "aria-live": "polite" });
  const form = h("form", { class: "bar" }, field("Audience", expr), field("Counted by", unit), h("button", { type: "submit", class: "primary" }, "Count"));
  form.addEventListener("submit", (e) => {
    e.preventDefault();
    show(out, "the count", page.signal, async () => answer(await ask("POST", "/v1/audiences/count", { body: { expr: expr.value, unit: unit.value }, signal: page.signal })));
  });
  replace(page.body, form, out);
}

function answer(a) {
  const notes = [];
  if (a.rounded) notes.push(`Rounded to ${a.rounded}, as of ${a.day}.`);
  if (!a.exact && !a.rounded) notes.push("Not exact: history is still being gone through, or not all partitions answered.");
  if (a.partitions.answered < a.partitions.of) notes.push(`${a.partitions.answered} of ${a.partitions.of} partitions answered.`);
  return h("article", { class: "card count-card" }, a.count === null
    ? [h("p", { class: "huge" }, "< " + a.below), h("p", {}, `Fewer than ${a.below}: such counts are hidden, so that nobody can be singled out.`)]
    : [h("p", { class: "huge" }, number(a.count)), h("p", { class: "quiet" }, a.exact ? "Exact, as of now." : "")], notes.map((t) => h("p", { class: "quiet" }, t)));
}
