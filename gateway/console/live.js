// What comes in right now: a bounded sample, streamed.
import { h, replace, icon, number, clock, failed, loading } from "./dom.js";
import { events, isAdmin } from "./api.js";

const ROWS = 100;

export function live(page) {
  page.lead(isAdmin() ? "A sample of what this node takes in for the client, as it comes. Opted-out identities never appear." : "A sample of what this node takes in, as it comes. Identities are shortened; opted-out ones never appear.");
  let paused = false, feed = null, filter = "";
  const pause = h("button", { type: "button", id: "pause" }, icon("pause"), h("span", {}, "Pause"));
  const search = h("input", { type: "search", placeholder: "Filter", "aria-label": "Filter the events shown", class: "small" });
  page.tools.append(search, pause);
  const tally = h("p", { class: "tally", role: "status", "aria-live": "off" }, "Connecting…");
  const rows = h("tbody", {}), area = h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Live events" });
  const none = h("div", { class: "state empty" }, h("h3", {}, "Nothing has come in yet"), h("p", {}, "Events show here once they are durable. Send one, or open a page with the tag on it."));
  replace(area, h("table", { class: "live" }, h("caption", { class: "sr" }, "Live events, newest first"), h("thead", {}, h("tr", {}, ["Time", "Event", "Identities", "Page", "Properties"].map((t) => h("th", { scope: "col" }, t)))), rows), none);
  const slot = h("div", {});
  replace(page.body, tally, slot);
  replace(slot, loading("the feed"));

  const matches = (tr) => !filter || tr.textContent.toLowerCase().includes(filter);
  search.addEventListener("input", () => {
    filter = search.value.trim().toLowerCase();
    for (const tr of rows.children) tr.hidden = !matches(tr);
  });

  function row(e) {
    const tr = h("tr", { class: "fresh" }, h("td", { class: "nowrap" }, h("time", { datetime: e.time }, clock(e.time))), h("td", {}, h("strong", {}, e.event)),
      h("td", {}, e.identities.map((x) => (isAdmin() ? h("a", { class: "identity", href: "#/user/" + encodeURIComponent(x) }, x) : h("span", { class: "identity" }, x)))),
      h("td", { class: "page-cell" }, e.url || h("span", { class: "quiet" }, "–")),
      h("td", {}, Object.entries(e.props || {}).map(([k, v]) => h("span", { class: "prop" }, h("b", {}, k), " " + v)), e.more_props && h("span", { class: "quiet" }, `+${e.more_props}`)));
    tr.hidden = !matches(tr);
    return tr;
  }

  function heard(kind, x) {
    if (kind === "tally") {
      const parts = [h("b", {}, number(x.seen)), " taken in, ", h("b", {}, number(x.told)), " shown"];
      if (x.skipped) parts.push(", ", h("b", {}, number(x.skipped)), " left out of the sample");
      if (x.lost) parts.push(", ", h("b", { class: "warn" }, number(x.lost)), " lost because this page read too slowly");
      replace(tally, h("span", { class: "dot" + (paused ? "" : " on"), "aria-hidden": "true" }), parts);
      return;
    }
    none.remove();
    rows.prepend(row(x));
    while (rows.children.length > ROWS) rows.lastChild.remove();
  }

  async function follow() {
    feed = new AbortController();
    try {
      replace(slot, area);
      await events("/v1/live", feed.signal, heard);
      if (!feed.signal.aborted) replace(tally, "The node ended the feed. ", h("button", { type: "button", onclick: follow }, "Connect again"));
    } catch (err) {
      if (err.name !== "AbortError" && !page.signal.aborted) {
        replace(tally, "Not connected.");
        replace(slot, failed(err, follow));
      }
    }
  }

  pause.addEventListener("click", () => {
    paused = !paused;
    replace(pause, icon(paused ? "play" : "pause"), h("span", {}, paused ? "Go on" : "Pause"));
    if (paused) {
      feed.abort();
      replace(tally, h("span", { class: "dot", "aria-hidden": "true" }), "Paused: nothing is read.");
    } else follow();
  });
  follow();
  page.signal.addEventListener("abort", () => feed.abort(), { once: true }); // whichever feed it is by then
}
