// A receipt: its fields, and what can be verified of it, here and at the node.
import { h, replace, icon, stamp, number, loading, failed } from "./dom.js";
import { ask, get } from "./api.js";

const fields = [
  ["action", "Action"], ["client", "Client"], ["id", "Command"], ["node", "Signed by"], ["time", "Time"], ["identity_hmac", "Identity, keyed hash"], ["identity_hash", "Identity, home's hash"], ["generation", "Generation"],
  ["everywhere", "Everywhere"], ["also", "Others cut with it"], ["partition", "Partition"], ["lane", "Lane"], ["offset", "Offset in the log"], ["copies_retracted", "Copies taken back"], ["members_refreshed", "Members refreshed"],
  ["position", "Final at"], ["log_clear_by", "Log clear by"], ["public_key", "Public key"], ["signature", "Signature"],
];

const signed = ["version", "id", "node", "action", "client", "identity_hmac", "identity_hash", "generation", "everywhere", "also", "partition", "lane", "offset", "time", "copies_retracted", "members_refreshed", "position", "log_clear_by", "public_key"];

const bytes = (hex) => Uint8Array.from(hex.match(/../g) || [], (x) => parseInt(x, 16));

/** checkHere verifies the signature in this browser; null if it cannot. */
export async function checkHere(r) {
  if (!globalThis.crypto?.subtle) return null;
  const text = "kith receipt\n" + signed.map((f) => `${f}=${String(r[f] ?? "").replaceAll("\n", " ")}\n`).join("");
  try {
    const key = await crypto.subtle.importKey("raw", bytes(r.public_key), { name: "Ed25519" }, false, ["verify"]);
    return await crypto.subtle.verify({ name: "Ed25519" }, key, bytes(r.signature), new TextEncoder().encode(text));
  } catch { return null; }
}

const line = (ok, text, note) => h("li", { class: ok === null ? "unsure" : ok ? "good" : "bad" }, icon(ok === null ? "explain" : ok ? "check" : "cross"), h("span", {}, text, note && h("small", {}, note)));

export function receiptCard(r) {
  const out = h("div", { "aria-live": "polite" });
  const verify = async () => {
    replace(out, loading("the search through everything that is kept"));
    try {
      const [here, key, x] = await Promise.all([checkHere(r), get("/v1/receipts/key", { whole: true }), ask("POST", "/v1/receipts/verify", { body: r })]);
      const own = key.public_key === r.public_key;
      replace(out, h("ul", { class: "checks" },
        line(here, here === null ? "This browser cannot check Ed25519 signatures" : here ? "The signature is right, checked in this browser" : "The signature does not fit the fields, checked in this browser"),
        line(own, own ? "Signed with this node's own key" : "Signed with another key than this node's", own ? "" : "Another node of the cluster, or another deployment, signed it."),
        line(x.signature, x.signature ? "The node vouches for the signature" : "The node does not vouch for the signature"),
        line(x.clean, x.clean ? "Nothing of the identity is left" : "Something of the identity is there", x.places.map((p) => `${p.place}: ${number(p.found)}`).join(" · ")),
        line(x.log_clear ? true : null, x.log_clear ? "No log entry from before is left" : `Log entries from before go by ${stamp(r.log_clear_by)}`, x.log_clear ? "" : "kith erase --now removes them at once.")));
    } catch (err) { replace(out, failed(err, verify)); }
  };
  const save = () => {
    const a = h("a", { href: URL.createObjectURL(new Blob([JSON.stringify(r, null, 2) + "\n"], { type: "application/json" })), download: `receipt-${r.id}.json` });
    a.click();
    URL.revokeObjectURL(a.href);
  };
  return h("article", { class: "panel receipt", "aria-label": "Receipt" }, h("div", { class: "panel-head" }, h("h2", {}, "Receipt"), h("div", { class: "tools" }, h("button", { type: "button", onclick: save }, "Save"), h("button", { type: "button", class: "primary", id: "verify", onclick: verify }, "Verify"))),
    out, h("dl", { class: "facts receipt-fields" }, fields.filter(([f]) => r[f] !== undefined && r[f] !== "").map(([f, t]) => [h("dt", {}, t), h("dd", { class: typeof r[f] === "string" && r[f].length > 20 && !f.includes("time") && f !== "log_clear_by" ? "mono" : "" }, f === "time" || f === "log_clear_by" ? stamp(r[f]) : typeof r[f] === "boolean" ? (r[f] ? "yes" : "no") : r[f])])));
}
