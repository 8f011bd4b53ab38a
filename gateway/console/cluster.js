// Nodes and lanes: who answers for what, who owns it, how far behind.
import { h, replace, show, every, span, ago, number, toast, confirmed, redraw, fail } from "./dom.js";
import { get, ask, id } from "./api.js";

export function cluster(page) {
  page.lead("Each node answers for its lanes; the owner of a lane does its upkeep.");
  const out = h("div", {});
  replace(page.body, out);
  let last = "";
  const refresh = async () => {
    try {
      const c = await get("/v1/cluster", { whole: true, signal: page.signal });
      const text = JSON.stringify(c);
      if (text !== last && redraw(out, drawn(c, act))) last = text;
    } catch (err) {
      if (err.name === "AbortError") throw err;
      last = "";
      fail(out, err, refresh);
    }
  };
  const act = async (question, method, path, body) => {
    if (question && !await confirmed(question)) return;
    try {
      await ask(method, path, { body, whole: true });
      toast("Done.");
    } catch (err) { toast(err.message, "bad"); }
    refresh();
  };
  show(out, "the cluster", page.signal, async () => drawn(await get("/v1/cluster", { whole: true, signal: page.signal }), act)).then(() => every(2000, page.signal, refresh));
}

function drawn(c, act) {
  const lanes = [...new Set(c.nodes.flatMap((n) => [...(n.lanes || []), ...(n.states || []).map((l) => l.lane)]))].sort((a, b) => a - b);
  return [h("div", { class: "cards nodes" }, c.nodes.map((n) => node(n, c.nodes.length, act))),
    h("section", { class: "panel", "aria-label": "Lanes" }, h("h2", {}, "Lanes"), h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Lanes by node", "data-key": "lanes" }, h("table", { class: "lanes" }, h("caption", { class: "sr" }, "Lanes by node"),
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Lane"), c.nodes.map((n) => h("th", { scope: "col" }, n.name)))),
      h("tbody", {}, lanes.map((l) => h("tr", {}, h("th", { scope: "row" }, "Lane " + l, c.placed && c.placed[l] && h("small", {}, " placed")), c.nodes.map((n) => lane(n, l))))))),
    h("div", { class: "legend" }, h("span", {}, h("i", { class: "swatch owner", "aria-hidden": "true" }), "owner"), h("span", {}, h("i", { class: "swatch", "aria-hidden": "true" }), "answers too"))),
    c.log && c.log.length > 0 && h("section", { class: "panel", "aria-label": "Log" }, h("h2", {}, "Log"), h("ul", { class: "plain" }, c.log.map((s) => h("li", {}, h("code", {}, s.stream), " led by ", h("strong", {}, s.leader || "nobody"), (s.others || []).map((o) => h("span", { class: "chip " + (o.current ? "good" : "busy") }, o.current ? o.node : `${o.node}, ${number(o.lag)} behind`))))))];
}

function node(n, of, act) {
  const path = `/v1/cluster/nodes/${id(n.name)}/drain`;
  const lag = Math.max(0, ...(n.states || []).map((l) => l.lag_seconds));
  return h("article", { class: "card node-card" }, h("div", { class: "panel-head" }, h("h2", {}, n.name), h("span", { class: "chip " + (n.ready ? (n.draining ? "busy" : "good") : "bad") }, n.draining ? "draining" : n.ready ? "ready" : "not ready")),
    n.why && h("p", { class: "warn" }, n.why),
    h("dl", { class: "facts" }, h("dt", {}, "Started"), h("dd", {}, ago(n.started)), h("dt", {}, "Lag"), h("dd", {}, span(lag)), h("dt", {}, "Owns"), h("dd", {}, `${(n.owns || []).length} of ${(n.lanes || []).length} lanes`)),
    n.draining ? h("button", { type: "button", "data-key": "node " + n.name, onclick: () => act(null, "DELETE", path) }, "End draining")
      : of > 1 ? h("button", { type: "button", "data-key": "node " + n.name, onclick: () => act({ title: `Drain ${n.name}?`, text: "Others take its lanes over, and its /readyz says 503. It answers still.", action: "Drain", danger: false }, "POST", path) }, "Drain") : h("p", { class: "quiet" }, "A node alone has nobody to drain to."));
}

function lane(n, l) {
  const x = (n.states || []).find((s) => s.lane === l);
  if (!x && !(n.lanes || []).includes(l)) return h("td", { class: "quiet" }, "–");
  const owner = (n.owns || []).includes(l);
  return h("td", {}, h("div", { class: "lane-cell" + (owner ? " owner" : "") + (x && x.quarantined ? " stopped" : "") }, owner && h("strong", {}, "owner"), x ? [h("span", {}, "at " + number(x.applied)), h("span", {}, span(Math.max(0, x.lag_seconds)) + " lag"), x.lease_seconds >= 0 && h("span", {}, "lease " + span(x.lease_seconds)), x.quarantined && h("span", { class: "warn" }, x.quarantined)] : h("span", {}, "says nothing")));
}
