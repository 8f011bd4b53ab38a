// How far an opt-out is, its receipt, and the check of a receipt from elsewhere.
import { h, replace, show, field, panel, stamp, toast, confirmed, empty } from "./dom.js";
import { get, ask, id } from "./api.js";
import { receiptCard } from "./receipt.js";

export function receipts(page) {
  page.lead("Opt-outs and erasures leave a signed receipt. Anybody who holds one can have it checked.");
  const asked = page.rest[0] || "";
  const input = h("input", { id: "identity", required: true, spellcheck: "false", autocomplete: "off", class: "mono", placeholder: "browser:3f0c…", value: asked });
  const out = h("div", {});
  const look = () => show(out, "the state", page.signal, async () => state(look, await get("/v1/optouts/" + id(input.value.trim()), { whole: true, signal: page.signal })));
  const form = h("form", { class: "bar" }, field("Identity", input), h("button", { type: "submit", class: "primary" }, "Look up"));
  form.addEventListener("submit", (e) => { e.preventDefault(); look(); });
  const text = h("textarea", { id: "pasted", rows: 5, spellcheck: "false", class: "mono", placeholder: '{"version":1,"id":"…", …}' }), pasted = h("div", {}), wrong = h("p", { class: "field-error", role: "alert" });
  const check = h("form", { class: "stack" }, field("A receipt, as it was given", text), wrong, h("div", { class: "actions" }, h("button", { type: "submit" }, "Open")));
  check.addEventListener("submit", (e) => {
    e.preventDefault();
    wrong.textContent = "";
    replace(pasted);
    try {
      const x = JSON.parse(text.value) || {}, r = x.receipt || x;
      if (!r.signature || !r.public_key) throw new Error("It has no signature or public key: this is no receipt.");
      replace(pasted, receiptCard(r));
    } catch (err) { wrong.textContent = err instanceof SyntaxError ? "That is not JSON: paste the whole receipt, braces included." : err.message; }
  });
  replace(page.body, form, out, panel("Check a receipt", check), pasted);
  if (asked) look();
  else input.focus();
}

function state(again, x) {
  const back = !x.opted_out && x.receipt?.action === "optout"; // an opt-in leaves the receipt of the opt-out before
  if (!x.opted_out && !x.receipt) return empty("Not opted out", "There is no opt-out or erasure of this identity that is final.");
  const optIn = async () => {
    if (!await confirmed({ title: "Opt this identity in?", text: "It may be known again, from nothing. Do this at the person's own wish only.", action: "Opt in", danger: false })) return;
    try {
      await ask("POST", "/v1/optins", { body: { identity: x.identity }, whole: true });
      toast("It is opted in.");
      again();
    } catch (err) { toast(err.message, "bad"); }
  };
  return [h("section", { class: "panel", "aria-label": "State" }, h("div", { class: "panel-head" }, h("h2", {}, x.opted_out ? "Opted out" : back ? "Opted in again" : "Erased"), x.opted_out && h("button", { type: "button", onclick: optIn }, "Opt in")),
    h("p", {}, back ? "known again, from nothing," : h("span", { class: "chip " + (x.final ? "good" : "busy") }, x.final ? "final" : "not final yet"), " ", x.since && ["since " + stamp(x.since)]),
    x.counts_from && h("p", { class: "warn" }, `Its events are not kept before ${stamp(x.counts_from)} at the earliest: the node's clock was set back, or the lane's time stands still for want of its owner.`),
    back && h("p", { class: "quiet" }, "The receipt is of the opt-out before.")),
  x.receipt ? receiptCard(x.receipt) : h("p", { class: "quiet" }, "The receipt comes when nothing of it is left. ", h("button", { type: "button", class: "link", onclick: again }, "Look again"))];
}
