// The hash space: which lane carries each partition, and how the lanes are.
import { h, replace, show, table, number, span, every, redraw, fail } from "./dom.js";
import { get } from "./api.js";

export function partitions(page) {
  page.lead("The hash space is split into partitions; each lane carries some of them through its own log.");
  const out = h("div", {});
  replace(page.body, out);
  const refresh = async () => {
    try {
      redraw(out, drawn(await get("/v1/partitions", { whole: true, signal: page.signal })));
    } catch (err) {
      if (err.name === "AbortError") throw err;
      fail(out, err, refresh);
    }
  };
  show(out, "partitions", page.signal, async () => drawn(await get("/v1/partitions", { whole: true, signal: page.signal }))).then(() => every(3000, page.signal, refresh));
}

function drawn({ partitions: list, lanes }) {
  const sorted = [...list].sort((a, b) => a.partition - b.partition);
  return [h("section", { class: "panel", "aria-label": "Hash space" }, h("h2", {}, "Hash space"), h("ul", { class: "slots" }, sorted.map((p) => {
    const li = h("li", { class: "slot" + (p.ready ? "" : " stopped"), title: `Partition ${p.partition}: lane ${p.lane}, owner ${p.owner || "this node"}, ${p.ready ? "ready" : "stopped"}` }, h("span", {}, p.partition), h("small", {}, "L" + p.lane));
    li.style.setProperty("--lane", String(lanes.length > 1 ? lanes.findIndex((l) => l.lane === p.lane) / (lanes.length - 1) : 0));
    return li;
  }))),
  h("section", { class: "panel", "aria-label": "Lanes" }, h("h2", {}, "Lanes"), table("Lanes", [["Lane"], ["Owner"], ["Applied", "num"], ["Waiting", "num"], ["Lag", "num"], ["Identities", "num"], ["Active", "num"], ["Log from", "num"], ["State"]],
    lanes.map((l) => ["Lane " + l.lane, l.owner || "this node", number(l.applied), number(Math.max(0, l.logged - l.applied)), span(Math.max(0, l.lag_seconds)), number(l.identities), number(l.active), number(l.first), l.quarantined ? h("span", { class: "chip bad", title: l.quarantined }, "stopped") : h("span", { class: "chip good" }, "runs")])))];
}
