// Who an identity is one person with, and why; the cut, and the end of a link.
import { h, replace, show, field, panel, table, stamp, percent, icon, toast, confirmed, empty, loading } from "./dom.js";
import { get, ask, id } from "./api.js";
import { draw, vanish, depart, edgeName, clip } from "./graph.js";
import { receiptCard } from "./receipt.js";

export function user(page) {
  page.lead("The identities that links join to one person, and what each link rests on.");
  const asked = page.rest[0] || "";
  const input = h("input", { id: "identity", required: true, spellcheck: "false", autocomplete: "off", class: "mono", placeholder: "browser:3f0c…", value: asked });
  const form = h("form", { class: "bar" }, field("Identity", input), h("button", { type: "submit", class: "primary" }, "Show"));
  form.addEventListener("submit", (e) => {
    e.preventDefault();
    const next = "#/user/" + id(input.value.trim());
    if (location.hash === next) dispatchEvent(new HashChangeEvent("hashchange"));
    else location.hash = next;
  });
  const out = h("div", {});
  replace(page.body, form, out);
  if (!asked) {
    replace(out, empty("Whose graph?", "Type an identity: browser:, account:, aaid:, idfa: or partner.NAME: and its value."));
    input.focus();
    return;
  }
  show(out, "the user", page.signal, async () => shown(page, out, asked, await load(page, asked)));
}

const links = (n) => n + (n === 1 ? " link" : " links");

/** named is an identity, shortened in a table. */
const named = (x) => h("span", { class: "identity", title: x }, clip(x, 26));

async function load(page, identity, after) {
  const [u, state] = await Promise.all([
    get("/v1/users/" + id(identity) + (after ? "?after=" + id(after) : ""), { signal: page.signal }),
    get("/v1/identities/" + id(identity) + "/segments", { signal: page.signal }),
  ]);
  return { ...u, state };
}

