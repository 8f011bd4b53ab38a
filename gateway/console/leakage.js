// Third parties that the client's tags saw on its pages, the unexpected ones first.
import { h, replace, show, table, number, day, empty, panel } from "./dom.js";
import { get } from "./api.js";

export function leakage(page) {
  page.lead("Hosts that the client's pages asked beside its own, as tags with data-leaks told. Which ones are expected stands in kith.yaml.");
  const days = h("select", { "aria-label": "Over" }, [7, 30, 90, 366].map((n) => h("option", { value: n, selected: n === 30 }, n === 366 ? "a year" : n + " days")));
  const load = () => show(page.body, "third parties", page.signal, async () => {
    const x = await get("/v1/leakage?days=" + days.value, { signal: page.signal });
    if (!x.pages && !x.withheld) return empty("No page has told of hosts", "Add data-leaks to the tag: <script async src=\"…/kith.js\" data-client=\"…\" data-leaks></script>");
    const rows = (list) => list.map((p) => [h("code", {}, p.host), number(p.pages), number(p.identities), h("span", { class: "nowrap" }, day(p.first)), h("span", { class: "nowrap" }, day(p.last)), p.on.join(", ")]);
    const heads = [["Host"], ["Pages", "num"], ["Identities", "num"], ["First"], ["Last"], ["On"]];
    const unknown = x.hosts.filter((p) => !p.allowed), known = x.hosts.filter((p) => p.allowed);
    const notes = [x.pages === null ? "Too few people saw pages that told of hosts." : `${number(x.pages)} ${x.pages === 1 ? "page" : "pages"} told of hosts.`];
    if (x.withheld) notes.push(`${number(x.withheld)} hosts that too few people met are not shown.`);
    if (x.more) notes.push("There were more hosts than are counted.");
    return [panel("Not expected", unknown.length ? table("Hosts that are not expected", heads, rows(unknown)) : h("p", {}, "None: every host is on the list.")),
      known.length ? panel("Expected", table("Hosts that are expected", heads, rows(known))) : null, h("p", { class: "quiet" }, notes.join(" "))];
  });
  days.addEventListener("change", load);
  replace(page.tools, days, h("button", { type: "button", onclick: load }, "Refresh"));
  load();
}