function shown(page, out, identity, u) {
  if (u.state.opted_out) return [empty("Opted out", "Nothing of this identity is kept or shown. Its receipt is under Receipts.", h("a", { class: "button", href: "#/receipts/" + id(identity) }, "Receipt"))];
  const about = h("aside", { class: "panel about", "aria-live": "polite", "aria-label": "What is chosen", tabindex: -1 });
  const receipt = h("div", {}), listed = h("div", {});
  let busy = false;
  const guard = (f) => async (...a) => {
    if (busy) return;
    busy = true;
    try { await f(...a); } catch (err) { if (err.name !== "AbortError") toast(err.message, "bad"); } finally { busy = false; }
  };

  const optOut = guard(async (m) => {
    const answer = await confirmed({
      title: "Opt this identity out?", action: "Opt out",
      text: `${clip(m, 40)} is cut out of every space, for all clients, and nothing of it is kept. It may be opted in again later, but then begins from nothing.`,
      extra: h("label", { class: "tick" }, h("input", { type: "checkbox", name: "everywhere", value: "yes" }), "The other identities of this person too"),
    });
    if (!answer) return;
    replace(about, loading("the receipt"));
    let state;
    try {
      state = await ask("POST", "/v1/optouts", { body: { identity: m, everywhere: answer.everywhere === "yes" } });
    } catch (err) {
      tell("member", m); // to try again
      throw err;
    }
    state = await final(page, state);
    if (page.signal.aborted) return toast("Opted out; the receipt is under Receipts.");
    const gone = answer.everywhere ? u.members : [m];
    await vanish(picture, u.edges.filter((e) => gone.includes(e.a) || gone.includes(e.b)).map(edgeName));
    await Promise.all(gone.map((x) => depart(picture, x)));
    replace(listed, linkTable(u.edges.filter((e) => !gone.includes(e.a) && !gone.includes(e.b)), unlink));
    replace(receipt, state.receipt ? receiptCard(state.receipt) : empty("Not final yet", "It is dark already; the receipt comes when nothing of it is left.", h("a", { class: "button", href: "#/receipts/" + id(m) }, "Look again")));
    receipt.querySelector(".receipt")?.setAttribute("tabindex", "-1");
    receipt.querySelector(".receipt")?.focus({ preventScroll: true });
    const rest = u.members.find((x) => !gone.includes(x));
    replace(about, h("h2", {}, "Cut out"), h("p", {}, `${clip(m, 40)} is opted out. `, rest ? `${u.members.length - gone.length} of ${u.members.length} identities stay, as if it had never been linked.` : "Nobody of this user is left."), rest && h("a", { class: "button", href: "#/user/" + id(rest) }, "The user that is left"));
    toast(state.receipt ? "Opted out: the receipt is below." : "Opted out; the receipt is under Receipts.");
  });

  const unlink = guard(async (e) => {
    if (!await confirmed({ title: "Remove this link?", action: "Remove link", text: `${clip(e.a, 40)} and ${clip(e.b, 40)}: the link goes, whoever made it. The user splits if nothing else joins them.` })) return;
    const r = await ask("DELETE", `/v1/links?a=${id(e.a)}&b=${id(e.b)}`);
    await vanish(picture, [edgeName(e)]);
    toast("The link is removed.");
    await show(out, "the user", page.signal, async () => shown(page, out, identity, await load(page, identity, r.position)));
  });

  const tell = (kind, x) => {
    if (kind === "edge") {
      replace(about, h("h2", {}, "Link"), h("dl", { class: "facts" }, h("dt", {}, "Between"), h("dd", {}, h("span", { class: "identity" }, x.a), h("span", { class: "identity" }, x.b)), h("dt", {}, "Method"), h("dd", {}, x.method), h("dt", {}, "Confidence"), h("dd", {}, percent(x.confidence)), h("dt", {}, "Client"), h("dd", {}, x.client), h("dt", {}, "Newest evidence"), h("dd", {}, stamp(x.time))),
        h("div", { class: "actions" }, h("button", { type: "button", class: "quiet-danger", onclick: () => unlink(x) }, "Remove link")));
    } else {
      replace(about, h("h2", {}, x === u.root ? "Identity, the root" : "Identity"), h("p", {}, h("span", { class: "identity" }, x)), h("p", { class: "quiet" }, links(u.edges.filter((e) => e.a === x || e.b === x).length)),
        h("div", { class: "actions" }, x !== identity && h("a", { class: "button", href: "#/user/" + id(x) }, "Centre"), h("a", { class: "button", href: "#/explain?identity=" + id(x) }, "Explain"), h("button", { type: "button", class: "danger", "data-optout": x, onclick: () => optOut(x) }, icon("cut"), "Opt out")));
    }
  };
  const picture = draw(u, identity, (kind, x) => {
    if (!busy) tell(kind, x);
    about.focus({ preventScroll: true }); // its buttons come next by Tab, not after all that is drawn
  });
  replace(listed, linkTable(u.edges, unlink));
  const household = householdTable(u.household || []);
  tell("member", u.members.includes(identity) ? identity : u.root);
  return [
    h("div", { class: "columns graph-columns" }, h("section", { class: "panel canvas", "aria-label": "Graph" }, h("p", { class: "quiet" }, `${u.members.length} ${u.members.length === 1 ? "identity" : "identities"}, ${links(u.edges.length)}`, !u.state.known && ", not known", picture.hidden > 0 && `, ${picture.hidden} not drawn`), picture.svg,
      h("div", { class: "legend" }, h("span", {}, h("i", { class: "line-key", "aria-hidden": "true" }), "deterministic"), h("span", {}, h("i", { class: "line-key inferred", "aria-hidden": "true" }), "inferred"), u.state.segments.length > 0 && h("span", {}, "In ", u.state.segments.map((x) => h("a", { class: "chip", href: "#/segments/" + id(x) }, x))))), about),
    receipt,
    listed,
    household,
  ];
}

/** householdTable lists what is inferred of devices that share networks, if anything is. */
function householdTable(edges) {
  if (!edges.length) return null;
  return panel("Household", h("p", { class: "quiet" }, "Devices of others that were seen on the same networks. These are inferred from the facts of both ends, join no users, and go when either end opts out."),
    table("Household of this user", [["Identity"], ["Identity"], ["Kind"], ["Method"], ["Confidence", "num"], ["Days", "num"], ["Newest"]],
      edges.map((e) => [named(e.a), h("a", { class: "identity", href: "#/user/" + id(e.b), title: e.b }, clip(e.b, 26)), e.kind, e.method, percent(e.confidence), e.days, h("span", { class: "nowrap" }, e.last)])));
}

/** linkTable lists links, each with its end. */
function linkTable(edges, unlink) {
  if (!edges.length) return h("p", { class: "quiet" }, "No link joins this identity with another.");
  return panel("Links", table("Links of this user", [["Identity"], ["Identity"], ["Method"], ["Confidence", "num"], ["Client"], ["Newest evidence"], [""]],
    edges.map((e) => [named(e.a), named(e.b), e.method, percent(e.confidence), e.client, h("span", { class: "nowrap" }, stamp(e.time)), h("button", { type: "button", class: "small", "aria-label": `Remove the link of ${e.a} and ${e.b}`, onclick: () => unlink(e) }, "Remove")])));
}

/**
 * final asks on until an opt-out has its receipt or the view is left, half a minute
 * at most. It is done already: an answer that fails is asked for again.
 */
async function final(page, state) {
  for (let i = 0; i < 30 && !state.final && !page.signal.aborted; i++) {
    await new Promise((done) => setTimeout(done, 1000));
    if (!page.signal.aborted) try { state = await get(state.status); } catch { /* the next may come */ }
  }
  return state;
}
